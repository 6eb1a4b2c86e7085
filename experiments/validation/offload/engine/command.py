"""`python -m lrcsim.experiments.validation.offload --gpu`: calibrate, run, simulate, write one folder, in time."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrcsim.base.cores import usable_cores
from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.offload.engine.bench import Bench, DisagreementError
from lrcsim.experiments.validation.offload.engine.budget import Budget
from lrcsim.experiments.validation.offload.engine.calibrated import CalibrationError, calibrate_here
from lrcsim.experiments.validation.offload.engine.cells import EngineCell, cells_for
from lrcsim.experiments.validation.offload.engine.cuda import CudaDevice
from lrcsim.experiments.validation.offload.engine.device import Device
from lrcsim.experiments.validation.offload.engine.folder import (
    MODELS,
    new_folder,
    write_info,
    write_routing,
    write_run,
)
from lrcsim.experiments.validation.offload.engine.predicted import Machine, predict_folder
from lrcsim.experiments.validation.offload.engine.routing import routing_of, shaped
from lrcsim.experiments.validation.offload.engine.shape import EngineShape, shape_of
from lrcsim.experiments.validation.offload.engine.stub import StubDevice
from lrcsim.models import Geometry, load_geometry
from lrcsim.traces import RoutingTrace

SIMULATING = 40.0
"""Seconds of the budget kept for the simulator, which needs no GPU but runs in the same command."""
CALIBRATING = 0.35
"""Share of the budget that `lrcsim calibrate` may take."""
FIRST_MODEL = 0.62
"""Share of what is left then that the first of two models may take."""
STUB: dict[str, Any] = {"hidden": 64, "expert_width": 32, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 256}
"""Widths with which the stub runs a model; layers, experts and routing stay."""
BATCHED = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments say.

    Raises:
        ConfigError: one of them is not allowed, or there is no torch, or no GPU.
        SystemExit: something failed, or the engine and lrcsim counted differently; what was measured is written.
    """
    options = _options().parse_args(arguments)
    machines = [Machine(Path(one).stem, one, options.runtime) for one in options.hardware]
    if options.again is not None:
        if not machines and (options.again / "calibrated.toml").exists():
            machines = [Machine("calibrated", str(options.again / "calibrated.toml"), options.runtime)]
        print(predict_folder(options.again, machines))
        return
    budget = Budget(options.seconds, SIMULATING if options.seconds > 2 * SIMULATING else options.seconds / 4)
    device: Device = StubDevice() if options.stub else CudaDevice()
    device.torch.set_num_threads(1 if options.stub else usable_cores())
    command = Command(options, device, budget)
    plans = command.plans()  # refuses what is wrong before anything takes time
    new_folder(options.out)
    try:
        machines += command.calibrate() if options.calibrate else []
        command.run_models(plans)
    except KeyboardInterrupt:
        command.note("stopped by hand: what was measured until then is here")
    except DisagreementError as error:
        command.failed.append(f"the engine and lrcsim disagree: {error}")
        command.note(command.failed[-1])
    if command.measured:
        print(predict_folder(options.out, machines, command.notes))
    if command.failed or not command.measured:
        raise SystemExit("; ".join(command.failed) or "nothing was measured: " + "; ".join(command.notes))


@dataclass(frozen=True)
class Plan:
    """What is to be run of a model.

    Attributes:
        name: of its files.
        shape: of it.
        trace: its routing, decoded tokens.
        cells: those that tell most first.
    """

    name: str
    shape: EngineShape
    trace: RoutingTrace
    cells: list[EngineCell]


class Command:
    """One run of the command.

    Args:
        options: parsed.
        device: where to run.
        budget: the time that there is.

    Attributes:
        notes: what the reader of the results should know.
        measured: files of cells written.
        failed: what did not run because of an error.
    """

    def __init__(self, options: argparse.Namespace, device: Device, budget: Budget) -> None:
        self.options, self.device, self.budget = options, device, budget
        self.folder: Path = options.out
        self.notes: list[str] = []
        self.measured: list[Path] = []
        self.failed: list[str] = []
        if options.stub:
            self.note("run on a stub without a GPU, with small widths: the times say nothing")

    def note(self, text: str) -> None:
        """Tell now, and in the results."""
        self.notes.append(text)
        self.tell(text)

    @contextlib.contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Take note of what fails in the block, a full memory or another error of torch's, and go on behind it."""
        try:
            yield
        except DisagreementError:
            raise
        except RuntimeError as error:
            self.failed.append(f"{what} failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            self.note(self.failed[-1])

    def tell(self, text: str) -> None:
        """Tell now."""
        print(f"{self.budget.gone:6.0f} s  {text}", file=sys.stderr, flush=True)

    def calibrate(self) -> list[Machine]:
        """Measure the machine, as `lrcsim calibrate` does; return it, or nothing where that failed, which is noted."""
        try:
            path = calibrate_here(self.folder, CALIBRATING * self.budget.seconds, gpu=not self.options.stub)
        except CalibrationError as error:
            self.note(f"{error}: nothing is simulated with a calibrated profile")
            return []
        self.tell(f"calibrated: {path}")
        return [Machine("calibrated", str(path), self.options.runtime)]

    def run_models(self, plans: Sequence[Plan]) -> None:
        """Run one model after the other; the last has all the time that is left."""
        for place, plan in enumerate(plans):
            until = self.budget.share(1.0 if place == len(plans) - 1 else FIRST_MODEL)
            with self.failing(plan.name):
                self.run_model(plan, until)
            self.device.release()

    def plans(self) -> list[Plan]:
        """Return what is to be run of each model that was asked for.

        Raises:
            ConfigError: a trace fits none of them, or a model or a cell is not known, or not run by this engine.
        """
        options, found = self.options, list[Plan]()
        traces = list(options.trace)
        for name in options.models.split(","):
            geometry = load_geometry(name)
            shape_of(geometry, options.unique)
            own = next((path for path in traces if _fits(path, geometry)), None)
            if own is not None:
                traces.remove(own)
                trace, geometry = routing_of(own, geometry)
            elif options.trace:
                continue  # only models whose routing is known
            else:
                trace = shaped(geometry, BATCHED * options.tokens)
            if options.stub:
                geometry = replace(geometry, **STUB)
            if options.cells:
                cells = [EngineCell.of(cell) for cell in options.cells.split(",")]
            else:
                cells = cells_for(trace.top_k, all_of=not found)
            shape = shape_of(geometry, options.unique)
            kept = RoutingTrace.from_arrays(
                trace.read("experts", 0, min(trace.num_tokens, max(cell.batch for cell in cells) * options.tokens)),
                num_experts=trace.num_experts,
                expert_bytes=shape.expert_bytes,
                model=trace.model,
            )
            found.append(Plan(re.sub(r"[^A-Za-z0-9_-]+", "-", geometry.name), shape, kept, cells))
        if traces:
            raise ConfigError(
                f"trace {traces[0]} has the shape of none of {options.models}: give --models with the one that it is of"
            )
        return found

    def run_model(self, plan: Plan, until: float) -> None:
        """Run all cells of a model that time allows, and write each when it is done."""
        device, tokens, name, shape = self.device, self.options.tokens, plan.name, plan.shape
        self.tell(f"{name}: making {shape.unique} experts of {shape.expert_bytes:,} bytes, and everything else")
        bench = Bench(device, shape, plan.trace, tokens, plan.cells)
        for reason in bench.left_out:
            self.note(f"{name}, {reason}: left out")
        if not bench.cells:
            return
        write_routing(self.folder, name, plan.trace, tokens)
        info: dict[str, Any] = {
            "geometry": shape.to_dict(),
            "k": plan.trace.top_k,
            "expert_bytes": shape.expert_bytes,
            "tokens": tokens,
            "device": device.name,
            "torch": device.torch.__version__,
            "threads": device.torch.get_num_threads(),
            "cores": os.cpu_count(),
            "setup_s": bench.setup_s,
            "routing": plan.trace.model,
            "way": bench.way,
            "ways": bench.ways,
            "cells": [cell.name for cell in bench.cells],
        }
        with self.failing(f"{name}, micro-benchmarks"):
            info["micro"] = bench.micro()
        write_info(self.folder, name, shape.geometry, info)
        self.tell(f"{name}: experts are computed by {bench.way}: {bench.ways}")
        self._cells(name, bench, until)

    def _cells(self, name: str, bench: Bench, until: float) -> None:
        """Run the cells in rounds, until all repetitions are done or time is up."""
        longest = 0.0
        for repetition in range(1, self.options.repetitions + 1):
            for place, cell in enumerate(bench.cells):
                left = until - self.budget.now()
                if left < longest or left <= 0:
                    names = [one.name for one in bench.cells[place:]]
                    what = "left out" if repetition == 1 else f"not repeated ({repetition - 1} done)"
                    self.note(f"{name}, for want of time {what}: {', '.join(names)}")
                    return
                start = self.budget.now()
                with self.failing(f"{name}, {cell.name}"):
                    self._cell(name, bench, cell, repetition, until)
                longest = max(longest, self.budget.now() - start)

    def _cell(self, name: str, bench: Bench, cell: EngineCell, repetition: int, until: float) -> None:
        """Run a cell; what there is of it is written, whatever happens."""
        rows: list[dict[str, Any]] = []
        ended = False
        try:
            ended = bench.run(cell, rows, until)
        finally:
            if rows:
                self.measured.append(write_run(self.folder, name, cell, repetition, rows))
                mean = sum(row["wall_ms"] for row in rows) / len(rows)
                self.tell(f"{name}, {cell.name}, repetition {repetition}: {len(rows)} steps of {mean:.2f} ms")
            if not ended:
                self.note(f"{name}, {cell.name}, repetition {repetition}: ended after {len(rows)} steps")


def _fits(path: str, geometry: Geometry) -> bool:
    with RoutingTrace.open(path) as trace:
        return (trace.num_layers, trace.num_experts) == (len(geometry.moe_layers), geometry.experts)


def _options() -> argparse.ArgumentParser:
    about = "Run an engine that offloads experts on a GPU, at the size of a real model, and the simulator beside it."
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.validation.offload --gpu", description=about)
    option = parser.add_argument
    option("--gpu", action="store_true", help="this engine; without it: the one with experts in a file (--help)")
    option("--out", type=Path, default=Path("offload-gpu"), help="a new folder for everything")
    option("--seconds", type=float, default=240.0, help="that all of it may take; what does not fit is left out")
    option("--models", default=",".join(MODELS), help="names of lrcsim models; the first is run in all cells")
    option("--trace", action="append", default=[], help="routing of one of the models, an lrcsim trace; repeatable")
    option("--cells", help="as lru-16,all,lru-16-oracle1,static-32-cpu,lru-16-serial,lru-32-batch4")
    option("--tokens", type=int, default=128, help="steps of a cell")
    option("--repetitions", type=int, default=2, help="of each cell, if there is time")
    option(
        "--unique",
        type=int,
        help="different experts in host memory; default: 10 GiB, a third of memory at most",
    )
    option(
        "--hardware",
        action="append",
        default=[],
        help="simulate with this profile too, a name or a TOML; repeatable",
    )
    option("--runtime", help="what the simulator is told of the engine's software, as lrcsim run takes it")
    option("--no-calibrate", dest="calibrate", action="store_false", help="do not measure the machine first")
    option("--again", type=Path, metavar="FOLDER", help="run nothing, only simulate what a folder has; needs no GPU")
    option("--stub", action="store_true", help="without a GPU and with small widths, to see that everything runs")
    return parser
