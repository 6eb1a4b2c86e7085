"""Background admission against a published run: direction and size.

llama.cpp pull request 27861 (2026-08-28): Qwen3.8-Flash-Next, 512 experts, 10 per token, 28 layers with experts on the
host (two sockets, one memory channel each). 18.4 tokens/s, and 24.2 with 48 slots per layer (4.1 GiB in all) and 2
uploads per layer and step. A per-layer LRU of 64 and 128 slots would hit 67 and 81 %.

Its routing is not published; a trace with such hit rates is drawn from the LRU stack model (Mattson et al., 1970): the
depth of each access follows a power law through the two. Nor are the bandwidths: the CPU draws what main memory gives,
28 to 36 GB/s (two channels of DDR4), and what is not the experts' time is chosen so that it runs at 18.4 tokens/s.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import link, machine, run

from lrcsim.simulator import hit_rate_curve
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.traces import RoutingTrace

EXPERTS, TOP_K, LAYERS, SLOTS = 512, 10, 28, 48
SIZE = round(4.1 * 2**30 / (LAYERS * SLOTS))
"""Bytes of an expert: those of the cache over its slots."""
BEFORE, AFTER = 18.4, 24.2
GPU = 840e9  # bytes/s of an RTX 3090 (lrcsim hardware rtx-3090)
TOKENS, WARM = 300, 150


def drawn(layers: int) -> RoutingTrace:
    """Draw the trace of so many layers: misses of an LRU of C slots are 0.33 (64 / C)^0.8, down to none at all 512."""
    rng, slope = np.random.default_rng(0), math.log(0.33 / 0.19) / math.log(2)
    misses = np.minimum(0.33 * (64 / np.maximum(np.arange(EXPERTS + 1), 1)) ** slope, 1)
    hits = 1 - (misses - misses[-1]) / (1 - misses[-1])
    ids = np.zeros((TOKENS, layers, TOP_K), np.int64)
    for layer in range(layers):
        stack = rng.permutation(EXPERTS).tolist()
        for token in range(TOKENS):
            used: dict[int, None] = {}
            while len(used) < TOP_K:
                used[stack[max(int(np.searchsorted(hits, rng.random())) - 1, 0)]] = None
            for expert in used:
                stack.remove(expert)
                stack.insert(0, expert)
            ids[token, layer] = list(used)
    return RoutingTrace.from_arrays(ids, num_experts=EXPERTS)


@pytest.fixture(scope="module")
def routing() -> RoutingTrace:
    """Two layers stand for the 28, which are alike."""
    return drawn(2)


def test_hit_rates_of_the_trace(routing: RoutingTrace) -> None:
    curve = hit_rate_curve(routing, policy="lru", scope="layer")
    rates = dict(zip(curve.capacities.tolist(), curve.hit_rate.tolist(), strict=True))
    assert rates[64] == pytest.approx(0.67, abs=0.03)
    assert rates[128] == pytest.approx(0.81, abs=0.04)


@pytest.mark.parametrize("ram", [28e9, 36e9])
@pytest.mark.parametrize("pcie", [6e9, 24e9])
def test_direction_and_size(routing: RoutingTrace, ram: float, pcie: float) -> None:
    on_cpu = LAYERS * TOP_K * SIZE / ram
    costs = FixedCosts(
        dense=(1 / BEFORE - on_cpu) / LAYERS, expert_s=SIZE / GPU + 5e-6, cpu_bytes=SIZE, cpu_rate=ram
    )  # 5 us: a kernel
    hardware = machine(link(pcie, latency=10e-6), dram=ram)
    hardware = replace(hardware, dram=replace(hardware.dram, memory=2**40))
    speeds = []
    for action in ("cpu", "cpu,admit:2"):
        found = run(routing, SLOTS, hardware, action=action, costs=costs, sizes=[SIZE] * 2, log=False)
        steps = found.tally.by_step()[WARM:]
        speeds.append(1 / ((steps[:, 1] - steps[:, 0]).mean() * LAYERS / 2))
    assert speeds[0] == pytest.approx(BEFORE, rel=1e-6)
    assert speeds[1] == pytest.approx(AFTER, rel=0.12)
