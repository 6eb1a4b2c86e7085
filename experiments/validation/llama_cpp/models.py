"""Models measured with and without repacking, in rounds with one core of the machine itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lrcsim.calibration.of_machine import MeasurePlan, measure_machine, profile_of
from lrcsim.calibration.of_machine.compute import on_threads
from lrcsim.calibration.of_machine.machine import processor
from lrcsim.experiments.validation.llama_cpp.compare import NUMBERS, line_through, middle, token_bytes
from lrcsim.experiments.validation.llama_cpp.measure import Reading, Work, core_reads, read, rounds, spread, summary
from lrcsim.experiments.validation.llama_cpp.software import VARIANTS
from lrcsim.experiments.validation.llama_cpp.weights import weights_file
from lrcsim.hardware import HardwareProfile
from lrcsim.hardware.load import to_toml
from lrcsim.models import Geometry
from lrcsim.recorder.llama_cpp.library import Library

MACHINE, CORE = ("machine", ""), ("core", "")
"""The cells in which the machine is calibrated, and in which a core reads memory as fast as it can."""
WORKING_SET = 256 << 20
"""Bytes of different experts that calibration goes through: eight times the last cache of 32 MiB."""


def measure_models(
    library: Library, models: Sequence[Geometry], dtype: str, folder: Path, work: Work, repetitions: int
) -> dict[str, Any]:
    """Measure models in one dtype and one core of the machine, all in the same rounds, as JSON values.

    Args:
        library: llama.cpp.
        models: which.
        dtype: how their weights are stored.
        folder: for their files, which are removed; for the file that calibration reads.
        work: of a repetition.
        repetitions: of each cell.
    """
    cells: dict[tuple[str, str], Callable[[int], Reading | HardwareProfile | float]] = {
        MACHINE: lambda _: one_core(folder, library.instructions),
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
        "machine": {path: spread([profile.at(path) for profile in profiles]) for path in NUMBERS},
        "profile": to_toml(middle(profiles)),
        "models": [
            {
                "model": geometry.name,
                "source": geometry.source,
                "dtype": dtype,
                "layers": geometry.layers,
                "token_bytes": token_bytes(geometry, dtype, work),
                "variants": {variant: summary(readings[geometry.name, variant]) for variant in VARIANTS},
            }
            for geometry in models
        ],
        "lines": {variant: _line(models, dtype, work, readings, variant) for variant in VARIANTS if len(models) > 1},
    }


def one_core(folder: Path, instructions: str) -> HardwareProfile:
    """Return this machine as `lrcsim calibrate` measures it with one thread, and a library's instruction set.

    Args:
        folder: for the file that is read.
        instructions: of the library, as `Library.instructions` says them.
    """
    plan = replace(MeasurePlan(gpu=None, folder=folder).quick(), repetitions=20, working_set=WORKING_SET)
    with on_threads(1):
        profile = profile_of(measure_machine(plan))
    about = f"one core, {processor()}"
    return replace(profile, name="one-core", description=about).with_part("cpu", isa=isa_of(instructions))


def isa_of(instructions: str) -> str:
    """Return which of a profile's instruction sets a library computes with; empty where it says none of them."""
    names = {"AVX512": "avx512", "AVX2": "avx2", "NEON": "neon"}
    given = instructions.split(", ")
    return next((isa for name, isa in names.items() if name in given), "")


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
