"""What becomes of the misses of a layer-step in the compiled event loop: the miss actions of lrcsim, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.user_code import is_users
from lrcsim.simulator.compiled.served import ELSEWHERE, LOADED, RESIDENT, choose
from lrcsim.simulator.compiled.uncounted import inner_loop_njit
from lrcsim.simulator.setup.admission import ROUNDING
from lrcsim.simulator.setup.miss_actions import Cpu, Lossy, MissAction, Substitute, loaded_share
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.time.event_pools import residents_of_layer

BY_SHARE, BY_WEIGHT, WITH_STAND_INS = range(3)
"""How `decide` decides: a share of the misses is loaded; those that some token needs; those, and what nothing can
stand in for."""

ADMITTED, LATE, CANDIDATE = 3, 4, 5
"""More that the loop says of an access (`RESIDENT` ...): a miss that runs on the CPU and is uploaded for later uses; a
hit that runs there because its upload is under way; a miss that runs there and may be admitted."""


MOST = 2**60
"""What a number of more digits is cut to, so that compiled code can hold it."""


class Plan(NamedTuple):
    """A miss action, and what it moves.

    Attributes:
        rule: `BY_SHARE` ...
        share: of the misses that is loaded, where a share is.
        instead: the `Outcome` of those that are not loaded.
        sizes: int64 [L * E], bytes of each expert, by key.
        instead_sizes: int64 [L * E], bytes that come to the GPU for one that is not loaded.
        bypass: whether what leaves a pool at once counts as never having been in it.
        refills: whether the policy loads experts of its own accord.
        meanwhile: whether a hit whose upload is under way runs on the CPU (`MissAction.meanwhile`), else it is waited
            for.
        admit: misses of a layer-step that are admitted, at most (`Admission`); 0: none.
        touches: misses of an expert from which on it is.
        payback: whether the CPU must have lost as much time with it as its upload takes.
        upload: float64 [L * E], seconds that an upload takes.
        missed: int64 [L * E], misses since the start or the last admission; advanced in place, like the next.
        lost: float64 [L * E], seconds lost in them.
    """

    rule: int
    share: float
    instead: int
    sizes: npt.NDArray[np.int64]
    instead_sizes: npt.NDArray[np.int64]
    bypass: bool
    refills: bool
    meanwhile: bool
    admit: int
    touches: int
    payback: bool
    upload: npt.NDArray[np.float64]
    missed: npt.NDArray[np.int64]
    lost: npt.NDArray[np.float64]


def plan_of(
    action: MissAction,
    sizes: Sequence[int],
    bypass: bool,
    refills: bool,
    *,
    keys: int = 0,
    upload: Sequence[float] = (),
    device_link: bool = True,
) -> Plan | None:
    """Return what the loop is told of a miss action of lrcsim's own, None of another.

    Args:
        action: the rule.
        sizes: bytes of each expert, by key.
        bypass: of the policy.
        refills: of the policy.
        keys: L * E, where something is admitted.
        upload: seconds of an upload of each expert, by key, likewise.
        device_link: whether there is a link from main memory to a GPU.
    """
    share, rule, instead = loaded_share(action), BY_SHARE, Outcome.ON_CPU
    admit, touches, payback = 0, 1, False
    if type(action) is Cpu:
        share, admit, touches, payback = 0.0, action.admit, action.touches, bool(action.payback)
    if isinstance(action, Lossy) and not is_users(type(action)):
        share, instead = 1.0, action.instead
        rule = WITH_STAND_INS if isinstance(action, Substitute) else BY_WEIGHT
    if share is None:
        return None
    other = [action.bytes_of(instead, size) for size in sizes]
    return Plan(
        rule,
        share,
        int(instead),
        np.array(sizes, np.int64),
        np.array(other, np.int64),
        bypass,
        refills,
        action.meanwhile == "cpu" and device_link,
        min(admit, MOST),
        min(touches, MOST),
        payback,
        np.array(upload, np.float64),
        np.zeros(keys if admit else 0, np.int64),
        np.zeros(keys if admit else 0),
    )


@inner_loop_njit
def decide(plan, pools, work, row, flags, stride):  # type: ignore[no-untyped-def]
    """Mark the misses of a layer-step that are not loaded.

    Args:
        plan: `Plan`.
        pools: `QueuePools`, before the layer-step.
        work: `Work`.
        row: the layer-step.
        flags: uint8 [batch], `RESIDENT` or `LOADED`; the misses that are not loaded become `ELSEWHERE`, or `ADMITTED`.
        stride: E.
    """
    low, high = work.starts[row], work.starts[row + 1]
    if plan.rule == BY_SHARE:
        choose(plan.share, work.tokens[low:high] if len(work.tokens) else work.tokens, flags, 0, high - low)
        if plan.admit:
            _admit(plan, work, row, flags)
        return
    for place in range(high - low):
        if flags[place] == LOADED and not work.needed[low + place]:
            flags[place] = ELSEWHERE
    if plan.rule == WITH_STAND_INS:
        _load_what_nothing_can_replace(work, row, flags, residents_of_layer(pools, work.layer[row], stride))


@inner_loop_njit
def most_used(work, low, flags, size, flag):  # type: ignore[no-untyped-def]
    """Return the place of the first of a layer-step's accesses of a flag that most tokens use; -1: there is none."""
    most = -1
    for place in range(size):
        if flags[place] == flag:
            if not len(work.tokens):
                return place
            if most < 0 or work.tokens[low + place] > work.tokens[low + most]:
                most = place
    return most


@inner_loop_njit
def _admit(plan, work, row, flags):  # type: ignore[no-untyped-def]
    """Mark as `ADMITTED` what is uploaded of the misses that run on the CPU (`Admission.choose`)."""
    low, high = work.starts[row], work.starts[row + 1]
    for place in range(high - low):
        if flags[place] == ELSEWHERE:
            key = work.keys[low + place]
            plan.missed[key] += 1
            may = plan.missed[key] >= plan.touches
            if plan.payback:
                plan.lost[key] += work.saves[low + place]
                may = may and plan.lost[key] >= plan.upload[key] * (1 - ROUNDING)
            if may:
                flags[place] = CANDIDATE
    left = plan.admit
    while left:
        place = most_used(work, low, flags, high - low, CANDIDATE)
        if place < 0:
            return
        flags[place] = ADMITTED
        plan.missed[work.keys[low + place]] = 0
        plan.lost[work.keys[low + place]] = 0.0
        left -= 1
    for place in range(high - low):
        if flags[place] == CANDIDATE:
            flags[place] = ELSEWHERE


@inner_loop_njit
def _load_what_nothing_can_replace(work, row, flags, residents):  # type: ignore[no-untyped-def]
    """Mark as loaded what must be because a token's stand-ins have run out (`Substitute`, `_not_replaceable`).

    A token's stand-ins are residents of the layer that it does not use. With more experts to replace, it has its
    heaviest loaded. What one token has loaded was to be replaced for the others all the same: each decides by itself.
    """
    begin, last = work.use_starts[row], work.use_starts[row + 1]
    light = work.use_light
    for use in range(begin, last):
        light[use - begin] = flags[work.use_place[use]] == ELSEWHERE
    while begin < last:
        end, wanted, hits = begin, 0, 0
        while end < last and work.use_token[end] == work.use_token[begin]:
            wanted += light[end - work.use_starts[row]]
            hits += flags[work.use_place[end]] == RESIDENT
            end += 1
        for _ in range(wanted - max(residents - hits, 0)):
            heaviest = -1
            for use in range(begin, end):
                at = use - work.use_starts[row]
                if light[at] and (heaviest < 0 or work.use_order[use] < work.use_order[heaviest]):
                    heaviest = use
            light[heaviest - work.use_starts[row]] = False
            flags[work.use_place[heaviest]] = LOADED
        begin = end
