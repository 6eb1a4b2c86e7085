"""Fit a machine to the first tokens of a measured run, predict the others, and say how close that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress, part_of
from lrcsim.calibration.from_run.choices import choices_of
from lrcsim.calibration.from_run.faults import fault_note, faulting_steps
from lrcsim.calibration.from_run.fit import Fit, Loss, fit_best
from lrcsim.calibration.from_run.measured import TIMES, MeasuredRun
from lrcsim.calibration.from_run.numbers import Setting
from lrcsim.calibration.from_run.rerun import Rerun, StepTimes
from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import IDEAL, Runtime

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DISTURBED = 1.10
"""A token whose compute takes more than this times the median of the fitted tokens was disturbed: every token computes
the same number of experts, so by the model all take the same. Measured tokens of a machine left alone differ by 2.5 %
(the shared phone run: 1.48 times the median distance from the median), so this is four times that; when the phone's
clock fell from 2.19 to 1.90 GHz on the way, compute rose by 15 %."""
CLOSE = 2.0  # difference of two scores below which a run does not tell the choices apart (a likelihood ratio of 7)
FEWEST = 4  # tokens for three numbers
SPARE = 2  # rows by which a measurement may be longer or shorter than the trace


@dataclass(frozen=True)
class Agreement:
    """How close predicted times are to measured ones.

    Attributes:
        steps: compared.
        total_error: (predicted - measured) / measured, of the sum.
        mean_error: mean |predicted - measured| per step, over the mean measured.
        relative_error: mean of |predicted - measured| / measured per step.
    """

    steps: int
    total_error: float
    mean_error: float
    relative_error: float


@dataclass(frozen=True)
class Choice:
    """One way the fit was tried: with or without overlap, and which numbers."""

    overlap: bool
    paths: tuple[str, ...]
    fit: Fit


@dataclass
class Calibration:
    """A fitted machine and its test.

    Attributes:
        best: the choice that describes the fitted tokens best.
        tried: all choices, best first.
        fitted: decode steps that were fitted; the others are held out.
        columns: columns of times that were fitted.
        measured: float64 [steps] by role, aligned to the steps of the trace: seconds, bytes.
        predicted: times of all steps on the fitted machine.
        given_compute: the same with each step's compute as measured, where that is known.
        faulting: bool [steps], page faults took a share of the time that counts (`faulting_steps`).
        disturbed: bool [steps], measured compute far above that of the fitted steps, or page faults; None where neither
            is known.
        misses: int64 [steps], loads that the simulation predicts.
        agreement: by what is compared: ``fitted``; of the held-out steps ``held_out``, ``undisturbed``,
            ``given_compute``, the parts ``compute``, ``stall``, ``overhead``; the baselines ``mean`` and ``linear``.
        bytes: what was loaded, see `compare_bytes`.
        notes: what the reader should know.
    """

    best: Choice
    tried: list[Choice]
    fitted: int
    columns: tuple[str, ...]
    measured: dict[str, FloatArray]
    predicted: StepTimes
    given_compute: StepTimes | None
    faulting: npt.NDArray[np.bool_]
    disturbed: npt.NDArray[np.bool_] | None
    misses: IntArray
    agreement: dict[str, Agreement]
    bytes: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def agreement(predicted: FloatArray, measured: FloatArray) -> Agreement:
    """Compare predicted times with measured ones, float64 [steps] each, the measured not all 0."""
    off = np.abs(predicted - measured)
    relative = off[measured > 0] / measured[measured > 0]
    return Agreement(
        len(measured),
        float(predicted.sum() / measured.sum() - 1),
        float(off.mean() / measured.mean()),
        float(relative.mean()),
    )


def calibrate(
    rerun: Rerun,
    run: MeasuredRun,
    base: HardwareProfile,
    *,
    runtime: Runtime = IDEAL,
    fit_tokens: int = 32,
    paths: Sequence[str] | None = None,
    overlap: bool | None = None,
    loss: Loss = "huber",
    progress: Progress | None = None,
) -> Calibration:
    """Fit up to three numbers of a machine to the first decoded tokens of a run, and predict the others.

    Nothing of the held-out tokens reaches the fit: neither the numbers, nor the choice of numbers and of overlap.

    Args:
        rerun: the run's own trace, through the cache that the engine had.
        run: what was measured.
        base: the machine to start from; its parts must be those of the real one.
        runtime: what ran the model, with the numbers to start from.
        fit_tokens: how many tokens are fitted, those with page faults among them left out.
        paths: the numbers to fit (`FITTABLE`, `FITTABLE_OF_RUNTIMES`); None: as `choices_of` has them, of several the
            choice that describes the fitted tokens best.
        overlap: whether transfers run beside compute; None: as the runtime says, and under ``ideal``, which stands for
            an engine of which nothing is known, what describes the fitted tokens better.
        loss: see `fit_numbers`.
        progress: told the fits done, of all.

    Raises:
        ConfigError: the run is not this trace's, the numbers cannot be fitted, or page faults leave too few tokens.
    """
    if fit_tokens < FEWEST:
        raise ConfigError(f"{fit_tokens} tokens to fit are too few for three numbers: give at least {FEWEST}")
    steps, measured, notes = _align(rerun, run)
    count = len(measured["wall"])
    if fit_tokens > count:
        raise ConfigError(f"{fit_tokens} tokens to fit, but the run has {count}: give at most {count}")
    columns, more = _columns(measured, fit_tokens)
    window = slice(steps.start, steps.start + fit_tokens)
    faulting = faulting_steps(measured)
    calm = np.flatnonzero(~faulting[:fit_tokens])
    if len(calm) < FEWEST:
        raise ConfigError(
            f"{run.name}: {fit_tokens - len(calm)} of the {fit_tokens} tokens to fit have page faults: memory is too "
            "small for what the run keeps, which no fit describes; run with a smaller cache, or give more --fit-tokens"
        )
    tried = []
    start = Setting(base, runtime)
    choices = choices_of(start) if paths is None else [tuple(paths)]
    either: tuple[bool, ...] = (True, False)
    if overlap is not None or runtime.name != IDEAL.name:  # a runtime says it; ideal stands for an unknown one
        either = (overlap is not False and runtime.loads.overlap != "none",)
    for done, beside in enumerate(either):

        def predict(tried: Setting, beside: bool = beside) -> dict[str, FloatArray]:
            times = rerun.times(tried.profile, window, runtime=tried.runtime, overlap=beside)
            return {name: times.column(name)[calm] for name in columns}

        part = part_of(progress, done, len(either))
        wanted = {c: measured[c][calm] for c in columns}
        found = fit_best(predict, start, choices, wanted, loss, part)
        tried += [Choice(beside, chosen, fit) for chosen, fit in found]
    tried.sort(key=lambda choice: choice.fit.score)
    best = tried[0]
    notes += more + _doubts(tried, overlap)
    machine = best.fit.profile
    predicted = rerun.times(machine, steps, runtime=best.fit.runtime, overlap=best.overlap)
    compute = measured.get("compute")
    known = compute is not None and "compute" in columns
    given = None
    disturbed = faulting if faulting.any() else None
    if compute is not None and known:
        given = rerun.times(machine, steps, runtime=best.fit.runtime, overlap=best.overlap, compute=compute)
        disturbed = faulting | (compute > DISTURBED * np.median(compute[calm]))
        notes += _drift(compute, disturbed, fit_tokens)
    notes += fault_note(measured, predicted.wall, faulting)
    misses = rerun.misses[steps]
    return Calibration(
        best,
        tried,
        fit_tokens,
        columns,
        measured,
        predicted,
        given,
        faulting,
        disturbed,
        misses,
        _compare(measured, predicted, given, disturbed, misses, columns, fit_tokens),
        compare_bytes(rerun, steps, measured.get("bytes"), fit_tokens),
        notes,
    )


def compare_bytes(rerun: Rerun, steps: slice, measured: FloatArray | None, fitted: int) -> dict[str, Any]:
    """Compare loaded bytes: simulated, as the trace recorded them, and as measured.

    Engines read whole pages or sectors, so what they count is more by about the same for every expert: the median over
    the fitted steps is given as ``extra_per_load`` and taken off.

    Returns:
        ``simulated``: of the held-out steps (all where none are), ``recorded_exact_steps`` and ``steps``: of all;
        ``measured``, ``error`` (relative), ``extra_per_load``, ``exact_steps`` (equal once the extra is taken off) and
        ``error_without_extra``. None where the trace or the measurement does not say.
    """
    simulated, misses = rerun.bytes[steps], rerun.misses[steps]
    held = slice(fitted, None) if len(simulated) > fitted else slice(None)
    recorded = rerun.recorded_bytes
    found: dict[str, Any] = {
        "simulated": int(simulated[held].sum()),
        "steps": len(simulated),
        "recorded_exact_steps": None if recorded is None else int((recorded[steps] == simulated).sum()),
        "measured": None,
        "error": None,
        "extra_per_load": None,
        "exact_steps": None,
        "error_without_extra": None,
    }
    if measured is not None and measured[held].sum() > 0:
        loading = misses[:fitted] > 0
        extra = (measured - simulated)[:fitted][loading] / misses[:fitted][loading]
        typical = round(float(np.median(extra))) if loading.any() else 0
        total = float(measured[held].sum())
        adjusted = simulated + typical * misses
        found |= {
            "measured": int(total),
            "error": float(simulated[held].sum() / total - 1),
            "extra_per_load": typical,
            "exact_steps": int((adjusted == measured).sum()),
            "error_without_extra": float(adjusted[held].sum() / total - 1),
        }
    return found


def _compare(
    measured: dict[str, FloatArray],
    predicted: StepTimes,
    given: StepTimes | None,
    disturbed: npt.NDArray[np.bool_] | None,
    misses: IntArray,
    columns: Sequence[str],
    fitted: int,
) -> dict[str, Agreement]:
    wall = measured["wall"]
    found = {"fitted": agreement(predicted.wall[:fitted], wall[:fitted])}
    held = np.arange(len(wall)) >= fitted
    if not held.any():
        return found
    found["held_out"] = agreement(predicted.wall[held], wall[held])
    if disturbed is not None and (held & ~disturbed).any():
        calm = held & ~disturbed
        found["undisturbed"] = agreement(predicted.wall[calm], wall[calm])
    if given is not None:
        found["given_compute"] = agreement(given.wall[held], wall[held])
    for part in columns[1:]:
        if measured[part][held].any():
            times = given if given is not None and part != "compute" else predicted
            found[part] = agreement(times.column(part)[held], measured[part][held])
    found["mean"] = agreement(np.full(len(wall), wall[:fitted].mean())[held], wall[held])
    line = np.stack([misses.astype(float), np.ones(len(wall))], axis=1)
    slope = np.linalg.lstsq(line[:fitted], wall[:fitted], rcond=None)[0]
    found["linear"] = agreement((line @ slope)[held], wall[held])
    return found


def _align(rerun: Rerun, run: MeasuredRun) -> tuple[slice, dict[str, FloatArray], list[str]]:
    """Return which decode steps of the trace were measured, the measurements of these, and what to say about it."""
    rows, steps = run.steps, rerun.steps
    if rows == steps:
        return slice(0, steps), run.values, []
    if abs(rows - steps) > SPARE:
        raise ConfigError(
            f"{run.name} has {rows} decode rows, the trace {steps} decode steps: give the trace of the same run, or "
            "name the column that tells prefill from decode (--column phase=NAME)"
        )
    both = min(rows, steps)
    like = run.values.get("bytes", run.values["wall"])
    shift = max(range(abs(rows - steps) + 1), key=lambda by: _alike(like, rerun.bytes, by, both))
    row, step = (shift, 0) if rows > steps else (0, shift)
    note = (
        f"{run.name} has {rows} decode rows, the trace {steps} decode steps: row {row + 1} is taken for step {step + 1}"
    )
    return slice(step, step + both), {name: values[row : row + both] for name, values in run.values.items()}, [note]


def _alike(rows: FloatArray, simulated: IntArray, shift: int, both: int) -> float:
    """Return the correlation of what was measured with simulated bytes, the longer of the two shifted."""
    longer, other = (rows, simulated) if len(rows) > len(simulated) else (simulated, rows)
    pair = np.array([longer[shift : shift + both], other[:both]], float)
    return float(np.corrcoef(pair)[0, 1]) if (pair.std(axis=1) > 0).all() else 0.0


def _columns(measured: dict[str, FloatArray], fitted: int) -> tuple[tuple[str, ...], list[str]]:
    """Choose the columns to fit: the wall time, and its parts where they are parts of it."""
    wall = measured["wall"]
    parts = [name for name in TIMES[1:] if name in measured and measured[name][:fitted].any()]
    share = sum(measured[name][:fitted].sum() for name in parts) / wall[:fitted].sum()
    whole = len(parts) == len(TIMES) - 1
    if share > 1.05 or (whole and share < 0.95):
        note = f"{', '.join(parts)} add up to {share:.0%} of the wall time, so they are no parts of it: not fitted"
        return ("wall",), [note]
    return ("wall", *parts), []


def _drift(compute: FloatArray, disturbed: npt.NDArray[np.bool_], fitted: int) -> list[str]:
    """Say so when the machine changed after the fitted tokens: nothing in the routing foretells that."""
    before, after = compute[:fitted].mean(), compute[fitted:]
    if not len(after) or abs(after.mean() / before - 1) < 0.05:
        return []
    return [
        f"compute took {after.mean() / before - 1:+.0%} in the held-out tokens against the fitted "
        f"({int(disturbed[fitted:].sum())} of {len(after)} above {DISTURBED:.2f} times their median): the machine "
        "itself changed, which no routing foretells"
    ]


def _doubts(tried: Sequence[Choice], overlap: bool | None) -> list[str]:
    best = tried[0]
    notes = []
    for path, value in best.fit.numbers.items():
        if not value.determined:
            notes.append(f"the run hardly determines {path}: it stays near the base")
    others = [choice for choice in tried if choice.overlap != best.overlap]
    if overlap is None and others and others[0].fit.score - best.fit.score < CLOSE:
        notes.append("the fitted tokens do not tell whether transfers overlap compute")
    return notes
