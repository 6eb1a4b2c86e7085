"""The simulator on the cells that were measured, and both side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import write_text
from lrcsim.base.tables import Table, plain, write_csv
from lrcsim.experiments.validation.offload.engine.cells import EngineCell
from lrcsim.experiments.validation.offload.engine.folder import FloatArray, MeasuredModel, read_folder
from lrcsim.models import Geometry
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

DTYPE = "bf16"
TIMES = ("dense_ms", "resident_ms", "arriving_ms", "output_ms", "host_wait_ms", "cpu_ms")


@dataclass(frozen=True)
class Machine:
    """What the simulator is given.

    Attributes:
        label: in tables and names of files.
        hardware: a profile's name, or the path of its TOML.
        runtime: what the engine makes of the machine, as `simulate` takes it: fitted to one cell by ``lrcsim calibrate
            --from-run``. None: nothing is said of it, and the simulator takes an ideal one.
    """

    label: str
    hardware: str
    runtime: str | None = None


def predict(cell: EngineCell, trace: RoutingTrace, tokens: int, geometry: Geometry, machine: Machine) -> dict[str, Any]:
    """Return what the simulator says of a cell.

    Returns:
        ``seconds``: float64 [steps]; ``accesses``, ``hits``, ``loads``, ``prefetched``: of all steps together.

    Raises:
        ConfigError: the machine cannot run the cell, by what its profile says.
    """
    options: dict[str, Any] = cell.machine_options() | {"hardware": machine.hardware, "model": geometry, "dtype": DTYPE}
    if machine.runtime is not None:
        options["runtime"] = machine.runtime
    own = cell.trace_of(trace, tokens)
    found = simulate(own, bounds=False, engine="events", **cell.options(own), **options)
    assert found.timed is not None  # hardware is given
    steps, data = found.timed.tally.by_step(), found.to_dict()
    size = int(np.asarray(found.run.trace.expert_bytes)[0])
    return {
        "seconds": steps[:, 1] - steps[:, 0],
        "accesses": data["cache"]["accesses"],
        "hits": data["cache"]["hits"],
        "loads": 0 if cell.cpu else data["cache"]["accesses"] - data["cache"]["hits"],
        "prefetched": data["prefetch"]["issued_bytes"] // size,
    }


def predict_folder(folder: Path, machines: Sequence[Machine], notes: Sequence[str] = ()) -> str:
    """Simulate all that a folder has, write ``simulated/``, ``results.json`` and ``results.md``; return the last.

    Args:
        folder: of `read_folder`.
        machines: what to simulate it with.
        notes: what the reader should know.

    Raises:
        ConfigError: there is nothing in the folder, or no routing.
        RuntimeError: lrcsim's hits, loads or prefetches are not the measured ones.
    """
    notes, rows, models = list(notes), [], read_folder(folder)
    for model in models:
        for cell, runs in model.runs.items():
            row = _measured_row(model, cell, runs)
            for machine in machines:
                try:
                    row |= _beside(folder, model, cell, runs, machine)
                except ConfigError as error:
                    notes.append(f"{model.name}, {cell.name} is not simulated with {machine.label}: {error}")
            rows.append(row)
    result = {"machines": [_told(folder, machine) for machine in machines], "notes": notes, "cells": rows}
    write_text(folder / "results.json", json.dumps(plain(result), indent=1) + "\n")
    text = as_markdown(models, rows, [machine.label for machine in machines], notes)
    write_text(folder / "results.md", text)
    return text


def _told(folder: Path, machine: Machine) -> dict[str, str | None]:
    """Return what a machine is, as JSON values; a profile in the folder by its name there, so that it may be moved."""
    path = Path(machine.hardware)
    return vars(machine) | {"hardware": path.name if path.parent == folder else machine.hardware}


def _measured_row(model: MeasuredModel, cell: EngineCell, runs: Sequence[Mapping[str, FloatArray]]) -> dict[str, Any]:
    """Return the medians over repetitions of a cell; times per step in milliseconds."""
    walls = [float(run["wall_ms"].mean()) for run in runs]
    first = runs[0]
    row: dict[str, Any] = {
        "model": model.name,
        "cell": cell.name,
        "steps": min(len(run["wall_ms"]) for run in runs),
        "repetitions": len(runs),
        "measured_ms": float(np.median(walls)),
        "measured_range_ms": [min(walls), max(walls)],
        "tokens_per_s": 1e3 * cell.batch / float(np.median(walls)),
        "accesses": int(first["accesses"].sum()),
        "loads_per_step": float(first["loads"].mean()),
        "prefetched_per_step": float(first["prefetched"].mean()),
    }
    return row | {name: float(np.median([run[name].mean() for run in runs])) for name in TIMES}


def _beside(
    folder: Path, model: MeasuredModel, cell: EngineCell, runs: Sequence[Mapping[str, FloatArray]], machine: Machine
) -> dict[str, Any]:
    """Simulate a cell, check its counts against the measured ones, and write its times."""
    if model.trace is None:
        raise ConfigError(f"{folder} has no {model.name}.h5 with the routing")
    said = predict(cell, model.trace, int(model.info["tokens"]), model.geometry, machine)
    for run in runs:
        if len(run["wall_ms"]) != len(said["seconds"]):
            continue  # it was stopped on the way; each of its steps was checked while it ran
        for name in ("accesses", "loads", "prefetched"):
            if int(run[name].sum()) != said[name]:
                raise RuntimeError(
                    f"{model.name}, {cell.name}: {name} {int(run[name].sum())} measured, {said[name]} simulated"
                )
    hit_rate = said["hits"] / said["accesses"]
    ms = 1e3 * said["seconds"]
    (folder / "simulated").mkdir(exist_ok=True)
    rows = [{"step": step + 1, "wall_ms": round(float(one), 4)} for step, one in enumerate(ms)]
    write_csv(folder / "simulated" / f"{model.name}.{cell.name}.{machine.label}.csv", rows)
    totals = [ms[: len(run["wall_ms"])].sum() / run["wall_ms"].sum() - 1 for run in runs]
    by_step = [np.abs(ms[: len(run["wall_ms"])] - run["wall_ms"]).mean() / run["wall_ms"].mean() for run in runs]
    simulated = float(np.median([ms[: len(run["wall_ms"])].mean() for run in runs]))
    return {
        "hit_rate": hit_rate,
        f"{machine.label}_ms": simulated,
        f"{machine.label}_error": float(np.median(totals)),
        f"{machine.label}_error_by_step": float(np.median(by_step)),
    }


def as_markdown(
    models: Sequence[MeasuredModel], rows: Sequence[Mapping[str, Any]], labels: Sequence[str], notes: Sequence[str]
) -> str:
    """Return what people read."""
    lines = ["# Measured and simulated", ""]
    for model in models:
        lines += [*_heading(model), ""]
        own = [row for row in rows if row["model"] == model.name]
        if own:
            lines += [*Table("cells", "", [_shown(row, labels) for row in own]).lines(), ""]
            lines += ["Where the time goes, ms per step (README.md says what each is):", ""]
            times = [{"cell": row["cell"], **{name[:-3]: round(row[name], 2) for name in TIMES}} for row in own]
            lines += [*Table("times", "", times, digits=2).lines(), ""]
    if notes:
        lines += ["To be aware of:", "", *(f"* {note}" for note in notes), ""]
    return "\n".join(lines)


def _heading(model: MeasuredModel) -> list[str]:
    info, widths = model.info, model.info["geometry"]
    return [
        f"## {model.name}",
        "",
        f"{info['device']}, torch {info['torch']}, {info['cores']} cores; {widths['L']} layers x {widths['E']} experts "
        f"of {info['expert_bytes']:,} bytes, top-{info['k']}; experts by {info.get('way', 'one product each')}; "
        f"routing: {info.get('routing', 'not said')}.",
    ]


def _shown(row: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    low, high = row["measured_range_ms"]
    several = f" ({low:.2f} to {high:.2f})" if row["repetitions"] > 1 else ""
    hit_rate = row.get("hit_rate")
    shown: dict[str, Any] = {
        "cell": row["cell"],
        "steps": row["steps"],
        "hit rate": None if hit_rate is None else f"{100 * hit_rate:.1f} %",
        "loads / step": f"{row['loads_per_step'] + row['prefetched_per_step']:.1f}",
        "measured ms / step (range)": f"{row['measured_ms']:.2f}{several}",
        "tokens/s": f"{row['tokens_per_s']:.1f}",
    }
    for label in labels:
        known = f"{label}_ms" in row
        shown[f"{label}, ms"] = f"{row[f'{label}_ms']:.2f}" if known else None
        shown[f"{label}, error"] = f"{100 * row[f'{label}_error']:+.1f} %" if known else None
        shown[f"{label}, by step"] = f"{100 * row[f'{label}_error_by_step']:.1f} %" if known else None
    return shown
