"""The compiled repin says what the class in Python says: of every access, and in time what SimPy says.

Traces are long enough, and change their favourites, so that experts are replaced; `tests/policies/test_hand_solved.py`
and `tests/simulator/time/test_uploads.py` have cases solved by hand, `tests/test_oracle.py` the law.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from both_engines import repeated, run
from drawn_runs import job_of, profiles
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lrcsim.simulator.compiled.counts import compiled_counts
from lrcsim.simulator.replay import replay
from lrcsim.traces import RoutingTrace


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    """Few experts, of which some are favourites for a time, then others; gaps, requests, prompts."""
    tokens, layers, experts = draw(st.integers(20, 60)), draw(st.integers(1, 2)), draw(st.integers(3, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    liked = rng.random((3, layers, experts))[np.arange(tokens) * 3 // tokens]
    ids = (-(liked + draw(st.sampled_from([0.3, 1.0])) * rng.random(liked.shape))).argsort(axis=2)[:, :, :1]
    ids[rng.random(ids.shape) < draw(st.sampled_from([0.0, 0.2]))] = -1
    ids[rng.random(tokens) < draw(st.sampled_from([0.0, 0.1]))] = -1  # nothing was recorded of a token
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[0, *sorted(draw(st.lists(st.integers(0, tokens), max_size=2))), tokens],
        phase=(rng.random(tokens) < 0.3).astype(int) if draw(st.booleans()) else None,
        expert_bytes=draw(st.lists(st.sampled_from([1000, 2000, 3000]), min_size=layers, max_size=layers)),
    )


specs = st.builds("repin:{},swaps={}".format, st.integers(1, 12), st.sampled_from([0, 1, 2, 9, 10**30]))
caches = st.sampled_from([1, 2, 3, "3kB", "5kB", "7kB"])


@settings(max_examples=60, deadline=None)
@given(trace=traces(), policy=specs, cache=caches, scope=st.sampled_from(["layer", "model"]), warm=st.booleans())
def test_counts(trace: RoutingTrace, policy: str, cache: int | str, scope: Any, warm: bool) -> None:
    job = job_of(trace, policy, cache, scope=scope, warm=warm)
    found, expected = compiled_counts(job, record=True), replay(job, record=True)
    for name in ("hit", "accesses", "misses", "preloaded", "steps"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name  # type: ignore[union-attr]
    for name in ("cold_misses", "evictions", "bypassed", "resident"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.evictions == 0
    event(f"replaced {min(int(found.preloaded.sum()), 4)}")


@settings(max_examples=40, deadline=None)
@given(
    trace=traces(), policy=specs, cache=caches, scope=st.sampled_from(["layer", "model"]), warm=st.booleans(),
    profile=profiles(), action=st.sampled_from(["load", "cpu", "split", "cpu,admit:1,touches:2"]),
    overlap=st.booleans(),
)  # fmt: skip
def test_time(
    trace: RoutingTrace, policy: str, cache: int | str, scope: Any, warm: bool, profile: Any, action: str, overlap: bool
) -> None:
    overlap = overlap or "admit" in action
    if "admit" in action and profile.device_link is None:
        action = "cpu"
    assert trace.expert_bytes is not None
    how: dict[str, Any] = {"policy": policy, "scope": scope, "warm": warm, "action": action, "overlap": overlap}
    run(trace, cache, profile, sizes=trace.expert_bytes.tolist(), log=False, **how)


def test_the_event_loop_runs_it() -> None:
    """Not only SimPy: where both can, `both_engines.repeated` has something to compare."""
    trace = RoutingTrace.from_arrays(np.array([0] + [1] * 13).reshape(-1, 1, 1), num_experts=2)
    tallies = [tally for tally, _ in repeated(trace, 1, policy="repin:6")]
    assert len(tallies) == 1
    assert tallies[0].repinned.issued > 0


@pytest.mark.parametrize(("step", "swapped"), [(6, False), (7, True)])
def test_the_margin(step: int, swapped: bool) -> None:
    # 0 is used once and holds the slot. Heat 5 of 1 is no more than 1 + 0 + 4; heat 6 is.
    trace = RoutingTrace.from_arrays(np.array([0] + [1] * step).reshape(-1, 1, 1), num_experts=2)
    counts = compiled_counts(job_of(trace, f"repin:{step}", 1), record=True)
    assert (int(counts.preloaded.sum()) == 1) is swapped
