"""A machine and a model in round numbers for plans, and traces of a given shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link
from lrcsim.models import Geometry
from lrcsim.traces import RoutingTrace

GPU = Gpu(memory=100_000, bandwidth=1e6, compute=1e12, overhead=0.0)
MACHINE = HardwareProfile(
    name="round",
    description="",
    gpu=GPU,
    cpu=Cpu(compute=1e12, bandwidth=1e5, overhead=0.0, cores=4),
    dram=Dram(memory=1_000_000, bandwidth=1e9),
    links=(
        Link("nvme", bandwidth=2e4, latency=0.0, overhead=0.0, lanes=1),
        Link("pcie", bandwidth=1e5, latency=0.0, overhead=0.0, lanes=1),
    ),
    unified=False,
    layer_overhead=0.0,
    expert_overhead=0.0,
)

GEOMETRY = Geometry(
    name="toy", source="made up", layers=4, moe_layers=(1, 2, 3), experts=8, top_k=2, shared_experts=0, hidden=16,
    expert_width=10, shared_width=0, dense_width=20, matrices=3, heads=2, kv_heads=1, head_dim=4, vocab=100, tied=False,
)  # fmt: skip
"""Expert: 3 x 16 x 10 = 480 parameters, 960 bytes in bf16; 24 of them, 23,040 bytes."""


def machine(**changes: Any) -> HardwareProfile:
    """Return the machine; ``vram`` changes its GPU memory, ``ram`` its main memory, others replace parts."""
    vram, ram = changes.pop("vram", GPU.memory), changes.pop("ram", 1_000_000)
    return replace(MACHINE, **{"gpu": replace(GPU, memory=vram), "dram": Dram(ram, 1e9), **changes})


def geometry(**changes: Any) -> Geometry:
    """Return the model with some numbers changed."""
    return replace(GEOMETRY, **changes)


def local_trace(
    layers: int = 3, experts: int = 8, top_k: int = 2, *, tokens: int = 200, requests: int = 8, model: str = "toy",
    stay: float = 0.7, seed: int = 0,
) -> RoutingTrace:  # fmt: skip
    """Make a trace of decoded tokens in which an expert is used again by the next token with probability ``stay``."""
    random = np.random.default_rng(seed)
    ids = np.empty((tokens, layers, top_k), np.int64)
    for layer in range(layers):
        now = random.permutation(experts)[:top_k]
        for token in range(tokens):
            kept = now[random.random(top_k) < stay]
            others = np.setdiff1d(random.permutation(experts), kept, assume_unique=True)
            now = np.concatenate([kept, random.permutation(others)[: top_k - len(kept)]])
            ids[token, layer] = now
    offsets = np.linspace(0, tokens, requests + 1).astype(int)
    return RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets, model=model)
