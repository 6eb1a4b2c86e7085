"""Fit the numbers of llama.cpp and its kin to published speeds, from where others' fits of more points begin.

Sought are the logarithms of a few numbers that minimise

    sum over points  w huber(log(predicted / measured))^2  +  sum over numbers  (log(number / start) / spread)^2 STIFF^2

by damped Gauss-Newton steps (Levenberg 1944, Marquardt 1963), with Huber's weights (1964). A machine's points count
together as the square root of their number, w = 1 / sqrt(n): ten of one machine are not ten machines. Only rows whose
experts are placed by layer are fitted: what they take does not depend on routing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.validation.published_speeds.points import Point
from lrcsim.experiments.validation.published_speeds.predict import Asked, asked, runtime_of
from lrcsim.planner.placed import placed_seconds
from lrcsim.planner.speed import Setup
from lrcsim.planner.strategies import cache_of
from lrcsim.runtimes import RuntimeDocument, runtimes

Floats = npt.NDArray[np.float64]

PLACED_ROWS = ("all-resident", "n-cpu-moe")
STIFF = 0.12
"""How strongly numbers are held at their start: one spread costs as much as an error of 12 % in one machine's point."""
HUBER = 0.12
"""Errors beyond this are outliers: they count linearly."""
STEP = 1e-3
ROUNDS = 25
LLAMAS = ("llama.cpp", "ik_llama.cpp", "ktransformers")


class Number(NamedTuple):
    """A number that is fitted.

    Attributes:
        name: short.
        paths: where it stands in the documents of `runtimes`.
        start: from what others fitted to 117 points, these among them.
        spread: standard deviation of its logarithm that is granted.
        runtimes: that share it.
    """

    name: str
    paths: tuple[str, ...]
    start: float
    spread: float
    runtimes: tuple[str, ...] = LLAMAS


def _share(name: str, start: float, *paths: str) -> Number:
    return Number(name, paths, start, 0.1)


def _cost(name: str, start: float, path: str, runtimes: tuple[str, ...] = LLAMAS) -> Number:
    return Number(name, (path,), start, 0.3, runtimes)


NUMBERS = (
    _share("CUDA: share of bandwidth", 0.83, "device.cuda.dense", "device.cuda.experts"),
    _share("CUDA: share for the KV cache", 0.78, "device.cuda.cache"),
    _cost("CUDA: per layer", 76e-6, "device.cuda.layer"),
    _cost("CUDA: more per layer with MLA", 30e-6, "device.cuda.mla"),
    _cost("CUDA: share of peak in attention", 0.1, "device.cuda.attention"),
    _share("CUDA, unified: share of bandwidth", 0.94, "device.cuda-unified.dense", "device.cuda-unified.experts"),
    _share("CUDA, unified: share for the KV cache", 0.77, "device.cuda-unified.cache"),
    _cost("CUDA, unified: per layer", 6e-6, "device.cuda-unified.layer"),
    _share("Metal: share of bandwidth", 0.8, "device.metal.dense", "device.metal.experts"),
    _cost("Metal: per layer", 118e-6, "device.metal.layer"),
    _cost("CPU alone: per layer", 200e-6, "device.cpu.layer"),
    _share("CPU, desktop: share of bandwidth", 1.08, "cpu.desktop.share"),
    _cost("CPU, desktop: per layer", 184e-6, "cpu.desktop.layer"),
    _share("CPU, server: share of bandwidth", 0.83, "cpu.server.share"),
    _cost("CPU, server: per layer", 124e-6, "cpu.server.layer", LLAMAS[:2]),
    _share("CPU, two sockets: share of bandwidth", 0.5, "cpu.sockets.share"),
    _cost("CPU, two sockets: per layer", 64e-6, "cpu.sockets.layer"),
    _share("CPU, old server: share of bandwidth", 0.58, "cpu.old-server.share"),
    _cost("CPU, old server: per layer", 204e-6, "cpu.old-server.layer"),
)


def placed(points: Sequence[Point]) -> list[Point]:
    """Return the points that are fitted: those of rows in which experts are placed by layer, of fitted runtimes."""
    return [point for point in points if point.row in PLACED_ROWS and _fitted(point) in LLAMAS]


def _fitted(point: Point) -> str:
    runtime = runtime_of(point.engine, point.flags)
    return "" if runtime is None else runtime.name


def seconds(point: Point, document: RuntimeDocument) -> float:
    """Return the seconds per token of a point of `placed` under a runtime."""
    wanted, resident = _placement(point)
    setup = Setup(wanted.profile, wanted.geometry, wanted.dtype, document.on(wanted.profile))
    return placed_seconds(setup, resident, max(point.context, 1), wanted.kv_bytes)


def fit(points: Sequence[Point]) -> dict[str, float]:
    """Fit `NUMBERS` to points of `placed`.

    Returns:
        By name: shares, or seconds.
    """
    start = np.log([number.start for number in NUMBERS])
    spread = np.array([number.spread for number in NUMBERS])
    count = Counter(point.box for point in points)
    weight = np.array([count[point.box] ** -0.25 for point in points])
    measured = np.array([point.tokens_per_s for point in points])
    engines = [_fitted(point) for point in points]

    def residuals(logs: Floats) -> Floats:
        values = np.exp(logs).tolist()
        documents = documents_with({number.name: value for number, value in zip(NUMBERS, values, strict=True)})
        times = [seconds(point, documents[name]) for point, name in zip(points, engines, strict=True)]
        errors = weight * np.log(np.array(times) * measured)
        return np.concatenate([errors, STIFF * (logs - start) / spread])

    found = np.exp(minimise(residuals, start, len(points)))
    return {number.name: float(value) for number, value in zip(NUMBERS, found, strict=True)}


def documents_with(values: Mapping[str, float]) -> dict[str, RuntimeDocument]:
    """Return the built-in runtimes with other values of `NUMBERS`, by name."""
    documents = dict(runtimes())
    for number in NUMBERS:
        for name in number.runtimes:
            changed = dict.fromkeys(number.paths, values[number.name])
            documents[name] = replace(documents[name], numbers=documents[name].numbers | changed)
    return documents


def minimise(residuals: Callable[[Floats], Floats], start: Floats, errors: int) -> Floats:
    """Minimise a sum of squares whose first ``errors`` terms are Huber's.

    Args:
        residuals: float64 [n] at float64 [m].
        start: float64 [m].
        errors: how many of the residuals are errors of points.
    """

    def cost(values: Floats) -> float:
        size = np.abs(values[:errors])
        robust = np.where(size < HUBER, size**2, 2 * HUBER * size - HUBER**2)
        return float(robust.sum() + (values[errors:] ** 2).sum())

    place, damping = start.copy(), 1e-3
    now = residuals(place)
    for _ in range(ROUNDS):
        slopes = np.stack([(residuals(place + STEP * unit) - now) / STEP for unit in np.eye(len(place))], axis=1)
        weights = np.ones(len(now))
        weights[:errors] = np.sqrt(HUBER / np.maximum(np.abs(now[:errors]), HUBER))
        sides = slopes * weights[:, None]
        while True:
            step = np.linalg.solve(sides.T @ sides + damping * np.eye(len(place)), -sides.T @ (now * weights))
            tried = residuals(place + step)
            if cost(tried) <= cost(now) or damping > 1e3:
                break
            damping *= 5
        gained = cost(now) - cost(tried)
        if gained >= 0:
            place, now, damping = place + step, tried, max(damping / 5, 1e-6)
        if gained < 1e-7:
            break
    return place


@cache
def _placement(point: Point) -> tuple[Asked, tuple[bool, ...]]:
    wanted = asked(point)
    slots = cache_of(wanted.strategy, wanted.memory.placed_budget, wanted.memory, wanted.geometry.experts)
    return wanted, tuple(held >= wanted.geometry.experts for held in slots)
