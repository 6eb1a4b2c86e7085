"""Exporters: an lrcsim trace in the formats of other tools.

Each format is one small module with ``write(trace, path, progress, **options) -> notices``, which takes those of
`Options` that it has a use for by name; a new one is added to `FORMATS` below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrcsim.base.errors import ConfigError, TraceError, did_you_mean
from lrcsim.base.files import replacing
from lrcsim.traces.exporters import csv, npz, oracle_general
from lrcsim.traces.importers.source import Progress
from lrcsim.traces.trace import RoutingTrace

__all__ = ["FORMATS", "Format", "Options", "export_trace", "guess_format"]


@dataclass(frozen=True)
class Options:
    """What to write.

    Attributes:
        prefill: for accesses, how prompt tokens make steps: ``"step"``, ``"chunk:N"`` or ``"token"``.
        layer: for accesses, the one MoE layer to write (counted from 0); None: all, in the order they run.
    """

    prefill: str | None = None
    layer: int | None = None

    def given(self) -> dict[str, str | int]:
        """Return the options that the user set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Format:
    """One way to write a trace for other tools.

    Attributes:
        name: as `export_trace` and ``--format`` take it.
        summary: one line for help texts.
        write: takes the trace, the path, a `Progress` and its options by name; returns what it had to leave out.
        suffixes: endings of file names that mean this format.
        options: the names of the `Options` it has a use for.
    """

    name: str
    summary: str
    write: Callable[..., list[str]]
    suffixes: tuple[str, ...]
    options: frozenset[str] = frozenset()


FORMATS = {
    entry.name: entry
    for entry in (
        Format("npz", "NumPy arrays, everything the trace holds", npz.write, (".npz",)),
        Format(
            "csv",
            "one row per token, layer and rank (.gz and .zst are compressed)",
            csv.write,
            (".csv", ".csv.gz", ".csv.zst"),
        ),
        Format(
            "oracleGeneral",
            "libCacheSim's binary: the accesses that a cache sees, with the next use of each",
            oracle_general.write,
            (".oracleGeneral", ".oracleGeneral.bin", ".bin"),
            frozenset({"prefill", "layer"}),
        ),
    )
}


def guess_format(path: Path) -> str:
    """Name the format that a file name stands for.

    Raises:
        ConfigError: its ending is not known.
    """
    for entry in FORMATS.values():
        if path.name.lower().endswith(tuple(suffix.lower() for suffix in entry.suffixes)):
            return entry.name
    endings = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    raise ConfigError(f"{path}: no format is known by this ending, use one of {endings}; or name one with --format")


def export_trace(
    trace: RoutingTrace,
    out_path: str | Path,
    format: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Write a trace for another tool, in bounded memory.

    Args:
        trace: the trace.
        out_path: the file to write; an existing file is replaced, when the new one is complete.
        format: one of `FORMATS`; None: guessed from the ending of ``out_path``.
        options: what to write, where the format leaves a choice.
        progress: called now and then with the work done and the total.

    Returns:
        What the format could not hold.

    Raises:
        TraceError: the trace cannot be written in this format, or the file cannot be written.
        ConfigError: the format is unknown, or has no use for an option given.
    """
    out_path, options = Path(out_path), options or Options()
    name = guess_format(out_path) if format is None else format
    if name not in FORMATS:
        raise ConfigError(f"format {name!r} is not known, use {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    useless = sorted(set(options.given()) - FORMATS[name].options)
    if useless:
        raise ConfigError(f"format {name!r} has no use for {', '.join(useless)}")
    if not out_path.absolute().parent.is_dir():
        raise TraceError(f"{out_path}: the folder {out_path.parent} does not exist")
    if trace.path is not None and out_path.exists() and out_path.samefile(trace.path):
        raise TraceError(f"{out_path}: is the trace itself; name another output")
    with replacing(out_path) as partial:
        return FORMATS[name].write(trace, partial, progress or (lambda _done, _total: None), **options.given())
