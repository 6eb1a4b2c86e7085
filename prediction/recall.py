"""How much of what a layer used stood among the experts fetched for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.metrics.bootstrap import basic_interval, resamples

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.signedinteger[Any]]


def hits(ranking: Ids, ids: Ids, number: int) -> npt.NDArray[np.bool_]:
    """Say which of the experts used stand among the first ``number`` of a ranking, bool [n, k].

    Args:
        ranking: int [n, p], the likeliest first, -1 where there are no more.
        ids: int [n, k], the experts used, -1 where none is recorded.
        number: how many are fetched.
    """
    found = (ids[:, :, None] == ranking[:, None, :number]).any(axis=2)
    return np.asarray(found & (ids >= 0), np.bool_)


@dataclass
class Recall:
    """Sums of a predictor over the layers predicted, at one number of experts fetched.

    Attributes:
        name: of the predictor.
        fetched: experts fetched for each layer at most.
        requests: held-out requests.
        found: float64 [requests], experts used that were fetched.
        used: float64 [requests], experts used.
        mass_found: float64 [requests], their router weight; stays 0 in a trace without weights.
        mass_used: float64 [requests].
        useful_bytes: of the experts fetched that were used, of all tokens counted.
        fetched_bytes: of all experts fetched.
        by_layer: layer -> (found, used).
    """

    name: str
    fetched: int
    requests: int
    found: Floats = field(init=False)
    used: Floats = field(init=False)
    mass_found: Floats = field(init=False)
    mass_used: Floats = field(init=False)
    useful_bytes: int = 0
    fetched_bytes: int = 0
    by_layer: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.found, self.used, self.mass_found, self.mass_used = np.zeros((4, self.requests))

    def add(
        self,
        layer: int,
        ranking: Ids,
        ids: Ids,
        request_of: npt.NDArray[np.int64],
        *,
        weights: npt.NDArray[np.floating[Any]] | None = None,
        size: int = 0,
    ) -> None:
        """Count a layer; tokens of which no expert of it is recorded are left out, and nothing is fetched for them.

        Args:
            layer: its number.
            ranking: int [n, p].
            ids: int [n, k].
            request_of: int64 [n].
            weights: float [n, k].
            size: bytes of one of its experts.
        """
        ran = (ids >= 0).any(axis=1)
        ranking, ids, request_of = ranking[ran], ids[ran], request_of[ran]
        there, found = ids >= 0, hits(ranking, ids, self.fetched)

        def by_request(values: npt.NDArray[Any]) -> Floats:
            sums: Floats = np.bincount(request_of, values.sum(axis=1, dtype=np.float64), self.requests).astype(
                np.float64
            )
            return sums

        self.found += by_request(found)
        self.used += by_request(there)
        if weights is not None:
            shares = np.where(there, weights[ran], 0.0)
            self.mass_found += by_request(np.where(found, shares, 0.0))
            self.mass_used += by_request(shares)
        self.useful_bytes += int(found.sum()) * size
        self.fetched_bytes += int((ranking[:, : self.fetched] >= 0).sum()) * size
        self.by_layer[layer] = int(found.sum()), int(there.sum())

    @property
    def recall(self) -> float | None:
        """Experts used that were fetched, over experts used; None without any."""
        return _ratio(self.found.sum(), self.used.sum())

    @property
    def mass_recall(self) -> float | None:
        """The same by router weight; None without weights."""
        return _ratio(self.mass_found.sum(), self.mass_used.sum())

    def interval(self, draws: int, confidence: float, seed: int) -> tuple[float, float] | None:
        """Return the basic bootstrap interval of recall over requests; None of fewer than two, or without draws."""
        if self.requests < 2 or not draws or self.recall is None:
            return None
        drawn = resamples(self.requests, draws, seed).astype(np.float64)
        used = drawn @ self.used
        rates = np.divide(drawn @ self.found, used, out=np.full(draws, np.nan), where=used > 0)
        return basic_interval(self.recall, rates, confidence)


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
