"""Which requests of a trace say the same: prompts that come twice, and beginnings that several share.

Requests that repeat one another make any cache, profile and prefetcher look better than other traffic will, so a report
on a trace says how many there are (arXiv 2608.07911, section 10.2: prompts made from one template moved a measured
effect by 19 to 32 points).

Two tokens count as the same where they and all tokens before them in their requests are: as a prefix cache would find
them. They are compared by token ids, or, in a trace without, by their routing in all layers, which a token and those
before it determine. Beginnings are compared by a 64-bit sum of mixed numbers: in a trace of n tokens the chance that
two different ones look alike is below n^2 / 2^64 (5e-8 for a million).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.reprs import short_repr
from lrcsim.traces.importers.prefixes import row_marks
from lrcsim.traces.trace import PREFILL, RoutingTrace

Marks = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

TURN = 16
"""Tokens that a prompt has at least, for one that begins with it to be a later turn of the same chat: more than the
start token and a template's markers, which strangers share too."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Step of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014)."""


@dataclass(frozen=True)
class Repeats:
    """What of a trace's prompts has been there before.

    Attributes:
        compared: ``"prompts"``, or ``"requests"`` where nothing of a trace is prefill: all tokens then.
        by: ``"token ids"`` or ``"routing"``.
        requests: prompts (or requests) that were compared.
        left_out: those that could not be, because the id or the routing of a token is not known, and the empty ones.
        duplicates: those that are the same as an earlier one as a whole.
        near: those that are not, but share half of their tokens or more with the beginning of an earlier one.
        tokens: in those compared.
        repeated: tokens that lie in a beginning which an earlier one has too.
    """

    compared: Literal["prompts", "requests"]
    by: Literal["token ids", "routing"]
    requests: int
    left_out: int
    duplicates: int
    near: int
    tokens: int
    repeated: int

    __repr__ = short_repr

    def to_dict(self) -> dict[str, object]:
        """Return JSON values, with the share of tokens that are repeated (None without tokens)."""
        share = self.repeated / self.tokens if self.tokens else None
        return {**vars(self), "distinct": self.requests - self.duplicates, "repeated_share": share}


def repeats(trace: RoutingTrace) -> Repeats:
    """Compare the prompts of a trace; those without phases by all of their tokens. Takes 30 bytes for each token.

    Args:
        trace: the routing trace.
    """
    found = _compare(trace)
    repeated, again = _came_before(found.sums), _came_before(found.wholes)
    lengths = found.lengths
    shared = np.add.reduceat(repeated, np.cumsum(lengths) - lengths, dtype=np.int64) if len(lengths) else lengths
    return Repeats(
        found.compared,
        found.by,
        requests=len(lengths),
        left_out=trace.num_requests - len(lengths),
        duplicates=int(again.sum()),
        near=int(np.count_nonzero(~again & (2 * shared >= lengths))),
        tokens=int(lengths.sum()),
        repeated=int(shared.sum()),
    )


def in_common(trace: RoutingTrace, other: RoutingTrace) -> tuple[int, int]:
    """Count the requests of a trace that another has too, with the same routing from the first token to the last.

    Requests in which no expert is recorded are not counted.

    Args:
        trace: the routing trace.
        other: one with the same number of layers.

    Returns:
        The number of such requests, and of their tokens.
    """
    if trace.identity is other.identity:
        held = np.diff(trace.offsets)[_has_routing(trace)]
        return len(held), int(held.sum())
    if trace.columns["experts"].shape[1:] != other.columns["experts"].shape[1:]:
        return 0, 0
    mine, theirs = _wholes(trace), _wholes(other)
    same = np.isin(mine, theirs) & _has_routing(trace)
    return int(same.sum()), int(np.diff(trace.offsets)[same].sum())


def groups(trace: RoutingTrace) -> Ints:
    """Return int64 [requests], the same number for requests with the same prompt and for the turns of one chat.

    Prompts are compared as in `repeats`. One that begins with the whole prompt of another, of `TURN` tokens or more,
    goes on where that one was: a later turn of its chat. One that cannot be compared is a group of its own. Numbers
    rise with the first request of each group.
    """
    found = _compare(trace)
    ends = np.cumsum(found.lengths)
    is_prompt = np.isin(found.sums, found.wholes[found.lengths >= TURN])
    is_prompt[ends - 1] = True
    at = np.flatnonzero(is_prompt)
    shortest = found.sums[at[np.searchsorted(at, ends - found.lengths)]]
    wholes, first = np.unique(found.wholes, return_index=True)
    leader = np.arange(trace.num_requests)
    leader[found.requests] = found.requests[first[np.searchsorted(wholes, shortest)]]
    _, came, which = np.unique(leader, return_index=True, return_inverse=True)
    return came.argsort().argsort()[which].astype(np.int64)


def beginnings(marks: Marks, begins: Ints, ends: Ints) -> Marks:
    """Return uint64 [tokens of the requests], a number for each token and all before it in its request.

    Args:
        marks: uint64 [tokens], the same number for the same token id, or the same routing.
        begins: int64 [n], first token of each request.
        ends: int64 [n], one after its last.
    """
    lengths = ends - begins
    starts = np.cumsum(lengths) - lengths
    place = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    sums = np.cumsum(_mix(marks[np.repeat(begins, lengths) + place], place), dtype=np.uint64)
    before = np.zeros(len(lengths), np.uint64)
    before[lengths > 0] = np.concatenate([np.zeros(1, np.uint64), sums])[starts[lengths > 0]]
    return sums - np.repeat(before, lengths)


def _mix(marks: Marks, place: Ints) -> Marks:
    """Return SplitMix64's output for each mark at its place in the request."""
    z = (marks * GOLDEN + place.astype(np.uint64) + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Marks = z ^ (z >> np.uint64(31))
    return mixed


class _Compared(NamedTuple):
    """The beginnings of a trace's prompts, as numbers.

    Attributes:
        compared: as in `Repeats`, like ``by``.
        by: see there.
        requests: int64 [n], those that can be compared.
        lengths: int64 [n], tokens of each.
        sums: uint64 [tokens of these], `beginnings`.
    """

    compared: Literal["prompts", "requests"]
    by: Literal["token ids", "routing"]
    requests: Ints
    lengths: Ints
    sums: Marks

    @property
    def wholes(self) -> Marks:
        """uint64 [n], a number for all tokens of each."""
        return self.sums[np.cumsum(self.lengths) - 1]


def _compare(trace: RoutingTrace) -> _Compared:
    spans = _prompts(trace)
    begins, ends = (trace.offsets[:-1], trace.offsets[1:]) if spans is None else spans
    marks, known, by = _marks(trace)
    unknown = np.concatenate([[0], np.cumsum(~known)])
    usable = np.flatnonzero((ends > begins) & (unknown[ends] == unknown[begins]))
    begins, ends = begins[usable], ends[usable]
    sums = beginnings(marks, begins, ends)
    return _Compared("requests" if spans is None else "prompts", by, usable, ends - begins, sums)


def _came_before(numbers: Marks) -> npt.NDArray[np.bool_]:
    """Return bool [n], whether each number stands earlier in the array too."""
    found = np.ones(len(numbers), bool)
    found[np.unique(numbers, return_index=True)[1]] = False
    return found


def _prompts(trace: RoutingTrace) -> tuple[Ints, Ints] | None:
    """Return where each prompt begins and ends, int64 [requests]; None where nothing is prefill."""
    if "phase" not in trace.columns:
        return None
    decoded = np.concatenate([trace.read("phase", low, high) != PREFILL for low, high in trace.blocks()] or [[]])
    if decoded.all():
        return None
    after = np.append(np.flatnonzero(decoded), trace.num_tokens)
    begins = trace.offsets[:-1]
    return begins, np.minimum(after[np.searchsorted(after, begins)], trace.offsets[1:])


def _marks(trace: RoutingTrace) -> tuple[Marks, npt.NDArray[np.bool_], Literal["token ids", "routing"]]:
    """Return uint64 [tokens], the tokens as numbers, bool [tokens], which are known, and what the numbers are of."""
    if "token_ids" in trace.columns:
        ids = [trace.read("token_ids", low, high).astype(np.int64) for low, high in trace.blocks()]
        found = np.concatenate([np.zeros(0, np.int64), *ids])
        if (found >= 0).any():
            return found.view(np.uint64), found >= 0, "token ids"
    rows, known = _routing(trace)
    return rows, known, "routing"


def _routing(trace: RoutingTrace) -> tuple[Marks, npt.NDArray[np.bool_]]:
    """Return uint64 [tokens], the routing of each as a number, and bool [tokens], where any is recorded."""
    rows, known = np.zeros(trace.num_tokens, np.uint64), np.zeros(trace.num_tokens, bool)
    for low, high in trace.blocks():
        experts = trace.read("experts", low, high)
        rows[low:high] = row_marks(experts.astype(np.int32)).view(np.uint64)
        known[low:high] = (experts >= 0).any(axis=(1, 2))
    return rows, known


def _wholes(trace: RoutingTrace) -> Marks:
    """Return uint64 [requests], a number for all routing of each; 0 for those without tokens."""
    rows, _ = _routing(trace)
    lengths = np.diff(trace.offsets)
    found = np.zeros(trace.num_requests, np.uint64)
    sums = beginnings(rows, trace.offsets[:-1], trace.offsets[1:])
    found[lengths > 0] = sums[(np.cumsum(lengths) - 1)[lengths > 0]]
    return found


def _has_routing(trace: RoutingTrace) -> npt.NDArray[np.bool_]:
    known = _routing(trace)[1]
    held: Sequence[bool] = [
        bool(known[low:high].any()) for low, high in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)
    ]
    return np.array(held, bool)
