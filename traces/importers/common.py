"""What importers do and say alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lrcsim.traces.importers.source import Columns

RUN = 16_384
"""Tokens handed over at a time."""

NO_PHASES = (
    "nothing tells prefill from decode, so every token is a step of its own; say it with --prompt-tokens N|COLUMN, "
    "--phase, or --columns phase=NAME (--phase none: it is so)"
)
"""Notice of an importer that finds no phases."""


def guessed_experts(largest_id: int, notices: list[str]) -> int:
    """Take the number of experts from the largest id seen, and say so."""
    notices.append(
        f"number of experts not given, taken as the largest id + 1 = {largest_id + 1}; "
        "give --num-experts if the model has more"
    )
    return largest_id + 1


def named_after(path: Path) -> str:
    """Name a model that nothing else names: the file's name without its endings."""
    return path.name.split(".")[0] or path.name


def in_runs(columns: Columns) -> Iterator[Columns]:
    """Yield the tokens of a request in runs."""
    for low in range(0, len(columns["experts"]), RUN):
        yield {name: values[low : low + RUN] for name, values in columns.items()}
