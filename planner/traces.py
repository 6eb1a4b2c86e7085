"""Which trace a plan rests on: one of the model itself, or those of models of the nearest shape."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.models import Geometry, load_geometry
from lrcsim.traces import RoutingTrace

LAYER_WEIGHT = 0.25
"""How much a factor of two in the number of layers counts beside one in experts or top-k: locality is a property of
one layer, depth changes it little."""

MOST_TOKENS = 4096
"""Tokens of a trace that a plan replays: whole requests, evenly spaced over the trace."""


class Shape(NamedTuple):
    """What of a model's shape its routing depends on: MoE layers, experts per layer, experts per token."""

    layers: int
    experts: int
    top_k: int

    @classmethod
    def of(cls, geometry: Geometry) -> Shape:
        """Return that of a model."""
        return cls(len(geometry.moe_layers), geometry.experts, geometry.top_k)


def shape_distance(one: Shape, other: Shape) -> float:
    """Return |log2 E/E'| + |log2 k/k'| + 0.25 |log2 L/L'|: 0 for the same shape, 1 for twice the experts.

    A metric: symmetric, 0 only for equal shapes, and never shorter by a detour.

    Args:
        one: experts, top-k and MoE layers of a model: E, k, L.
        other: those of another: E', k', L'.
    """
    return (
        abs(math.log2(one.experts) - math.log2(other.experts))
        + abs(math.log2(one.top_k) - math.log2(other.top_k))
        + LAYER_WEIGHT * abs(math.log2(one.layers) - math.log2(other.layers))
    )


@dataclass(frozen=True)
class SourceTrace:
    """A trace, as far as a plan uses it.

    Attributes:
        name: to call it by: its path, or ``bundled:...``.
        sampled: gives its routing, in memory; `MOST_TOKENS` tokens at most.
        model: that was traced.
        shape: of the model that was traced.
        distance: `shape_distance` to the model that is planned for.
        own: whether it is a trace of the model that is planned for.
        tokens: in the whole trace.
        requests: in the whole trace.
        replayed: tokens of ``trace``.
        planned_for: name of the model that is planned for.
        same_model: whether the trace names that model; where it is not ``own``, another top-k or quantisation of it.
        bundled: SHA-256 of the bundled trace, where it is that one, taken because there was no other; else empty.
    """

    name: str
    sampled: Callable[[], RoutingTrace]
    model: str
    shape: Shape
    distance: float
    own: bool
    tokens: int
    requests: int
    replayed: int
    planned_for: str = ""
    same_model: bool = False
    bundled: str = ""

    @cached_property
    def trace(self) -> RoutingTrace:
        """Its routing; of the bundled trace it is read when it is asked for."""
        return self.sampled()


def find_sources(
    geometry: Geometry, given: Sequence[tuple[str, RoutingTrace]], folders: Sequence[str | Path] = ()
) -> tuple[list[SourceTrace], list[str]]:
    """Collect the traces that a plan can rest on, nearest shape first; ties to the one with more tokens.

    A trace that is given counts as the model's own where its shape is the model's, as in ``lrcsim run --model``; one
    found in a folder only where it also names the model. The bundled trace is taken where nothing is given.

    Args:
        geometry: the model.
        given: names and traces that the user named.
        folders: in which to look for lrcsim traces (``*.h5``).

    Returns:
        The sources, and a note for each file that was passed over.

    Raises:
        ConfigError: a given trace has layers of unlike shapes, or a folder does not exist.
    """
    wanted = Shape.of(geometry)
    found: list[SourceTrace] = []
    notes: list[str] = []
    for name, trace in given:
        shape = _shape(trace)
        if shape is None:
            raise ConfigError(f"--trace {name}: its layers differ in experts or top-k; a plan needs one shape")
        found.append(_source(name, trace, shape, geometry, own=shape == wanted))
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(f"there is no folder of traces {str(folder)!r}")
        for path in sorted(Path(folder).glob("*.h5")):
            try:
                with RoutingTrace.open(path) as trace:
                    shape = _shape(trace)
                    if shape is None:
                        notes.append(f"{path.name} is left out: its layers are of unlike shapes")
                        continue
                    own = shape == wanted and same_model(trace.model, geometry)
                    found.append(_source(str(path), trace, shape, geometry, own=own))
            except LrcsimError as error:
                notes.append(f"{path.name} is left out: {error}")
    if not found:
        with RoutingTrace.open() as trace:
            shape = _shape(trace)
            assert shape is not None  # the bundled trace is of one model
            own = shape == wanted and same_model(trace.model, geometry)
            found.append(_source("bundled:generated", trace, shape, geometry, own=own, bundled=trace.file_sha256()))
    return sorted(found, key=lambda source: (not source.own, source.distance, -source.tokens)), notes


def same_model(name: str, geometry: Geometry) -> bool:
    """Return whether a trace's model name is that of a geometry: one of its names, or a name that contains one.

    Case and everything but letters and digits is left out: ``Qwen3-30B-A3B-Q4_K_M.gguf`` is ``qwen3-30b-a3b``.
    """
    try:
        return load_geometry(name).name == _built_in(geometry.name)
    except ConfigError:
        return _plain(geometry.name) in _plain(name)


def _built_in(name: str) -> str:
    """Return the built-in model's name for one of its names, as that of a GGUF file; else the name itself."""
    try:
        return load_geometry(name).name
    except ConfigError:
        return name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _shape(trace: RoutingTrace) -> Shape | None:
    if not trace.layers.uniform or len(trace.layers.stack_names) > 1:
        return None
    return Shape(trace.num_layers, trace.num_experts, trace.top_k)


def _source(
    name: str, trace: RoutingTrace, shape: Shape, geometry: Geometry, *, own: bool, bundled: str = ""
) -> SourceTrace:
    taken = None if bundled else sample(trace, MOST_TOKENS)  # while it is open
    return SourceTrace(
        name=name,
        sampled=lambda: taken or _bundled_sample(),
        model=trace.model,
        shape=shape,
        distance=shape_distance(shape, Shape.of(geometry)),
        own=own,
        tokens=trace.num_tokens,
        requests=trace.num_requests,
        replayed=sum(high - low for low, high in _whole_requests(trace, MOST_TOKENS)),
        planned_for=geometry.name,
        same_model=same_model(trace.model, geometry),
        bundled=bundled,
    )


def _bundled_sample() -> RoutingTrace:
    with RoutingTrace.open() as trace:
        return sample(trace, MOST_TOKENS)


def sample(trace: RoutingTrace, tokens: int) -> RoutingTrace:
    """Return whole requests, evenly spaced, of so many tokens together at most; of a single longer one its beginning.

    The result is in memory and has experts and phases only.
    """
    return take(trace, _whole_requests(trace, tokens))


def _whole_requests(trace: RoutingTrace, tokens: int) -> list[tuple[int, int]]:
    """Return which tokens ``low:high`` a sample takes."""
    lengths = np.diff(trace.offsets)
    chosen = np.arange(trace.num_requests)
    if trace.num_tokens > tokens:
        count = max(int(tokens / max(float(lengths.mean()), 1.0)), 1)
        chosen = np.unique(np.linspace(0, trace.num_requests - 1, min(count, trace.num_requests)).astype(int))
    rows: list[tuple[int, int]] = []
    left = tokens
    for request in chosen.tolist():
        low, high = int(trace.offsets[request]), int(trace.offsets[request + 1])
        if high - low > left and rows:
            continue
        rows.append((low, min(high, low + left)))
        left -= rows[-1][1] - low
    return rows


def take(trace: RoutingTrace, rows: Sequence[tuple[int, int]]) -> RoutingTrace:
    """Return the tokens ``low:high`` of a trace as requests, in memory, experts and phases only."""
    phased = "phase" in trace.columns
    return RoutingTrace.from_arrays(
        np.concatenate([trace.read("experts", low, high) for low, high in rows]),
        num_experts=trace.num_experts,
        top_k=trace.top_k,
        offsets=np.cumsum([0, *(high - low for low, high in rows)]),
        phase=np.concatenate([trace.read("phase", low, high) for low, high in rows]) if phased else None,
        model=trace.model,
    )
