"""A toy model for tests of the offloading engine, small enough to compute every expert directly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lrcsim.experiments.validation.offload.engine.bench import Bench
from lrcsim.experiments.validation.offload.engine.cells import EngineCell, table_of
from lrcsim.experiments.validation.offload.engine.dense import DenseWeights
from lrcsim.experiments.validation.offload.engine.engine import Engine, ModelOnDevice, room_of
from lrcsim.experiments.validation.offload.engine.experts import HostExperts, arena
from lrcsim.experiments.validation.offload.engine.shape import EngineShape, shape_of
from lrcsim.models import load_geometry
from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS, K = 3, 16, 4
GEOMETRY = replace(
    load_geometry("qwen3-30b-a3b"), name="toy", layers=LAYERS, moe_layers=tuple(range(LAYERS)), experts=EXPERTS,
    top_k=K, hidden=32, expert_width=16, heads=4, kv_heads=2, head_dim=8, vocab=64,
)  # fmt: skip
UNIQUE = 20
CELLS = (
    "all", "lru-8", "lru-8-serial", "lru-8-oracle1", "static-8-cpu", "lru-3", "lru-3-oracle1", "lru-8-batch4",
    "lru-3-serial-batch3", "static-8-cpu-batch2",
)  # fmt: skip


def toy_trace(tokens: int = 24, seed: int = 0) -> RoutingTrace:
    """Random routing in which tokens repeat some of the last one's experts."""
    random = np.random.default_rng(seed)
    experts = np.stack([[random.permutation(EXPERTS)[:K] for _ in range(LAYERS)] for _ in range(tokens)])
    same = random.random(tokens) < 0.5
    for token in np.flatnonzero(same[1:]) + 1:
        experts[token] = experts[token - 1, :, ::-1]
    return RoutingTrace.from_arrays(experts, num_experts=EXPERTS, expert_bytes=3 * 32 * 16 * 2, model="toy")


def toy_engine(device: Any, name: str, way: str = "gathered", tokens: int = 8) -> Engine:
    """The engine of a cell on the toy."""
    cell = EngineCell.of(name)
    trace = cell.trace_of(toy_trace(), tokens)
    shape = toy_shape()
    slots = arena(device, shape, room_of(cell, shape, K) * LAYERS)
    model = ModelOnDevice(shape, HostExperts(device, shape), DenseWeights(device, shape), slots, way)
    return Engine(device, cell, table_of(cell, trace), model)


def toy_bench(device: Any, names: tuple[str, ...] = CELLS, tokens: int = 6) -> Bench:
    """The toy ready to be run."""
    return Bench(device, toy_shape(), toy_trace(), tokens, [EngineCell.of(name) for name in names])


def toy_shape() -> EngineShape:
    """The toy's shape."""
    return shape_of(GEOMETRY, UNIQUE)
