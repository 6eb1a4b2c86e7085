"""What the commands of `lrcsim trace` share."""

from __future__ import annotations

import click

trace_argument = click.argument("path", metavar="[TRACE]", required=False)
"""The trace to look at; the one that comes with lrcsim where it is left out."""


def size_text(tokens: int, requests: int) -> str:
    """Say how long a trace is: ``40 tokens in 2 requests``."""
    return f"{tokens:,} token{'s' * (tokens != 1)} in {requests:,} request{'s' * (requests != 1)}"
