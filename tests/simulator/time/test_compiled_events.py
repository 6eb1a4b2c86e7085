"""The compiled event loop gives the counts and times of the event-driven engine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from drawn_runs import costs_drawn, job_of, profiles, same, small, traces
from drawn_runtimes import runtimes
from helpers import COSTS, SIZE, link, machine, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.hardware import HardwareProfile
from lrcsim.policies import BUILT_IN, View, make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator import Schedule, simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.arrivals import ArrivalSteps, arrival_steps
from lrcsim.simulator.serving.batching import batched
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import Costs, RooflineCosts
from lrcsim.simulator.setup.miss_actions import Load, MissAction, make_action
from lrcsim.simulator.setup.prefetchers import Oracle, Prefetcher, make_prefetcher, start
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled_events import Dram, run_events, unsupported_events
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace

QUEUES = [name for name, policy in BUILT_IN.items() if kernel_of(policy, Queue) is not None]
AHEAD = [
    "none",
    "oracle",
    "oracle:2",
    "next-gate",
    "next-gate:2",
    "temporal",
    "popularity",
    "popularity:1",
    "transition",
    "trace-match",
    "trace-match:1,width=3",
]
ACTIONS = ["load", "cpu", "split", "split:0.5", "skip:0.3", "substitute:0.4,keep=0", "low:0.4,0.3", "low:0.9,keep=0"]


def in_simpy(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    sizes: list[int],
    action: MissAction,
    prefetcher: Prefetcher,
    dram: Dram | None = None,
    arriving: ArrivalSteps | None = None,
    **how: Any,
) -> tuple[Tally, Counts]:
    """Run the event-driven engine."""
    below = None
    if dram is not None:
        size = dram.size
        of_layer = None if size.bytes_per_expert is None else dict(zip(size.layers, size.bytes_per_expert, strict=True))
        view = View(size.capacity, job.trace.num_experts, size.layers, job.trace.num_layers, job.trace.top_k, of_layer)
        below = Pool(size, make_policy(dram.policy), view)
    residency = Residency(job, action, below, sizes=sizes)
    policy = residency.pools[0].policy
    schedule = Schedule(job.trace, job.prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, job.access, job.warm) if "future" in policy.needs else None
    prefetcher.trace, prefetcher.stride = job.trace, job.trace.num_experts
    prefetcher.num_layers, prefetcher.top_k = job.trace.num_layers, job.trace.top_k
    uses = np.zeros(job.trace.num_layers * job.trace.num_experts) if job.profile is None else job.profile
    prefetcher.profile = uses.astype(float)
    start(prefetcher)
    steps: Any = arriving or steps_of(schedule, future, uses="weights" in action.needs)
    tally = Engine(steps, residency, costs, profile, sizes, prefetcher=prefetcher, **how).run()
    return tally, residency.finish()


def check(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    sizes: list[int],
    action: str = "load",
    prefetch: str = "none",
    dram: Dram | None = None,
    **how: Any,
) -> Tally:
    """Run both engines, compare all they say, return what the compiled one says."""
    does, ahead = make_action(action, profile), make_prefetcher(prefetch)
    assert unsupported_events(job, costs, profile, does, ahead, dram=dram) is None
    told: list[int] = []
    tally, counts = run_events(job, costs, profile, sizes, does, ahead, dram=dram, progress=told.append, **how)
    same(tally, counts, *in_simpy(job, costs, profile, sizes, does, ahead, dram, **how))
    assert not int(counts.accesses.sum()) or told[-1] == job.trace.num_tokens
    return tally


def test_hand_solved() -> None:
    # Two layers, a slot each; an expert takes 1 s on the link and 1 s on the GPU; what the next layer used in the step
    # before is brought ahead.
    #   token 0: 0.0 misses and is loaded in 0-1, computed in 1-2; nothing is known of layer 1. 1.0 misses: 2-3, 3-4.
    #            Then 0.0 is asked for ahead, and is there.
    #   token 1: 0.1 misses, so that 0.0 goes: 4-5, 5-6. 1.0 is there. It is computed in 6-7; 0.1 is there.
    #   token 2: 0.1 hits, 7-8; 1.0 is there. 1.1 misses: 8-9, 9-10.
    tally = check(
        job_of(trace("0|0", "1|0", "1|1", expert_bytes=SIZE), cache=1), COSTS, machine(), [SIZE, SIZE],
        prefetch="temporal",
    )  # fmt: skip
    assert tally.by_step()[:, :2].tolist() == [[0, 4], [4, 7], [7, 10]]
    assert (tally.prefetch.issued, tally.links["pcie"].bytes) == (0, 4 * SIZE)


def test_hand_solved_with_a_prefetch_that_is_late() -> None:
    # Two layers, a slot each, perfect prediction of the next layer; 0.5 s of link for an expert that takes 1 s.
    #   token 0: 0.0 is loaded in 0-0.5, and behind it, from 0.5 on, 1.0: there at 1. 0.0 is computed in 0.5-1.5, 1.0 in
    #            1.5-2.5. 0.1, asked for at 1.5, would need the place of 0.0, which is free to go: there at 2.
    #   token 1: 0.1 is there, 2.5-3.5. 1.1, asked for at 2.5, is there at 3 and computed in 3.5-4.5.
    # With 2 s of link: 0-2 and 2-3 for 0.0, 1.0 in 2-4: late at 3, it is waited for, 4-5. 0.1: asked for at 3, moves in
    # 4-6; 6-7. 1.1: asked for at 5, moves in 6-8; 8-9.
    job = job_of(trace("0|0", "1|1", expert_bytes=SIZE), cache=1)
    for bandwidth, ends, late in ((200.0, [2.5, 4.5], 0), (50.0, [5, 9], 3)):
        tally = check(job, COSTS, machine(link(bandwidth)), [SIZE, SIZE], prefetch="oracle")
        assert tally.by_step()[:, 1].tolist() == ends
        assert (tally.prefetch.late, tally.prefetch.useful) == (late * SIZE, (3 - late) * SIZE)
        assert (tally.prefetch.displaced, tally.prefetch.wasted) == (2, 0)


@st.composite
def drams(draw: st.DrawFn, routing: RoutingTrace, profile: HardwareProfile) -> Dram | None:
    """A cache in main memory, of slots or bytes, where there is storage below it and a GPU above."""
    if profile.device_link is None or not profile.storage_links or draw(st.booleans()):
        return None
    size = resolve_capacity(draw(st.sampled_from([1, 2, 5, "12000B"])), routing.layers, "model")[0]
    return Dram(size, draw(st.sampled_from(["lru", "fifo", "sieve"])))


def run_both(
    data: st.DataObject,
    routing: RoutingTrace,
    profile: HardwareProfile,
    costs: Costs,
    runtime: Runtime,
    policy: str,
    cache: int | str,
    scope: Scope = "layer",
) -> None:
    """Draw the rest, and check that both engines agree."""
    assert routing.expert_bytes is not None
    ahead = data.draw(st.sampled_from(AHEAD if not BUILT_IN[policy].refills else AHEAD[:1]))
    batch, speculative = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([None, (2, 0.6)]))
    prefill = data.draw(st.sampled_from(["step", "token", "chunk:2"]))
    served = batched(routing, batch=batch, speculative=speculative, prefill=prefill)
    job = job_of(served, policy, cache, scope=scope, prefill=prefill, warm=data.draw(st.booleans()))
    dram, action = data.draw(drams(routing, profile)), data.draw(st.sampled_from(ACTIONS))
    does = make_action(action, profile)
    if unsupported_events(job, costs, profile, does, make_prefetcher(ahead), dram=dram) is not None:
        assert cache == 0 or BUILT_IN[policy].refills or isinstance(cache, str) or dram is not None
        return
    check(
        job, costs, profile, routing.expert_bytes.tolist(), action, ahead, dram,
        runtime=runtime, overlap=data.draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=120)
@given(
    data=st.data(),
    routing=traces(predicted=True),
    profile=profiles(),
    costs=costs_drawn,
    scope=st.sampled_from(["layer", "model"]),
    cache=st.integers(1, 9),
)
def test_many_things_at_the_same_moment(
    data: st.DataObject,
    routing: RoutingTrace,
    profile: HardwareProfile,
    costs: Costs,
    scope: Scope,
    cache: int,
) -> None:
    """Fixed costs, of few sizes: what happens together happens in the same order in both."""
    run_both(data, routing, profile, costs, IDEAL, "lru", cache, scope)


@settings(max_examples=120)
@given(
    data=st.data(),
    routing=traces(predicted=True),
    profile=profiles(),
    runtime=runtimes,
    policy=st.sampled_from(QUEUES),
    scope=st.sampled_from(["layer", "model"]),
    cache=st.one_of(st.integers(1, 9), st.sampled_from(["9000B", "21000B", "40000B"])),
)
def test_any_runtime_and_policy(
    data: st.DataObject,
    routing: RoutingTrace,
    profile: HardwareProfile,
    runtime: Runtime,
    policy: str,
    scope: Scope,
    cache: int | str,
) -> None:
    """On a machine so slow that every part of the roofline takes milliseconds."""
    profile = machine_under(profile, runtime)
    if profile.gpu is not None:
        profile = profile.with_part("gpu", bandwidth=400_000.0, compute=1e6)
    profile = profile.with_part("cpu", bandwidth=300_000.0 * runtime.cpu.share, compute=5e5 * runtime.cpu.compute)
    geometry = small(routing.num_layers, routing.num_experts)
    costs = RooflineCosts(geometry, profile, sizes=routing.expert_bytes, runtime=runtime)
    run_both(data, routing, profile, costs, runtime, policy, cache, scope)


def test_room_for_more_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first there is room for one; requests start cold, so that prefetches are called off while they wait."""
    monkeypatch.setattr("lrcsim.simulator.time.compiled_events.ROOM", 1)
    rng = np.random.default_rng(0)
    ids = rng.random((40, 3, 6)).argsort(axis=2)[:, :, :2]
    routing = RoutingTrace.from_arrays(ids, num_experts=6, offsets=[0, 5, 20, 40], expert_bytes=SIZE)
    for cache, latency in ((2, 0.0), (4, 2.5), (4, 40.0)):
        job = job_of(routing, cache=cache, warm=False)
        profile = machine(link(latency=latency, chunk=30), link(lanes=2, chunk=70))
        tally = check(job, COSTS, profile, [SIZE] * 3, prefetch="oracle:2", dram=None)
        assert tally.prefetch.issued
        below = Dram(resolve_capacity(5, routing.layers, "model")[0], "lru")
        assert check(job, COSTS, profile, [SIZE] * 3, prefetch="popularity", dram=below).links["nvme"].bytes


@pytest.mark.parametrize("prefetch", ["none", "next-gate", "temporal", "popularity", "transition"])
@pytest.mark.parametrize(("miss", "dram"), [("load", None), ("skip:0.2", "50%"), ("split", None)])
def test_requests_that_arrive(prefetch: str, miss: str, dram: str | None) -> None:
    """The bundled trace's first requests: while none is there, prefetches go on."""
    whole = RoutingTrace.open()
    end = int(whole.offsets[3])
    columns = {name: whole.read(name, 0, end) for name in ("experts", "weights", "phase")}
    routing = RoutingTrace.from_arrays(
        **columns,
        num_experts=whole.num_experts,
        offsets=whole.offsets[:4],
        expert_bytes=whole.expert_bytes,
        predictions={1: np.roll(columns["experts"], -1, axis=0)},
        model=whole.model,
    )
    found = [
        simulate(
            routing, "lru", "2x", hardware="rtx-4060-laptop", arrivals=[0, 0.01, 30], batch=2, warm=False, bounds=False,
            engine=engine, prefetch=prefetch, miss=miss, dram=dram,
        ).timed
        for engine in ("compiled", "events")
    ]  # fmt: skip
    compiled, events = found
    assert compiled is not None
    assert events is not None
    assert (compiled.engine, events.engine) == ("compiled", "events")
    same(compiled.tally, compiled.counts, events.tally, events.counts)
    assert compiled.tally.idle == pytest.approx(events.tally.idle, rel=1e-9)
    assert compiled.tally.idle > 1
    assert compiled.run.trace.read("experts", 0, 9).tolist() == events.run.trace.read("experts", 0, 9).tolist()


class Rash(ArrivalSteps):
    """Steps that are planned as if they took no time: nearly always too many."""

    @property
    def _pace(self) -> float:
        return 1e-12

    @_pace.setter
    def _pace(self, value: float) -> None:
        pass


@st.composite
def requests(draw: st.DrawFn) -> RoutingTrace:
    """Up to six requests of a few tokens, some of which did not run."""
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=6))
    tokens, layers, experts = sum(lengths) or 1, draw(st.integers(1, 2)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, : draw(st.integers(1, 2))]
    ids[rng.random(tokens) < draw(st.sampled_from([0.0, 0.3]))] = -1
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[*np.cumsum([0, *lengths[:-1]]).tolist(), tokens],
        phase=(rng.random(tokens) < 0.8).astype(int),
        weights=(rng.integers(1, 9, ids.shape) / 16).astype(np.float32),
        predictions={1: np.roll(ids, 1, axis=0), 2: ids},
        expert_bytes=[1000 * (1 + layer) for layer in range(layers)],
    )


def check_arriving(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    arrivals: list[float],
    action: str = "load",
    prefetch: str = "none",
    dram: Dram | None = None,
    *,
    rash: bool = True,
    most: int = 1 << 17,
    overlap: bool = True,
    **serving: Any,
) -> Tally:
    """Run both engines, in blocks that go on until somebody joins and step by step; return what the compiled one says.

    Args:
        job: what to run, like the following.
        costs: seconds of compute.
        profile: the machine.
        arrivals: seconds.
        action: what to do with misses.
        prefetch: what to bring ahead.
        dram: the cache in main memory.
        rash: whether nearly always more steps are planned than are run.
        most: accesses in a block.
        overlap: whether transfers run beside compute.
        serving: options of `arrival_steps`.
    """
    does, ahead = make_action(action, profile), make_prefetcher(prefetch)
    assert job.trace.expert_bytes is not None
    sizes = job.trace.expert_bytes.tolist()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lrcsim.simulator.serving.arrivals.ACCESSES_PER_BLOCK", most)
        one, other = (arrival_steps(job.trace, arrivals, uses=bool(does.needs), **serving) for _ in range(2))
    if rash:
        one.__class__ = Rash
    told: list[int] = []
    how: dict[str, Any] = {"dram": dram, "overlap": overlap}
    tally, counts = run_events(job, costs, profile, sizes, does, ahead, arriving=one, progress=told.append, **how)
    events = in_simpy(job, costs, profile, sizes, does, ahead, arriving=other, **how)
    same(tally, counts, *events)
    assert tally.idle == pytest.approx(events[0].idle, rel=1e-9, abs=1e-12)
    mine, theirs = one.trace(), other.trace()
    assert mine.num_tokens == theirs.num_tokens
    assert told == sorted(told)
    assert mine.offsets.tolist() == theirs.offsets.tolist()
    for name in ("step", "sequence", "position", "kept"):
        assert mine.read(name, 0, mine.num_tokens).tolist() == theirs.read(name, 0, mine.num_tokens).tolist()
    return tally


@settings(max_examples=100)
@given(
    data=st.data(),
    routing=requests(),
    profile=profiles(),
    costs=costs_drawn,
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_drawn_requests_that_arrive(
    data: st.DataObject,
    routing: RoutingTrace,
    profile: HardwareProfile,
    costs: Costs,
    seed: int,
    spread: float,
) -> None:
    prefetch = data.draw(st.sampled_from(["none"] * 5 + [name for name in AHEAD[3:] if ":" not in name]))
    action, dram = data.draw(st.sampled_from(ACTIONS)), data.draw(drams(routing, profile))
    job = job_of(routing, "lru", data.draw(st.integers(1, 9)), warm=data.draw(st.booleans()))
    does, ahead = make_action(action, profile), make_prefetcher(prefetch)
    if unsupported_events(job, costs, profile, does, ahead, dram=dram) is not None:
        return
    check_arriving(
        job,
        costs,
        profile,
        (np.random.default_rng(seed).random(routing.num_requests) * spread).tolist(),
        action,
        prefetch,
        dram,
        rash=data.draw(st.booleans()),
        most=data.draw(st.sampled_from([1, 20, 1 << 17])),
        overlap=data.draw(st.booleans()),
        batch=data.draw(st.integers(1, 3)),
        batching=data.draw(st.sampled_from(["continuous", "static"])),
        speculative=data.draw(st.sampled_from([None, (2, 0.6), (1, [1, 0])])),
        prefill=data.draw(st.sampled_from(["step", "token", "chunk:2"])),
        seed=seed,
    )


@pytest.mark.parametrize("prefetch", ["temporal", "popularity", "transition", "trace-match"])
def test_prefetchers_see_only_what_is_run(prefetch: str) -> None:
    """Two requests, the second while the first runs, and two more later: steps planned in vain are not counted."""
    rng = np.random.default_rng(3)
    ids = rng.random((48, 3, 6)).argsort(axis=2)[:, :, :2]
    routing = RoutingTrace.from_arrays(ids, num_experts=6, offsets=[0, 12, 24, 36, 48], expert_bytes=SIZE)
    arrivals = [0.0, 17.3, 500.0, 541.1]  # a step takes some 10 s
    tally = check_arriving(job_of(routing, cache=3), COSTS, machine(link(200.0)), arrivals, prefetch=prefetch, batch=4)
    assert tally.prefetch.issued
    assert min(begin for begin, _ in tally.first_step.values()) == 0


def test_what_it_does_not_do() -> None:
    routing = trace("01|23", "12|34", weights=np.full((2, 2, 2), 0.5), expert_bytes=SIZE)
    job, profile = job_of(routing), machine()
    load, none = make_action("load", profile), make_prefetcher("none")
    mine = type("Mine", (Load,), {"__module__": "mine"})
    own = type("Own", (Oracle,), {"__module__": "mine"})
    for why, reason in (
        (unsupported_events(job_of(routing, "lfu"), COSTS, profile, load), "policy lfu has no compiled queue"),
        (unsupported_events(job, COSTS, profile, make_action(mine, profile)), "is one's own"),
        (unsupported_events(job, COSTS, profile, load, make_prefetcher(own)), "prefetcher Own has no compiled form"),
        (unsupported_events(job, COSTS, profile, load, none, shrinks=True), "the KV cache takes memory"),
        (unsupported_events(job_of(routing, cache=0), COSTS, profile, load), "no room for an expert"),
        (
            unsupported_events(job_of(routing, "pinned-lru"), COSTS, profile, load, make_prefetcher("oracle")),
            "policy pinned-lru cannot go with a prefetcher",
        ),
    ):
        assert why is not None
        assert reason in why
    assert unsupported_events(job, COSTS, profile, load, none) is None


def test_without_the_compiler() -> None:
    """The kernels as plain Python: index errors and wrong types show here."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        [*command, "-k", "hand_solved or same_moment or any_runtime or only_what"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
