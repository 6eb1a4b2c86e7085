"""Models measured with and without repacking, in rounds with the machine itself, and predicted from each round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.calibration.of_machine import MeasurePlan, measure_machine, profile_of
from lrcsim.experiments.validation.llama_cpp.by_format import by_format, layer_seconds, rates_of
from lrcsim.experiments.validation.llama_cpp.compare import NUMBERS, line_through, middle, planned, predict, token_bytes
from lrcsim.experiments.validation.llama_cpp.formats import DENSE, VARIANTS, dtype_of
from lrcsim.experiments.validation.llama_cpp.library import Library
from lrcsim.experiments.validation.llama_cpp.measure import Reading, Work, core_reads, read, rounds, spread, summary
from lrcsim.experiments.validation.llama_cpp.weights import weights_file
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry

MACHINE, CORE = ("machine", ""), ("core", "")
"""The cells in which the machine is calibrated, and in which a core reads memory as fast as it can."""
WORKING_SET = 256 << 20
"""Bytes of different experts that calibration goes through, as `lrcsim calibrate` does unless it is to be quick."""


def measure_models(
    library: Library,
    models: Sequence[Geometry],
    dtype: str,
    folder: Path,
    work: Work,
    repetitions: int,
    runtime: str | None,
) -> dict[str, Any]:
    """Measure models in one dtype, all in the same rounds, as JSON values.

    Args:
        library: llama.cpp.
        models: which.
        dtype: how their weights are stored.
        folder: for their files, which are removed; for the file that calibration reads.
        work: of a repetition.
        repetitions: of each cell.
        runtime: of the prediction, see `predict`.
    """
    plan = replace(MeasurePlan(gpu=False, folder=folder).quick(), repetitions=20, working_set=WORKING_SET)
    cells: dict[tuple[str, str], Callable[[int], Reading | HardwareProfile | float]] = {
        MACHINE: lambda _: profile_of(measure_machine(plan)),
        CORE: lambda _: core_reads(),
    }
    with contextlib.ExitStack() as stack:
        for geometry in models:
            path = stack.enter_context(weights_file(folder, geometry, dtype, library))
            for variant, repack in VARIANTS.items():
                model = stack.enter_context(library.model(path, repack=repack))
                context = stack.enter_context(model.context(work.prompt + work.decode))
                cells[geometry.name, variant] = partial(read, context, work)
        found = rounds(cells, repetitions)
    profiles = [one for one in found[MACHINE] if isinstance(one, HardwareProfile)]
    readings = {cell: [one for one in each if isinstance(one, Reading)] for cell, each in found.items()}
    return {
        "core_reads": spread([one for one in found[CORE] if isinstance(one, float)]),
        "profile": {path: spread([profile.at(path) for profile in profiles]) for path in NUMBERS},
        "sources": {path: profiles[0].sources[path] for path in NUMBERS},
        "models": [_beside(geometry, dtype, work, profiles, readings, runtime) for geometry in models],
        "lines": {variant: _line(models, dtype, work, readings, variant) for variant in VARIANTS if len(models) > 1},
    }


def _beside(
    geometry: Geometry,
    dtype: str,
    work: Work,
    profiles: Sequence[HardwareProfile],
    readings: dict[tuple[str, str], list[Reading]],
    runtime: str | None,
) -> dict[str, Any]:
    """Return a model's prediction, its measured variants, and the ratios of each round."""
    each = [predict(profile, geometry, dtype, work, runtime) for profile in profiles]
    whole = predict(middle(profiles), geometry, dtype, work, runtime)
    moved = token_bytes(geometry, dtype, work)
    variants: dict[str, Any] = {}
    for variant in VARIANTS:
        found = [reading.seconds() for reading in readings[geometry.name, variant]]
        ratios = {
            "prompt": [predicted.prompt / prompt for predicted, (prompt, _) in zip(each, found, strict=True)],
            "decode": [predicted.token / token for predicted, (_, token) in zip(each, found, strict=True)],
        }
        measured = summary(readings[geometry.name, variant])
        variants[variant] = measured | {
            "bytes_per_s": moved / measured["token_s"]["median"],
            "measured_over_predicted": {
                "prompt": whole.prompt / measured["prompt_s"]["median"],
                "decode": whole.token / measured["token_s"]["median"],
            },
            "measured_over_predicted_by_round": {name: spread(values) for name, values in ratios.items()},
        }
    return {
        "model": geometry.name,
        "source": geometry.source,
        "dtype": dtype,
        "layers": geometry.layers,
        "token_bytes": moved,
        "runtime": runtime or "ideal",
        "predicted": {"prompt_s": whole.prompt, "token_s": whole.token},
        "plan_tokens_per_s": planned(middle(profiles), geometry, dtype),
        "variants": variants,
    }


def _line(
    models: Sequence[Geometry],
    dtype: str,
    work: Work,
    readings: dict[tuple[str, str], list[Reading]],
    variant: str,
) -> dict[str, Any]:
    """Return bytes/s and seconds per layer of the first two models, by round."""
    first, second = models[:2]
    moved = token_bytes(first, dtype, work), token_bytes(second, dtype, work)
    pairs = zip(readings[first.name, variant], readings[second.name, variant], strict=True)
    lines = [
        line_through(moved, (first.layers, second.layers), (one.seconds()[1], other.seconds()[1]))
        for one, other in pairs
    ]
    return {
        "bytes_per_s": spread([line.bandwidth for line in lines]),
        "layer_s": spread([line.per_layer for line in lines]),
    }


def add_by_format(
    measured: dict[str, Any], models: Sequence[Geometry], formats: Sequence[dict[str, Any]], shape: Geometry, work: Work
) -> None:
    """Add to each measured model what the rates of formats say of it, where all of its formats were measured.

    Args:
        measured: what `measure_models` returned; changed in place.
        models: the same models.
        formats: what `measure_format` returned.
        shape: the model in which formats were measured.
        work: of a repetition.
    """
    for variant in VARIANTS:
        rates = rates_of(formats, variant)
        rest = [row["rest_s"]["median"] for row in formats if row["variant"] == variant]
        layer_s = layer_seconds(shape, dtype_of(DENSE), work, rates, float(np.median(rest))) if rest else None
        for geometry, row in zip(models, measured["models"], strict=True):
            found = None if layer_s is None else by_format(geometry, row["dtype"], work, rates, layer_s)
            if found is not None:
                one = row["variants"][variant]
                one["by_format"] = {
                    "layer_s": layer_s,
                    "prompt_s": found.prompt,
                    "token_s": found.token,
                    "measured_over_predicted": {
                        "prompt": found.prompt / one["prompt_s"]["median"],
                        "decode": found.token / one["token_s"]["median"],
                    },
                }
