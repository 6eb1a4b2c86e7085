"""`TraceMatch` compiled: what it proposes in each layer-step of a block."""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.setup.remembered import KEPT, NEXT, REQUEST


@numba.njit(cache=True, nogil=True)
def begin_request(known, request):  # type: ignore[no-untyped-def]
    """Keep the request that has run, if it used anything, and begin another (`Remembered.begin`)."""
    if known.running.any():
        layers, stride = known.running.shape
        room, place = len(known.likeness), known.counter[NEXT]
        for layer in range(layers):
            total, largest = max(known.running[layer].sum(), 1), 0.0
            for expert in range(stride):
                uses = known.running[layer, expert]
                known.uses[layer, expert, place] = uses
                known.shares[place, layer, expert] = uses / total
                largest = max(largest, uses / total)
            known.largest[place, layer] = largest
            known.lengths[layer, place] = np.sqrt(known.squares[layer])
        known.counter[KEPT] = min(known.counter[KEPT] + 1, room)
        known.counter[NEXT] = (place + 1) % room
    known.running[:] = 0
    known.squares[:] = 0
    known.dots[:] = 0
    known.cosines[:] = 0.0
    known.likeness[:] = 0.0
    known.counter[REQUEST] = request


@numba.njit(cache=True, nogil=True)
def use_experts(known, layer, keys, stride):  # type: ignore[no-untyped-def]
    """Count a layer-step of the running request (`Remembered.use`)."""
    kept = known.counter[KEPT]
    dots, cosines, lengths = known.dots[layer], known.cosines[layer], known.lengths[layer]
    for key in keys:
        expert = key - layer * stride
        known.squares[layer] += 2 * known.running[layer, expert] + 1
        known.running[layer, expert] += 1
        uses = known.uses[layer, expert]
        for one in range(kept):
            dots[one] += uses[one]
    mine = np.sqrt(known.squares[layer])
    for one in range(kept):
        length = mine * lengths[one]
        cosine = dots[one] / length if length > 0 else 0.0
        known.likeness[one] += cosine - cosines[one]
        cosines[one] = cosine


@numba.njit(cache=True, nogil=True)
def nearest(known):  # type: ignore[no-untyped-def]
    """Return the request most like the running one, of equals the oldest (`Remembered.nearest`)."""
    kept, room = known.counter[KEPT], len(known.likeness)
    if not kept:
        return -1
    oldest = known.counter[NEXT] if kept == room else 0
    best = oldest
    for age in range(kept):
        one = (oldest + age) % room
        if known.likeness[one] > known.likeness[best]:
            best = one
    return best


@numba.njit(cache=True, nogil=True)
def propose_rest(shares, largest, layer, width, scores, keys, found):  # type: ignore[no-untyped-def]
    """Write the experts of later layers of the greatest scores behind ``keys[:found]``; return the end.

    Args:
        shares: float64 [L, E], of the nearest request.
        largest: float64 [L], of each row: a layer that cannot have a greater score is passed over.
        layer: the layer that runs.
        width: experts proposed, at most.
        scores: float64 [width], room.
        keys: int32, filled in: layer * E + expert, of equal scores the smaller first.
        found: where to begin.
    """
    layers, stride = shares.shape
    count = 0
    for later in range(layer + 1, layers):
        near = 1 - (later - layer) / (layers + 1)
        if count == width and (largest[later] + 1e-8) * near <= scores[count - 1]:
            continue
        for expert in range(stride):
            share = shares[later, expert]
            score = (share + 1e-8) * near
            if share == 0 or (count == width and score <= scores[count - 1]):
                continue
            at = min(count, width - 1)
            count = at + 1
            while at > 0 and scores[at - 1] < score:
                scores[at], keys[found + at] = scores[at - 1], keys[found + at - 1]
                at -= 1
            scores[at], keys[found + at] = score, later * stride + expert
    return found + count


@numba.njit(cache=True, nogil=True)
def match(used, used_starts, layer, request, known, width, starts, keys):  # type: ignore[no-untyped-def]
    """Fill in what `TraceMatch` proposes.

    Args:
        used: int32 [accesses], keys.
        used_starts: int64 [layer-steps + 1].
        layer: int64 [layer-steps].
        request: int64 [layer-steps].
        known: `Remembered`, advanced in place.
        width: experts proposed, at most.
        starts: int64 [layer-steps + 1], filled in: where the proposals of each layer-step begin.
        keys: int32 [layer-steps * width], filled in.
    """
    found = 0
    layers, stride = known.running.shape
    scores = np.zeros(width)
    for row in range(len(layer)):
        here = layer[row]
        if request[row] != known.counter[REQUEST]:
            begin_request(known, request[row])
        use_experts(known, here, used[used_starts[row] : used_starts[row + 1]], stride)
        if here + 1 < layers:
            best = nearest(known)
            if best >= 0:
                found = propose_rest(known.shares[best], known.largest[best], here, width, scores, keys, found)
        starts[row + 1] = found
