"""Seconds per decoded token where whole layers of experts are on the device or not: no trace is needed for that.

What `lrcsim run` gives for such contents, to the last digits (tests/planner/test_placed.py), without running anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.planner.speed import Setup
from lrcsim.simulator.serving.steps import StepSize
from lrcsim.simulator.time.host import Host


def placed_seconds(setup: Setup, resident: Sequence[bool], context: float, kv_bytes_per_value: float = 2.0) -> float:
    """Return the seconds of one decoded token, one request at a time.

    Args:
        setup: machine, model and runtime.
        resident: bool [L], MoE layers whose experts are on the device; those of the others run on the CPU.
        context: tokens that attention sees.
        kv_bytes_per_value: of the KV cache.
    """
    machine, costs = setup.machine, setup.costs(kv_bytes_per_value)
    geometry, runtime = setup.geometry, setup.runtime
    size = StepSize(1, 1, round(context), round(context))
    host, now = Host(runtime, machine.expert_overhead), 0.0
    for layer, here in enumerate(resident):
        now += costs.before(layer, size)
        now += host.delay(now, host.layer) + machine.layer_overhead
        host.free = now
        if here:
            for _ in range(geometry.top_k):
                now += host.delay(now, host.kernel) + costs.expert(layer, 1)
        else:
            overhead, moved, rate = costs.on_cpu(layer, 1)
            now += runtime.cpu.layer + geometry.top_k * (overhead + moved / min(rate, machine.dram.bandwidth))
            host.free = now
    now += costs.after(size)
    return now + host.delay(now, host.kernel)
