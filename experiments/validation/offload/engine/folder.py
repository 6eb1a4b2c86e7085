"""What a run leaves: files of a folder, each whole or not at all, and how they are read again.

``MODEL.json`` says what ran, with micro-benchmarks; ``MODEL.CELL.csv`` has a row for each step, ``MODEL.CELL.2.csv`` of
a second repetition; ``MODEL.h5`` is the routing, ``MODEL.batched.h5`` that of cells with several sequences, if longer.
A folder without routing, and with less in its JSON, is read too.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import write_text
from lrcsim.base.tables import plain, write_csv
from lrcsim.experiments.validation.offload.engine.cells import EngineCell
from lrcsim.experiments.validation.offload.engine.engine import COLUMNS
from lrcsim.models import Geometry, load_geometry
from lrcsim.traces import RoutingTrace

FloatArray = npt.NDArray[np.float64]
MODELS = ("qwen3-30b-a3b", "gpt-oss-20b")
"""Models of lrcsim that the engine is run with; a folder that does not say which one it is must be one of them."""


@dataclass
class MeasuredModel:
    """One model's part of a folder.

    Attributes:
        name: as in the names of its files.
        info: its JSON.
        geometry: the model, with as many experts per token as ran.
        runs: by cell and repetition the columns of its CSV, float64 [steps] by name.
        trace: its routing, None where the folder does not have it.
    """

    name: str
    info: dict[str, Any]
    geometry: Geometry
    runs: dict[EngineCell, list[dict[str, FloatArray]]] = field(default_factory=dict)
    trace: RoutingTrace | None = None


def new_folder(path: Path) -> None:
    """Make a folder, or take an empty one.

    Raises:
        ConfigError: there is something in it, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"{path} is not empty: name a new folder (--out), or simulate what it has (--again)")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made ({error.strerror or error}): name another (--out)") from None


def write_info(folder: Path, name: str, geometry: Geometry, info: Mapping[str, Any]) -> None:
    """Write a model's JSON."""
    data = {"model": name, **info, "model_geometry": asdict(geometry)}
    write_text(folder / f"{name}.json", json.dumps(plain(data), indent=1) + "\n")


def write_routing(folder: Path, name: str, trace: RoutingTrace, tokens: int) -> None:
    """Write the routing of a model: what one sequence runs, and all of it where that is more."""
    EngineCell().trace_of(trace, tokens).save(folder / f"{name}.h5")
    if trace.num_tokens > tokens:
        trace.save(folder / f"{name}.batched.h5")


def write_run(folder: Path, name: str, cell: EngineCell, repetition: int, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a cell's CSV; ``repetition`` counts from 1."""
    path = folder / f"{name}.{cell.name}{'' if repetition == 1 else f'.{repetition}'}.csv"
    write_csv(path, rows, COLUMNS)
    return path


def read_folder(folder: Path) -> list[MeasuredModel]:
    """Read all models of a folder, each with its cells in the order in which they were run, or by name.

    Raises:
        ConfigError: there is none, or a file is not what its name says.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is no JSON: {error}") from None
        if isinstance(info, dict) and {"geometry", "k", "expert_bytes"} <= info.keys():
            found.append(_model(folder, path.stem, info))
    if not found:
        raise ConfigError(f"{folder} has no JSON of a measured model: give a folder that --gpu wrote")
    return found


def geometry_of(info: Mapping[str, Any]) -> Geometry:
    """Return the model of a JSON: written out in it, or that of `MODELS` with the same widths.

    Raises:
        ConfigError: there is none.
    """
    k, written = info["k"], info.get("model_geometry")
    if written is not None:
        fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in written.items()}
        return Geometry(**fields)
    widths = info["geometry"]
    for name in MODELS:
        of = load_geometry(f"{name}:top_k={k}")
        if (of.layers, of.experts, of.hidden, of.expert_width) == tuple(widths[x] for x in ("L", "E", "hidden", "ffn")):
            return of
    raise ConfigError(f"the geometry {widths} is that of none of {', '.join(MODELS)}")


def _model(folder: Path, name: str, info: dict[str, Any]) -> MeasuredModel:
    model = MeasuredModel(name, info, geometry_of(info))
    order = list(info.get("cells", ()))
    paths = [path for path in folder.glob(f"{name}.*.csv") if path.name.count(".") == 2]

    def place(path: Path) -> tuple[int, str]:
        cell = path.name.split(".")[1]
        return (order.index(cell) if cell in order else len(order)), cell

    for first in sorted(paths, key=place):
        more = sorted(folder.glob(f"{first.stem}.*.csv"), key=lambda path: int(path.name.split(".")[2]))
        model.runs[EngineCell.of(first.name.split(".")[1])] = [_columns(path) for path in (first, *more)]
    routing = [folder / f"{name}.batched.h5", folder / f"{name}.h5"]
    model.trace = next((RoutingTrace.open(path) for path in routing if path.exists()), None)
    return model


def _columns(path: Path) -> dict[str, FloatArray]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in COLUMNS if not rows or rows[0].get(name) is None]
    if missing:
        raise ConfigError(f"{path} has no rows, or lacks {', '.join(missing)}: give a CSV that --gpu wrote")
    return {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}
