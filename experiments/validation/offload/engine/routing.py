"""Which experts the engine uses: decoded tokens of a trace of the model, or the bundled trace in the model's shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.models import Geometry
from lrcsim.traces import DECODE, RoutingTrace

TOPIC = 64
"""Tokens after which the shaped routing turns to other experts, where the model has more than the bundled trace."""
SEED = 22


def decoded(trace: RoutingTrace) -> RoutingTrace:
    """Return all decoded tokens of a trace, one after the other; all tokens where it has no phases.

    Raises:
        ConfigError: it has none.
    """
    experts = np.asarray(trace.read("experts", 0, trace.num_tokens))
    if trace.phase is not None:
        experts = experts[np.asarray(trace.phase[:]) == DECODE]
    if not len(experts):
        raise ConfigError("the trace has no decode tokens: give one that has, or one without phases")
    return RoutingTrace.from_arrays(experts, num_experts=trace.num_experts, model=trace.model)


def routing_of(path: str | Path, geometry: Geometry) -> tuple[RoutingTrace, Geometry]:
    """Return the decoded tokens of a trace file, and the model with as many experts per token as it has.

    Raises:
        ConfigError: the trace is of another shape.
    """
    with RoutingTrace.open(path) as trace:
        layers = len(geometry.moe_layers)
        if (trace.num_layers, trace.num_experts) != (layers, geometry.experts):
            raise ConfigError(
                f"{path} has {trace.num_layers} MoE layers x {trace.num_experts} experts, the model {geometry.name} "
                f"{layers} x {geometry.experts}: give the model that was traced (--models)"
            )
        return decoded(trace), replace(geometry, top_k=trace.top_k)


def shaped(geometry: Geometry, tokens: int) -> RoutingTrace:
    """Return the bundled trace in a model's shape: synthetic, and its name says so.

    Layer l follows the bundled trace's layer l mod L, in another part of the trace, under other names of the experts.
    Where the model has more experts, the names change every `TOPIC` tokens; where it has fewer, several of the trace's
    are one, and the first k different ones count.

    Args:
        geometry: the model.
        tokens: how many.

    Raises:
        ConfigError: the model uses more experts per token than can be made.
    """
    with RoutingTrace.open() as opened:
        source = decoded(opened)
    rows = np.asarray(source.read("experts", 0, source.num_tokens))
    experts, k, layers = geometry.experts, geometry.top_k, len(geometry.moe_layers)
    together = -(-source.num_experts // experts)
    if k * together > source.top_k:
        raise ConfigError(
            f"model {geometry.name} uses {k} of {experts} experts, the bundled trace {source.top_k} of "
            f"{source.num_experts}: give a trace of the model's own (--trace)"
        )
    random = np.random.default_rng(SEED)
    made = np.empty((tokens, layers, k), np.int64)
    for layer in range(layers):
        begin = layer * len(rows) // layers
        own = rows[(begin + np.arange(tokens)) % len(rows), layer % source.num_layers].astype(np.int64)
        if together > 1:
            own = _first_different(own // together, k)
        topic = (np.arange(tokens) // TOPIC + layer) % max(experts // source.num_experts, 1)
        own = own[:, :k] + topic[:, None] * source.num_experts
        made[:, layer] = random.permutation(experts)[own % experts]
    return RoutingTrace.from_arrays(
        made, num_experts=experts, model=f"{geometry.name}, synthetic: {source.model} in its shape"
    )


def _first_different(rows: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """Return the first k different values of each row, of rows that have as many."""
    return np.array([list(dict.fromkeys(row))[:k] for row in rows.tolist()], np.int64)
