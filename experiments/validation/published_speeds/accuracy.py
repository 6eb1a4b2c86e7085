"""How far predictions are off out of sample: one machine left out at a time, numbers fitted without it.

The range of a class is what a new machine's point is within with probability 0.9, from the residuals of machines
left out: log(measured / predicted) of a machine is its mean over the machine's points, their standard deviation s is
taken over the machines, and what is within a machine is added. With n machines the range is

    exp(mean +- t s sqrt(1 + 1 / n))

with Student's t of n - 1 degrees of freedom (a new observation, not the mean), no narrower than `LEAST` and no wider
than `MOST` either way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lrcsim.experiments.validation.published_speeds.fit import documents_with, fit, placed
from lrcsim.experiments.validation.published_speeds.points import Point
from lrcsim.experiments.validation.published_speeds.predict import Prediction, predict, runtime_of
from lrcsim.planner.accuracy import SETTINGS

T_90 = {1: 6.31, 2: 2.92, 3: 2.35, 4: 2.13, 5: 2.02, 6: 1.94, 7: 1.89, 8: 1.86, 9: 1.83, 10: 1.81, 12: 1.78, 15: 1.75}
"""Student's t for 90 % two-sided, by degrees of freedom (any table)."""

LEAST, MOST = math.log(1.2), math.log(1.36)
"""Half the width of a range in the logarithm: versions of one engine alone differ by 30 % (RTX 3090, gpt-oss-20b: 180
to 239 tokens/s within seven months), and a range of a factor of two says little: 1.36 either way is 1.85 in all."""


class Accuracy(NamedTuple):
    """How far measured speeds of a class are from predicted ones.

    Attributes:
        low: measured over predicted, low end.
        high: high end.
        points: it rests on.
        machines: they are of.
        median: of the points.
        inside: share of the points that were inside, each predicted without its machine.
        runtimes: that ran them.
    """

    low: float
    high: float
    points: int
    machines: int
    median: float
    inside: float
    runtimes: tuple[str, ...]


def left_out(points: Sequence[Point]) -> list[Prediction]:
    """Predict every point with numbers that were fitted without its machine."""
    fitted = placed(points)
    found: dict[str, Prediction] = {}
    for box in dict.fromkeys(point.box for point in points):
        documents = documents_with(fit([point for point in fitted if point.box != box]))
        for point in points:
            if point.box == box:
                runtime = runtime_of(point.engine, point.flags)
                found[point.name] = predict(point, None if runtime is None else documents[runtime.name])
    return [found[point.name] for point in points]


def accuracies(predictions: Sequence[Prediction]) -> dict[str, Accuracy]:
    """Return the range of each class from predictions out of sample."""
    found: dict[str, Accuracy] = {}
    for setting in SETTINGS:
        mine = [one for one in predictions if one.point.setting == setting]
        if mine:
            found[setting] = _accuracy(mine)
    return found


def _accuracy(predictions: Sequence[Prediction]) -> Accuracy:
    residuals: dict[str, list[float]] = {}
    for one in predictions:
        residuals.setdefault(one.point.box, []).append(-math.log(one.ratio))
    means = np.array([np.mean(values) for values in residuals.values()])
    inner = np.concatenate([np.array(values) - np.mean(values) for values in residuals.values()])
    number = len(means)
    spread = math.hypot(float(means.std(ddof=1)) if number > 1 else MOST, float(inner.std()))
    half = _student(number - 1) * spread * math.sqrt(1 + 1 / number)
    half = min(max(half, LEAST), MOST)
    middle = float(means.mean())
    low, high = math.exp(middle - half), math.exp(middle + half)
    logs = [-math.log(one.ratio) for one in predictions]
    inside = float(np.mean([middle - half <= log <= middle + half for log in logs]))
    ran = {
        runtime.name for one in predictions if (runtime := runtime_of(one.point.engine, one.point.flags)) is not None
    }
    return Accuracy(low, high, len(predictions), number, math.exp(float(np.median(logs))), inside, tuple(sorted(ran)))


def _student(freedom: int) -> float:
    return next((value for known, value in T_90.items() if known >= freedom), 1.65) if freedom else T_90[1]


def as_toml(found: Mapping[str, Accuracy]) -> str:
    """Write accuracies as the document that the planner reads."""
    lines = [
        "# Measured over predicted tokens/s, by class of setting: written by",
        "#     python -m lrcsim.experiments.validation.published_speeds --accuracy FILE",
        "# from points each of which was predicted without its machine. low and high: 90 % of new machines are inside.",
    ]
    for setting, one in found.items():
        lines += [
            "",
            f"[{setting}]",
            f"low = {one.low:.3f}",
            f"high = {one.high:.3f}",
            f"points = {one.points}",
            f"machines = {one.machines}",
            f"median = {one.median:.3f}",
            f"inside = {one.inside:.2f}",
            f"runtimes = [{', '.join(map(repr, one.runtimes))}]".replace("'", '"'),
        ]
    return "\n".join(lines) + "\n"
