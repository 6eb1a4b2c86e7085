"""Rankings of a layer's experts to compare a learned predictor with, made of the same tokens it was fitted on.

A ranking is int [n, N]: for each token the experts to fetch, the likeliest first, -1 where there are no more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.prediction.sources import before
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.signedinteger[Any]]
Bools = npt.NDArray[np.bool_]


def top_ids(scores: Floats, number: int) -> npt.NDArray[np.int64]:
    """Return int64 [n, number], experts by descending score, of equals the smaller id first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :number]


def popularity(used: Floats, fit: Bools) -> Floats:
    """Return float64 [E], the share of the tokens fitted on that use each expert."""
    known = fit & used.any(axis=1)
    found: Floats = used[known].sum(axis=0) / max(int(known.sum()), 1)
    return found


def transition(earlier: Floats, used: Floats, fit: Bools, test: npt.NDArray[np.int64]) -> Floats:
    """Return scores [n, E] by what followed each expert of the earlier layer, as the prefetcher of that name has them.

    Score of e': the sum over the experts e used earlier of N[e, e'] / sum over e'' of N[e, e''], N counting tokens
    fitted on that used both; plus a millionth of the popularity, for ties.

    Args:
        earlier: float64 [tokens, E], 1 for each expert used in the earlier layer.
        used: the same in the layer.
        fit: bool [tokens].
        test: int64 [n], tokens.
    """
    counts = earlier[fit].T @ used[fit]
    totals = counts.sum(axis=1, keepdims=True)
    table = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    found: Floats = earlier[test] @ table + 1e-6 * popularity(used, fit)
    return found


def previous_token(trace: RoutingTrace, layer: int, popular: Floats, test: npt.NDArray[np.int64]) -> Floats:
    """Return scores [n, E]: the experts of the request's token before, by rank, then the most popular.

    Args:
        trace: the routing trace.
        layer: the layer.
        popular: float64 [E], of `popularity`.
        test: int64 [n], tokens.
    """
    found = np.tile(popular, (len(test), 1))  # 1 at most
    earlier = before(trace)[test]
    ids = np.where(earlier[:, None] >= 0, trace.experts[earlier, layer], -1)
    row, rank = np.nonzero(ids >= 0)
    found[row, ids[row, rank]] = 2.0 + ids.shape[1] - rank
    return found


def recorded(trace: RoutingTrace, layer: int, ahead: int, test: npt.NDArray[np.int64]) -> Ids:
    """Return what the layer's own gate said ``ahead`` layers before, as recorded, [n, p]."""
    found: Ids = trace.column(f"predictions/{ahead}")[test, layer]
    return found
