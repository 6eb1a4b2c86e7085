"""How far apart two uses of an expert lie, as an LRU cache sees it and in tokens.

The distance of an access in the LRU stack is one less than the slots that an LRU cache of its layer needs for it to be
a hit: Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2), 1970. Their
distribution is LRU's hit rate at every capacity; here by co-resident batches (docs/accounting.md), warm, prompts in one
step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from lrcsim.base.compiling import watch
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.simulator.metrics.windows import Ints
from lrcsim.simulator.metrics.working_set import quantile
from lrcsim.traces import RoutingTrace

watch()

FARTHEST = 1 << 20
"""Distances in tokens are counted apart up to here, and together from here on."""


@dataclass(frozen=True)
class Reuse:
    """Distances between uses of an expert in a layer, all layers together.

    Attributes:
        slots: int64 [E + 1], accesses by the smallest LRU cache of the layer, in experts, in which they hit.
        cold: accesses to an expert that its layer has not used before in the trace; not in ``slots``.
        tokens: int64 [n], uses by the tokens since the last use of the same expert in the layer, in the trace's order
            over all requests; the last entry is of `FARTHEST` tokens or more where ``n`` is above that.
    """

    slots: Ints
    cold: int
    tokens: Ints

    __repr__ = short_repr

    @property
    def accesses(self) -> int:
        """Accesses, cold ones too."""
        return int(self.slots.sum()) + self.cold

    @property
    def cold_share(self) -> float | None:
        """Share of the accesses that are cold; None without accesses."""
        return self.cold / self.accesses if self.accesses else None

    def slots_at(self, share: float) -> int | None:
        """Return the slots of a layer with which LRU hits ``share`` of the reuses; None without reuses."""
        return quantile(self.slots, share) if self.slots.any() else None

    def tokens_at(self, share: float) -> int | None:
        """Return the tokens within which ``share`` of the reuses come; None without reuses."""
        return quantile(self.tokens, share) if self.tokens.any() else None


def reuse(trace: RoutingTrace, *, jobs: int | None = None, progress: Progress | None = None) -> Reuse:
    """Count the distances of all uses of a trace.

    Args:
        trace: the routing trace.
        jobs: threads; None: all cores. The result does not depend on it.
        progress: told how far it is, in tokens.
    """
    found = stack_hits(trace, "lru", "layer", "coresident", "step", True, jobs, progress)
    slots: Ints = np.diff(np.array([hits.sum(axis=0) for hits in found.hits]).sum(axis=0), prepend=0)
    tokens = np.zeros(min(trace.num_tokens, FARTHEST) + 1, np.int64)
    last = np.full((trace.num_layers, trace.num_experts), -1, np.int64)
    kernel: Any = count_gaps
    for low, high in trace.blocks():
        kernel(np.ascontiguousarray(trace.read("experts", low, high)), low, last, tokens)
    return Reuse(slots, int(found.accesses.sum() - slots.sum()), tokens)


@numba.njit(cache=True, nogil=True)
def count_gaps(experts, first_token, last, gaps):  # type: ignore[no-untyped-def]
    """Tally the tokens since each expert's last use.

    Args:
        experts: int [tokens, L, K], -1 = not recorded.
        first_token: of the block.
        last: int64 [L, E], token of the last use; state, -1 at first.
        gaps: int64 [n], uses by distance, the last entry of n - 1 tokens and more; added to.
    """
    most = len(gaps) - 1
    for t in range(experts.shape[0]):
        for layer in range(experts.shape[1]):
            for rank in range(experts.shape[2]):
                expert = experts[t, layer, rank]
                if expert >= 0:
                    before = last[layer, expert]
                    if before >= 0:
                        gaps[min(first_token + t - before, most)] += 1
                    last[layer, expert] = first_token + t
