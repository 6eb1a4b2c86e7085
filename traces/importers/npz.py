"""Import NumPy arrays: .npz with arrays named as in `RoutingTrace.from_arrays` or as other programs do, and .npy.

The experts are [tokens, layers, k]; or [requests, tokens, layers, k]; or one array per request, or one per layer
([tokens, k]); or router logits [tokens, layers, E] with ``--top-k``. A file ``NAME.json`` beside ``NAME.npz`` may hold
the server's ``usage`` (how many prompt tokens, and how many of them cached). Arrays are read a run of tokens at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.check import check_offsets
from lrcsim.traces.importers.common import NO_PHASES, RUN, guessed_experts, in_runs, named_after
from lrcsim.traces.importers.names import ALIASES, plain
from lrcsim.traces.importers.npz_arrays import Arrays, find_arrays
from lrcsim.traces.importers.npz_contents import Contents
from lrcsim.traces.importers.npz_reader import Reader
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.what_ran import Sent, Tally, laid, settle

LAYER_KEYS = ("num_experts", "top_k", "expert_bytes", "dense_bytes", "block", "stack_of_layer", "num_shared")

OTHER_KEYS = ("offsets", "domains", "model", "stack_names", "provenance")


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file is a .npz archive or a .npy array."""
    if path.is_file() and head.startswith(b"\x93NUMPY"):
        return True
    return path.is_file() and head.startswith(b"PK\x03\x04") and not head[30:4096].count(b"/data.pkl")


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read the small arrays of an archive, and the experts once for the largest id where E is not given."""
    contents = Contents(path)
    small = {name: contents.whole(name) for name in contents.names if name in (*LAYER_KEYS, *OTHER_KEYS)}
    notices: list[str] = []
    arrays = find_arrays(contents, options)
    if "phase" in arrays.names and options.phase == "none":
        del arrays.names["phase"]
    elif "phase" in arrays.names and (options.phase or options.prompt_tokens) is not None:
        option = "--phase" if options.phase else "--prompt-tokens"
        raise ConfigError(f"has phases of its own (array {arrays.names['phase']!r}); leave {option} out")
    ignored = sorted(set(contents.names) - set(arrays.used) - set(small) - {"phase"})
    prompts = _prompts(contents, ignored, options)
    if ignored:
        notices.append(f"arrays of no known name were left out: {', '.join(ignored)}")

    tokens, num_layers, k = arrays.tokens, arrays.num_layers, arrays.top_k
    if num_layers > tokens and not options.layer_first:
        notices.append(
            f"read as {tokens:,} tokens of {num_layers:,} layers ([tokens, layers, k]); if the axes are "
            "[layers, tokens, k], give --layer-first"
        )
    experts = options.num_experts if options.num_experts is not None else small.get("num_experts", arrays.num_experts)
    sized = small.get("expert_bytes")
    if experts is None and sized is not None and sized.ndim == 2:  # a size for each expert says how many there are
        experts = sized.shape[1]
    guessed = experts is None
    if experts is None:
        largest = -1
        with contents:
            reader = Reader(contents, arrays)
            for low in range(0, tokens, RUN):
                largest = max(largest, int(reader.read(["experts"], min(RUN, tokens - low))["experts"].max()))
                progress(low, 2 * tokens)
        if largest < 0:
            raise TraceError("holds no expert at all, every id is -1")
        experts = guessed_experts(largest, notices, options.likely)
    layers = LayerTable.build(
        num_layers,
        _plain(experts),
        _plain(small.get("top_k", k)),
        expert_bytes=options.expert_bytes if options.expert_bytes is not None else _plain(small.get("expert_bytes")),
        dense_bytes=_plain(small.get("dense_bytes")),
        block=small.get("block", arrays.block),
        stack=small.get("stack_of_layer"),
        num_shared=_plain(small.get("num_shared", 0)),
        stack_names=_labels(small["stack_names"]) if "stack_names" in small else ("decoder",),
    )
    if int(layers.top_k.max()) > k:
        raise TraceError(f"top_k says {layers.top_k.max()}, the array of experts holds {k} per token and layer")
    width = arrays.num_experts
    if width is not None and int(layers.num_experts.max()) != width:
        raise TraceError(
            f"the logits are of {width} experts, the number of experts is given as {layers.num_experts.max()}"
        )
    offsets = _offsets(small, arrays)
    domains = list(_labels(small["domains"])) if "domains" in small else None
    if domains is not None and len(domains) != len(offsets) - 1:
        raise TraceError(f"has {len(domains)} domains for {len(offsets) - 1} requests")
    if prompts is None and "phase" not in arrays.names and options.phase is None:
        notices.append(NO_PHASES)

    def requests() -> Iterator[Request]:
        tally = Tally()
        with contents:
            reader = Reader(contents, arrays)
            for request, (low, high) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
                domain = None if domains is None else domains[request]
                if prompts is None:
                    yield domain, _tokens(reader, arrays, high - low)
                else:
                    sent = prompts.of(request, high - low, len(offsets) - 1)
                    yield domain, _with_prompt(reader, arrays, high - low, sent, request, tally)
                progress(tokens + high, 2 * tokens)
        notices.extend(tally.notices())

    provenance = _json(str(small["provenance"])) if "provenance" in small else {}
    model = str(small.get("model", named_after(path)))
    return Source(layers, model, requests, provenance, notices, experts_guessed=guessed)


def _tokens(reader: Reader, arrays: Arrays, count: int) -> Iterator[Columns]:
    while count:
        run = min(count, RUN)
        yield reader.read(["experts", *arrays.names], run)
        count -= run


def _with_prompt(
    reader: Reader, arrays: Arrays, count: int, sent: Sent, request: int, tally: Tally
) -> Iterator[Columns]:
    """Read a request whose prompt's length is known, and put its rows at their positions."""
    whole = reader.read(["experts", *arrays.names], count)
    try:
        ran = settle(sent)
    except TraceError as error:
        raise TraceError(f"request {request} {error}") from None
    tally.add(ran)
    yield from in_runs(laid(whole, ran))


def _plain(value: Any) -> Any:
    """Return a number for an array of no dimensions, and what is none as it is."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _labels(array: npt.NDArray[Any]) -> tuple[str, ...]:
    return tuple(str(label) for label in np.atleast_1d(array).ravel())


def _offsets(small: dict[str, Any], arrays: Arrays) -> npt.NDArray[np.int64]:
    offsets = np.asarray(small.get("offsets", arrays.offsets))
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1:
        raise TraceError(f"offsets must be integers, given {offsets.dtype} {list(offsets.shape)}")
    if offsets.size and int(offsets.max()) > np.iinfo(np.int64).max:
        raise TraceError(f"offsets holds {offsets.max()}, out of all range")
    offsets = offsets.astype(np.int64)
    for problem in check_offsets(offsets, arrays.tokens):
        raise TraceError(f"{problem}")
    return offsets


@dataclass
class _Prompts:
    """Lengths of the prompts.

    Attributes:
        first: the same for all requests; None: not said.
        lengths: int [requests], or None.
        usage: of the server, from the file beside.
        keep: whether cached prompt tokens count as run.
    """

    first: int | None = None
    lengths: npt.NDArray[np.int64] | None = None
    usage: dict[str, Any] | None = None
    keep: bool = False

    def of(self, request: int, rows: int, requests: int) -> Sent:
        if self.first is not None:
            return Sent(rows, min(self.first, rows))
        if self.lengths is not None:
            if len(self.lengths) not in (1, requests):
                raise TraceError(f"has {len(self.lengths)} prompt lengths for {requests} requests")
            return Sent(rows, int(self.lengths[request if len(self.lengths) > 1 else 0]))
        usage = self.usage or {}
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) and not self.keep else None
        return Sent(rows, usage.get("prompt_tokens"), usage.get("completion_tokens"), cached=cached)


def _prompts(contents: Contents, ignored: list[str], options: Options) -> _Prompts | None:
    """Find the lengths of the prompts: as the user says, as an array says, or as the server's usage beside says."""
    keep = options.cached_prefix == "keep"
    first, given = options.prompt()
    if first is not None:
        return _Prompts(first=first)
    if given is not None and given not in contents.names:
        raise TraceError(f"has no array {given!r}, it has {', '.join(contents.names)[:200]}")
    if options.phase is not None:
        return None
    name = given or next((n for n in ignored if plain(n) in ALIASES["prompt_tokens"]), None)
    if name is not None:
        if name in ignored:
            ignored.remove(name)
        lengths = np.atleast_1d(contents.whole(name)).ravel()
        if lengths.dtype.kind not in "iu":
            raise TraceError(f"{name} must be integers, one per request, is {lengths.dtype}")
        return _Prompts(lengths=lengths.astype(np.int64), keep=keep)
    beside = contents.path.with_suffix(".json")
    if beside.is_file() and beside.stat().st_size < 1 << 20:
        try:
            said = json.loads(beside.read_bytes())
        except (ValueError, RecursionError, OSError):
            return None
        usage = said.get("usage") if isinstance(said, dict) else None
        if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
            return _Prompts(usage=usage, keep=keep)
    return None


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TraceError("provenance must be a JSON object")
    return value
