"""What makes a routing trace wrong, and where: the one place that `check`, the importers and the writer share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.traces.layers import LayerTable
from lrcsim.traces.repeats import any_repeated

COLUMN_KINDS = {
    "experts": "iu",
    "weights": "f",
    "logits": "f",
    "router_inputs": "f",
    "residency": "iu",
    "phase": "iub",
    "token_ids": "iu",
    "predicted_ids": "iu",
    "stack": "iu",
    "predictions": "iu",
}
"""Kinds of numbers (NumPy's letters) that each per-token column may hold."""

MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True)
class Problem:
    """One kind of fault in a trace.

    Attributes:
        where: where it first stands.
        what: what it is.
        count: how often it occurs.
    """

    where: str
    what: str
    count: int = 1

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more like it)" if self.count > 1 else ""
        return f"{self.where}: {self.what}{more}"


def _first(bad: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))


def check_tokens(
    columns: Mapping[str, npt.NDArray[Any]],
    layers: LayerTable,
    first_token: int,
    first_layer: int = 0,
    *,
    repeats: bool = True,
    ids_in_all: int = 0,
) -> list[Problem]:
    """Find what is wrong with a run of tokens: everything that a kernel, a policy or an engine indexes or counts with.

    The trace's own `RoutingTrace.read`, the writer, the importers and ``lrcsim trace check`` all call this function,
    so that what one of them accepts the others accept. A good run costs about 0.8 ns per expert id, nearly all of it
    for the look for repeats.

    Args:
        columns: per-token arrays by name, of any dtype: ``experts`` (signed int [n, L, K], -1 = not recorded) and any
            of the others. A column alone is checked by itself; what depends on the experts (weights that mean nothing
            where none is recorded, a token's stack) is checked where they are given too.
        layers: the MoE layers that the columns have.
        first_token: index of the run's first token in the trace, for the messages.
        first_layer: number of the columns' first layer in the model, for the messages.
        repeats: whether to look for experts that stand twice in one token's top-k.
        ids_in_all: expert ids of the whole trace, where this is a part of it: what a long look is prepared for.

    Returns:
        One ``Problem`` per kind of fault, with the first place and the number of places.
    """
    problems: list[Problem] = []
    for name, data in columns.items():
        kinds = COLUMN_KINDS.get(name.partition("/")[0], "iuf")
        if data.dtype.kind not in kinds:
            wanted = "floating-point numbers" if kinds == "f" else "integers"
            problems.append(Problem(name, f"is of type {data.dtype}, must be {wanted}", len(data)))
    if problems:
        return problems

    def report(bad: npt.NDArray[np.bool_], describe: str, name: str = "experts") -> None:
        if bad.any():
            place = _first(bad)
            value = columns[name][place[: columns[name].ndim]]
            if value.dtype == np.int16 and value < -1:  # an id as a file stores it
                value = int(value) + 65_536
            where, count = _where(place, first_token, first_layer), int(np.count_nonzero(bad))
            problems.append(Problem(where, describe.format(value=value), count))

    def within(name: str, low: int, high: int, describe: str) -> None:
        data = columns.get(name)
        if data is not None and data.size and (data.min() < low or data.max() > high):
            report((data < low) | (data > high), describe, name)

    limit = layers.num_experts[None, :, None]
    least, most = int(layers.num_experts.min()), int(layers.num_experts.max())
    experts = columns.get("experts")
    if experts is not None and experts.size:
        lowest, highest = int(experts.min()), int(experts.max())
        if lowest < -1 or highest >= least:
            report(
                (experts < -1) | (experts >= limit),
                f"expert id {{value}}, allowed 0..{most - 1} or -1 for not recorded",
            )
        if int(layers.top_k.min()) < experts.shape[2]:
            beyond_k = np.arange(experts.shape[2])[None, :] >= layers.top_k[:, None]
            report((experts >= 0) & beyond_k[None], "expert id {value} at a rank beyond the layer's top-k")
        if repeats and any_repeated(experts, lowest, highest, ids_in_all):
            problems.extend(_repeated(experts, first_token, first_layer))
    weights = columns.get("weights")
    if weights is not None and not np.isfinite(weights).all():
        recorded = np.ones(weights.shape, bool) if experts is None else experts >= 0
        report(~np.isfinite(weights) & recorded, "router weight {value}, must be a finite number", "weights")
    logits = columns.get("logits")
    if logits is not None and np.isnan(logits).any():
        routed = np.ones(logits.shape, bool) if experts is None else np.asarray((experts >= 0).any(axis=2))[:, :, None]
        report(np.isnan(logits) & routed, "router logit {value}, must be a number", "logits")
    inputs = columns.get("router_inputs")
    if inputs is not None and not np.isfinite(inputs).all():
        report(~np.isfinite(inputs), "router input {value}, must be a finite number", "router_inputs")
    within("phase", 0, 1, "phase {value}, allowed 0 (prefill) and 1 (decode)")
    for name, noun in (("token_ids", "token id"), ("predicted_ids", "predicted token id")):
        within(name, -1, MAX_TOKEN_ID, f"{noun} {{value}}, allowed 0..{MAX_TOKEN_ID} or -1 for unknown")
    within("kept", 0, 1, "kept {value}, allowed 0 and 1")
    for name in ("step", "sequence", "position"):
        within(name, 0, np.iinfo(np.int64).max, f"{name} {{value}}, must not be negative")
    residency = columns.get("residency")
    if residency is not None and residency.size and (residency.max() > 2 or residency.min() < 0):
        report(
            ((residency > 2) & (residency != 255)) | (residency < 0),
            "residency {value}, allowed 0 (miss), 1 (hit), 2 (prefetched), 255 (unknown)",
            "residency",
        )
    for name, predicted in columns.items():
        if name.startswith("predictions/") and predicted.size and (predicted.min() < -1 or predicted.max() >= least):
            report((predicted < -1) | (predicted >= limit), "predicted expert id {value} out of range", name)
    stack = columns.get("stack")
    within("stack", 0, len(layers.stack_names) - 1, f"stack {{value}}, allowed 0..{len(layers.stack_names) - 1}")
    if experts is not None and stack is None and len(layers.stack_names) > 1:
        names = ", ".join(layers.stack_names)
        problems.append(Problem(f"token {first_token}", f"has no stack, the model has several ({names})", len(experts)))
    if experts is not None and stack is not None:
        foreign = stack[:, None] != layers.stack[None, :]
        if foreign.any():
            report(
                (experts >= 0) & foreign[:, :, None], "expert id {value} in a layer of another stack than the token's"
            )
    return problems


def _where(place: tuple[int, ...], first_token: int, first_layer: int) -> str:
    return f"token {first_token + place[0]}" + (f", layer {first_layer + place[1]}" if len(place) > 1 else "")


def _repeated(experts: npt.NDArray[Any], first_token: int, first_layer: int) -> list[Problem]:
    ordered = np.sort(experts, axis=2)
    repeated = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)
    token, layer, rank = _first(repeated)
    return [
        Problem(
            _where((token, layer), first_token, first_layer),
            f"expert {ordered[token, layer, rank]} stands twice in one token's top-k",
            int(repeated.any(axis=2).sum()),
        )
    ]


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]], layers: LayerTable, offsets: npt.NDArray[np.int64]
) -> list[Problem]:
    """Find what is wrong with columns' shapes (tokens first) and with request offsets, without looking at any data."""
    given = shapes.get("experts")
    if given is None:
        return [Problem("the trace", "has no column 'experts'")]
    if len(given) != 3 or given[1] != len(layers) or given[2] < int(layers.top_k.max()):
        described = f"the table has {len(layers)} layers of up to top-{layers.top_k.max()}"
        return [Problem("experts", f"has shape {list(given)}, {described}")]
    wanted = dict.fromkeys(("experts", "weights", "residency"), given)
    wanted["logits"] = (given[0], given[1], int(layers.num_experts.max()))
    for name, shape in shapes.items():
        free = name.startswith("predictions/") or name == "router_inputs"  # of any width
        want = (*given[:2], *shape[2:3]) if free else wanted.get(name, given[:1])
        if shape != want or (free and len(shape) != 3):
            return [Problem(name, f"has shape {list(shape)}, must be {list(want)}")]
    return check_offsets(offsets, given[0])


def check_offsets(offsets: npt.NDArray[np.int64], num_tokens: int) -> list[Problem]:
    """Find what is wrong with request offsets: int64 [requests + 1], from 0 to ``num_tokens``, never falling."""
    if offsets.dtype.kind not in "iu":
        return [Problem("offsets", f"is of type {offsets.dtype}, must be integers")]
    if offsets.ndim != 1 or len(offsets) < 2:
        return [Problem("offsets", f"needs requests + 1 entries in one dimension, given shape {offsets.shape}")]
    problems: list[Problem] = []
    if offsets[0] != 0:
        problems.append(Problem("offsets[0]", f"is {offsets[0]}, must be 0"))
    if offsets[-1] != num_tokens:
        problems.append(Problem("offsets[-1]", f"is {offsets[-1]}, must be the number of tokens, {num_tokens}"))
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if len(falls):
        at = int(falls[0])
        problems.append(Problem(f"offsets[{at + 1}]", f"falls from {offsets[at]} to {offsets[at + 1]}", len(falls)))
    return problems
