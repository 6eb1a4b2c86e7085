"""What makes a routing trace wrong, and where: the one place that `check`, the importers and the writer share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.errors import TraceError
from lrcsim.traces.layers import LayerTable

__all__ = ["Problem", "check_file", "check_offsets", "check_tokens"]

MAX_PROBLEMS = 20
"""How many places are described one by one; the rest is only counted."""


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


def check_tokens(columns: Mapping[str, npt.NDArray[Any]], layers: LayerTable, first_token: int) -> list[Problem]:
    """Find what is wrong with a run of tokens.

    Args:
        columns: per-token arrays by name; ``experts`` (signed int [n, L, K], -1 = not recorded) must be there.
        layers: the model's MoE layers.
        first_token: index of the run's first token in the trace, for the messages.

    Returns:
        One ``Problem`` per kind of fault, with the first place and the number of places.
    """
    problems: list[Problem] = []
    experts = columns["experts"]

    def report(bad: npt.NDArray[np.bool_], describe: str, name: str = "experts") -> None:
        if bad.any():
            place = _first(bad)
            where = f"token {first_token + place[0]}" + (f", layer {place[1]}" if len(place) > 1 else "")
            problems.append(Problem(where, describe.format(value=columns[name][place]), int(bad.sum())))

    limit = layers.num_experts[None, :, None]
    largest = int(layers.num_experts.max()) - 1
    report((experts < -1) | (experts >= limit), f"expert id {{value}}, allowed 0..{largest} or -1 for not recorded")
    beyond_k = np.arange(experts.shape[2])[None, :] >= layers.top_k[:, None]
    if beyond_k.any():
        report((experts >= 0) & beyond_k[None], "expert id {value} at a rank beyond the layer's top-k")
    ordered = np.sort(experts, axis=2)
    repeated = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)
    if repeated.any():
        token, layer, rank = _first(repeated)
        expert = ordered[token, layer, rank]
        problems.append(
            Problem(
                f"token {first_token + token}, layer {layer}",
                f"expert {expert} stands twice in the token's top-k",
                int(repeated.any(axis=2).sum()),
            )
        )
    weights = columns.get("weights")
    if weights is not None:
        report(~np.isfinite(weights) & (experts >= 0), "router weight {value}, must be a finite number", "weights")
    phase = columns.get("phase")
    if phase is not None:
        report(phase > 1, "phase {value}, allowed 0 (prefill) and 1 (decode)", "phase")
    residency = columns.get("residency")
    if residency is not None:
        report(
            (residency > 2) & (residency != 255),
            "residency {value}, allowed 0 (miss), 1 (hit), 2 (prefetched), 255 (unknown)",
            "residency",
        )
    for name, predicted in columns.items():
        if name.startswith("predictions/"):
            report((predicted < -1) | (predicted >= limit), "predicted expert id {value} out of range", name)
    stack = columns.get("stack")
    if stack is None and len(layers.stack_names) > 1:
        names = ", ".join(layers.stack_names)
        problems.append(Problem(f"token {first_token}", f"has no stack, the model has several ({names})", len(experts)))
    if stack is not None:
        report(stack >= len(layers.stack_names), f"stack {{value}}, allowed 0..{len(layers.stack_names) - 1}", "stack")
        foreign = stack[:, None] != layers.stack[None, :]
        report((experts >= 0) & foreign[:, :, None], "expert id {value} in a layer of another stack than the token's")
    return problems


def check_offsets(offsets: npt.NDArray[np.int64], num_tokens: int) -> list[Problem]:
    """Find what is wrong with request offsets: int64 [requests + 1], from 0 to ``num_tokens``, never falling."""
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


def check_file(
    path: str | Path, tokens_per_read: int = 16_384, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Read a trace file from beginning to end, in bounded memory, and return every kind of fault found in it.

    Args:
        path: an lrcsim trace file.
        tokens_per_read: tokens held in memory at a time.
        progress: called with the tokens read and all tokens.

    Returns:
        An empty list when the trace is good.
    """
    from lrcsim.traces.trace import RoutingTrace

    try:
        trace = RoutingTrace.open(path)
    except TraceError as error:
        return [Problem(str(path), str(error).removeprefix(f"{path}: "))]
    with trace:
        merged: dict[str, Problem] = {}
        for low in range(0, trace.num_tokens, tokens_per_read):
            high = min(low + tokens_per_read, trace.num_tokens)
            try:
                found = check_tokens({name: trace.read(name, low, high) for name in trace.columns}, trace.layers, low)
            except TraceError as error:
                return [*merged.values(), Problem(f"tokens {low}..{high - 1}", str(error))]
            for problem in found:
                kind = problem.what.split(",")[0].translate(str.maketrans("", "", "0123456789.-"))
                seen = merged.get(kind)
                merged[kind] = Problem(seen.where, seen.what, seen.count + problem.count) if seen else problem
            if progress is not None:
                progress(high, trace.num_tokens)
    return list(merged.values())[:MAX_PROBLEMS]
