"""Form the batches of steps: what `lrcsim.traces.schedule` is given by `lrcsim.simulator`."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def order_by_last_use(experts, weights, lengths, stride, keys, means, tokens, starts, layer, step):  # type: ignore[no-untyped-def]  # fmt: skip
    """Form the batch of each layer-step: its distinct experts, in the order of their last use.

    A layer-step is read from its last token and rank to its first: an expert that is met for the first time is one of
    later last use than all that follow, and what was met is turned round in the end.

    Args:
        experts: int32 [tokens, L, k], the steps' tokens one after the other, -1 = not recorded.
        weights: float32 [tokens, L, k] or None.
        lengths: int64 [steps], tokens of each step.
        stride: E, a key is layer * E + expert.
        keys: int32 [accesses or more], filled in, as in `lrcsim.traces.schedule.Block`; so are the following.
        means: float32 [accesses or more], the mean weights; None where ``weights`` is.
        tokens: int64 [accesses or more].
        starts: int64 [layer-steps + 1 or more]; the first one is 0 already.
        layer: int64 [layer-steps or more].
        step: int64 [layer-steps or more].

    Returns:
        How many layer-steps and accesses there are.
    """
    layers, ranks = experts.shape[1:]
    met = np.empty(stride, np.int64)  # by expert, the layer-step in which it was met last, in the numbering of `row`
    for expert in range(stride):
        met[expert] = -1
    place = np.empty(stride, np.int64)
    total = np.empty(stride)
    rows = found = end = row = 0
    for number in range(len(lengths)):
        begin, end = end, end + lengths[number]
        for here in range(layers):
            first, row = found, row + 1
            for token in range(end - 1, begin - 1, -1):
                for rank in range(ranks - 1, -1, -1):
                    expert = experts[token, here, rank]
                    if expert < 0:
                        continue
                    if met[expert] != row:
                        met[expert], place[expert] = row, found
                        keys[found], tokens[found] = here * stride + expert, 0
                        total[found - first] = 0.0
                        found += 1
                    tokens[place[expert]] += 1
                    if weights is not None:
                        total[place[expert] - first] += weights[token, here, rank]
            if found == first:
                continue
            for i in range((found - first) // 2):  # in place: slices take 2 s more to compile
                low, high = first + i, found - 1 - i
                keys[low], keys[high] = keys[high], keys[low]
                tokens[low], tokens[high] = tokens[high], tokens[low]
            if weights is not None:
                for i in range(found - first):
                    means[found - 1 - i] = total[i] / lengths[number]
            layer[rows], step[rows] = here, number
            rows += 1
            starts[rows] = found
    return rows, found
