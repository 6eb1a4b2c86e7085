"""Measured models beside what lrcsim says of them now: a plan and a run on the measured profile, and by format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.validation.llama_cpp.by_format import by_format, layer_seconds, rates_of
from lrcsim.experiments.validation.llama_cpp.compare import Times, planned, predict
from lrcsim.experiments.validation.llama_cpp.formats import DENSE, dtype_of
from lrcsim.experiments.validation.llama_cpp.measure import Work
from lrcsim.experiments.validation.llama_cpp.software import VARIANTS, runtime_of
from lrcsim.hardware.load import read_toml
from lrcsim.models import Geometry

Models = Mapping[str, Callable[[], Geometry]]
"""By name, what makes them."""


def add_predictions(measured: dict[str, Any], models: Models, work: Work, given: str | None = None) -> None:
    """Add to each cell what this lrcsim says of it, from the profile that was measured beside it.

    Args:
        measured: what `models.measure_models` returned, now or in another run; changed in place.
        models: all that may be in it.
        work: of a repetition.
        given: a runtime that stands for all variants; None: `runtime_of` each.

    Raises:
        ConfigError: there is no such runtime, or the model does not fit.
    """
    profile = read_toml("one-core", measured["profile"])
    for row in measured["models"]:
        geometry = models[row["model"]]()
        for variant, cell in row["variants"].items():
            runtime = runtime_of(variant, given)
            cell["runtime"] = runtime.name
            for name, says in (("plan", planned), ("run", predict)):
                cell[name] = _beside(says(profile, geometry, row["dtype"], work, runtime), cell)


def add_by_format(
    measured: dict[str, Any], models: Models, formats: Sequence[dict[str, Any]], shape: Geometry, work: Work
) -> None:
    """Add to each cell what the rates of formats say of it, where all formats of the model were measured.

    Args:
        measured: see `add_predictions`.
        models: see `add_predictions`.
        formats: what `formats.measure_format` returned.
        shape: the model in which formats were measured.
        work: of a repetition.
    """
    for variant in VARIANTS:
        rates = rates_of(formats, variant)
        rest = [row["rest_s"]["median"] for row in formats if row["variant"] == variant]
        layer_s = layer_seconds(shape, dtype_of(DENSE), work, rates, float(np.median(rest))) if rest else None
        if layer_s is None:
            continue
        for row in measured["models"]:
            found = by_format(models[row["model"]](), row["dtype"], work, rates, layer_s)
            if found is not None:
                cell = row["variants"][variant]
                cell["by_format"] = {"layer_s": layer_s, **_beside(found, cell)}


def _beside(predicted: Times, cell: Mapping[str, Any]) -> dict[str, float]:
    """Return predicted seconds, and by how much the predicted speed is above the median that was measured."""
    return {
        "prompt_s": predicted.prompt,
        "token_s": predicted.token,
        "prompt_error": cell["prompt_s"]["median"] / predicted.prompt - 1,
        "decode_error": cell["token_s"]["median"] / predicted.token - 1,
    }
