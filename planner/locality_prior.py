"""How local a model is, from published hit rates: a law over models, and what is known of the model itself.

LRU's misses at C of E experts are (1 - C / E) ** a. Over the models of `locality.toml`

    ln a = b0 + b1 [since 2025] + b2 ln(E / k) + b3 ln(C / k) + m + s

with m the model's own deviation and s that of a source (its prompts, its way to count). b are least squares in which
every model weighs the same, and every source of a model; m has a variance for models since 2025 and one for those
before, that of models left out of the fit, s one for all. A model of which n sources are known is given the line plus

    w (mean deviation of its sources),    w = V(m) / (V(m) + V(s) / n)

(the best linear unbiased prediction; Robinson, "That BLUP is a good thing", 1991); of one that is not known m is 0. The
range is four in five of what a further source would find: a normal deviate of 1.28 times the root of
V(m) (1 - w) + V(s) + V(points of one source). docs/plan.md says how far this is off for models left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from lrcsim.planner.published_locality import Counted, is_early, model_called, popularity, published

Floats = npt.NDArray[np.float64]

FOUR_IN_FIVE = 1.2816
"""Quantile of the normal distribution between which and its negative four in five lie."""

LEAST_BETWEEN = 0.1
"""Least standard deviation of ln a between models: few models cannot show that they are alike."""

POPULARITY_SOURCE = 0.1
"""Standard deviation of ln a between sources of one model's popularity. No model has two; ranked by one, three and
eight prompts (github.com/kekzl/imp pull request 1358) it is 0.07, between the nine question sets of the gpt-oss-20b
trace, at a quarter of the experts, 0.13."""


@dataclass(frozen=True)
class Exponent:
    """a at every capacity, and its range.

    Attributes:
        at_active: ln a where C = k, and below.
        slope: of ln a over ln(C / k) above.
        factor: four in five are within a / factor and a x factor.
        sources: what is known of the model itself; empty: it is the law's.
    """

    at_active: float
    slope: float
    factor: float
    sources: tuple[str, ...]

    def at(self, slots: Floats, top_k: int) -> Floats:
        """Return a at ``slots`` of a model with ``top_k`` experts per token, float64 [n]."""
        found: Floats = np.exp(self.at_active + self.slope * np.log(np.maximum(slots / top_k, 1.0)))
        return found


@dataclass(frozen=True)
class Law:
    """The line over models, and the deviations from it.

    Attributes:
        line: float64 [4], b.
        deviations: by model, those of its sources.
        names: by model, its sources.
        between: standard deviation of m, by whether the model is early.
        source: of s.
        within: of the points of one source.
    """

    line: Floats
    deviations: dict[str, tuple[float, ...]]
    names: dict[str, tuple[str, ...]]
    between: dict[bool, float]
    source: float
    within: float

    def exponent(self, model: str, experts: int, top_k: int) -> Exponent:
        """Return a of a model of E experts and k per token; ``model`` is its name, also a longer one."""
        model, early = model_called(model), is_early(model)
        at_active = float(self.line[:3] @ _features(early, experts, top_k, float(top_k))[:3])
        own = self.deviations.get(model, ())
        share = _share(self.between[early], self.source, len(own))
        at_active += share * float(np.mean(own)) if own else 0.0
        spread = np.sqrt(self.between[early] ** 2 * (1 - share) + self.source**2 + self.within**2)
        factor = float(np.exp(FOUR_IN_FIVE * spread))
        return Exponent(at_active, float(self.line[3]), factor, self.names.get(model, ()))


def fit_law(counted: Sequence[Counted]) -> Law:
    """Fit the law to the sources' exponents.

    The standard deviation between models is that of the models' deviations from lines fitted without them, beyond what
    their sources' would be: it has the line's own uncertainty in it.
    """
    line = _line(counted)
    models = sorted({one.model for one in counted})
    sources = {model: [one for one in counted if one.model == model] for model in models}
    deviations = {model: tuple(float(_left(one, line).mean()) for one in sources[model]) for model in models}
    source = _pooled(list(deviations.values()))
    unseen: dict[bool, list[float]] = {False: [], True: []}
    for model in models:
        other = _line([one for one in counted if one.model != model])
        mean = float(np.mean([_left(one, other).mean() for one in sources[model]]))
        unseen[is_early(model)].append(mean**2 - source**2 / len(sources[model]))
    within = [part - part.mean() for part in (_left(one, line) for one in counted)]
    free = sum(len(part) - 1 for part in within)
    return Law(
        line=line,
        deviations=deviations,
        names={model: tuple(one.source for one in sources[model]) for model in models},
        between={early: _root(squares) for early, squares in unseen.items()},
        source=source,
        within=float(np.sqrt(sum(float((part**2).sum()) for part in within) / max(free, 1))),
    )


def _line(counted: Sequence[Counted]) -> Floats:
    """Return b, float64 [4]: least squares in which every model weighs the same, and every source of a model."""
    sources = Counter(one.model for one in counted)
    rows = np.concatenate([_rows(one) for one in counted])
    values = np.concatenate([np.log(one.exponents) for one in counted])
    weight = np.concatenate([np.full(len(one.slots), (len(one.slots) * sources[one.model]) ** -0.5) for one in counted])
    found: Floats = np.linalg.lstsq(rows * weight[:, None], values * weight, rcond=None)[0]
    return found


def _rows(one: Counted) -> Floats:
    early = is_early(one.model)
    return np.array([_features(early, one.experts, one.top_k, slots) for slots in one.slots])


def _left(one: Counted, line: Floats) -> Floats:
    """Return what of ln a is above the line, float64 [n]."""
    above: Floats = np.log(one.exponents) - _rows(one) @ line
    return above


@cache
def published_law() -> Law:
    """Return the law of the published hit rates."""
    return fit_law(published())


def popularity_exponent(model: str, counted: Sequence[Counted] | None = None) -> Exponent:
    """Return a of popular experts, the same at all capacities: a mean over models, and the model's own.

    Args:
        model: name.
        counted: what to take it from; None: the published shares.
    """
    given = popularity() if counted is None else counted
    found = {one.model: float(np.log(one.exponents).mean()) for one in given}
    central = float(np.mean(list(found.values())))
    spread = max(float(np.std(list(found.values()), ddof=1)), LEAST_BETWEEN)
    between = np.sqrt(max(spread**2 - POPULARITY_SOURCE**2, LEAST_BETWEEN**2))
    own = model_called(model)
    share = _share(between, POPULARITY_SOURCE, int(own in found))
    central += share * (found.get(own, central) - central)
    factor = float(np.exp(FOUR_IN_FIVE * np.sqrt(between**2 * (1 - share) + POPULARITY_SOURCE**2)))
    return Exponent(central, 0.0, factor, tuple(one.source for one in given if one.model == own))


def _features(early: bool, experts: int, top_k: int, slots: float) -> Floats:
    return np.array([1.0, float(not early), np.log(experts / top_k), np.log(max(slots / top_k, 1.0))])


def _share(between: float, source: float, count: int) -> float:
    return between**2 / (between**2 + source**2 / count) if count else 0.0


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation inside groups of two and more."""
    several = [np.array(group) for group in groups if len(group) > 1]
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in several)
    return float(np.sqrt(squares / max(sum(len(group) - 1 for group in several), 1)))


def _root(squares: Sequence[float]) -> float:
    """Return the root of a mean of squares, `LEAST_BETWEEN` at least."""
    return float(np.sqrt(max(float(np.mean(squares)) if squares else 0.0, LEAST_BETWEEN**2)))
