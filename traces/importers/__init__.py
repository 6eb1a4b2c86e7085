"""Importers: routing recorded by other tools, streamed into an lrcsim trace.

Each format is one small module with ``open_source(path, options, progress) -> Source`` and ``matches(path, head)``; a
new one is added to `FORMATS` below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.errors import ConfigError, TraceError, did_you_mean
from lrcsim.traces.hdf5 import TraceWriter
from lrcsim.traces.importers import moe_lrc, npz, sglang, table, vllm
from lrcsim.traces.importers.net import reads_foreign_file
from lrcsim.traces.importers.source import Options, Progress, Source, open_bytes, parse_columns
from lrcsim.traces.trace import mark_missing

__all__ = ["FORMATS", "Format", "ImportReport", "Options", "guess_format", "import_trace", "parse_columns"]


@dataclass(frozen=True)
class Format:
    """One way routing is written by other tools.

    Attributes:
        name: as `import_trace` and ``--format`` take it.
        summary: one line for help texts.
        open_source: reads what it must to know the layers, and returns a `Source`.
        matches: whether a path, and the first (uncompressed) bytes of it, look like this format.
        options: the names of the `Options` it has a use for.
    """

    name: str
    summary: str
    open_source: Callable[[Path, Options, Progress], Source]
    matches: Callable[[Path, bytes], bool]
    options: frozenset[str]


COMMON = frozenset({"num_experts", "expert_bytes", "model"})

FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            "moe-lrc",
            "safetensors of the local-routing-consistency paper (topk, rank or logits per layer)",
            moe_lrc.open_source,
            moe_lrc.matches,
            COMMON | {"top_k"},
        ),
        Format("npz", "NumPy arrays: experts, offsets, ...", npz.open_source, npz.matches, COMMON | {"phase"}),
        Format(
            "sglang",
            "JSON of servers run with --enable-return-routed-experts",
            sglang.open_source,
            sglang.matches,
            COMMON | {"phase", "num_layers", "top_k"},
        ),
        Format(
            "vllm",
            "JSON of servers run with --enable-return-routed-experts",
            vllm.open_source,
            vllm.matches,
            COMMON | {"phase"},
        ),
        Format(
            "table",
            "CSV, TSV, JSON lines or Parquet, one row per expert or one list of experts per row",
            table.open_source,
            table.matches,
            COMMON | {"phase", "columns"},
        ),
    )
}
"""All formats by name, in the order in which they are tried when a format is guessed."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        format: name of the format read.
        tokens: tokens written.
        requests: requests written.
        unrecorded: (token, layer, rank) positions without an expert; they stay out of every account.
        notices: what the user should know of how the file was read.
    """

    format: str
    tokens: int
    requests: int
    unrecorded: int
    notices: list[str]


@reads_foreign_file
def guess_format(path: Path) -> str:
    """Name the format of a file, a folder, or a pattern such as ``rank/olmoe_*.safetensors``.

    Raises:
        TraceError: there is nothing at the path, or it is of no known format.
    """
    head = b""
    if path.is_file():
        stream, _, _ = open_bytes(path)
        try:
            head = stream.read(65_536)
        except OSError as error:
            raise TraceError(f"{path}: is damaged ({error})") from None
        finally:
            stream.close()
        if not head:
            raise TraceError(f"{path}: is empty")
        if head.startswith(b"\x89HDF"):
            raise TraceError(f"{path}: is HDF5; an lrcsim trace needs no import, and other HDF5 is not read")
    elif not path.is_dir() and "*" not in path.name:
        raise TraceError(f"{path}: there is no such file or folder")
    for entry in FORMATS.values():
        if entry.matches(path, head):
            return entry.name
    raise TraceError(f"{path}: is of no known format, there are {', '.join(FORMATS)}; name one with --format")


@reads_foreign_file
def import_trace(
    source_path: str | Path,
    out_path: str | Path,
    format: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> ImportReport:
    """Read routing that another tool recorded and write it as an lrcsim trace, in bounded memory.

    What `check` would complain of is refused, and nothing then stands under ``out_path``.

    Args:
        source_path: the file (or folder, or pattern of files) to import.
        out_path: the trace to write; an existing file is replaced.
        format: one of `FORMATS`; None: guessed.
        options: what the file does not say itself.
        progress: called now and then with the work done and the total.
        provenance: of the trace, in place of a note about the import.

    Raises:
        TraceError: the source is not of that format, or its routing is impossible; the message says where.
        ConfigError: the format is unknown, or has no use for an option given.
    """
    source_path, options = Path(source_path), options or Options()
    if format is None:
        format = guess_format(source_path)
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is not known, use {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}")
    entry = FORMATS[format]
    useless = sorted(options.given() - entry.options)
    if useless:
        names = [name.replace("_", "-") for name in (*useless, *sorted(entry.options))]
        raise ConfigError(
            f"format {format!r} has no use for {', '.join(names[: len(useless)])}, "
            f"only for {', '.join(names[len(useless) :])}"
        )
    out_path = Path(out_path)
    if not out_path.absolute().parent.is_dir():
        raise TraceError(f"{out_path}: the folder {out_path.parent} does not exist")
    if out_path.is_dir():
        raise TraceError(f"{out_path}: is a folder, name a file")
    if source_path.exists() and out_path.exists() and source_path.samefile(out_path):
        raise TraceError(f"{out_path}: is the file to import; name another output")
    source = entry.open_source(source_path, options, progress or (lambda _done, _total: None))
    noted: dict[str, Any] = {
        "file": source_path.name,
        "format": format,
        "lrcsim": version("lrcsim"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    about = {**source.provenance, **({"import": noted} if provenance is None else provenance)}
    unrecorded = requests = 0
    model = options.model or source.model
    with TraceWriter(out_path, source.layers, model=model, provenance=about) as writer:
        for domain, runs in source.requests():
            writer.begin_request(domain)
            requests += 1
            for columns in runs:
                writer.append(columns)
                unrecorded += int(np.count_nonzero(mark_missing(columns, source.layers)))
    return ImportReport(format, writer.tokens, requests, unrecorded, source.notices)
