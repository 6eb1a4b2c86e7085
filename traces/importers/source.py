"""What every importer shares: its options, what it hands over, and files read through their compression."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from lrcsim.documents import check_regular
from lrcsim.errors import ConfigError, TraceError, did_you_mean
from lrcsim.traces.layers import LayerTable

__all__ = [
    "Columns",
    "Options",
    "Progress",
    "Request",
    "Source",
    "guessed_experts",
    "named_after",
    "open_bytes",
    "parse_columns",
]

Columns = dict[str, npt.NDArray[Any]]
"""Per-token arrays of equal length, as `TraceWriter.append` takes them."""

Request = tuple[str | None, Iterator[Columns]]
"""One request: its domain, and its tokens in runs."""

Progress = Callable[[int, int], None]
"""Called with the amount of work done and the total, in any one unit."""

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Options:
    """What the user may say about a file to import; an importer refuses what it has no use for.

    Attributes:
        columns: for `table`, the file's name of each column (``{"request": "turn"}``).
        num_experts: routed experts per layer, E.
        num_layers: layers recorded per token, where the file does not say.
        top_k: experts per token, where the file does not say.
        phase: ``"prefill"`` or ``"decode"`` for all tokens of a file without phases, ``"none"`` to leave phases out.
        expert_bytes: bytes of one expert.
        model: name of the model.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    num_experts: int | None = None
    num_layers: int | None = None
    top_k: int | None = None
    phase: str | None = None
    expert_bytes: int | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.phase not in (None, "prefill", "decode", "none"):
            raise ConfigError(f"phase {self.phase!r} is not known, use 'prefill', 'decode' or 'none'")
        for name in ("num_experts", "num_layers", "top_k", "expert_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', '-')} must be at least 1, given {value}")

    def given(self) -> set[str]:
        """Names of the options that the user set."""
        return {name for name in self.__dataclass_fields__ if getattr(self, name) not in (None, {})}


@dataclass
class Source:
    """A trace in a foreign format, ready to be streamed.

    Attributes:
        layers: the MoE layers.
        model: name of the model.
        requests: a function that yields the requests, in order; each is read to its end before the next.
        provenance: what the file says of its origin.
        notices: what the user should know of how the file was read.
    """

    layers: LayerTable
    model: str
    requests: Callable[[], Iterator[Request]]
    provenance: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


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


def open_bytes(path: Path) -> tuple[Any, Callable[[], int], int]:
    """Open a plain, gzip or zstd file for reading.

    Returns:
        A pyarrow input stream of the plain bytes, a function giving the position in the file on disk, its size.
    """
    check_regular(path)
    try:
        file = pa.OSFile(str(path))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error})") from None
    size = path.stat().st_size
    magic = file.read(4)
    file.seek(0)
    for start, codec in MAGIC.items():
        if magic.startswith(start):
            return pa.CompressedInputStream(file, codec), lambda: 0 if file.closed else int(file.tell()), size
    return file, lambda: 0 if file.closed else int(file.tell()), size


def parse_columns(text: str) -> dict[str, str]:
    """Parse ``request=turn,token=step`` into the file's name of each column.

    Raises:
        ConfigError: an entry is not of the form ours=theirs, or names an unknown column.
    """
    from lrcsim.traces.importers.table import ALIASES

    mapping: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+)\s*=\s*(.+)", entry)
        if match is None:
            raise ConfigError(f"columns entry {entry!r} must be of the form OURS=THEIRS, for example request=turn")
        if match[1] not in ALIASES:
            raise ConfigError(
                f"column {match[1]!r} is not known, use {', '.join(ALIASES)}{did_you_mean(match[1], ALIASES)}"
            )
        mapping[match[1]] = match[2]
    return mapping
