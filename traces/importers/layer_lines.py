"""Import folders of one text file per layer, a line per request: its experts, two tabs, its weights (ESFT).

A line is the ids of all tokens one after the other, k each, separated by tabs, then, after two tabs, their weights in
the same order: deepseek-ai/ESFT, ``parse_line`` of ``scripts/expert/generate_expert_config.py``, whose logs are named
``expert_weights_1.txt`` to ``expert_weights_26.txt``. k stands nowhere in them. The experts of a token are not in the
order of their weights there (``torch.topk(..., sorted=False)``); in the trace they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.common import NO_PHASES, guessed_experts, in_runs, needed_top_k
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable

NAME = re.compile(r".*?(\d+)\.txt", re.IGNORECASE)
BETWEEN = "\t\t"
LINE = re.compile(r"\d{1,6}(\t\d{1,6})*\t\t[0-9.eE+-]+(\t[0-9.eE+-]+)*\s*")
LONGEST_LINE = 1 << 28


def matches(path: Path, _head: bytes) -> bool:
    """Tell whether a folder holds such files."""
    if not path.is_dir() or not (files := files_of(path)):
        return False
    with _open(files[0][1]) as file:
        return LINE.fullmatch(file.readline(LONGEST_LINE)) is not None


def files_of(path: Path) -> list[tuple[int, Path]]:
    """Return a folder's text files by layer; nothing where one of them has no number."""
    found = [(NAME.fullmatch(file.name), file) for file in path.glob("*.txt") if not file.name.startswith(".")]
    if any(match is None for match, _ in found):
        return []
    return sorted((int(match[1]), file) for match, file in found if match is not None)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Check that the files belong together, read them once where E is not given, and return a source."""
    files = files_of(path)
    if not files:
        raise TraceError(f"{path}: holds no text files named by layer, as expert_weights_1.txt")
    for (low, _), (high, file) in pairwise(files):
        if low == high:
            raise TraceError(f"{file}: layer {low} has two files")
    notices = [] if options.phase is not None else [NO_PHASES]
    k = options.top_k if options.top_k is not None else needed_top_k(options.likely, notices)
    if k is None:
        raise TraceError("nothing says how many experts a token has: give --top-k (DeepSeek-V2-Lite, of ESFT: 6)")
    experts = options.num_experts
    requests = largest = 0
    for ids, _ in _requests(files, k):
        requests, largest = requests + 1, max(largest, int(ids.max()))
    if experts is None:
        experts = guessed_experts(largest, notices, options.likely)
    layers = LayerTable.build(
        len(files), experts, k, expert_bytes=options.expert_bytes, block=[layer for layer, _ in files]
    )

    def runs(ids: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> Iterator[Columns]:
        order = np.argsort(-weights, axis=2, kind="stable")
        return in_runs({name: np.take_along_axis(values, order, axis=2) for name, values in
                        (("experts", ids), ("weights", weights))})  # fmt: skip

    def each() -> Iterator[Request]:
        for number, (ids, weights) in enumerate(_requests(files, k), start=1):
            yield None, runs(ids, weights)
            progress(number, requests)

    return Source(layers, path.resolve().name, each, {}, notices, experts_guessed=options.num_experts is None)


def _requests(files: list[tuple[int, Path]], k: int) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Yield for each line int32 [tokens, L, k] ids and float32 [tokens, L, k] weights.

    Raises:
        TraceError: a file has fewer lines than another, or a line is not as it should be; with file and line.
    """
    with ExitStack() as opened:
        streams = [opened.enter_context(_open(file)) for _, file in files]
        number = 0
        while True:
            number += 1
            lines = [stream.readline(LONGEST_LINE) for stream in streams]
            there = [bool(line.strip()) for line in lines]
            if not any(there):
                return
            if not all(there):
                raise TraceError(f"{files[there.index(False)][1]}: has {number - 1} lines, other layers have more")
            parsed = [_line(line, file, number, k) for line, (_, file) in zip(lines, files, strict=True)]
            for (ids, _), (_, file) in zip(parsed, files, strict=True):
                if len(ids) != len(parsed[0][0]):
                    raise TraceError(
                        f"{file}: line {number} has {len(ids)} tokens, {files[0][1].name} has {len(parsed[0][0])}"
                    )
            yield np.stack([ids for ids, _ in parsed], axis=1), np.stack([weights for _, weights in parsed], axis=1)


def _line(line: str, file: Path, number: int, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    head, between, tail = line.strip().partition(BETWEEN)
    try:
        ids = np.array(head.split("\t"), np.int64)
        weights = np.array(tail.split("\t"), np.float32)
    except (ValueError, OverflowError):
        raise TraceError(f"{file}: line {number} is not ids, two tabs, weights, separated by tabs") from None
    if not between or len(ids) != len(weights):
        raise TraceError(f"{file}: line {number} has {len(ids)} ids and {len(weights)} weights")
    if len(ids) % k:
        raise TraceError(f"{file}: line {number} has {len(ids)} ids, which is not a multiple of top-k {k}")
    if int(ids.min()) < 0 or int(ids.max()) >= MAX_EXPERTS:
        raise TraceError(f"{file}: line {number} has an expert id out of all range")
    return ids.reshape(-1, k).astype(np.int32), weights.reshape(-1, k)


def _open(file: Path) -> IO[str]:
    return file.open(encoding="utf-8", errors="replace")
