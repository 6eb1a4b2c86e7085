"""What becomes of an expert that is needed and not resident: the outcomes, each with all that is known of it.

Caches, engines, counts, JSON, tables and sweeps go through this list and ask for properties. So a new outcome is a line
here, and a miss action that decides for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Literal


class Outcome(IntEnum):
    """What becomes of a miss; its number is a place in whatever is counted by outcome.

    Attributes:
        label: its name in outputs.
        reads: what has to be in main memory: nothing, a ``"copy"`` of low precision, which main memory does not keep as
            a cache, or the whole ``"expert"``.
        runs_on: what computes it: the ``"gpu"`` (where the model runs), the ``"cpu"``, or nothing. On the GPU without a
            read, residents stand in, and it takes the time of one that is there.
        cached: whether it enters the cache, and so whether the policy hears of it.
        weight: what became of the router weight of its uses, for tables; empty: it counts in full.
        changes: what a rule does to the weight, where so much of it is another model; empty: it stays the same one.
        lossy: whether router weight is given up.
        moves: whether bytes come to the GPU that the layer waits for.
        behind: whether bytes come to the GPU behind everything urgent, for later uses.
    """

    label: str
    reads: Literal["", "copy", "expert"]
    runs_on: Literal["", "cpu", "gpu"]
    cached: bool
    weight: str
    changes: str
    lossy: bool
    moves: bool
    behind: bool

    # fmt: off
    #               label            reads     runs_on cached weight              changes
    LOADED =        "loaded",        "expert", "gpu",  True,  "",                 ""
    ON_CPU =        "on_cpu",        "expert", "cpu",  False, "",                 ""
    SKIPPED =       "skipped",       "",       "",     False, "skipped",          "leaves out"
    SUBSTITUTED =   "substituted",   "",       "gpu",  False, "substituted",      "replaces"
    LOW_PRECISION = "low_precision", "copy",   "gpu",  False, "in low precision", ""
    ADMITTED =      "admitted",      "expert", "cpu",  True,  "",                 ""
    # fmt: on

    def __new__(
        cls,
        label: str,
        reads: Literal["", "copy", "expert"],
        runs_on: Literal["", "cpu", "gpu"],
        cached: bool,
        weight: str,
        changes: str,
    ) -> Outcome:
        """Make the next member."""
        member = int.__new__(cls, len(cls.__members__))
        member._value_ = len(cls.__members__)
        member.label, member.reads, member.runs_on, member.cached = label, reads, runs_on, cached
        member.weight, member.changes = weight, changes
        member.lossy, member.moves = weight != "", reads != "" and runs_on == "gpu"
        member.behind = cached and runs_on == "cpu"
        return member

    __hash__ = int.__hash__  # that of Enum is written in Python, and outcomes are keys wherever something misses


NOT_LOADED = tuple(outcome for outcome in Outcome if not outcome.cached or outcome.behind)
"""Those that outputs count one by one; all other misses are loads."""

LOSSY = tuple(outcome for outcome in Outcome if outcome.lossy)
"""Those that give up router weight."""

OTHER_MODEL = tuple(outcome for outcome in Outcome if outcome.changes)
"""Those that run another model where they give up much of it."""

Decision = dict[Outcome, list[int]]
"""What becomes of the misses of a layer-step: their keys by outcome, in the order of `Outcome`, then of the batch."""


def decision(missed: Sequence[int], outcomes: Iterable[Outcome]) -> Decision:
    """Divide misses by what becomes of them.

    Args:
        missed: keys, in batch order.
        outcomes: one for each.
    """
    found: Decision = {}
    for key, outcome in zip(missed, outcomes, strict=True):
        found.setdefault(outcome, []).append(key)
    return found if len(found) < 2 else dict(sorted(found.items()))
