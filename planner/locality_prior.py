"""How local a model is, from published hit rates: a law over models, and what is known of the model itself.

LRU's misses at C of E experts are (1 - C / E) ** a. Over the models of `locality.toml`

    ln a = b0 + b1 [since 2025] + b2 ln(E / k) + b3 ln(C / k) + m + s

with m the model's own deviation and s that of a source (its prompts, its way to count). b are least squares in which
every model weighs the same, and every source of a model; m has a variance for models since 2025 and one for those
before, s one for all. A model of which n sources are known is given the line plus

    w (mean deviation of its sources),    w = V(m) / (V(m) + V(s) / n)

(the best linear unbiased prediction; Robinson, "That BLUP is a good thing", 1991); of one that is not known m is 0. The
range is four in five of what a further source would find: a normal deviate of 1.28 times the root of
V(m) (1 - w) + V(s) + V(points of one source). docs/plan.md says how far this is off for models left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from lrcsim.planner.published_locality import Counted, is_early, model_called, popularity, published

Floats = npt.NDArray[np.float64]

FOUR_IN_FIVE = 1.2816
"""Quantile of the normal distribution between which and its negative four in five lie."""

LEAST_BETWEEN = 0.1
"""Least standard deviation of ln a between models: few models cannot show that they are alike."""

POPULARITY_SOURCE = 0.15
"""Standard deviation of ln a between sources of one model's popularity. No model has two; this is what LRU's sources
have, rounded (`Law.source`)."""


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
    """Fit the law to the sources' exponents."""
    ordered = sorted(counted, key=lambda one: one.model)
    models = {model: list(sources) for model, sources in groupby(ordered, key=lambda one: one.model)}
    rows: list[Floats] = []
    values: list[Floats] = []
    weights: list[Floats] = []
    for one in ordered:
        early = is_early(one.model)
        rows.append(np.array([_features(early, one.experts, one.top_k, slots) for slots in one.slots]))
        values.append(np.log(one.exponents))
        weights.append(np.full(len(one.slots), (len(one.slots) * len(models[one.model])) ** -0.5))
    weight, found = np.concatenate(weights), np.concatenate(values)
    features = np.concatenate(rows)
    line = np.linalg.lstsq(features * weight[:, None], found * weight, rcond=None)[0]
    left = np.split(found - features @ line, np.cumsum([len(value) for value in values])[:-1])
    within = np.concatenate([part - part.mean() for part in left])
    means: dict[str, list[float]] = {model: [] for model in models}
    for one, part in zip(ordered, left, strict=True):
        means[one.model].append(float(part.mean()))
    source = _pooled([means[model] for model in models])
    between = {
        early: _between([means[model] for model in models if is_early(model) is early], source)
        for early in (False, True)
    }
    return Law(
        line=line,
        deviations={model: tuple(values) for model, values in means.items()},
        names={model: tuple(one.source for one in sources) for model, sources in models.items()},
        between=between,
        source=source,
        within=float(np.sqrt((within**2).sum() / max(len(within) - len(ordered), 1))),
    )


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


def _between(groups: Sequence[Sequence[float]], source: float) -> float:
    """Return the standard deviation of models: what their means vary beyond what sources do."""
    means = np.array([np.mean(group) for group in groups])
    noise = float(np.mean([source**2 / len(group) for group in groups])) if groups else 0.0
    varied = float((means**2).sum()) / max(len(means) - 1, 1) - noise
    return float(np.sqrt(max(varied, LEAST_BETWEEN**2)))
