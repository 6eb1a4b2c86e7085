"""Calibrate to the first 32 decoded tokens of a measured run of Qwen3-30B-A3B on a phone, and test the other 96.

    python -m lrcsim.experiments.validation.measured_run FOLDER      # with qwen3-30b-a3b.route.csv and .metrics.csv

Prints the table of this folder's README and draws its figure.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrcsim.base.tables import Table
from lrcsim.calibration.from_run.calibrate import Agreement, Calibration, calibrate
from lrcsim.calibration.from_run.fit import Loss
from lrcsim.calibration.from_run.measured import MeasuredRun, read_measured
from lrcsim.calibration.from_run.numbers import shown
from lrcsim.calibration.from_run.rerun import Rerun
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import load_geometry
from lrcsim.plots.calibration import plot_calibration
from lrcsim.runtimes import IDEAL, Runtime, load_runtime
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace

MODEL = "qwen3-30b-a3b:top_k=6"  # the engine used 6 of the model's 8
CACHE = "4000MiB"  # of one global LRU
FITTED = 32  # tokens
COLUMNS = ("wall", "compute", "stall", "overhead", "bytes", "faults")
MECHANISMS = ("runtime.cpu.share", "runtime.loads.byte", "runtime.loads.lane_bandwidth")
ROUGH = {"cpu.share": 1.0, "loads.byte": 0.2e-9, "loads.lane_bandwidth": 0.6e9}
"""Where the fit of the runtime starts, off what it finds: its built-in numbers are from these very tokens. From
bookkeeping of twice that and more the fit ends where all reads hide behind it, with that column 190 % too long."""


class Variant(NamedTuple):
    """One fit: columns of the file, what runs the model, numbers (None: chosen), loss, overlap (None: chosen)."""

    label: str
    roles: tuple[str, ...] = COLUMNS
    runtime: Runtime = IDEAL
    paths: tuple[str, ...] | None = None
    loss: Loss = "huber"
    overlap: bool | None = None


def variants(base: HardwareProfile) -> list[Variant]:
    """Return the rows of the table."""
    engine = load_runtime("bigmoeonedge").on(base)
    for path, value in ROUGH.items():
        engine = engine.with_number(path, value)
    before = engine.with_number("loads.beside", False)
    by_expert = replace(before, loads=replace(before.loads, overlap="expert"))
    return [
        Variant("mechanisms", COLUMNS, engine, MECHANISMS, "huber", True),
        Variant("mechanisms, least squares", COLUMNS, engine, MECHANISMS, "squares", True),
        Variant("mechanisms, wall time alone", ("wall", "bytes", "faults"), engine, MECHANISMS, "huber", True),
        Variant("bookkeeping before the reads", COLUMNS, before, MECHANISMS, "huber", True),
        Variant("the same, overlap by expert", COLUMNS, by_expert, MECHANISMS, "huber", True),
        Variant("no runtime", COLUMNS),
    ]


ERRORS = {
    "held_out": "held-out",
    "undisturbed": "undisturbed",
    "given_compute": "given compute",
    "stall": "stall",
    "overhead": "overhead",
}


def load(folder: Path) -> tuple[Rerun, MeasuredRun]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "trace.h5")
        import_trace(folder / "qwen3-30b-a3b.route.csv", path)
        with RoutingTrace.open(path) as trace:
            rerun = Rerun(trace, load_geometry(MODEL), policy="lru", cache=CACHE, scope="model")
    return rerun, read_measured(folder / "qwen3-30b-a3b.metrics.csv")


def only(run: MeasuredRun, roles: tuple[str, ...]) -> MeasuredRun:
    return replace(
        run,
        values={role: run.values[role] for role in roles},
        columns={role: run.columns[role] for role in roles},
    )


def cell(of: Agreement | None) -> str:
    return "" if of is None else f"{100 * of.total_error:+.1f} / {100 * of.mean_error:.1f}"


def table(found: list[tuple[str, Calibration]]) -> Table:
    """A row for each fit, and for the baselines of the first: a straight mean, and a line in the misses."""
    rows = []
    for label, one in found:
        fitted = one.best.fit.numbers.items()
        numbers = ", ".join(f"{path} {shown(path, float(f'{of.value:.3g}'))}" for path, of in fitted)
        row = {"fit": label, "overlap": "on" if one.best.overlap else "off", "numbers": numbers}
        rows.append(row | {column: cell(one.agreement.get(name)) for name, column in ERRORS.items()})
    for name, label in (("mean", "mean of the fitted tokens"), ("linear", "line in the misses, same tokens")):
        rows.append(dict.fromkeys(rows[0], "") | {"fit": label, "held-out": cell(found[0][1].agreement[name])})
    return Table("measured_run", "", rows, formats=dict.fromkeys(ERRORS.values(), "{}"))


def best_line(found: Calibration) -> float:
    """The smallest mean error of any line in the misses, fitted to the held-out tokens themselves: hindsight."""
    wall, misses = found.measured["wall"][found.fitted :], found.misses[found.fitted :]
    level, per_miss = np.linspace(0.05, 0.2, 301), np.linspace(0, 3e-3, 301)
    errors = [np.abs(level[:, None] + slope * misses - wall).mean(axis=1).min() for slope in per_miss]
    return float(min(errors) / wall.mean())


def within(found: Calibration) -> str:
    """The error of the held-out total by how much more than the fitted tokens' median a token may compute."""
    if "compute" not in found.columns:
        return ""
    compute, wall = found.measured["compute"], found.measured["wall"]
    held = np.arange(len(wall)) >= found.fitted
    texts = []
    for most in (1.05, 1.1, 1.15, 1.25):
        calm = held & (compute <= most * np.median(compute[: found.fitted]))
        error = found.predicted.wall[calm].sum() / wall[calm].sum() - 1
        texts.append(f"up to {most:g} times the median {100 * error:+.1f} % ({calm.sum()} tokens)")
    return ", ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lrcsim.experiments.validation.measured_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the run's two files are")
    parser.add_argument("--plot", default="qwen3.png", help="the figure")
    options = parser.parse_args()
    rerun, run = load(options.folder)
    found = []
    base = load_profile("phone")
    for label, roles, runtime, paths, loss, overlap in variants(base):
        one = calibrate(
            rerun, only(run, roles), base,
            runtime=runtime, fit_tokens=FITTED, paths=paths, overlap=overlap, loss=loss,
        )  # fmt: skip
        found.append((label, one))
    _, first = found[0]
    print("\n".join(table(found).lines()))
    print(f"\nbest line in the misses with hindsight: mean error {100 * best_line(first):.1f} %")
    print(f"bytes: {first.bytes}")
    assert first.disturbed is not None
    compute, held = 1e3 * first.measured["compute"], np.arange(len(first.disturbed)) >= FITTED
    print(f"disturbed held-out tokens: {first.disturbed[held].sum()}")
    for label, chosen in (("fitted", ~held), ("held-out", held), ("held-out undisturbed", held & ~first.disturbed)):
        median, mean = np.median(compute[chosen]), compute[chosen].mean()
        print(f"measured compute, {label}: median {median:.1f} ms, mean {mean:.1f}")
    for label, one in found:
        print(f"{label}: {within(one)}")
    plot_calibration(options.plot, first, "Qwen3-30B-A3B on a phone")


if __name__ == "__main__":
    main()
