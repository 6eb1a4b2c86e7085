"""Where a result is from: enough to check that a trace is still the same, and to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace

OUTPUTS = ("json_path", "timeline", "timeline_tokens", "plot", "figure_size", "figure_title", "figure_style")
"""Options that say where output goes, and change nothing in it."""


def provenance(trace: RoutingTrace, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values: lrcsim's version, the SHA-256 of the trace's file and the profile's, the options as given.

    Args:
        trace: what was run; one that was opened from no file has no SHA-256.
        options: of the command line, by parameter; those left open (None, empty) are left out.
    """
    from lrcsim.traces.files import sha256_of

    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if name not in OUTPUTS and value not in (None, ())
    }
    profile = given.get("profile")
    return {
        "lrcsim": version("lrcsim"),
        "trace_sha256": None if trace.path is None else trace.file_sha256(),
        **({} if profile in (None, "self") else {"profile_sha256": sha256_of(str(profile))}),
        "options": given,
    }
