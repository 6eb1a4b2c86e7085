"""``lrcsim trace``: look at routing traces, check them, bring them in and take them out."""

from __future__ import annotations

import click

from lrcsim.cli.trace_check import check
from lrcsim.cli.trace_exchange import export, import_
from lrcsim.cli.trace_info import info
from lrcsim.cli.trace_parts import convert, select, split


@click.group()
def trace() -> None:
    """Look at, check, import and export routing traces."""


for command in (info, check, import_, export, select, convert, split):
    trace.add_command(command)
