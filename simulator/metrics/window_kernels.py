"""Compiled counts of expert uses in every window of m consecutive tokens of a request, by sliding.

Moving a window by one token changes the counts of at most 2k experts of a layer, so the kernels touch only those:
whatever stays constant is entered once, multiplied by the number of windows that it lasted. A layer thus takes
O(tokens * k) steps at any m and any number of experts.

In all kernels ``experts`` is int [tokens, L, K], of which the first ``lead`` tokens were dealt with before and only
leave the window; request i is tokens ``begins[i]:ends[i]``, counted from the first token of ``experts``: negative where
it began before. They return False when a window holds an expert more than m times, which no trace may.
"""

from __future__ import annotations

import numba

from lrcsim.base.compiling import watch

watch()


@numba.njit(cache=True, nogil=True)
def count_windows(experts, layer, num_experts, lead, begins, ends, segment, count, since, rows, own):  # type: ignore[no-untyped-def]  # fmt: skip
    """Tally how often the experts of a layer have each count.

    Args:
        experts: int [tokens, L, K]; see above.
        layer: index into ``experts``.
        num_experts: E of the layer.
        lead: see above.
        begins: int64 [n].
        ends: int64 [n].
        segment: m.
        count: int64 [E], uses in the current window; state between blocks, zeros at first.
        since: int64 [E], first window with this count; state, zeros at first.
        rows: int64 [n, m + 1], for each request (window, expert) pairs by count; added to.
        own: int64 [E, m + 1], the same by expert over all requests, added to; or [0, 0]: not wanted.
    """
    tokens, ranks = experts.shape[0], experts.shape[2]
    by_expert = len(own) > 0
    # The entry is written out three times: as a function of its own, given the arrays, it took 24 ns for 3 ns.
    for i in range(len(begins)):
        begin, end, row = begins[i], ends[i], rows[i]
        for t in range(max(begin, lead), min(end, tokens)):
            window = max(t - begin - segment + 1, 0)  # the one that ends with this token, or the first
            if window > 0:
                for rank in range(ranks):
                    expert = experts[t - segment, layer, rank]
                    if expert >= 0:
                        uses = count[expert]
                        row[uses] += window - since[expert]
                        if by_expert:
                            own[expert, uses] += window - since[expert]
                        since[expert] = window
                        count[expert] = uses - 1
            for rank in range(ranks):
                expert = experts[t, layer, rank]
                if expert >= 0:
                    uses = count[expert]
                    if uses >= segment:
                        return False
                    row[uses] += window - since[expert]
                    if by_expert:
                        own[expert, uses] += window - since[expert]
                    since[expert] = window
                    count[expert] = uses + 1
        if end <= tokens:
            windows = end - begin - segment + 1
            for expert in range(num_experts):
                uses = count[expert]
                row[uses] += windows - since[expert]
                if by_expert:
                    own[expert, uses] += windows - since[expert]
                count[expert] = 0
                since[expert] = 0
    return True


@numba.njit(cache=True, nogil=True)
def count_positions(experts, layer, num_experts, lead, begins, ends, segment, count, spectrum, rows):  # type: ignore[no-untyped-def]  # fmt: skip
    """Tally how often the experts of a layer have each count, apart for each place of the window in its request.

    Args:
        experts: int [tokens, L, K]; see above.
        layer: index into ``experts``.
        num_experts: E of the layer.
        lead: see above.
        begins: int64 [n].
        ends: int64 [n].
        segment: m.
        count: int64 [E], uses in the current window; state between blocks, zeros at first.
        spectrum: int64 [m + 1], experts by count in the current window; state, ``[E, 0, 0 ...]`` at first.
        rows: int64 [places, m + 1], (window, expert) pairs by count for each first token of the window; added to.
    """
    tokens, ranks = experts.shape[0], experts.shape[2]
    for i in range(len(begins)):
        begin, end = begins[i], ends[i]
        for t in range(max(begin, lead), min(end, tokens)):
            window = t - begin - segment + 1
            if window > 0:
                for rank in range(ranks):
                    expert = experts[t - segment, layer, rank]
                    if expert >= 0:
                        spectrum[count[expert]] -= 1
                        count[expert] -= 1
                        spectrum[count[expert]] += 1
            for rank in range(ranks):
                expert = experts[t, layer, rank]
                if expert >= 0:
                    if count[expert] >= segment:
                        return False
                    spectrum[count[expert]] -= 1
                    count[expert] += 1
                    spectrum[count[expert]] += 1
            if window >= 0:
                for uses in range(segment + 1):
                    rows[window, uses] += spectrum[uses]
        if end <= tokens:
            count[:] = 0
            spectrum[:] = 0
            spectrum[0] = num_experts
    return True


@numba.njit(cache=True, nogil=True)
def count_largest(experts, first, last, stride, lead, begins, ends, segment, sizes, count, above, largest, since, held, total, rows):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Add up the sorted counts of every window: the largest, the second largest, and so on.

    The sorted list changes in one place when a count does: an expert that goes from c to c + 1 uses raises the first
    entry of c, at place ``above[c + 1]``; one that goes to c - 1 lowers the last entry of c, at ``above[c] - 1``.

    Args:
        experts: int [tokens, L, K]; see above.
        first: first layer of the pool.
        last: one after the last layer of the pool.
        stride: keys per layer; the key of an expert is (layer - first) * stride + expert.
        lead: see above.
        begins: int64 [n].
        ends: int64 [n].
        segment: m.
        sizes: int64 [s], slots of caches for which every request is counted apart; may be empty.
        count: int64 [keys], uses in the current window; state between blocks and zeros at first, like the next four.
        above: int64 [m + 1], keys with at least so many uses.
        largest: int64 [keys], the counts in descending order.
        since: int64 [keys], first window with this entry of ``largest``.
        held: int64 [s], sum of the ``sizes[j]`` largest counts.
        total: int64 [keys], sum over windows of ``largest``; added to.
        rows: int64 [n, s], sum over each request's windows of ``held``; added to.
    """
    tokens, ranks = experts.shape[0], experts.shape[2]
    for i in range(len(begins)):
        begin, end = begins[i], ends[i]
        for t in range(max(begin, lead), min(end, tokens)):
            window = max(t - begin - segment + 1, 0)  # the one that ends with this token, or the first
            if window > 0:
                for layer in range(first, last):
                    for rank in range(ranks):
                        expert = experts[t - segment, layer, rank]
                        if expert < 0:
                            continue
                        key = (layer - first) * stride + expert
                        uses = count[key]
                        place = above[uses] - 1  # the last entry of so many uses
                        total[place] += (window - since[place]) * uses
                        since[place] = window
                        largest[place] = uses - 1
                        above[uses] = place
                        count[key] = uses - 1
                        for j in range(len(sizes)):
                            if place < sizes[j]:
                                held[j] -= 1
            for layer in range(first, last):
                for rank in range(ranks):
                    expert = experts[t, layer, rank]
                    if expert < 0:
                        continue
                    key = (layer - first) * stride + expert
                    uses = count[key]
                    if uses >= segment:
                        return False
                    place = above[uses + 1]  # the first entry of so many uses
                    total[place] += (window - since[place]) * uses
                    since[place] = window
                    largest[place] = uses + 1
                    above[uses + 1] = place + 1
                    count[key] = uses + 1
                    for j in range(len(sizes)):
                        if place < sizes[j]:
                            held[j] += 1
            if t - begin >= segment - 1:
                for j in range(len(sizes)):
                    rows[i, j] += held[j]
        if end <= tokens:
            windows = end - begin - segment + 1
            for place in range(len(largest)):
                total[place] += (windows - since[place]) * largest[place]
            count[:] = 0
            above[:] = 0
            largest[:] = 0
            since[:] = 0
            held[:] = 0
    return True
