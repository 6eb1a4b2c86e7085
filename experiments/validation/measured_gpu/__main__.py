"""Fit an eager engine's launches to one run on an H200, and predict its other runs and another model.

    python -m lrcsim.experiments.validation.measured_gpu RUNS TRACES

RUNS holds a CSV per run (a row per token), TRACES the routing; README.md says what they are. Prints its table.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.tables import Table
from lrcsim.calibration.from_run.calibrate import Calibration, calibrate
from lrcsim.calibration.from_run.measured import read_measured
from lrcsim.calibration.from_run.rerun import Rerun
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import load_geometry
from lrcsim.runtimes import Runtime, load_runtime
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.run_in_time import run_timed
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.importers import import_trace

MEASURED = (
    "pcie.bandwidth=54.56GB/s",  # copies of 64 MiB from pinned memory
    "pcie.overhead=4us",  # 16 copies of 9.4 MB in a burst take 177 us each more than one: 173 for the bytes
    "pcie.latency=8.8us",  # copies of 4 and 64 KiB begun and waited for take 12.8 us besides their bytes, less that
    "layer_overhead=14.7us",  # an operation begun and waited for
    "cpu.bandwidth=39.6GB/s",  # an expert of 9.4 MB by 16 threads in 238 us
    "dram.bandwidth=73.3GB/s",  # copied by 16 threads, read and written
)
"""Measured there before the runs (calibrate.txt; bursts, CPU: qwen.json); HBM and peak are the data sheet's."""

MODELS = {"qwen": "qwen3-30b-a3b:top_k=6", "gptoss": "gpt-oss-20b"}
EXPERT_BYTES = {"qwen": 9_437_184, "gptoss": 49_766_400}
"""bf16: three matrices of 2048 x 768, of 2880 x 2880."""

CELLS: dict[str, dict[str, Any]] = {
    "qwen.lru-12": {"policy": "lru", "cache": 12},
    "qwen.lru-24": {"policy": "lru", "cache": 24},
    "qwen.all": {"policy": "lru", "cache": 128},
    "qwen.lru-12-oracle1": {"policy": "lru", "cache": 12, "prefetch": "oracle:1"},
    "qwen.lru-12-serial": {"policy": "lru", "cache": 12, "overlap": False},
    "qwen.static-24-cpu": {"policy": "static", "cache": 24, "profile": "self", "miss": "cpu"},
    "gptoss.lru-8": {"policy": "lru", "cache": 8},
}
FITTED = "qwen.lru-12"
TOKENS = 128
FIRST = 1  # the first token warms up

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A run, measured and predicted, without its first token.

    Attributes:
        measured: seconds.
        predicted: seconds, at the pace of the run that was fitted.
        pace: how much longer than in that run the host took for the same work, its dense part; 1 for another model.
        at_pace: seconds predicted with launches so much longer.
        exact: whether loads, and experts brought ahead, are as many as the engine counted.
    """

    measured: float
    predicted: float
    pace: float
    at_pace: float
    exact: bool


def columns(path: Path) -> dict[str, FloatArray]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def routing(model: str, folder: Path, scratch: Path) -> RoutingTrace:
    """The decoded tokens that the engine replayed, with the sizes of its experts."""
    source = {"qwen": "qwen3-30b-a3b.route.csv", "gptoss": "gpt-oss-20b.decode.npz"}[model]
    path = scratch / f"{model}.h5"
    import_trace(folder / source, path)
    with RoutingTrace.open(path) as trace:
        experts = trace.experts[:]
        if trace.phase is not None:
            experts = experts[trace.phase[:] == DECODE]
        return RoutingTrace.from_arrays(
            experts[:TOKENS], num_experts=trace.num_experts, expert_bytes=EXPERT_BYTES[model], model=MODELS[model]
        )


def machine() -> HardwareProfile:
    return load_profile("h200", MEASURED)


def fit(trace: RoutingTrace, folder: Path, base: HardwareProfile, tokens: int = 32) -> Calibration:
    """As ``lrcsim calibrate --from-run qwen.lru-12.csv --runtime eager`` does."""
    rerun = Rerun(trace, load_geometry(MODELS["qwen"]), dtype="bf16", policy="lru", cache=12)
    eager = load_runtime("eager").on(base)
    return calibrate(rerun, read_measured(folder / f"{FITTED}.csv"), base, runtime=eager, fit_tokens=tokens)


def paced(runtime: Runtime, pace: float) -> Runtime:
    """A runtime whose host takes so much longer to launch."""
    for path in ("device.layer", "device.kernel", "loads.miss"):
        runtime = runtime.with_number(path, pace * runtime.at(path))
    return runtime


def compare(cell: str, folder: Path, trace: RoutingTrace, base: HardwareProfile, runtime: Runtime) -> Compared:
    """Predict a run."""
    model = cell.partition(".")[0]
    measured, fitted = columns(folder / f"{cell}.csv"), columns(folder / f"{FITTED}.csv")
    pace = 1.0
    if model == FITTED.partition(".")[0]:
        pace = float(measured["dense_ms"][FIRST:].mean() / fitted["dense_ms"][FIRST:].mean())
    seconds = []
    for used in (runtime, paced(runtime, pace)):
        job = Run.of(trace, hardware=base, runtime=used, model=MODELS[model], dtype="bf16", bounds=False, **CELLS[cell])
        timed = run_timed(job)
        begin, end = timed.tally.by_step()[FIRST:, :2].T
        seconds.append(float((end - begin).sum()))
    assert timed.counts.loads is not None
    ahead = timed.tally.prefetch.issued / EXPERT_BYTES[model]
    exact = int(timed.counts.loads.sum()) == measured["loads"].sum() and ahead == measured["prefetched"].sum()
    return Compared(float(measured["wall_ms"][FIRST:].sum()) / 1e3, seconds[0], pace, seconds[1], exact)


def table(found: dict[str, Compared]) -> Table:
    rows = []
    for cell, of in found.items():
        rows.append(
            {
                "run": cell,
                "measured ms": 1e3 * of.measured / (TOKENS - FIRST),
                "predicted": 1e3 * of.predicted / (TOKENS - FIRST),
                "error %": 100 * (of.predicted / of.measured - 1),
                "host": of.pace,
                "at its host's pace": 1e3 * of.at_pace / (TOKENS - FIRST),
                "error % there": 100 * (of.at_pace / of.measured - 1),
                "loads": "exact" if of.exact else "differ",
            }
        )
    signed, plain = "{:+.1f}", "{:.1f}"
    formats = {"measured ms": plain, "predicted": plain, "error %": signed, "host": "{:.2f}"}
    formats |= {"at its host's pace": plain, "error % there": signed, "loads": "{}"}
    return Table("measured_gpu", "", rows, formats=formats)


def main() -> None:
    import tempfile

    from lrcsim.calibration.from_run.numbers import shown

    parser = argparse.ArgumentParser(
        prog="python -m lrcsim.experiments.validation.measured_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, help="where qwen.lru-12.csv and the others are")
    parser.add_argument("traces", type=Path, help="where the routing is")
    options = parser.parse_args()
    base = machine()
    with tempfile.TemporaryDirectory() as scratch:
        traces = {model: routing(model, options.traces, Path(scratch)) for model in MODELS}
    fitted = fit(traces["qwen"], options.runs, base)
    for path, of in fitted.best.fit.numbers.items():
        told = f"+- {of.spread:.0%}" if of.determined else "not determined"
        print(f"{path}: {shown(path, float(f'{of.value:.3g}'))}, {told}")
    runtime = replace(fitted.best.fit.runtime, name="fitted")
    found = {cell: compare(cell, options.runs, traces[cell.partition(".")[0]], base, runtime) for cell in CELLS}
    print("\n".join(table(found).lines()))


if __name__ == "__main__":
    main()
