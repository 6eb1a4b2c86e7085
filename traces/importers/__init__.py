"""Importers: routing recorded by other tools, streamed into an lrcsim trace.

Each format is one small module with ``open_source(path, options, progress) -> Source`` and ``matches(path, head)``; a
new one is added to `FORMATS` below. What it raises needs no file's name (`named` puts it before), and phases that only
the user gives with ``--phase`` are put in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError, TraceError, did_you_mean
from lrcsim.traces.columns import mark_missing
from lrcsim.traces.importers import (
    folder,
    json_by_name,
    json_passes,
    layer_files,
    layer_lines,
    moe_lrc,
    npz,
    recorder_file,
    table,
)
from lrcsim.traces.importers.columns import parse_columns
from lrcsim.traces.importers.files import named, named_while, open_bytes, read_some, reads_foreign_file
from lrcsim.traces.importers.responses import open_responses
from lrcsim.traces.importers.servers import is_sglang, is_vllm
from lrcsim.traces.importers.source import Columns, Format, Likely, Options, Progress, Source
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.trace import DECODE, PREFILL
from lrcsim.traces.writer import TraceWriter

__all__ = ["FORMATS", "Format", "ImportReport", "Likely", "Options", "guess_format", "import_trace", "parse_columns"]

PHASES = {"prefill": PREFILL, "decode": DECODE}
"""What ``--phase`` says of all tokens of a file without phases."""

RETURNED = "JSON of servers run with --enable-return-routed-experts"
COMMON = frozenset({"num_experts", "expert_bytes", "model"})
SERVED = COMMON | {
    "phase", "num_layers", "top_k", "cached_prefix", "stop_on_error", "keep_zero_layers", "drop_zero_rows"
}  # fmt: skip


def _open_folder(path: Path, options: Options, progress: Progress) -> Source:
    return folder.open_source(path, options, progress, FORMATS, guess_format)


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
        Format(
            "layers",
            "a folder of one Parquet file per layer (layer_02.parquet), a row per token",
            layer_files.open_source,
            layer_files.matches,
            COMMON | {"phase", "prompt_tokens"},
        ),
        Format(
            "lines",
            "a folder of one text file per layer (expert_weights_1.txt), a request per line: ids, weights",
            layer_lines.open_source,
            layer_lines.matches,
            COMMON | {"phase", "top_k"},
        ),
        Format(
            "recorder",
            "SGLang's expert distribution recorder, mode per_token (.pt)",
            recorder_file.open_source,
            recorder_file.matches,
            COMMON | {"phase"},
        ),
        Format(
            "npz",
            "NumPy arrays (npz, npy): experts, offsets, ...; or router logits",
            npz.open_source,
            npz.matches,
            COMMON | {"phase", "prompt_tokens", "top_k", "layer_first", "cached_prefix"},
        ),
        Format(
            "by-name",
            'JSON with tokens and layers as keys: {"token_0": {"layer_0": {"selected_experts": [...]}}}',
            json_by_name.open_source,
            json_by_name.matches,
            COMMON | {"phase"},
        ),
        Format(
            "passes",
            'JSON list of forward passes, layers as keys: [{"1": [[5, 2], [1, 3]]}, {"1": [[4, 5]]}]',
            json_passes.open_source,
            json_passes.matches,
            COMMON | {"phase"},
        ),
        Format("sglang", RETURNED, open_responses, is_sglang, SERVED),
        Format("vllm", RETURNED, open_responses, is_vllm, SERVED),
        Format(
            "table",
            "CSV, TSV, JSON lines or Parquet, one row per expert or one list of experts per row",
            table.open_source,
            table.matches,
            COMMON | {"phase", "columns", "prompt_tokens", "top_k", "cached_prefix"},
        ),
        Format(
            "folder",
            "a folder of files of one of these formats, one or more requests in each",
            _open_folder,
            folder.matches,
            frozenset(Options.__dataclass_fields__),
        ),
    )
}
"""All formats by name, in the order in which they are tried when a format is guessed."""


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        format: name of the format read.
        tokens: tokens written.
        requests: requests written.
        unrecorded: (token, layer, rank) positions without an expert; they stay out of every account.
        notices: what the user should know of how the file was read.
        layers: MoE layers.
        num_experts: routed experts of a layer (of the largest, where layers differ).
        top_k: experts per token and layer (of the largest).
        prefill: prompt tokens that ran; None: the trace has no phases.
        decode: generated tokens that ran; None: the trace has no phases.
        not_run: tokens without a single expert: they did not run, or were not recorded.
    """

    format: str
    tokens: int = 0
    requests: int = 0
    unrecorded: int = 0
    notices: list[str] = field(default_factory=list)
    layers: int = 0
    num_experts: int = 0
    top_k: int = 0
    prefill: int | None = None
    decode: int | None = None
    not_run: int = 0

    def count(self, columns: Columns, layers: LayerTable) -> None:
        """Count tokens that were written."""
        ran = (columns["experts"] >= 0).any(axis=(1, 2))
        self.tokens += len(columns["experts"])
        self.unrecorded += int(np.count_nonzero(mark_missing(columns, layers)))
        self.not_run += int(np.count_nonzero(~ran))
        if "phase" in columns:
            decode = int(np.count_nonzero((columns["phase"] == DECODE) & ran))
            self.decode = (self.decode or 0) + decode
            self.prefill = (self.prefill or 0) + int(np.count_nonzero(ran)) - decode


@reads_foreign_file
def guess_format(path: Path) -> str:
    """Name the format of a file, a folder, or a pattern such as ``rank/olmoe_*.safetensors``.

    Raises:
        TraceError: there is nothing at the path, or it is of no known format.
    """
    head = b""
    if path.is_file():
        with open_bytes(path)[0] as stream:
            head = read_some(path, stream, 65_536)
        if not head:
            raise TraceError(f"{path}: is empty")
        if head.startswith(b"\x89HDF"):
            raise TraceError(f"{path}: is HDF5; an lrcsim trace needs no import, and other HDF5 is not read")
    elif not path.is_dir() and "*" not in path.name:
        raise TraceError(f"{path}: there is no such file or folder")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TraceError(f"{path}: is UTF-16 text; save it as UTF-8")
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
    return _import(entry, source_path, out_path, options, progress or (lambda _done, _total: None), provenance)


def _import(
    entry: Format,
    source_path: Path,
    out_path: Path,
    options: Options,
    progress: Progress,
    provenance: Mapping[str, Any] | None,
) -> ImportReport:
    with named(source_path):
        source = entry.open_source(source_path, options, progress)
    if provenance is None:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        noted = {"file": source_path.name, "format": entry.name, "lrcsim": version("lrcsim"), "date": date}
        provenance = {"import": noted}
    layers, model = source.layers, options.model or source.model
    report = ImportReport(
        entry.name, layers=len(layers), num_experts=int(layers.num_experts.max()), top_k=int(layers.top_k.max())
    )
    try:
        with TraceWriter(out_path, layers, model=model, provenance={**source.provenance, **provenance}) as writer:
            for domain, runs in named_while(source_path, source.requests()):
                writer.begin_request(domain)
                report.requests += 1
                for columns in named_while(source_path, runs):
                    if "phase" not in columns and options.phase in PHASES:
                        columns["phase"] = np.full(len(columns["experts"]), PHASES[options.phase], np.uint8)
                    _append(writer, columns, str(source_path) if source.place is None else source.place())
                    report.count(columns, layers)
    finally:
        source.close()
    report.notices = list(dict.fromkeys(source.notices))
    return report


def _append(writer: TraceWriter, columns: Columns, place: str) -> None:
    """Write tokens; what is impossible in them is said of the file that they came from."""
    try:
        writer.append(columns)
    except TraceError as error:
        raise TraceError(f"{place}: {error}" if str(error).startswith("token") else str(error)) from None
