"""What becomes of the misses of a layer-step in the compiled event loop: the miss actions of lrcsim, in numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.user_code import is_users
from lrcsim.simulator.compiled.served import ELSEWHERE, LOADED, RESIDENT, choose
from lrcsim.simulator.compiled.uncounted import loop_njit
from lrcsim.simulator.setup.miss_actions import Lossy, MissAction, Substitute, loaded_share
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.time.event_pools import residents_of_layer

BY_SHARE, BY_WEIGHT, WITH_STAND_INS = range(3)
"""How `decide` decides: a share of the misses is loaded; those that some token needs; those, and what nothing can
stand in for."""


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
    """

    rule: int
    share: float
    instead: int
    sizes: npt.NDArray[np.int64]
    instead_sizes: npt.NDArray[np.int64]
    bypass: bool
    refills: bool


def plan_of(action: MissAction, sizes: list[int], bypass: bool, refills: bool) -> Plan | None:
    """Return what the loop is told of a miss action of lrcsim's own, None of another.

    Args:
        action: the rule.
        sizes: bytes of each expert, by key.
        bypass: of the policy.
        refills: of the policy.
    """
    share, rule, instead = loaded_share(action), BY_SHARE, Outcome.ON_CPU
    if isinstance(action, Lossy) and not is_users(type(action)):
        share, instead = 1.0, action.instead
        rule = WITH_STAND_INS if isinstance(action, Substitute) else BY_WEIGHT
    if share is None:
        return None
    other = [action.bytes_of(instead, size) for size in sizes]
    return Plan(rule, share, int(instead), np.array(sizes, np.int64), np.array(other, np.int64), bypass, refills)


@loop_njit
def decide(plan, pools, work, row, flags, stride):  # type: ignore[no-untyped-def]
    """Mark the misses of a layer-step that are not loaded.

    Args:
        plan: `Plan`.
        pools: `QueuePools`, before the layer-step.
        work: `Work`.
        row: the layer-step.
        flags: uint8 [batch], `RESIDENT` or `LOADED`; the misses that are not loaded become `ELSEWHERE`.
        stride: E.
    """
    low, high = work.starts[row], work.starts[row + 1]
    if plan.rule == BY_SHARE:
        choose(plan.share, work.tokens[low:high] if len(work.tokens) else work.tokens, flags, 0, high - low)
        return
    for place in range(high - low):
        if flags[place] == LOADED and not work.needed[low + place]:
            flags[place] = ELSEWHERE
    if plan.rule == WITH_STAND_INS:
        _load_what_nothing_can_replace(work, row, flags, residents_of_layer(pools, work.layer[row], stride))


@loop_njit
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
