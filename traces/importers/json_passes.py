"""Import a JSON list of forward passes, each an object of layers by number with a row of experts for every token.

``[{"0": null, "1": [[5, 2], [1, 3]]}, {"0": null, "1": [[4, 5]]}]``: the prompt's pass with its tokens, then one for
each generated token; ``null`` where a block has no experts. So are written the traces of arXiv 2510.05497 (Hugging Face
core12345/MoE_expert_selection_trace, a file per request), as a public reader of them has it (``generate.py`` of a tool
called traffic-gen: entry 0 is prefill, each layer a list of rows, ``null`` is skipped).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.common import guessed_experts, in_runs, named_after
from lrcsim.traces.importers.files import open_bytes, read_some
from lrcsim.traces.importers.json_by_name import LARGEST
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable
from lrcsim.traces.trace import DECODE, PREFILL

HEAD = re.compile(rb'\s*\[\s*\{\s*"\d{1,6}"\s*:\s*(null|\[\s*\[\s*\d)')


def matches(_path: Path, head: bytes) -> bool:
    """Tell whether a file begins with a list of objects of layers by number, with lists of rows."""
    return HEAD.match(head) is not None


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read the file and return a source of its one request."""
    with open_bytes(path)[0] as stream:
        text = read_some(path, stream, LARGEST + 1)
    if len(text) > LARGEST:
        raise TraceError(f"has more than {LARGEST:,} bytes, and a JSON list is read as a whole")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TraceError(f"is no JSON ({str(error)[:120]})") from None
    passes = [_rows(one, number) for number, one in enumerate(value if isinstance(value, list) else [])]
    blocks = sorted({block for one in passes for block in one})
    if not blocks:
        raise TraceError("holds no layer with experts")
    parts = []
    for number, one in enumerate(passes):
        counts = {len(rows) for rows in one.values()}
        if set(one) != set(blocks) or len(counts) != 1:
            raise TraceError(f"pass {number} has not the same tokens in every layer that others have ({len(blocks)})")
        parts.append(np.stack([one[block] for block in blocks], axis=1))
    widths = {part.shape[2] for part in parts}
    if len(widths) != 1:
        raise TraceError(f"passes have different numbers of experts per token ({sorted(widths)})")
    columns: Columns = {"experts": np.concatenate(parts)}
    if options.phase is None:
        phase = [np.full(len(part), DECODE if at and len(part) == 1 else PREFILL, np.uint8)
                 for at, part in enumerate(parts)]  # fmt: skip
        columns["phase"] = np.concatenate(phase)
    notices: list[str] = []
    largest = int(columns["experts"].max())
    experts = guessed_experts(largest, notices, options.likely) if options.num_experts is None else options.num_experts
    table = LayerTable.build(len(blocks), experts, widths.pop(), expert_bytes=options.expert_bytes, block=blocks)

    def requests() -> Iterator[Request]:
        yield None, in_runs(columns)
        progress(1, 1)

    return Source(table, named_after(path), requests, {}, notices, experts_guessed=options.num_experts is None)


def _rows(value: Any, number: int) -> dict[int, np.ndarray[Any, np.dtype[np.int32]]]:
    """Return int32 [tokens, k] of every layer of a pass that has experts."""
    if not isinstance(value, dict) or not all(re.fullmatch(r"\d{1,6}", key) for key in value):
        raise TraceError(f"pass {number} is no object of layers by number")
    found = {}
    for key, rows in value.items():
        if rows is None:
            continue
        good = isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows)
        if not good or len({len(row) for row in rows}) != 1:
            raise TraceError(f"pass {number}, layer {key} is no list of rows of as many experts each")
        if not all(type(one) is int and -1 <= one < MAX_EXPERTS for row in rows for one in row):
            raise TraceError(f"pass {number}, layer {key} has what is no expert id")
        found[int(key)] = np.array(rows, np.int32)
    return found
