"""Runs decode steps through experts that are really brought and really computed; the project's cache decides which.

Each layer-step, as in `lrcsim.simulator.time.engine`: the cache is asked; what it evicts frees slots, and every miss is
put on its way. With overlap the hits are computed at once and each miss when it arrives; without, everything waits for
the last arrival. The layer ends when its last expert is computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.offload.devices import Device
from lrcsim.simulator.serving.steps import LayerStep, Step
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.time.residency import Residency
from lrcsim.traces import RoutingTrace


@dataclass
class Execution:
    """What a run took and gave.

    Attributes:
        seconds: of each step.
        outputs: the vector that left the last layer, by step; kept only if asked.
        loads: experts brought.
    """

    seconds: list[float] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    loads: int = 0


def decode_part(trace: RoutingTrace, tokens: int, expert_bytes: int) -> RoutingTrace:
    """Return the first decode tokens of a trace as a trace of one request, with experts of the executor's size.

    Raises:
        ConfigError: the trace has no decode tokens.
    """
    phase = trace.phase
    places = np.arange(trace.num_tokens) if phase is None else np.flatnonzero(np.asarray(phase[:]) == 1)
    places = places[:tokens]
    if not len(places):
        raise ConfigError("the trace has no decode tokens: give one that has, or one without phases")
    low, high = int(places[0]), int(places[-1]) + 1
    weights = trace.read("weights", low, high)[places - low] if "weights" in trace.columns else None
    return RoutingTrace.from_arrays(
        trace.read("experts", low, high)[places - low],
        num_experts=trace.num_experts,
        phase=np.ones(len(places), np.uint8),
        weights=weights,
        expert_bytes=expert_bytes,
        model=f"{trace.model}, {len(places)} decode tokens",
    )


def slots_for(residency: Residency, top_k: int) -> int:
    """Return how many slots a device needs: the caches', and a batch's beside them."""
    return sum(pool.capacity for pool in residency.pools) + top_k


class Executor:
    """Runs steps of one token each.

    Args:
        device: where experts are kept and computed.
        residency: the caches; they start empty.
        slots: how many the device has (`slots_for`).
        overlap: whether to compute while experts are on their way.
        keep: whether to keep every step's output.
    """

    def __init__(
        self, device: Device, residency: Residency, slots: int, *, overlap: bool = True, keep: bool = False
    ) -> None:
        self.device = device
        self.residency = residency
        self.overlap = overlap
        self.keep = keep
        self.slot: dict[int, int] = {}
        self._free = list(range(slots))

    def run(self, steps: Iterable[Step], into: Execution | None = None) -> Execution:
        """Execution steps one after the other; a run may be given in parts."""
        run = Execution() if into is None else into
        for step in steps:
            start = time.perf_counter()
            self.residency.begin(step)
            x = self.device.begin(step.first_token)
            for work in step.layers:
                x = self._layer(step, work, x, run)
            run.seconds.append(time.perf_counter() - start)
            if self.keep:
                run.outputs.append(x)
        return run

    def _layer(self, step: Step, work: LayerStep, x: Any, run: Execution) -> Any:
        device, slot = self.device, self.slot
        found = self.residency.look_up(step, work)
        loads = found.decision.get(Outcome.LOADED, [])
        batch = set(work.keys)
        passing = [key for key in found.evicted if key in batch]  # a cache smaller than the batch
        for key in found.evicted:
            if key not in batch:
                self._free.append(slot.pop(key))
        for key in loads:
            slot[key] = self._free.pop()
            device.load(key, slot[key])
        outputs: dict[int, Any] = {}
        if self.overlap:
            for key in found.hits:
                outputs[key] = device.compute(slot[key], x)
            for _ in loads:
                key = device.arrived()
                outputs[key] = device.compute(slot[key], x)
        else:
            for _ in loads:
                device.arrived()
            for key in work.keys:
                outputs[key] = device.compute(slot[key], x)
        run.loads += len(loads)
        weights = work.weights or [1.0 / len(work.keys)] * len(work.keys)
        y = device.combine(x, weights, [outputs[key] for key in work.keys])
        for key in passing:
            self._free.append(slot.pop(key))
        return y
