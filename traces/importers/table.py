"""Import tables: CSV, TSV, JSON or Parquet, one row per expert (long), per token and layer, per token, or per request.

A token is identified by its request, phase and number. Within a request the rows may come in any order, for instance
layer after layer as engines compute a prompt. (Token, layer) pairs without rows are "not recorded". A comment header
(``# key=value ...``) or a first record of metadata may say more: the number of experts, the model, and per layer
(``# layer=3 expert_bytes=... dense_bytes=...``) the size of its experts, and of what every token uses besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.importers.common import NO_PHASES, guessed_experts, in_runs, named_after
from lrcsim.traces.importers.passes import by_passes
from lrcsim.traces.importers.regroup import Regrouped
from lrcsim.traces.importers.rows import Rows
from lrcsim.traces.importers.source import Options, Progress, Request, Source
from lrcsim.traces.importers.table_layout import Prompts, whole_request, with_prompt
from lrcsim.traces.importers.table_requests import InterleavedError, Table, by_request
from lrcsim.traces.importers.table_scan import Scan, scan_table
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.what_ran import Tally

EXPERTS_KEYS = ("num_experts", "n_expert", "n_experts", "num_local_experts", "n_routed_experts")

MODEL_KEYS = ("model", "model_name", "model_id")

TOP_K_KEYS = ("top_k", "experts_per_token", "num_experts_per_tok", "n_expert_used")


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file looks like a table: Parquet, JSON, or text with lines."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_text = b"\0" not in head and (b"\n" in head or b"\r" in head or head.startswith(b"#"))
    return path.is_file() and (head.startswith(b"PAR1") or text[:1] in (b"{", b"[") or is_text)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read a table once for its layers, top-k and largest id, and return a source that reads it again."""
    mapping = dict(options.columns)
    first, column = options.prompt()
    if column is not None:
        mapping["prompt_tokens"] = column
    rows = Rows(path, mapping, options.top_k)
    _settle_phases(rows, options)
    prompts = Prompts(first, options.cached_prefix == "keep", rows.negative)
    table: Table = rows
    if rows.no_token or (rows.negative and "request" not in rows.names and first is None):
        table = by_passes(rows, options.top_k)
    elif options.top_k is not None and not rows.holds_logits:
        raise ConfigError("has no use for top-k: that is only for router logits, and for logs without token numbers")
    report: Callable[[int], None] = lambda done: progress(done, 2 * table.size)  # noqa: E731
    try:
        scan = scan_table(table, report)
    except InterleavedError:
        regrouped = table = Regrouped(rows)
        return _closing(
            regrouped, lambda: _source(regrouped, scan_table(regrouped, report), options, prompts, progress)
        )
    return _source(table, scan, options, prompts, progress)


def _closing(table: Regrouped, make: Callable[[], Source]) -> Source:
    """Make a source whose temporary files go when it is closed, or cannot be made."""
    try:
        source = make()
    except BaseException:
        table.close()
        raise
    source.close = table.close
    return source


def _source(table: Table, scan: Scan, options: Options, prompts: Prompts, progress: Progress) -> Source:
    """Describe the layers of a table that was scanned, and read its requests."""
    path, notices = table.path, table.notices
    blocks = np.flatnonzero(scan.top_k)
    header, per_layer = _header(table.comments)
    header |= {key: str(value) for key, value in table.metadata.items() if isinstance(value, (str, int))}
    if scan.rank_base:
        notices.append(f"ranks count from {scan.rank_base} in the file, taken as 0 for the best")

    experts: int | list[int]
    guessed = False
    if options.num_experts is not None:
        experts = options.num_experts
    elif all("num_experts" in per_layer.get(block, {}) for block in blocks.tolist()):
        experts = [per_layer[block]["num_experts"] for block in blocks.tolist()]
    else:
        said = next((_small(header[key]) for key in EXPERTS_KEYS if _small(header.get(key, ""))), table.num_experts)
        guessed = said is None
        experts = said if said is not None else guessed_experts(scan.largest, notices, options.likely)
    layers = LayerTable.build(
        len(blocks),
        experts,
        scan.top_k[blocks],
        expert_bytes=_expert_bytes(options, scan, blocks, per_layer, notices),
        dense_bytes=_dense_bytes(blocks, per_layer, notices),
        block=blocks,
    )
    said_k = next((_small(header[key]) for key in TOP_K_KEYS if _small(header.get(key, ""))), None)
    if said_k is not None and said_k != int(layers.top_k.max()):
        notices.append(f"the file says top-{said_k} and lists {layers.top_k.max()} experts per token")
    if prompts.negative and isinstance(table, (Rows, Regrouped)):
        notices.append("tokens with negative numbers are taken as the prompt (prefill), the others as decode")
    has_phases = bool({"phase", "prompt_tokens"} & set(table.names)) or prompts.first is not None or prompts.negative
    if not has_phases and options.phase is None:
        notices.append(NO_PHASES)
    provenance: dict[str, Any] = {"header": header} if header else {}
    model = next((header[key] for key in MODEL_KEYS if header.get(key)), None)

    def requests() -> Iterator[Request]:
        tally, last = Tally(), None
        for domain, columns in by_request(table, lambda done: progress(table.size + done, 2 * table.size)):
            whole = whole_request(columns, blocks, int(layers.top_k.max()), scan.rank_base)
            if "phase" not in whole and prompts.negative and prompts.first is None and "prompt_tokens" not in columns:
                whole["phase"] = (np.unique(columns["token"]) >= 0).astype(np.uint8)
            elif "phase" not in whole and (prompts.first is not None or "prompt_tokens" in columns):
                whole = with_prompt(whole, columns, prompts, tally, last)
            last = int(columns["token"].max())
            yield domain, in_runs(whole)
        notices.extend(tally.notices())

    if model and model.startswith("/"):
        model = PurePosixPath(model).name
    return Source(layers, model or named_after(path), requests, provenance, notices, experts_guessed=guessed)


def _settle_phases(rows: Rows, options: Options) -> None:
    """Leave one source of phases: what the user says, else the file's own column, else its prompt lengths."""
    names = rows.names
    if options.phase is not None and options.prompt_tokens is not None:
        raise ConfigError("--phase and --prompt-tokens exclude each other")
    given = options.phase or options.prompt_tokens
    if "phase" in names and options.phase == "none":
        del names["phase"]
    elif "phase" in names and given is not None:
        option = "--phase" if options.phase else "--prompt-tokens"
        raise ConfigError(f"has phases of its own (column {names['phase']!r}); leave {option} out")
    if "prompt_tokens" in names and ("phase" in names or options.phase is not None):
        for name in ("prompt_tokens", "generated_tokens", "cached_tokens"):
            names.pop(name, None)
    if options.prompt()[0] is not None:
        names.pop("prompt_tokens", None)
    if options.phase is not None or options.prompt_tokens is not None:
        rows.negative = False


def _header(comments: list[str]) -> tuple[dict[str, str], dict[int, dict[str, int]]]:
    """Collect ``key=value`` pairs of a comment header: those of the file, and those of lines with ``layer=N``."""
    header: dict[str, str] = {}
    per_layer: dict[int, dict[str, int]] = {}
    for line in comments:
        pairs = {}
        for part in line.split():
            key, equals, value = part.partition("=")
            name = re.split(r"\W", key)[-1]
            if equals and name and value:
                pairs[name] = value
        if pairs.get("layer", "").isdecimal() and _small(pairs["layer"]) is not None:
            numbers = {key: number for key, value in pairs.items() if (number := _small(value)) is not None}
            per_layer.setdefault(numbers["layer"], {}).update(numbers)
        else:
            header.update(pairs)
    return header, per_layer


def _small(text: str) -> int | None:
    """Return a whole number of a header; None where it is none."""
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def _dense_bytes(
    blocks: npt.NDArray[np.intp], per_layer: dict[int, dict[str, int]], notices: list[str]
) -> npt.NDArray[np.int64] | None:
    """Find the bytes of a layer's block that every token uses, as the header says; a header's 0 is "not known"."""
    sizes = np.array([per_layer.get(block, {}).get("dense_bytes", 0) for block in blocks.tolist()], np.int64)
    if sizes.all():
        return sizes
    if sizes.any():
        notices.append(f"dense bytes left out: they are given for {np.count_nonzero(sizes)} of {len(sizes)} layers")
    return None


def _expert_bytes(
    options: Options,
    scan: Scan,
    blocks: npt.NDArray[np.intp],
    per_layer: dict[int, dict[str, int]],
    notices: list[str],
) -> npt.NDArray[np.int64] | int | None:
    """Find the bytes of one expert: as the user says, as the header says, or as the rows say."""
    if options.expert_bytes is not None:
        return options.expert_bytes
    sizes = np.array([per_layer.get(block, {}).get("expert_bytes", 0) for block in blocks.tolist()], np.int64)
    if not sizes.all():
        low, high = scan.bytes_low[blocks], scan.bytes_high[blocks]
        differ = np.flatnonzero((sizes == 0) & (high > 0) & (low != high))
        if len(differ):
            at = differ[0]
            raise TraceError(
                f"layer {blocks[at]} has experts of {low[at]} and of {high[at]} bytes; "
                "one size per layer is allowed, give it with --expert-bytes"
            )
        sizes = np.where(sizes > 0, sizes, high)
    if sizes.all():
        return sizes
    if sizes.any():
        notices.append(f"expert bytes left out: they are given for {np.count_nonzero(sizes)} of {len(sizes)} layers")
    return None
