"""Compiled sums of load balance: over every window of m consecutive tokens, and over whole requests.

``experts``, ``lead``, ``begins``, ``ends`` are as in `window_kernels`: int [tokens, L, K], of which the first ``lead``
tokens were dealt with before; request i is tokens ``begins[i]:ends[i]``, negative where it began before. Moving a
window by one token changes the counts of at most 2k experts of a layer, and the sum of their squares with them, so a
layer takes O(tokens * k) steps at any m and any number of experts.
"""

from __future__ import annotations

import numba

from lrcsim.base.compiling import watch

watch()


@numba.njit(cache=True, nogil=True)
def sum_windows(experts, layer, lead, begins, ends, segment, count, held, rows):  # type: ignore[no-untyped-def]
    """Add up what the imbalance of a window is made of.

    A window has n(e) uses of expert e, and a(t) at its token t; A = sum of n, T = tokens with a > 0.

    Args:
        experts: int [tokens, L, K]; see above.
        layer: index into ``experts``.
        lead: see above.
        begins: int64 [n].
        ends: int64 [n].
        segment: m.
        count: int64 [E], n(e) of the current window; state between blocks and zeros at first, like the next.
        held: int64 [4], of the current window: sum of n^2, A, sum of a^2, T.
        rows: float64 [n, 5], sums over each request's windows of: sum of n (n - 1), A^2 - sum of a^2, (T - 1) A, A^2
            and A; whole numbers, exact below 2^53; added to.

    Returns:
        False when a window holds an expert more than m times, which no trace may.
    """
    tokens, ranks = experts.shape[0], experts.shape[2]
    for i in range(len(begins)):
        begin, end = begins[i], ends[i]
        squares, active, own, present = held[0], held[1], held[2], held[3]
        for t in range(max(begin, lead), min(end, tokens)):
            if t - begin >= segment:
                used = 0
                for rank in range(ranks):
                    expert = experts[t - segment, layer, rank]
                    if expert >= 0:
                        squares -= 2 * count[expert] - 1
                        count[expert] -= 1
                        used += 1
                active -= used
                own -= used * used
                present -= used > 0
            used = 0
            for rank in range(ranks):
                expert = experts[t, layer, rank]
                if expert >= 0:
                    if count[expert] >= segment:
                        return False
                    squares += 2 * count[expert] + 1
                    count[expert] += 1
                    used += 1
            active += used
            own += used * used
            present += used > 0
            if t - begin >= segment - 1:
                rows[i, 0] += squares - active
                rows[i, 1] += active * active - own
                rows[i, 2] += (present - 1) * active
                rows[i, 3] += active * active
                rows[i, 4] += active
        if end <= tokens:
            count[:] = 0
            held[:] = 0
        else:
            held[0], held[1], held[2], held[3] = squares, active, own, present
    return True


@numba.njit(cache=True, nogil=True)
def count_requests(experts, layer, lead, begins, ends, uses, rows):  # type: ignore[no-untyped-def]
    """Count the uses of every expert of a layer in each request, those of its tokens in this block.

    Args:
        experts: int [tokens, L, K]; see above.
        layer: index into ``experts``.
        lead: see above.
        begins: int64 [n].
        ends: int64 [n].
        uses: int64 [n, E]; added to.
        rows: int64 [n, 2], tokens with experts, and the sum over tokens of the square of their number; added to.
    """
    tokens, ranks = experts.shape[0], experts.shape[2]
    for i in range(len(begins)):
        for t in range(max(begins[i], lead), min(ends[i], tokens)):
            used = 0
            for rank in range(ranks):
                expert = experts[t, layer, rank]
                if expert >= 0:
                    uses[i, expert] += 1
                    used += 1
            rows[i, 0] += used > 0
            rows[i, 1] += used * used
