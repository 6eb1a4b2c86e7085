"""Bytes/s and operations/s that one core reaches in experts of each format: the slope between few experts and many."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lrcsim.experiments.validation.llama_cpp.compare import rate_between
from lrcsim.experiments.validation.llama_cpp.measure import Reading, Work, read, rounds, spread
from lrcsim.experiments.validation.llama_cpp.software import VARIANTS
from lrcsim.experiments.validation.llama_cpp.weights import set_top_k, weights_file
from lrcsim.models import Geometry, expert_bytes
from lrcsim.recorder.llama_cpp.library import Library

DENSE = "q8_0"
"""Of all but the experts, in every file alike."""
FEW_AND_MANY = (2, 8)
"""Experts of a token in the two models that are compared: same file, same layers, same operations but those."""


def dtype_of(name: str) -> str:
    """Return the dtype in which the experts alone have a format."""
    return ",".join([DENSE, *(f"ffn_{part}_exps={name}" for part in ("gate", "up", "down"))])


def measure_format(
    library: Library, geometry: Geometry, name: str, folder: Path, work: Work, repetitions: int
) -> list[dict[str, Any]]:
    """Measure one format with and without repacking, as JSON values.

    Args:
        library: llama.cpp.
        geometry: of the model; its top-k is replaced.
        name: of the format.
        folder: for the file, which is removed.
        work: of a repetition.
        repetitions: of each of the four cells.
    """
    sizes = [replace(geometry, top_k=top_k) for top_k in FEW_AND_MANY]
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(weights_file(folder, geometry, dtype_of(name), library))
        cells, repacked = {}, {}
        for size in sizes:
            set_top_k(path, size, size.top_k)
            for variant, repack in VARIANTS.items():
                model = stack.enter_context(library.model(path, repack=repack))
                context = stack.enter_context(model.context(work.prompt + work.decode))
                cells[size.top_k, variant] = partial(read, context, work)
                repacked[variant] = model.repacked > 0
        found = rounds(cells, repetitions)
    return [
        {
            "format": name,
            "variant": variant,
            "repacked": repacked[variant],
            **rates(sizes, dtype_of(name), work, [found[size.top_k, variant] for size in sizes]),
        }
        for variant in VARIANTS
    ]


def rates(sizes: Sequence[Geometry], dtype: str, work: Work, readings: Sequence[Sequence[Reading]]) -> dict[str, Any]:
    """Return the spread over the rounds of what the experts that only the second model uses add, as JSON values.

    Args:
        sizes: the model with few experts of a token, and with many.
        dtype: of both.
        work: of a repetition.
        readings: of each, by round.

    Returns:
        ``decode_bytes_per_s`` and ``decode_operations_per_s`` of one token, ``prompt_operations_per_s`` of a prompt:
        two operations a weight and token, in the last layer those of one token (`by_format.used`); ``rest_s``, seconds
        of a token with no experts.
    """
    moved = [size.top_k * float(expert_bytes(size, dtype).sum()) for size in sizes]
    per_token = [2.0 * size.top_k * size.layers * size.expert_params for size in sizes]
    per_prompt = [2.0 * size.top_k * ((size.layers - 1) * work.prompt + 1) * size.expert_params for size in sizes]
    found: dict[str, list[float]] = {}
    for few, many in zip(*readings, strict=True):
        prompts, tokens = zip(few.seconds(), many.seconds(), strict=True)
        rate = rate_between((moved[0], tokens[0]), (moved[1], tokens[1]))
        one_round = {
            "decode_bytes_per_s": rate,
            "decode_operations_per_s": rate * per_token[0] / moved[0],
            "prompt_operations_per_s": rate_between((per_prompt[0], prompts[0]), (per_prompt[1], prompts[1])),
            "rest_s": tokens[0] - moved[0] / rate,
        }
        for name, value in one_round.items():
            found.setdefault(name, []).append(value)
    return {name: spread(values) for name, values in found.items()}
