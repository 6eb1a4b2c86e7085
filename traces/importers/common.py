"""What importers do and say alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lrcsim.traces.importers.source import Columns, Likely

RUN = 16_384
"""Tokens handed over at a time."""

NO_PHASES = (
    "nothing tells prefill from decode, so every token is a step of its own; say it with --prompt-tokens N|COLUMN, "
    "--phase, or --columns phase=NAME (--phase none: it is so)"
)
"""Notice of an importer that finds no phases."""


def guessed_experts(largest_id: int, notices: list[str], likely: Likely | None = None) -> int:
    """Take the number of experts from the model where it is a known one and all ids fit, else from the largest id.

    Args:
        largest_id: that was seen.
        notices: to which it is added whence the number is.
        likely: of the model.
    """
    if likely is not None and largest_id < likely.num_experts:
        notices.append(
            f"number of experts not given, taken as the {likely.num_experts:,} of {likely.model}; --num-experts says "
            "another"
        )
        return likely.num_experts
    if likely is not None:
        notices.append(
            f"{likely.model} has {likely.num_experts:,} experts, and id {largest_id} is in the file: not of that model"
        )
    notices.append(
        f"number of experts not given, taken as the largest id + 1 = {largest_id + 1}; "
        "give --num-experts if the model has more"
    )
    return largest_id + 1


def needed_top_k(likely: Likely | None, notices: list[str]) -> int | None:
    """Return k of the model where it is a known one, and say so; None: it is not known."""
    if likely is None:
        return None
    notices.append(f"experts per token not given, taken as the {likely.top_k} of {likely.model}; --top-k says another")
    return likely.top_k


def named_after(path: Path) -> str:
    """Name a model that nothing else names: the file's name without its endings."""
    return path.name.split(".")[0] or path.name


def in_runs(columns: Columns) -> Iterator[Columns]:
    """Yield the tokens of a request in runs."""
    for low in range(0, len(columns["experts"]), RUN):
        yield {name: values[low : low + RUN] for name, values in columns.items()}
