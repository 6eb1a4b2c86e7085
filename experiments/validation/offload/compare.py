"""The executor and the simulator on the same decode steps: a run is measured, predicted, and summed up in a table."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.tables import Table
from lrcsim.experiments.validation.offload.calibration import SPARE, Numbers, OffloadCalibration
from lrcsim.experiments.validation.offload.devices import FileDevice, NoDevice, Throttle
from lrcsim.experiments.validation.offload.executor import Execution, Executor, slots_for
from lrcsim.experiments.validation.offload.weights import ExpertShape, Matrices
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.replay import replay
from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    policy: str
    cache: str
    overlap: bool


@dataclass(frozen=True)
class MeasuredCell:
    """A run beside what the simulator says of it; seconds.

    Attributes:
        cell: which.
        measured: of all steps.
        predicted: of all steps.
        error: mean over the steps of |predicted - measured|, as a share of the mean step.
        loads: experts brought.
        accesses: experts used.
        others: processors that other processes kept busy meanwhile, on average; nan where the system does not tell.
        numbers: what the simulator was given.
    """

    cell: Cell
    measured: float
    predicted: float
    error: float
    loads: int
    accesses: int
    others: float
    numbers: Numbers

    def __str__(self) -> str:
        """Say it all in one line."""
        n, us = self.numbers, 1e6
        return (
            f"{self.cell.policy} {self.cell.cache} overlap {_on(self.cell.overlap)}: "
            f"measured {self.measured:.2f} s, simulated {self.predicted:.2f} s "
            f"({100 * (self.predicted / self.measured - 1):+.1f} %), by token {100 * self.error:.1f} %; "
            f"others {self.others:.2f}; latency {n.latency * us:.0f} us, {n.bandwidth / 1e9:.2f} GB/s, "
            f"expert {n.expert * us:.0f} us, while reading {n.expert_reading * us:.0f}, "
            f"fresh {n.expert_fresh * us:.0f}, layer {n.layer * us:.0f} us"
        )

    def is_quiet(self, quiet: float) -> bool:
        """Whether others kept at most so many processors busy; all runs count where the system does not tell."""
        return not self.others > quiet


@dataclass(frozen=True)
class Setting:
    """What all cells share.

    Attributes:
        trace: decode steps.
        shape: of the experts.
        path: of the file with their weights.
        lanes: reader threads.
        part: steps between two samples of the calibration.
        throttle: bytes/s, or None.
    """

    trace: RoutingTrace
    shape: ExpertShape
    path: Path
    lanes: int
    part: int
    throttle: float | None = None

    def device(self, slots: int) -> FileDevice:
        """Return the device with so many slots."""
        throttle = None if self.throttle is None else Throttle(self.throttle)
        return FileDevice(self.path, self.shape, slots, self.lanes, throttle)

    def job(self, cell: Cell) -> Run:
        """Return what the caches of a cell are to do."""
        pools = tuple(resolve_capacity(cell.cache, self.trace.layers, "layer"))
        return Run.in_pools(self.trace, cell.policy, pools, "coresident", "step", True)

    def residency(self, cell: Cell) -> Residency:
        """Return the cell's empty caches."""
        return Residency(self.job(cell), make_action("load", NOTHING.profile(1)))

    def steps(self) -> list[Step]:
        """Return the steps, with router weights where the trace has them."""
        return list(steps_of(Schedule(self.trace, weights="weights" in self.trace.columns)))


NOTHING = Numbers(0.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def measure(setting: Setting, cell: Cell, seed: int = 0) -> MeasuredCell:
    """Run a cell, pausing after every few steps to calibrate, and predict it from the calibration."""
    residency, steps = setting.residency(cell), setting.steps()
    slots = slots_for(residency, setting.trace.top_k)
    device = setting.device(slots + SPARE)
    try:
        executor = Executor(device, residency, slots, overlap=cell.overlap)
        calibration = OffloadCalibration(setting.shape, range(slots, slots + SPARE), seed)
        run, before = Execution(), busy()
        calibration.sample(device, range(slots))
        for begin in range(0, len(steps), setting.part):
            executor.run(steps[begin : begin + setting.part], run)
            calibration.sample(device, list(executor.slot.values()))
        layer = bookkeeping(setting, cell, device.matrices)
        others = float(np.divide(*(busy() - before)))
    finally:
        device.close()
    numbers = calibration.numbers(layer)
    predicted, measured = predict(setting, cell, numbers), np.array(run.seconds)
    error = float(np.abs(predicted - measured).mean() / measured.mean())
    accesses = int(residency.finish().accesses.sum())
    return MeasuredCell(
        cell, float(measured.sum()), float(predicted.sum()), error, run.loads, accesses, others, numbers
    )


def bookkeeping(setting: Setting, cell: Cell, experts: Sequence[Matrices]) -> float:
    """Return seconds of a layer-step besides reads and products, from the same steps and cache without reads."""
    residency, steps = setting.residency(cell), setting.steps()
    device = NoDevice(setting.shape, experts)
    run = Executor(device, residency, slots_for(residency, setting.trace.top_k), overlap=cell.overlap).run(steps)
    return (sum(run.seconds) - device.seconds) / sum(len(step.layers) for step in steps)


def predict(setting: Setting, cell: Cell, numbers: Numbers) -> npt.NDArray[np.float64]:
    """Return seconds of each step from the event-driven engine."""
    counts = replay(setting.job(cell))
    costs = numbers.costs(1 - float(counts.misses.sum() / counts.accesses.sum()))
    profile = numbers.profile(setting.lanes)
    sizes = [setting.shape.expert_bytes] * setting.shape.layers
    engine = Engine(setting.steps(), setting.residency(cell), costs, profile, sizes, overlap=cell.overlap)
    steps = engine.run().by_step()
    seconds: npt.NDArray[np.float64] = steps[:, 1] - steps[:, 0]
    return seconds


def busy() -> npt.NDArray[np.float64]:
    """Return processor seconds of all other processes so far, and the time, in seconds."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text(encoding="utf-8").split()[1:4])
        others = (user + nice + system) / os.sysconf("SC_CLK_TCK") - time.process_time()
    except OSError:
        others = float("nan")
    return np.array([others, time.perf_counter()])


def summarise(runs: list[MeasuredCell], quiet: float) -> dict[str, Any]:
    """Return medians and ranges over the quiet repetitions of one cell; over all where none was quiet."""
    found = [one for one in runs if one.is_quiet(quiet)] or runs
    errors, error_range = _median_and_range([one.predicted / one.measured - 1 for one in found])
    measured, measured_range = _median_and_range([one.measured for one in found])
    numbers = [asdict(one.numbers) for one in found]
    return {
        **asdict(found[0].cell),
        "hit_rate": 1 - found[0].loads / found[0].accesses,
        "measured_s": measured,
        "measured_range_s": measured_range,
        "predicted_s": float(np.median([one.predicted for one in found])),
        "error": errors,
        "error_range": error_range,
        "error_per_token": float(np.median([one.error for one in found])),
        "numbers": {name: float(np.median([of[name] for of in numbers])) for name in numbers[0]},
        "quiet_repetitions": sum(one.is_quiet(quiet) for one in runs),
        "repetitions": [{name: value for name, value in asdict(one).items() if name != "cell"} for one in runs],
    }


def _median_and_range(values: list[float]) -> tuple[float, list[float]]:
    return float(np.median(values)), [min(values), max(values)]


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table as people read it."""
    rows, ms = [], 1e3 / result["tokens"]
    for cell in result["cells"]:
        low, high = (ms * seconds for seconds in cell["measured_range_s"])
        worst = "{:+.1f} to {:+.1f}".format(*(100 * error for error in cell["error_range"]))
        row = {"policy": cell["policy"], "cache": cell["cache"], "overlap": _on(cell["overlap"])}
        row["hit rate"] = f"{100 * cell['hit_rate']:.1f} %"
        row["measured ms/token (range)"] = f"{ms * cell['measured_s']:.1f} ({low:.1f} to {high:.1f})"
        row["simulated"] = f"{ms * cell['predicted_s']:.1f}"
        row["error (range)"] = f"{100 * cell['error']:+.1f} % ({worst})"
        rows.append(row | {"by token": f"{100 * cell['error_per_token']:.1f} %"})
    return "\n".join(Table("offload", "", rows).lines()) + "\n"


def _on(overlap: bool) -> str:
    return "on" if overlap else "off"
