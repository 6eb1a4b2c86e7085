"""Runs drawn at random, small and on machines so slow that everything shows, and whether two engines agree on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import path
from hypothesis import strategies as st

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link
from lrcsim.models import Geometry
from lrcsim.policies import PolicySpec
from lrcsim.simulator.cache.capacity import CacheSize, Scope, resolve_capacity
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.run import Run, uses_by_key
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace

GB = 10**9


def machine(
    pcie: Link | None = None,
    nvme: Link | None = None,
    *more: Link,
    dram: float = 1e30,
    layer_overhead: float = 0.0,
    expert_overhead: float = 0.0,
) -> HardwareProfile:
    return HardwareProfile(
        name="test",
        description="",
        gpu=None if pcie is None else Gpu(64 * GB, 1e12, 1e12, 0.0),
        cpu=Cpu(1e12, 1e10, 0.0, 1),
        dram=Dram(64 * GB, dram),
        links=(*path(None, nvme), *more, *path(pcie, None)),
        layer_overhead=layer_overhead,
        expert_overhead=expert_overhead,
    )


def same(tally: Tally, counts: Counts, events: Tally, counted: Counts) -> None:
    """Compare all that a compiled engine says with what the event-driven one says."""
    for name in ("accesses", "misses", "preloaded", "steps", "loads", "loaded_bytes"):
        assert getattr(counts, name).tolist() == getattr(counted, name).tolist(), name
    for name in ("cold_misses", "evictions", "bypassed", "resident"):
        assert getattr(counts, name) == getattr(counted, name), name
    assert tally.by_step() == pytest.approx(events.by_step(), rel=1e-9, abs=1e-15)
    for name in ("phases", "emitted", "gap_tokens", "outcomes", "given_up", "prefetch", "admitted", "repinned"):
        assert getattr(tally, name) == getattr(events, name), name
    for name in ("total", "compute", "overhead", "cpu"):
        assert getattr(tally, name) == pytest.approx(getattr(events, name), rel=1e-9), name
    assert list(tally.gaps) == pytest.approx(list(events.gaps), rel=1e-9, abs=1e-15)
    assert list(tally.first_step) == list(events.first_step)
    for request, span in events.first_step.items():
        assert tally.first_step[request] == pytest.approx(span, rel=1e-9), request
    assert list(tally.links) == list(events.links)
    for name, use in events.links.items():
        assert tally.links[name].bytes == use.bytes
        assert tally.links[name].bandwidth == use.bandwidth
        assert tally.links[name].busy_s == pytest.approx(use.busy_s, rel=1e-9)
        assert tally.moved.get(name, [0, 0]) == pytest.approx(events.moved.get(name, [0, 0]), rel=1e-9, abs=1e-6)
    assert tally.to_dict().keys() == events.to_dict().keys()


def job_of(
    trace: RoutingTrace,
    policy: PolicySpec = "lru",
    cache: CacheSize = 2,
    *,
    scope: Scope = "layer",
    prefill: str = "step",
    warm: bool = True,
) -> Run:
    profile = RoutingTrace.from_arrays(  # other counts than the trace's own
        trace.experts[: (trace.num_tokens + 1) // 2], num_experts=trace.layers.num_experts.tolist()
    )
    pools = tuple(resolve_capacity(cache, trace.layers, scope))
    return Run.in_pools(trace, policy, pools, "coresident", prefill, warm, uses_by_key(profile, like=trace))


@st.composite
def traces(draw: st.DrawFn, predicted: bool = False) -> RoutingTrace:
    """Sticky traces with gaps, prompts, requests, layers of unequal numbers of experts; with predictions if wanted."""
    tokens, layers = draw(st.integers(1, 16)), draw(st.integers(1, 3))
    experts = draw(st.lists(st.integers(2, 7), min_size=layers, max_size=layers))
    k = draw(st.integers(1, min(4, *experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.random((tokens, layers, max(experts))) * (0.3 + rng.random((layers, max(experts))))
    for layer, count in enumerate(experts):
        scores[:, layer, count:] = -1
    ids = (-scores).argsort(axis=2)[:, :, :k]
    guesses = (-(scores + 0.5 * rng.random(scores.shape) * (scores >= 0))).argsort(axis=2)[:, :, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.1] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=2)))
    phase = (rng.random(tokens) < 0.5).astype(int) if draw(st.booleans()) else None
    sizes = draw(st.lists(st.integers(1, 9), min_size=layers, max_size=layers))
    weights = (rng.integers(1, 9, ids.shape) / 16).astype(np.float32)
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[0, *ends, tokens],
        phase=phase,
        weights=weights,
        predictions={1: guesses, 2: guesses} if predicted else None,
        expert_bytes=[size * 1000 for size in sizes],
    )


seconds = st.sampled_from([0.0, 1e-3, 3e-3, 0.011])
rates = st.sampled_from([700_000.0, 1e6, 2.3e6, 1e7])


@st.composite
def profiles(draw: st.DrawFn, ways: Sequence[str] = ("pcie", "nvme", "both")) -> HardwareProfile:
    def link() -> Link:
        chunk = draw(st.one_of(st.none(), st.integers(300, 10_000)))
        return Link("link", draw(rates), draw(seconds), draw(seconds), draw(st.integers(1, 4)), chunk)

    either = draw(st.sampled_from(ways))
    return machine(
        link() if either != "nvme" else None,
        link() if either != "pcie" else None,
        *([replace(link(), name="cxl")] if either == "both" and draw(st.booleans()) else []),
        dram=draw(st.sampled_from([400_000.0, 1.1e6, 3e6, 1e12])),
        layer_overhead=draw(seconds),
        expert_overhead=draw(seconds),
    )


costs_drawn = st.builds(
    FixedCosts,
    dense=seconds,
    expert_s=seconds,
    output=seconds,
    cpu_overhead=seconds,
    cpu_bytes=st.sampled_from([1000.0, 4321.0]),
    cpu_rate=rates,
)


def small(layers: int, num_experts: int) -> Geometry:
    """Make a model with a dense layer at either end, a window in every other layer, and MLA where layers are even."""
    return Geometry(
        name="small",
        source="",
        layers=layers + 2,
        moe_layers=tuple(range(1, layers + 1)),
        experts=num_experts,
        top_k=1,
        shared_experts=0,
        hidden=8,
        expert_width=8,
        shared_width=0,
        dense_width=4,
        matrices=3,
        heads=2,
        kv_heads=1,
        head_dim=3,
        vocab=10,
        tied=False,
        kv_rank=2 * (layers % 2 == 0),
        rope_dim=layers % 2 == 0,
        window=3,
        window_layers=tuple(range(0, layers + 2, 2)),
    )
