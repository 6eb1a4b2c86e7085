"""The compiled loop of `lrcsim.simulator.serving.uses`: every use of every token, in the order of the layer-steps."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def find_uses(experts, weights, first, end, layer, keys, starts, stride, begins, token, place, share, order, tokens):  # type: ignore[no-untyped-def]  # fmt: skip
    """Fill in the uses of some layer-steps.

    Args:
        experts: int32 [tokens, L, k], -1 = not recorded.
        weights: float64 [tokens, L, k], 0 or more where an expert is recorded.
        first: int64 [layer-steps], first token of the step of each, a place in ``experts``.
        end: int64 [layer-steps], token after its last.
        layer: int64 [layer-steps].
        keys: int32 [accesses], the batches, layer * E + expert.
        starts: int64 [layer-steps + 1], where each begins.
        stride: E.
        begins: int64 [layer-steps + 1], filled in, as in `UsesTable.starts`; the first one is 0 already.
        token: int32 [uses], filled in, as in `UsesTable`; so are the following.
        place: int32 [uses].
        share: float64 [uses].
        order: int32 [uses].
        tokens: int64 [layer-steps].
    """
    place_of = np.zeros(stride, np.int32)
    found = 0
    for row in range(len(layer)):
        here, number = layer[row], 0
        for i in range(starts[row], starts[row + 1]):
            place_of[keys[i] - here * stride] = i - starts[row]
        for one in range(first[row], end[row]):
            begin, total = found, 0.0
            for rank in range(experts.shape[2]):
                expert = experts[one, here, rank]
                if expert >= 0:
                    token[found], place[found] = number, place_of[expert]
                    share[found] = weights[one, here, rank]
                    total += share[found]
                    found += 1
            for i in range(begin, found):
                before = 0
                for j in range(begin, found):
                    before += share[j] > share[i] or (share[j] == share[i] and j < i)
                order[i] = before
            for i in range(begin, found):
                share[i] = share[i] / total if total > 0 else 0.0
            number += found > begin
        tokens[row] = number
        begins[row + 1] = found
