"""What a report on a routing trace should say before anybody believes a hit rate on it.

The parts follow the checklist of arXiv 2608.07911, section 10 (groups B, workload, and C, regime), as far as a trace
alone answers it; docs/traces.md says which item stands where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.simulator.metrics.reuse import FARTHEST, Reuse, reuse
from lrcsim.simulator.metrics.working_set import BatchUnion, Sizes, batch_unions, whole_sets, working_sets
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.duplicates import Repeats, repeats

BATCHES = (1, 2, 4, 8, 16, 32)
"""Requests that decode together."""

WINDOWS = (4, 16, 64, 256, 1024)
"""Tokens of a request one after the other."""

CAPACITIES = (1.0, 2.0, 4.0)
"""Caches that sizes are held against, times the experts active per token."""

HELD = 1 << 28
"""Bytes of expert ids, at 4 each, that are read once and held; of more, every pass reads them again."""

PERCENTILES = (50, 90, 99)

CONFIDENCE_STEPS = 1000
"""Shares of router weight are counted in so many classes: 0.001 wide."""


@dataclass(frozen=True)
class Confidence:
    """How much of a token's router weight, over its k experts of a layer, the first choice has.

    Attributes:
        counted: int64 [1001], (token, layer) pairs by that share, rounded to 0.001; those with all k experts recorded,
            and weights of 0 or more that are not all 0.
        left_out: pairs with an expert recorded that are not so.
        even: 1/k, the share with equal weights, the mean over the pairs.
    """

    counted: npt.NDArray[np.int64]
    left_out: int
    even: float | None

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; shares are None without pairs."""
        total = int(self.counted.sum())
        share = np.arange(len(self.counted)) / CONFIDENCE_STEPS
        found = np.searchsorted(np.cumsum(self.counted), np.array([0.1, 0.5, 0.9]) * total - 1e-9)
        return {
            "pairs": total,
            "left_out": self.left_out,
            "even": self.even,
            "first_share": float(self.counted @ share / total) if total else None,
            **{f"p{q}": float(share[at]) if total else None for q, at in zip((10, 50, 90), found, strict=True)},
        }


@dataclass(frozen=True)
class TraceReport:
    """What `report_on` found.

    Attributes:
        batches: unions of B requests, for those of `BATCHES` that the trace has.
        windows: tokens and sizes of working sets, for those of `WINDOWS` that fit into a request.
        of_requests: experts of a layer that a request uses.
        of_trace: experts of a layer that the trace uses.
        reuse: distances between uses.
        repeats: prompts that come twice.
        position_locked: whether all requests have the same number of decoded tokens (and of prompt tokens), so that in
            a batch each is at the same place; None for fewer than two requests.
        confidence: of the router; None where the trace has no weights.
    """

    batches: list[BatchUnion]
    windows: list[tuple[int, Sizes]]
    of_requests: Sizes
    of_trace: Sizes
    reuse: Reuse
    repeats: Repeats
    position_locked: bool | None
    confidence: Confidence | None

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        sets = [(str(length), sizes) for length, sizes in self.windows]
        sets += [("request", self.of_requests), ("trace", self.of_trace)]
        return {
            "batches": [
                {"batch": one.batch, **_sizes(one.sizes), "picks": one.picks, "even": one.even} for one in self.batches
            ],
            "working_sets": [{"tokens": name, **_sizes(sizes)} for name, sizes in sets if sizes.number],
            "reuse": {
                "accesses": self.reuse.accesses,
                "cold": self.reuse.cold,
                "cold_share": self.reuse.cold_share,
                "lru_slots": {f"p{q}": self.reuse.slots_at(q / 100) for q in PERCENTILES},
                "tokens": {f"p{q}": self.reuse.tokens_at(q / 100) for q in PERCENTILES},
                "tokens_up_to": FARTHEST,
            },
            "repeats": self.repeats.to_dict(),
            "position_locked": self.position_locked,
            "confidence": None if self.confidence is None else self.confidence.to_dict(),
        }

    def warnings(self) -> list[str]:
        """Return what a reader should know before using the trace as a test, each one sentence."""
        found = []
        told = self.repeats
        if told.duplicates:
            found.append(
                f"{told.duplicates:,} of {told.requests:,} {told.compared} are the same as an earlier one "
                f"(by {told.by}): a cache is tested on what it has seen; leave them out, or say so"
            )
        if told.tokens and 2 * told.repeated >= told.tokens and not told.duplicates:
            found.append(
                f"{told.repeated / told.tokens:.0%} of the tokens of the {told.compared} are in beginnings that an "
                "earlier one has too: one template for many prompts makes routing look local"
            )
        return found


def report_on(
    trace: RoutingTrace,
    *,
    batches: Sequence[int] = BATCHES,
    windows: Sequence[int] = WINDOWS,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> TraceReport:
    """Work out the report; the trace is read once for each batch and window, and four times besides.

    Args:
        trace: the routing trace, not one in a server's order.
        batches: requests that decode together.
        windows: tokens in a window.
        jobs: threads; None: all cores. The result does not depend on it.
        progress: told the passes done, and all.
    """
    if 4 * int(np.prod(trace.columns["experts"].shape)) <= HELD:
        trace.column("experts")
    total = len(batches) + len(windows) + 4
    done = 0

    def tell(passes: int) -> None:
        nonlocal done
        done += passes
        if progress is not None:
            progress(done, total)

    unions: list[BatchUnion] = []
    for batch in batches:
        unions += batch_unions(trace, [batch])
        tell(1)
    sets: list[tuple[int, Sizes]] = []
    for length in windows:
        sizes = working_sets(trace, length)
        sets += [] if sizes is None else [(length, sizes)]
        tell(1)
    of_requests, of_trace = whole_sets(trace)
    tell(1)
    distances = reuse(trace, jobs=jobs)
    tell(1)
    repeated = repeats(trace)
    tell(1)
    sure = confidence(trace)
    tell(1)
    return TraceReport(unions, sets, of_requests, of_trace, distances, repeated, _position_locked(trace), sure)


def confidence(trace: RoutingTrace) -> Confidence | None:
    """Count the shares of router weight of the first choice; None where the trace has no weights."""
    if "weights" not in trace.columns:
        return None
    counted, left_out, even = np.zeros(CONFIDENCE_STEPS + 1, np.int64), 0, 0.0
    top_k = trace.layers.top_k
    for low, high in trace.blocks():
        held = trace.read("experts", low, high) >= 0
        weights = np.where(held, trace.read("weights", low, high).astype(np.float64), 0)
        total = weights.sum(axis=2)
        good = (held.sum(axis=2) == top_k) & (weights >= 0).all(axis=2) & (total > 0)
        share = weights.max(axis=2)[good] / total[good]
        counted += np.bincount(np.rint(share * CONFIDENCE_STEPS).astype(np.int64), minlength=len(counted))
        left_out += int(np.count_nonzero(held.any(axis=2) & ~good))
        even += float((good / top_k).sum())
    pairs = int(counted.sum())
    return Confidence(counted, left_out, even / pairs if pairs else None)


def _position_locked(trace: RoutingTrace) -> bool | None:
    lengths = np.diff(trace.offsets)
    if np.count_nonzero(lengths) < 2:
        return None
    decoded = np.ones(trace.num_tokens, bool)
    if "phase" in trace.columns:
        decoded = np.concatenate([trace.read("phase", low, high) == DECODE for low, high in trace.blocks()])
    before = np.concatenate([[0], np.cumsum(decoded)])
    of_request = (before[trace.offsets[1:]] - before[trace.offsets[:-1]])[lengths > 0]
    return bool((of_request == of_request[0]).all() and (lengths[lengths > 0] == lengths[lengths > 0][0]).all())


def _sizes(sizes: Sizes) -> dict[str, Any]:
    held = {f"{relative:g}x": sizes.over(relative) for relative in CAPACITIES}
    return {
        "sets": sizes.number,
        "mean": sizes.mean,
        "p90": sizes.quantile(0.9),
        "over_capacity": {name: mean for name, (mean, _) in held.items()},
        "share_above": {name: above for name, (_, above) in held.items()},
    }
