"""Run the executor and the simulator on the same decode steps, and put their times side by side.

python -m lrcsim.experiments.offload.compare --json results.json --markdown results.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.calibration.of_machine.files import file_system
from lrcsim.experiments.offload.calibration import SPARE, Calibration, Numbers
from lrcsim.experiments.offload.devices import FileDevice, NoDevice, Throttle
from lrcsim.experiments.offload.executor import Executor, Run, decode_part, slots_for
from lrcsim.experiments.offload.gpu import GpuDevice
from lrcsim.experiments.offload.weights import Matrices, Shape, weights_file
from lrcsim.hierarchy import Engine
from lrcsim.hierarchy.actions import make_action
from lrcsim.hierarchy.residency import Residency
from lrcsim.hierarchy.work import Step, steps_of
from lrcsim.simulator.capacity import resolve_capacity
from lrcsim.simulator.replay import Replay, replay
from lrcsim.simulator.schedule import Schedule
from lrcsim.traces import RoutingTrace

__all__ = ["Cell", "Measured", "main", "measure", "predict"]


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    policy: str
    cache: str
    overlap: bool


@dataclass(frozen=True)
class Measured:
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
        gpu: whether experts are in host memory and computed on a GPU, instead of in the file and on the processor.
    """

    trace: RoutingTrace
    shape: Shape
    path: Path
    lanes: int
    part: int
    throttle: float | None = None
    gpu: bool = False

    def device(self, slots: int) -> FileDevice | GpuDevice:
        """Return the device with so many slots."""
        if self.gpu:
            return GpuDevice(self.shape, slots)
        throttle = None if self.throttle is None else Throttle(self.throttle)
        return FileDevice(self.path, self.shape, slots, self.lanes, throttle)

    def residency(self, cell: Cell) -> Residency:
        """Return the cell's empty caches."""
        pools = tuple(resolve_capacity(cell.cache, self.trace.layers, "layer"))
        job = Replay(self.trace, cell.policy, pools, "coresident", "step", True)
        return Residency(job, make_action("load", NOTHING.profile(1)))

    def steps(self) -> list[Step]:
        """Return the steps, with router weights where the trace has them."""
        return list(steps_of(Schedule(self.trace, weights="weights" in self.trace.columns)))


NOTHING = Numbers(0.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def measure(setting: Setting, cell: Cell, seed: int = 0) -> Measured:
    """Run a cell, pausing after every few steps to calibrate, and predict it from the calibration."""
    residency, steps = setting.residency(cell), setting.steps()
    slots = slots_for(residency, setting.trace.top_k)
    spare = range(slots, slots + SPARE)
    device = setting.device(slots + SPARE)
    try:
        executor = Executor(device, residency, slots, overlap=cell.overlap)
        calibration = Calibration(setting.shape, spare, seed)
        run = Run()
        before = _busy()
        calibration.sample(device, range(slots))
        for begin in range(0, len(steps), setting.part):
            executor.run(steps[begin : begin + setting.part], run)
            calibration.sample(device, list(executor.slot.values()))
        layer = bookkeeping(setting, cell, device.matrices)
        others = float(np.divide(*(_busy() - before)))
    finally:
        device.close()
    numbers = calibration.numbers(layer)
    predicted = predict(setting, cell, numbers)
    measured = np.array(run.seconds)
    counts = residency.finish()
    return Measured(
        cell,
        float(measured.sum()),
        float(predicted.sum()),
        float(np.abs(predicted - measured).mean() / measured.mean()),
        run.loads,
        int(counts.accesses.sum()),
        others,
        numbers,
    )


def bookkeeping(setting: Setting, cell: Cell, experts: Sequence[Matrices]) -> float:
    """Return seconds of a layer-step besides reads and products, from the same steps and cache without reads."""
    residency, steps = setting.residency(cell), setting.steps()
    device = NoDevice(setting.shape, experts)
    run = Executor(device, residency, slots_for(residency, setting.trace.top_k), overlap=cell.overlap).run(steps)
    return (sum(run.seconds) - device.seconds) / sum(len(step.layers) for step in steps)


def predict(setting: Setting, cell: Cell, numbers: Numbers) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return seconds of each step from the event-driven engine."""
    sizes = [setting.shape.expert_bytes] * setting.shape.layers
    pools = tuple(resolve_capacity(cell.cache, setting.trace.layers, "layer"))
    counts = replay(Replay(setting.trace, cell.policy, pools, "coresident", "step", True))
    engine = Engine(
        setting.steps(),
        setting.residency(cell),
        numbers.costs(1 - float(counts.misses.sum() / counts.accesses.sum())),
        numbers.profile(setting.lanes, gpu=setting.gpu),
        sizes,
        overlap=cell.overlap,
    )
    steps = engine.run().by_step()
    seconds: np.ndarray[tuple[int], np.dtype[np.float64]] = steps[:, 1] - steps[:, 0]
    return seconds


def _repeat(setting: Setting, cells: list[Cell], options: argparse.Namespace) -> dict[Cell, list[Measured]]:
    """Measure each cell until it has enough quiet repetitions, time is up, or Ctrl-C; in rounds of random order."""
    found: dict[Cell, list[Measured]] = {cell: [] for cell in cells}
    order = np.random.default_rng(0)
    begun = time.perf_counter()

    def missing() -> list[int]:
        quiet = [sum(_is_quiet(one, options.quiet) for one in found[cell]) for cell in cells]
        return [place for place, count in enumerate(quiet) if count < options.repetitions]

    with contextlib.suppress(KeyboardInterrupt):  # what there is by then counts
        while places := missing():
            for place in order.permutation(places).tolist():
                if not _wait_for_quiet(options.quiet, begun + options.at_most):
                    return found
                one = measure(setting, cells[place], len(found[cells[place]]))
                found[cells[place]].append(one)
                print(f"{time.perf_counter() - begun:6.0f} s  {_line(one)}", file=sys.stderr, flush=True)
    return found


def _is_quiet(one: Measured, quiet: float) -> bool:
    return not one.others > quiet  # nan: the system does not tell, and all count


def _wait_for_quiet(quiet: float, until: float) -> bool:
    """Wait until other processes leave the processors alone for two seconds; return False where they never do."""
    while time.perf_counter() < until:
        before = _busy()
        time.sleep(2)
        if not np.divide(*(_busy() - before)) > quiet:
            return True
    return False


def _line(one: Measured) -> str:
    n, error = one.numbers, 100 * (one.predicted / one.measured - 1)
    return (
        f"{one.cell.policy} {one.cell.cache} overlap {'on' if one.cell.overlap else 'off'}: "
        f"measured {one.measured:.2f} s, simulated {one.predicted:.2f} s ({error:+.1f} %), by token "
        f"{100 * one.error:.1f} %; others {one.others:.2f}; latency {n.latency * 1e6:.0f} us, "
        f"{n.bandwidth / 1e9:.2f} GB/s, expert {n.expert * 1e6:.0f} us, while reading {n.expert_reading * 1e6:.0f}, "
        f"fresh {n.expert_fresh * 1e6:.0f}, layer {n.layer * 1e6:.0f} us"
    )


def summarise(runs: list[Measured], quiet: float) -> dict[str, Any]:
    """Return medians and ranges over the quiet repetitions of one cell; over all where none was quiet."""
    found = [one for one in runs if _is_quiet(one, quiet)] or runs
    errors = np.array([one.predicted / one.measured - 1 for one in found])
    measured = np.array([one.measured for one in found])
    steps = {name: float(np.median([getattr(one.numbers, name) for one in found])) for name in asdict(found[0].numbers)}
    return {
        **asdict(found[0].cell),
        "hit_rate": 1 - found[0].loads / found[0].accesses,
        "measured_s": float(np.median(measured)),
        "measured_range_s": [float(measured.min()), float(measured.max())],
        "predicted_s": float(np.median([one.predicted for one in found])),
        "error": float(np.median(errors)),
        "error_range": [float(errors.min()), float(errors.max())],
        "error_per_token": float(np.median([one.error for one in found])),
        "numbers": steps,
        "quiet_repetitions": sum(_is_quiet(one, quiet) for one in runs),
        "repetitions": [{name: value for name, value in asdict(one).items() if name != "cell"} for one in runs],
    }


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table as people read it."""
    lines = [
        "| policy | cache | overlap | hit rate | measured ms/token (range) | simulated | error (range) | by token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    tokens = result["tokens"]
    for cell in result["cells"]:
        low, high = (1e3 * seconds / tokens for seconds in cell["measured_range_s"])
        worst = "{:+.1f} to {:+.1f}".format(*(100 * error for error in cell["error_range"]))
        lines.append(
            f"| {cell['policy']} | {cell['cache']} | {'on' if cell['overlap'] else 'off'} "
            f"| {100 * cell['hit_rate']:.1f} % | {1e3 * cell['measured_s'] / tokens:.1f} ({low:.1f} to {high:.1f}) "
            f"| {1e3 * cell['predicted_s'] / tokens:.1f} | {100 * cell['error']:+.1f} % ({worst}) "
            f"| {100 * cell['error_per_token']:.1f} % |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure all cells several times, in random order, and write the table."""
    options = _options().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(RoutingTrace.open(options.trace))
        shape = Shape(opened.num_layers, opened.num_experts, options.hidden, options.ffn)
        trace = decode_part(opened, options.tokens, shape.expert_bytes)
        folder = options.folder or Path(tempfile.gettempdir())
        print(
            f"writing {shape.layers * shape.experts} experts of {shape.expert_bytes:,} bytes to {folder}",
            file=sys.stderr,
        )
        path = stack.enter_context(weights_file(folder, shape))
        lanes = 1 if options.gpu or options.throttle else options.lanes
        setting = Setting(trace, shape, path, lanes, options.part, options.throttle, options.gpu)
        cells = [
            Cell(policy, cache, overlap)
            for policy in options.policies.split(",")
            for cache in options.caches.split(",")
            for overlap in (True, False)
        ]
        found = _repeat(setting, cells, options)
        result = {
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
            "storage": {"file_system": file_system(folder)},
            "trace": trace.model,
            "tokens": trace.num_tokens,
            "shape": {**asdict(shape), "expert_bytes": shape.expert_bytes},
            "lanes": lanes,
            "gpu": options.gpu,
            "throttle_bytes_per_s": options.throttle,
            "quiet": options.quiet,
            "cells": [summarise(found[cell], options.quiet) for cell in cells if found[cell]],
        }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(as_markdown(result), encoding="utf-8")
    print(as_markdown(result))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", help="an lrcsim trace; default: the bundled one")
    parser.add_argument("--tokens", type=int, default=100, help="decode tokens to run")
    parser.add_argument("--policies", default="lru,lfu")
    parser.add_argument("--caches", default="1.5x,3x,6x")
    parser.add_argument("--repetitions", type=int, default=5, help="quiet ones of each cell")
    parser.add_argument(
        "--quiet",
        type=float,
        default=(os.cpu_count() or 1) - 0.9,
        help="processors others may use in a repetition that counts",
    )
    parser.add_argument("--at-most", type=float, default=1800, help="seconds; what is not done then is left out")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--ffn", type=int, default=512)
    parser.add_argument("--lanes", type=int, default=2, help="reader threads")
    parser.add_argument("--part", type=int, default=1, help="tokens between two samples of the calibration")
    parser.add_argument(
        "--folder", type=Path, help="where to put the weights; it must be on the storage to be measured"
    )
    parser.add_argument("--throttle", type=float, help="bytes/s of a slower link to imitate, with one reader thread")
    parser.add_argument("--gpu", action="store_true", help="experts in page-locked memory, computed on a GPU (torch)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser


def _busy() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return processor seconds of all other processes so far, and the time, in seconds."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text(encoding="utf-8").split()[1:4])
        busy = (user + nice + system) / os.sysconf("SC_CLK_TCK") - time.process_time()
    except OSError:
        busy = float("nan")
    return np.array([busy, time.perf_counter()])


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was measured is written, and the weights go
    main()
