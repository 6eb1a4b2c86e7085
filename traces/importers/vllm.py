"""Import responses of vLLM servers run with ``--enable-return-routed-experts``, and of gateways before them.

Read are one JSON response, a list of them, JSON lines, and streams saved as server-sent events or chunks:

* of version 0.21: nested lists, ``prompt_routed_experts`` [prompt, layers, k] in the response and ``routed_experts``
  [generated, layers, k] in each choice;
* of later versions: in each choice ``routed_experts``, base64 of a .npy array [prompt + generated - 1 - start, layers,
  k]. ``start`` is the ``routed_experts_prompt_start`` of the request, and the answer does not say it;
* the same as a described buffer ``{"data", "shape", "dtype", "start"}``, in the choice or under ``nvext`` (Dynamo).

What is read where is in `lrcsim.traces.importers.answers`, which positions ran in `lrcsim.traces.what_ran`.
"""

from __future__ import annotations

from pathlib import Path

from lrcsim.traces.importers.json_objects import BEGINS
from lrcsim.traces.importers.responses import open_responses as open_source

__all__ = ["matches", "open_source"]


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file holds responses with choices."""
    return path.is_file() and BEGINS.match(head) is not None and b'"choices"' in head
