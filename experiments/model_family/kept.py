"""Measures of traces as files: a trace that has not changed is not measured again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.tables import plain
from lrcsim.cli.output import write_json
from lrcsim.experiments.model_family import measure as measuring
from lrcsim.experiments.model_family.measure import MeasuredVariant, measure
from lrcsim.traces import RoutingTrace

Progress = Callable[[int, int], None]


def measured(trace: RoutingTrace, path: Path, progress: Progress | None = None) -> MeasuredVariant:
    """Return the measures of a trace: from a file that says it is of this trace, else measured and written there.

    A changed simulator of the same version is not noticed: delete the file then.

    Args:
        trace: a trace that was opened from a file.
        path: of the measures, JSON; its folder is made.
        progress: as for `measure`; not told anything when the file serves.

    Raises:
        ConfigError: as `measure`.
        TraceError: the file cannot be written.
    """
    wanted = _made_from(trace)
    if path.exists():
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["of"] == wanted:
            return _read(document["measured"])
    found = measure(trace, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"of": wanted, "measured": plain(dataclasses.asdict(found))}
    write_json(str(path), document, "model-family-measures")
    return found


def _made_from(trace: RoutingTrace) -> dict[str, Any]:
    """Say what measures depend on: the file, the settings of `measure`, the version of the code."""
    names = ("SEGMENT", "CACHE", "DRAWS", "SEED", "SIZES", "BUSY", "MEASURES", "RATES")
    settings = {name.lower(): getattr(measuring, name) for name in names}
    made: dict[str, Any] = plain({"trace": trace.file_sha256(), "lrcsim": version("lrcsim"), **settings})
    return made


def _read(values: dict[str, Any]) -> MeasuredVariant:
    """Make the measures of what `plain` made of them: a draw that is None was NaN."""
    drawn = {name: np.array(row, dtype=np.float64) for name, row in values["drawn"].items()}
    return MeasuredVariant(**{**values, "drawn": drawn})
