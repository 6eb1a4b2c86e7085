"""Other policies in a run's place: their hits, and where the run has a machine their speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lrcsim.base.errors import LrcsimError
from lrcsim.base.progress import Progress
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.reports.blocks import LeftOut
from lrcsim.reports.rerun import Again

SPEEDS = "tokens/s of the policies"
"""What is left out where the run in time is not to be had again."""

SAME = 1e-6
"""Relative difference up to which a speed is that of the result: engines agree to 1e-9."""

Watcher = Callable[[str], AbstractContextManager[Progress]]
"""Given what is being done, a context that gives a function to tell how far it is."""


@dataclass(frozen=True)
class Compared:
    """A policy in the run's place.

    Attributes:
        policy: its name.
        hits: of prefill and of decode.
        accesses: of prefill and of decode.
        own: whether it is the run's own.
        clairvoyant: whether it knows the future.
        tokens_per_s: of decode on the run's machine; None: not asked for, or not to be had.
    """

    policy: str
    hits: tuple[int, int]
    accesses: tuple[int, int]
    own: bool
    clairvoyant: bool
    tokens_per_s: float | None = None

    @property
    def hit_rate(self) -> float:
        """Of prefill and decode together."""
        return sum(self.hits) / max(sum(self.accesses), 1)


def compare_policies(
    again: Again, result: dict[str, Any], policies: Sequence[str], watcher: Watcher
) -> tuple[list[Compared], list[LeftOut]]:
    """Return a run's own policy and others in its place, and which of these were left out.

    Args:
        again: the run.
        result: its JSON.
        policies: names of lrcsim's own.
        watcher: shows progress.
    """
    found, left_out = [], []
    own = make_policy(again.run.policy).label()
    timed, reason = _can_be_timed(again, own, result, watcher)
    if reason:
        left_out.append(LeftOut(SPEEDS, reason))
    others = {policy: policy for policy in policies if make_policy(policy).label() != own}
    for name, policy in ({own: again.run.policy} | others).items():
        try:
            with watcher(name) as progress:
                hits, accesses = again.hits(policy, progress)
        except LrcsimError as error:
            left_out.append(LeftOut(f"policy {name} in the comparison", str(error)))
            continue
        speed = None
        if timed:
            try:
                speed = _speed(again, policy, name, watcher)
            except LrcsimError as error:  # one that knows the future does not go with prefetching
                left_out.append(LeftOut(f"tokens/s of {name}", str(error)))
        clairvoyant = "future" in make_policy(policy).needs
        found.append(Compared(name, hits, accesses, name == own, clairvoyant, speed))
    return found, left_out


def _can_be_timed(again: Again, own: str, result: dict[str, Any], watcher: Watcher) -> tuple[bool, str]:
    """Return whether the run's own policy has the speed again that the result says; if not, why, or nothing."""
    if again.timed is None:
        return False, again.untimed
    was = result["time"]["decode_tokens_per_s"]
    if was is None:
        return False, ""
    try:
        now = _speed(again, again.run.policy, own, watcher)
    except LrcsimError as error:
        return False, str(error)
    if now is None or not math.isclose(now, was, rel_tol=SAME):
        shown = "none" if now is None else f"{now:,.4g}"
        return False, f"run again it makes {shown} tokens/s, the result says {was:,.4g}: lrcsim has changed since"
    return True, ""


def _speed(again: Again, policy: PolicySpec, name: str, watcher: Watcher) -> float | None:
    """Return the tokens per second of decode of a policy on the run's machine."""
    from lrcsim.simulator.time.run_in_time import run_timed

    assert again.timed is not None  # asked before
    with watcher(f"{name}, in time") as progress:
        timed = run_timed(again.timed.with_policy(policy), progress=progress)
    speed: float | None = timed.to_dict()["time"]["decode_tokens_per_s"]
    return speed
