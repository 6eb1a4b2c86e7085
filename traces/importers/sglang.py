"""Import responses of SGLang servers run with ``--enable-return-routed-experts``.

Each request that asked for ``return_routed_experts`` brings base64 of int32, flattened from [prompt + generated - 1 -
``routed_experts_start_len``, layers, k]: under ``meta_info.routed_experts`` (the native API), or in the
OpenAI-compatible one ``sglext.routed_experts`` of the response, which is the first choice's (``sgl_ext``, and that of a
choice, are read too). The shape is not sent, so layers and k must be given.

What is read where is in `lrcsim.traces.importers.answers`, which positions ran in `lrcsim.traces.what_ran`.
"""

from __future__ import annotations

from pathlib import Path

from lrcsim.traces.importers.json_objects import BEGINS
from lrcsim.traces.importers.responses import open_responses as open_source
from lrcsim.traces.importers.source import open_bytes

__all__ = ["matches", "open_source"]

MARKS = (b'"sglext"', b'"sgl_ext"', b'"meta_info"')
FAR = 4 << 20
"""The extras of a response come after its choices."""


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file holds responses with SGLang's extras."""
    if not path.is_file() or BEGINS.match(head) is None:
        return False
    if any(mark in head for mark in MARKS):
        return True
    if b'"choices"' not in head or b'"routed_experts"' in head:
        return False
    with open_bytes(path)[0] as stream:
        try:
            more = stream.read(FAR)
        except OSError:
            return False
    return any(mark in more for mark in MARKS)
