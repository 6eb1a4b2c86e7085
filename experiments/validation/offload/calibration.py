"""What the simulator is given: numbers of the machine, measured by micro-benchmarks beside the runs, not from them.

All of them are measured on the device that runs, while it pauses between two tokens:

* **link**: m experts are asked for at once and waited for, m = 1, 2, 4, 8; seconds = latency + m * size / bandwidth.
  With one size only, the time that a read costs besides its bytes is part of the bandwidth; what is paid once
  however many are asked for (waking a reader thread, and the thread that waits) is the latency.
* **expert**: products with the experts in the slots, in random order, so that the weights come from memory; and of
  experts just read, which the processor still has in its cache.
* **bookkeeping**: the same steps through the same cache on a device that neither loads nor computes.

Beside them, to say what the simulator leaves out: products while reads go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lrcsim.calibration.of_machine import fit_line
from lrcsim.experiments.validation.offload.devices import Device
from lrcsim.experiments.validation.offload.weights import ExpertShape
from lrcsim.hardware import Cpu, Dram, HardwareProfile, Link
from lrcsim.simulator.setup.costs import FixedCosts

BURSTS = (1, 2, 3, 4, 6, 8)
"""Experts asked for at once."""
SPARE = 96
"""Slots to read into, taken in turn."""
GAP_S = 1e-3
"""Seconds of products before each burst: storage that has been idle answers later, and in a run it has been."""


@dataclass(frozen=True)
class Numbers:
    """What was measured, in seconds and bytes/s.

    Attributes:
        latency: once per burst of reads.
        bandwidth: of the link.
        expert: seconds of an expert out of memory.
        expert_reading: the same while reads go on.
        expert_fresh: of an expert just read.
        layer: bookkeeping of a layer-step.
    """

    latency: float
    bandwidth: float
    expert: float
    expert_reading: float
    expert_fresh: float
    layer: float

    def profile(self, lanes: int) -> HardwareProfile:
        """Return the machine: what computes, one link to the experts, and memory that is never the limit."""
        link = Link("nvme", self.bandwidth, latency=self.latency, overhead=0.0, lanes=lanes)
        return HardwareProfile(
            name="measured",
            description="the machine of this run",
            cpu=Cpu(compute=1e12, bandwidth=1e12, overhead=0.0, cores=1),  # times are given
            dram=Dram(memory=1 << 40, bandwidth=1e15),
            links=(link,),
            layer_overhead=self.layer,
            expert_overhead=0.0,
        )

    def costs(self, hit_rate: float) -> FixedCosts:
        """Return the seconds of compute: the engine has one number for an expert, so the mean over hits and misses."""
        return FixedCosts(expert_s=hit_rate * self.expert + (1 - hit_rate) * self.expert_fresh)


@dataclass
class OffloadCalibration:
    """Samples taken between the parts of a run.

    Args:
        shape: of the model.
        spare: slots that may be overwritten (`SPARE`), taken in turn: reads into memory that the processor still has
            in its cache are faster than those of a run.
        seed: of the order in which things are measured.
    """

    shape: ExpertShape
    spare: Sequence[int]
    seed: int = 0
    bursts: dict[int, list[float]] = field(default_factory=lambda: {m: [] for m in BURSTS})
    experts: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the vector that experts are measured with."""
        self._random = np.random.default_rng(self.seed)
        self._next = 0

    def sample(self, device: Device, slots: Sequence[int]) -> None:
        """Measure everything once more.

        Args:
            device: idle.
            slots: filled ones, whose experts may be computed.
        """
        x = device.begin(0)
        some = self._random.permutation(slots).tolist()
        for count in self._random.permutation(BURSTS).tolist():
            begun = time.perf_counter()
            while time.perf_counter() - begun < GAP_S:
                slot = some.pop()
                some.insert(0, slot)
                self.experts += _times(device, [slot], x)
            start = time.perf_counter()
            taken = self._ask(device, count)
            for _ in taken:
                device.arrived()
            self.bursts[count].append(time.perf_counter() - start)
            self.fresh += _times(device, taken, x)
        taken = self._ask(device, max(BURSTS))
        self.reading += _times(device, some[: len(taken)], x)
        for _ in taken:
            device.arrived()

    def _ask(self, device: Device, count: int) -> list[int]:
        """Ask for experts drawn at random; return their slots."""
        keys = self.shape.layers * self.shape.experts
        taken = [self.spare[(self._next + i) % len(self.spare)] for i in range(count)]
        self._next += count
        for key, slot in zip(self._random.choice(keys, count, replace=False).tolist(), taken, strict=True):
            device.load(key, slot)
        return taken

    def numbers(self, layer: float) -> Numbers:
        """Return the means, and the line through the bursts' means; ``layer``: bookkeeping of a layer-step, seconds."""
        sizes = [count * self.shape.expert_bytes for count in self.bursts]
        line = fit_line(sizes, [float(np.mean(times)) for times in self.bursts.values()])
        return Numbers(
            line.overhead,
            line.bandwidth,
            float(np.mean(self.experts)),
            float(np.mean(self.reading)),
            float(np.mean(self.fresh)),
            layer,
        )


def _times(device: Device, slots: Sequence[int], x: object) -> list[float]:
    """Return the seconds of an expert in each slot."""
    times = []
    for slot in slots:
        start = time.perf_counter()
        device.compute(slot, x)
        device.wait()
        times.append(time.perf_counter() - start)
    return times
