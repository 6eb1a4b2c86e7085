"""Import what SGLang's expert distribution recorder dumps in mode ``per_token``: one record per forward pass.

A record has ``topk_ids_of_layer`` [layers, tokens, 8] (physical experts; -1 beyond k and in dense layers),
``positions``, ``input_ids``, ``forward_mode`` (1 extend, 2 decode, 3 mixed) and, for a prompt, ``extend_seq_lens``.
Requests have no name in it (older servers wrote ``rids``): a token belongs to the request whose next position it has.
In the other modes the recorder counts, which is no trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.common import guessed_experts, in_runs, named_after
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.importers.torch_file import is_torch_file, load
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable

DECODE_MODES = (2,)
PROMPT_MODES = (1, 3)
IDLE = 4


@dataclass
class _Sequence:
    """The tokens of one request, in pieces.

    Attributes:
        name: its id, or None.
        start: position of the first token; those before came out of the prefix cache.
        next: the position that comes next.
    """

    name: object
    start: int
    next: int
    experts: list[npt.NDArray[np.int32]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    phase: list[int] = field(default_factory=list)


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file was written by ``torch.save``."""
    return path.is_file() and head.startswith(b"PK\x03\x04") and is_torch_file(path)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read the records and put each request's tokens together."""
    content = load(path)
    mapping = content.get("last_physical_to_logical_map") if isinstance(content, dict) else None
    records = content.get("records") if isinstance(content, dict) else content
    if isinstance(content, dict) and records is None and any("count" in str(key) for key in content):
        raise TraceError(
            f"holds counts ({', '.join(map(str, content))[:80]}), not a trace; record with "
            "--expert-distribution-recorder-mode per_token"
        )
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise TraceError(
            "holds no records of SGLang's expert distribution recorder; other .pt files are not read, save "
            "their ids with numpy.savez(FILE, experts=ids) as [tokens, layers, k]"
        )
    if not any("topk_ids_of_layer" in record for record in records):
        raise TraceError(
            "its records hold counts, not a trace; record with --expert-distribution-recorder-mode per_token"
        )
    ranks = {record.get("rank", 0) for record in records}
    if len(ranks) > 1:
        raise TraceError(f"holds records of {len(ranks)} ranks; import the file of one")
    notices: list[str] = []
    sequences = _sequences(records, notices)
    ids = [piece for sequence in sequences for piece in sequence.experts]
    used = np.flatnonzero(np.any([(piece >= 0).any(axis=(0, 2)) for piece in ids], axis=0))
    if len(used) == 0:
        raise TraceError("holds no expert at all, every id is -1")
    if isinstance(mapping, np.ndarray):
        _to_logical(sequences, mapping)
    ids = [piece for sequence in sequences for piece in sequence.experts]
    top_k = max(int((piece >= 0).sum(axis=2).max()) for piece in ids)
    largest = max(int(piece.max()) for piece in ids)
    experts = options.num_experts
    if experts is None and isinstance(mapping, np.ndarray) and mapping.size:
        experts = int(mapping.max()) + 1
    guessed = experts is None
    if experts is None:
        experts = guessed_experts(largest, notices, options.likely)
    late = sum(sequence.start for sequence in sequences)
    if late:
        notices.append(f"{late:,} prompt tokens before the first token of their request did not run (prefix cache): -1")
    layers = LayerTable.build(len(used), experts, top_k, expert_bytes=options.expert_bytes, block=used)

    def requests() -> Iterator[Request]:
        for done, sequence in enumerate(sequences):
            yield None, in_runs(_tokens(sequence, used, top_k, options.phase is None))
            progress(done + 1, len(sequences))

    return Source(
        layers, named_after(path), requests, {"recorder": "SGLang expert distribution recorder"}, notices, guessed
    )


def _sequences(records: list[dict[str, Any]], notices: list[str]) -> list[_Sequence]:
    """Follow every request through the forward passes."""
    found: list[_Sequence] = []
    waiting: dict[tuple[object, int], list[int]] = {}  # requests by name and next position, the earliest first
    ambiguous = 0
    for number, record in enumerate(records):
        if record.get("forward_mode") == IDLE or "topk_ids_of_layer" not in record:
            continue
        experts, positions, ids = _checked(number, record)
        if len(positions) == 0:
            continue
        mode = record.get("forward_mode")
        if mode not in (*DECODE_MODES, *PROMPT_MODES):
            raise TraceError(f"record {number} has forward_mode {mode!r}, read are 1 extend, 2 decode, 3 mixed")
        lengths = record.get("extend_seq_lens")
        lengths = [1] * len(positions) if mode in DECODE_MODES or lengths is None else [int(n) for n in lengths]
        if sum(lengths) != len(positions):
            raise TraceError(f"record {number} has {len(positions)} tokens, its extend_seq_lens {sum(lengths)}")
        names = record.get("rids")
        went_on: list[int] = []
        low = 0
        for at, length in enumerate(lengths):
            if length == 0:
                continue
            name = None
            if isinstance(names, list) and len(names) in (len(lengths), len(positions)):
                name = names[at] if len(names) == len(lengths) else names[low]
            first = positions[low]
            fitting = waiting.get((name, first), []) if first > 0 else []
            ambiguous += len(fitting) > 1
            if fitting:
                index = fitting.pop(0)
            else:
                index = len(found)
                found.append(_Sequence(name, first, first))
            went_on.append(index)
            sequence = found[index]
            if positions[low : low + length] != list(range(first, first + length)):
                raise TraceError(f"record {number}: the positions of a request do not follow one another")
            sequence.experts.append(experts[low : low + length])
            sequence.ids += ids[low : low + length]
            decode = mode in DECODE_MODES or (length == 1 and first > sequence.start and mode == 3)
            sequence.phase += [int(decode)] * length
            sequence.next = first + length
            low += length
        for index in went_on:
            waiting.setdefault((found[index].name, found[index].next), []).append(index)
    if not found:
        raise TraceError("holds no token")
    if ambiguous:
        notices.append(
            f"requests have no name in the file: {ambiguous:,} times two of them were at the same position, and the "
            "earlier one was taken"
        )
    return found


def _checked(number: int, record: dict[str, Any]) -> tuple[npt.NDArray[np.int32], list[int], list[int]]:
    """Return experts [tokens, layers, k], positions and token ids of one forward pass."""
    given = record["topk_ids_of_layer"]
    if not isinstance(given, np.ndarray) or given.ndim != 3 or given.dtype.kind not in "iu":
        raise TraceError(f"record {number}: topk_ids_of_layer must be integers [layers, tokens, k]")
    if given.size and (int(given.min()) < -1 or int(given.max()) >= MAX_EXPERTS):
        raise TraceError(f"record {number}: expert ids from {given.min()} to {given.max()}, allowed 0..65534 or -1")
    tokens = given.shape[1]
    listed = []
    for name in ("positions", "input_ids"):
        values = record.get(name, [] if name == "input_ids" else None)
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(values, list) or not all(isinstance(v, int) and abs(v) < 1 << 31 for v in values):
            raise TraceError(f"record {number}: {name} must be a list of integers")
        if len(values) != tokens and not (name == "input_ids" and not values):
            raise TraceError(f"record {number} has {tokens} tokens and {len(values)} {name}")
        listed.append(values or [-1] * tokens)
    if any(position < 0 or position > 1 << 20 for position in listed[0]):
        raise TraceError(f"record {number}: positions must be from 0 to {1 << 20}")
    experts = np.ascontiguousarray(given.transpose(1, 0, 2)).astype(np.int32)
    return experts, listed[0], [max(token, -1) for token in listed[1]]


def _to_logical(sequences: list[_Sequence], mapping: npt.NDArray[Any]) -> None:
    """Turn physical experts, of which there may be copies, into the model's."""
    layers = sequences[0].experts[0].shape[1]
    if mapping.ndim != 2 or mapping.dtype.kind not in "iu" or len(mapping) < layers or mapping.shape[1] == 0:
        raise TraceError(f"last_physical_to_logical_map must be integers [layers, experts], is {mapping.shape}")
    for sequence in sequences:
        for at, ids in enumerate(sequence.experts):
            if int(ids.max()) >= mapping.shape[1]:
                raise TraceError(f"expert {ids.max()} of {mapping.shape[1]} physical experts")
            logical = mapping[np.arange(layers)[None, :, None], np.maximum(ids, 0)].astype(np.int32)
            sequence.experts[at] = np.where(ids >= 0, logical, -1)


def _tokens(sequence: _Sequence, used: npt.NDArray[np.intp], top_k: int, recorded_phases: bool) -> Columns:
    """Lay one request out, its tokens before the first as not run."""
    start = sequence.start
    experts = np.concatenate(sequence.experts)[:, used]
    tokens = start + len(experts)
    laid = np.full((tokens, len(used), top_k), -1, np.int32)
    laid[start:] = experts[:, :, :top_k]
    columns: Columns = {"experts": laid}
    if recorded_phases:
        columns["phase"] = np.array([0] * start + sequence.phase, np.uint8)
    if any(token >= 0 for token in sequence.ids):
        columns["token_ids"] = np.array([-1] * start + sequence.ids, np.int32)
    return columns
