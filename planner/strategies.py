"""Ways to use what memory is left for experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrcsim.models import Geometry
from lrcsim.planner.memory import Memory, slots_of
from lrcsim.planner.workload import PLACED, POPULAR

POLICIES = ("lru", "lfu", "slru", "lfru")
"""Eviction policies that engines with an expert cache run: LRU in llama.cpp (builds b11480 to b12169) and most of its
forks, LFU and segmented LRU in offloading engines, LFRU in the expert cache proposed for vLLM."""


@dataclass(frozen=True)
class Strategy:
    """A way to place experts and to serve misses.

    Attributes:
        name: short, unique.
        about: what it does, in a few words.
        policy: of the cache; `PLACED` and `POPULAR` are fixed contents.
        miss: what happens to an expert that is not resident, as in ``lrcsim run --miss``.
        by_layer: whole layers are resident or not, those at the end first; else every layer has an equal share.
    """

    name: str
    about: str
    policy: str
    miss: str
    by_layer: bool = False


RESIDENT = Strategy("all-resident", "everything resident", PLACED, "load", by_layer=True)
ON_CPU = Strategy("n-cpu-moe", "first layers' experts on the CPU", PLACED, "cpu", by_layer=True)
FREQUENT = Strategy("popular", "popular experts on GPU, rest on CPU", POPULAR, "cpu")
STREAMED = Strategy("streamed", "first layers' experts over the link", PLACED, "load", by_layer=True)
OPTIMUM = Strategy("optimum", "optimal eviction, misses loaded", "belady", "load")
"""A bound on the rows that load every miss; no engine has it."""


def strategies(memory: Memory) -> list[Strategy]:
    """Return the strategies that make sense with such memory, the plain LRU cache first."""
    if memory.fit == "gpu":
        return [RESIDENT]
    caches = [Strategy(policy, f"{policy.upper()} cache, misses loaded", policy, "load") for policy in POLICIES]
    if not memory.ram:
        return caches
    if memory.copies_all or memory.flash:
        caches.append(Strategy("lru-split", "LRU cache, misses loaded or on the CPU", "lru", "split"))
    else:  # a cache that evicts needs a copy of what it evicts
        caches = []
    if memory.fit == "flash" or not memory.placed_in_memory:
        return [*caches, ON_CPU, FREQUENT]
    return [*caches, ON_CPU, FREQUENT, STREAMED]


def cache_of(strategy: Strategy, budget: int, memory: Memory, experts: int) -> list[int]:
    """Return the experts that each MoE layer has room for on the device, int [L].

    Args:
        strategy: how to divide.
        budget: bytes for experts (`Memory.placed_budget`: engines need room for the buffers of their prompts besides).
        memory: sizes of an expert of each layer.
        experts: of each layer.
    """
    if not strategy.by_layer:
        return slots_of(budget, memory.slot, experts)
    slots, left = [0] * len(memory.slot), budget
    for layer in reversed(range(len(slots))):
        if memory.layer_experts[layer] > left:
            break
        slots[layer] = experts
        left -= memory.layer_experts[layer]
    return slots


def cpu_layers(slots: Sequence[int], geometry: Geometry) -> int:
    """Return N of ``--n-cpu-moe N``: it counts all layers from the first on, those without experts too."""
    outside = [block for block, held in zip(geometry.moe_layers, slots, strict=True) if held < geometry.experts]
    return outside[-1] + 1 if outside else 0
