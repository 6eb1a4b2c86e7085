"""The closed form gives the hits and times of the event-driven engine where requests arrive."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from drawn_runs import costs_drawn, job_of, machine, profiles, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_compiled_events import Rash, in_simpy, requests

from lrcsim.hardware import HardwareProfile, Link
from lrcsim.policies import BUILT_IN
from lrcsim.simulator.serving.arrivals import arrival_steps
from lrcsim.simulator.setup.costs import Costs, FixedCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time import compiled_arrivals
from lrcsim.simulator.time.compiled import unsupported
from lrcsim.simulator.time.compiled_arrivals import can_go_back, run_arriving
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace

POLICIES = sorted(name for name, policy in BUILT_IN.items() if "future" not in policy.needs and name != "admit2")


def check(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    arrivals: list[float],
    action: str = "load",
    *,
    rash: bool = True,
    overlap: bool = True,
    **serving: Any,
) -> Tally:
    """Run both engines, in blocks and step by step, compare all they say, return what the compiled one says."""
    does, sizes = make_action(action, profile), job.trace.expert_bytes
    assert sizes is not None
    one, other = (arrival_steps(job.trace, arrivals, weights=True, **serving) for _ in range(2))
    if rash:
        one.__class__ = Rash
    told: list[int] = []
    machinery = (job, costs, profile, sizes.tolist(), does)
    tally, counts = run_arriving(*machinery, one, overlap=overlap, progress=told.append)
    events = in_simpy(*machinery, make_prefetcher("none"), arriving=other, overlap=overlap)
    same(tally, counts, *events)
    assert tally.idle == pytest.approx(events[0].idle, rel=1e-9, abs=1e-12)
    mine, theirs = one.trace(), other.trace()
    assert (told == sorted(told), mine.offsets.tolist()) == (True, theirs.offsets.tolist())
    for name in ("step", "sequence", "position", "kept"):
        assert mine.read(name, 0, mine.num_tokens).tolist() == theirs.read(name, 0, theirs.num_tokens).tolist()
    return tally


@pytest.mark.parametrize("rash", [True, False])
def test_solved_by_hand(rash: bool) -> None:
    # One layer, one slot; an expert takes 1 s on the link and 1 s per token on the GPU. Request 0 is there at 0 and
    # needs 0 0 1 1, a token a step: 0 is loaded in 0-1 and computed in 1-2, hits in 2-3; 1 is loaded in 3-4, computed
    # in 4-5.
    # Request 1 comes at 4.5 and needs 1 2. It joins at 5: both need 1, which hits, 5-7. Alone it loads 2, 7-8, 8-9.
    # Request 2 comes at 10: idle for 1 s. It needs 2, which is there: 10-11.
    trace = RoutingTrace.from_arrays(
        [[[0]], [[0]], [[1]], [[1]], [[1]], [[2]], [[2]]], num_experts=3, offsets=[0, 4, 6, 7], expert_bytes=100
    )
    profile = machine(Link("pcie", 100.0, 0.0, 0.0, 1))
    with mock.patch.object(compiled_arrivals, "_first_steps", wraps=compiled_arrivals._first_steps) as went_back:
        tally = check(job_of(trace, cache=1), FixedCosts(0.0, 1.0), profile, [0.0, 4.5, 10.0], rash=rash, batch=2)
    assert tally.by_step()[:, :2].tolist() == [[0, 2], [2, 3], [3, 5], [5, 7], [7, 9], [10, 11]]
    assert (tally.idle, tally.links["pcie"].bytes) == (1, 300)
    assert went_back.called == rash


@settings(max_examples=80)
@given(
    data=st.data(),
    routing=requests(),
    profile=profiles(("pcie", "nvme")),
    costs=costs_drawn,
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.05, 0.3, 1.0]),
    policy=st.sampled_from(POLICIES),
)
def test_equals_the_event_driven_engine(
    data: st.DataObject,
    routing: RoutingTrace,
    profile: HardwareProfile,
    costs: Costs,
    seed: int,
    spread: float,
    policy: str,
) -> None:
    actions = ["load"] if profile.device_link is None else ["load", "cpu", "split"]
    action, scope = data.draw(st.sampled_from(actions)), data.draw(st.sampled_from(["layer", "model"]))
    job = job_of(routing, policy, data.draw(st.integers(0, 9)), scope=scope, warm=data.draw(st.booleans()))
    assert can_go_back(job)
    pinned_anew = job.policy == "repin" or (job.policy in ("static", "pinned-lru") and not job.warm)  # uploads
    assert (unsupported(job, costs, profile, make_action(action, profile)) is None) is not pinned_anew
    assume(not pinned_anew)
    check(
        job,
        costs,
        profile,
        (np.random.default_rng(seed).random(routing.num_requests) * spread).tolist(),
        action,
        rash=data.draw(st.booleans()),
        overlap=data.draw(st.booleans()),
        batch=data.draw(st.integers(1, 3)),
        batching=data.draw(st.sampled_from(["continuous", "static"])),
        speculative=data.draw(st.sampled_from([None, (2, 0.6), (1, [1, 0])])),
        prefill=data.draw(st.sampled_from(["step", "token", "chunk:2"])),
        seed=seed,
    )


def test_whose_caches_can_go_back() -> None:
    trace = RoutingTrace.from_arrays([[[0, 1]], [[1, 2]]], num_experts=3)
    assert all(can_go_back(job_of(trace, policy)) for policy in ("lru", "hobbit", "random", "static"))
    assert not can_go_back(job_of(trace, "sch-static"))
    assert not can_go_back(job_of(trace, "admit2+lru"))
    assert not can_go_back(job_of(trace, type("Mine", (BUILT_IN["lru"],), {})))
