"""Fit a few numbers of a machine to measured times.

The numbers are sought in the logarithm, from those of a base profile, by damped Gauss-Newton steps (Levenberg 1944,
Marquardt 1963) on

    sum over columns c and steps t of  huber((measured[c, t] - simulated[c, t]) / spread[c])
    + sum over numbers of  (log(number / base) / log 4)^2 / 2

* ``spread[c]`` is the noise of a column, estimated from its own residuals (1.48 x their median size, 0.1 % of the mean
  at least): clean columns count for more. Huber's function (1964) is quadratic up to 1.345 spreads and linear beyond:
  a few tokens in which the machine was busy with something else do not carry the fit.
* The second sum keeps a number near the base where the run does not determine it: a factor of four is one standard
  deviation. With wall time alone, time per miss on the link and in bookkeeping look nearly the same; this decides.

It is done twice, at first roughly and with the base held a thousand times more weakly: far from the truth everything
looks like noise, and a base held in full would not be left. Times are piecewise linear in 1/bandwidth and in overheads,
so some ten steps suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress
from lrcsim.calibration.from_run.numbers import OF_RUNTIME, Given, Setting, number, with_numbers
from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import IDEAL, Runtime

FloatArray = npt.NDArray[np.float64]
Loss = Literal["huber", "squares"]
Predict = Callable[[Given], Mapping[str, FloatArray]]
"""From a machine, alone or with its runtime, to what would be measured: float64 [steps] by column, in its unit."""


MOST = 3  # numbers fitted at once
PRIOR = math.log(4)
HUBER = 1.345
STEP = 1e-3  # of the logarithm, for derivatives
LONGEST = 1.5  # change of a logarithm in one iteration
WEAK = 1e-3  # how strongly the base is held at first
SMALLEST = 1e-3  # spread of a column, as a share of its mean
ROUNDS = 40
ROUGH = 3e-2
ENOUGH = 1e-3  # change of the logarithms after which nothing more is sought
GIVE_UP = 1e4  # damping at which a step is so short that the place is as good as any nearby
DIGITS = 5


@dataclass(frozen=True)
class Fitted:
    """One number.

    Attributes:
        value: in SI base units.
        base: where it started.
        spread: standard deviation of its logarithm, so of its relative error.
        determined: whether the run says more of it than the base did.
    """

    value: float
    base: float
    spread: float

    @property
    def determined(self) -> bool:
        """Whether the run narrows it to less than half of what was assumed beforehand."""
        return self.spread < PRIOR / 2


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes:
        profile: the base with the numbers in place, rounded to 5 digits.
        runtime: the runtime likewise.
        numbers: by path.
        residual: by column, the mean absolute residual over the mean measured value.
        score: minus the logarithm of the posterior density, up to a constant: what is minimised, and the logarithms of
            the columns' spreads; the lower the better.
        evaluations: how often the machine was simulated.
    """

    profile: HardwareProfile
    numbers: dict[str, Fitted]
    residual: dict[str, float]
    score: float
    evaluations: int
    runtime: Runtime = IDEAL


def fit_numbers(
    predict: Predict[Given],
    base: Given,
    paths: Sequence[str],
    measured: Mapping[str, FloatArray],
    loss: Loss = "huber",
) -> Fit:
    """Fit the numbers at some paths; see the module's docstring for what is minimised.

    Args:
        predict: simulates the measured steps on a machine; it must give the columns of ``measured``.
        base: the machine to start from, alone or with its runtime.
        paths: up to three of `FITTABLE`.
        measured: float64 [steps] by column, no column all 0.
        loss: ``"huber"``, or ``"squares"``: least squares, which answers for the mean, disturbed tokens and all.

    Raises:
        ConfigError: too many paths, one twice, one unknown, or one that is 0 in the base.
    """
    problem = _Problem(predict, base, paths, measured, loss)
    logs = np.zeros(len(paths))
    for hold, enough in ((WEAK, ROUGH), (1.0, ENOUGH)):
        logs, curvature = problem.descend(logs, hold, enough)
    values = [float(f"{value:.{DIGITS}g}") for value in problem.start * np.exp(logs)]
    logs = np.log(values / problem.start)
    residual = problem.residual(logs)
    spread, mean = problem.spreads(residual), problem.mean
    errors = np.sqrt(np.diag(np.linalg.inv(curvature))).tolist()
    found = problem.at(logs)
    profile, runtime = (found.profile, found.runtime) if isinstance(found, Setting) else (found, IDEAL)
    return Fit(
        profile=profile,
        numbers={path: Fitted(*row) for path, *row in zip(paths, values, problem.start.tolist(), errors, strict=True)},
        residual=dict(zip(measured, (np.abs(residual).mean(axis=1) / mean[:, 0]).tolist(), strict=True)),
        score=problem.objective(residual, spread, logs) + residual.shape[1] * float(np.log(spread / mean).sum()),
        evaluations=problem.evaluations,
        runtime=runtime,
    )


class _Problem(Generic[Given]):
    """What is minimised, over the logarithms of numbers relative to the base, float64 [numbers].

    Residuals are float64 [columns, steps] in the unit of the measurement, spreads [columns, 1].
    """

    def __init__(
        self,
        predict: Predict[Given],
        base: Given,
        paths: Sequence[str],
        measured: Mapping[str, FloatArray],
        loss: Loss,
    ) -> None:
        self.predict: Predict[Given] = predict
        self.base: Given = base
        self.paths, self.loss = paths, loss
        self.start = _start(base, paths)
        self.columns = list(measured)
        self.target = np.stack([measured[name] for name in self.columns])
        self.mean = self.target.mean(axis=1, keepdims=True)
        self.bend = HUBER if loss == "huber" else math.inf
        self.evaluations = 0

    def at(self, logs: FloatArray) -> Given:
        return with_numbers(self.base, dict(zip(self.paths, (self.start * np.exp(logs)).tolist(), strict=True)))

    def residual(self, logs: FloatArray) -> FloatArray:
        self.evaluations += 1
        found = self.predict(self.at(logs))
        return self.target - np.stack([found[name] for name in self.columns])

    def spreads(self, residual: FloatArray) -> FloatArray:
        if self.loss == "squares":
            typical = np.sqrt((residual**2).mean(axis=1, keepdims=True))
        else:
            typical = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True)
        spread: FloatArray = np.maximum(typical, SMALLEST * self.mean)
        return spread

    def objective(self, residual: FloatArray, spread: FloatArray, logs: FloatArray, hold: float = 1.0) -> float:
        far, bend = np.abs(residual / spread), self.bend
        size = far**2 / 2 if bend == math.inf else np.where(far <= bend, far**2 / 2, bend * far - bend**2 / 2)
        return float(size.sum() + hold * (logs**2).sum() / (2 * PRIOR**2))

    def descend(self, logs: FloatArray, hold: float, enough: float) -> tuple[FloatArray, FloatArray]:
        """Go downhill with the base held so strongly; return where it ends, and the curvature there."""
        unit = np.eye(len(logs))
        damping, prior = 1e-3, hold / PRIOR**2
        residual = self.residual(logs)
        for _ in range(ROUNDS):
            spread = self.spreads(residual)
            slopes = np.stack([(residual - self.residual(logs + STEP * one)).ravel() / STEP for one in unit], axis=1)
            weight = np.minimum(1.0, self.bend / np.maximum(np.abs(residual / spread), 1e-12)) / spread**2
            curvature = slopes.T @ (weight.reshape(-1, 1) * slopes) + prior * unit
            downhill = slopes.T @ (weight * residual).ravel() - prior * logs
            now, moved = self.objective(residual, spread, logs, hold), 0.0
            while damping < GIVE_UP:
                change = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill)
                change *= min(1.0, LONGEST / max(float(np.abs(change).max()), LONGEST))
                tried = self.residual(logs + change)
                if self.objective(tried, spread, logs + change, hold) < now:
                    logs, residual, moved = logs + change, tried, float(np.abs(change).max())
                    damping /= 30
                    break
                damping *= 30
            if moved < enough:
                break
        return logs, curvature


def fit_best(
    predict: Predict[Given],
    base: Given,
    candidates: Sequence[Sequence[str]],
    measured: Mapping[str, FloatArray],
    loss: Loss = "huber",
    progress: Progress | None = None,
) -> list[tuple[tuple[str, ...], Fit]]:
    """Fit each of several choices of numbers, and return them with their fits, the best of the measured steps first.

    They are compared by the logarithm of their posterior (`Fit.score`), ties to the earlier choice.
    """
    found = []
    for done, paths in enumerate(candidates, start=1):
        found.append((tuple(paths), fit_numbers(predict, base, paths, measured, loss)))
        if progress is not None:
            progress(done, len(candidates))
    return sorted(found, key=lambda pair: pair[1].score)


def _start(base: HardwareProfile | Setting, paths: Sequence[str]) -> FloatArray:
    if not 1 <= len(paths) <= MOST or len(set(paths)) != len(paths):
        raise ConfigError(f"fit {','.join(paths)!r}: name one to {MOST} different numbers")
    start = np.array([number(base, path) for path in paths])
    for path, value in zip(paths, start, strict=True):
        if value <= 0:
            raise ConfigError(
                f"{path!r} is 0 in {_owner(base, path)}: a fit needs a start above 0, give one "
                + ("in its file" if path.startswith(OF_RUNTIME) else "with --set")
            )
    return start


def _owner(base: HardwareProfile | Setting, path: str) -> str:
    if isinstance(base, HardwareProfile):
        return f"hardware {base.name}"
    return f"runtime {base.runtime.name}" if path.startswith(OF_RUNTIME) else f"hardware {base.profile.name}"
