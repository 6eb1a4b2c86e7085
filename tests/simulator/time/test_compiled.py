"""The compiled engine gives the hits and times of the event-driven one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drawn_runs import costs_drawn, job_of, machine, profiles, same, small, traces
from drawn_runtimes import runtimes
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import PolicyError
from lrcsim.hardware import HardwareProfile, Link, load_profile, profile_names
from lrcsim.models import load_geometry
from lrcsim.policies import BUILT_IN, CompiledScore, Expert, Now, Policy, make_policy
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator import Schedule
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.batching import Batching, Speculative, batched
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import Costs, FixedCosts, RooflineCosts
from lrcsim.simulator.setup.miss_actions import MissAction, make_action
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import has_compiled_cache, run_compiled, unsupported
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.tally import Tally
from lrcsim.simulator.time.time_bounds import computed
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace


def in_events(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    sizes: list[int],
    action: MissAction,
    overlap: bool,
    runtime: Runtime = IDEAL,
) -> tuple[Tally, Counts]:
    """Run the event-driven engine."""
    residency = Residency(job, action, sizes=sizes)
    policy = residency.pools[0].policy
    schedule = Schedule(job.trace, job.prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, job.access, job.warm) if "future" in policy.needs else None
    for pool in residency.pools if future is not None else ():
        pool.view.upcoming = future.of_pool(pool.view.layers)
    made = Engine(steps_of(schedule, future), residency, costs, profile, sizes, runtime=runtime, overlap=overlap)
    tally = made.run()
    return tally, residency.finish()


def check(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    sizes: list[int],
    action: MissAction,
    overlap: bool,
    runtime: Runtime = IDEAL,
) -> tuple[Tally, Counts]:
    """Run both engines, compare all they say, return what the compiled one says."""
    why = unsupported(job, costs, profile, action, runtime=runtime)
    events, counted = in_events(job, costs, profile, sizes, action, overlap, runtime)
    if why is not None:  # for the event loop, or SimPy
        assert pinned_anew(job), why
        assert why.endswith("loads experts of its own accord on the way, over the links")
        return events, counted
    told: list[int] = []
    tally, counts = run_compiled(
        job, costs, profile, sizes, action, runtime=runtime, overlap=overlap, progress=told.append
    )
    same(tally, counts, events, counted)
    assert told[-1] == job.trace.num_tokens
    if tally.alone is not None:
        platform: Any = SimpleNamespace(costs=costs, profile=profile, runtime=runtime)
        assert tally.alone == pytest.approx(np.array(computed(job, platform)), rel=1e-9)
    return tally, counts


def pinned_anew(job: Run) -> bool:
    """Return whether a policy may fill its cache more than once."""
    policy = make_policy(job.policy)
    return policy.refills and (policy.name in ("sch-static", "repin") or not job.warm)


def action_of(spec: str, profile: HardwareProfile) -> MissAction:
    """Make a miss action; ``load`` where experts for the CPU would come from storage, which is not compiled."""
    return make_action("load" if profile.device_link is None else spec, profile)


def test_hand_solved() -> None:
    # One layer, two slots, LRU; the dense part takes 1 s, an expert 2 s, bookkeeping 0.5 s and 0.25 s per load. The
    # link moves 10 bytes/s, an expert has 20; its latency is 1 s, and a transfer costs 0.5 s more.
    #   token 0: 0 and 1 both miss. They are asked for at 1 + 0.5 + 2 * 0.25 = 2, flow from 3.5 and from 6 on, arrive at
    #            5.5 and 8; the GPU computes them in 5.5-7.5 and 8-10.
    #   token 1: 1 and 2. 2 misses; dense and bookkeeping until 11.75, 1 is computed until 13.75, 2 arrives at
    #            11.75 + 1 + 0.5 + 2 = 15.25 and is computed until 17.25. It puts out 0.
    #   token 2: 2 and 1 both hit: 17.25 + 1 + 0.5 + 4 = 22.75.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[1, 2]], [[2, 1]]], num_experts=3)
    profile = machine(Link("pcie", 10.0, 1.0, 0.5, 1), layer_overhead=0.5, expert_overhead=0.25)
    costs = FixedCosts(dense=1.0, expert_s=2.0)
    tally, counts = check(job_of(trace), costs, profile, [20], make_action("load", profile), True)
    assert tally.by_step()[:, :2].tolist() == [[0, 10], [10, 17.25], [17.25, 22.75]]
    assert (tally.links["pcie"].bytes, tally.links["pcie"].busy_s) == (60, 5 + 2.5)
    assert (counts.misses.sum(), counts.evictions, counts.resident) == (3, 1, 2)
    # Without overlap the GPU waits for all: token 0 is computed from 8 to 12, token 1 from 17.25 to 21.25.
    tally, _ = check(job_of(trace), costs, profile, [20], make_action("load", profile), False)
    assert tally.by_step()[:, 1].tolist() == [12, 12 + 5.25 + 4, 12 + 9.25 + 5.5]


def test_hand_solved_with_the_cpu() -> None:
    # One token, nothing resident, half of two misses is loaded: 0 over the link (10 bytes/s, 20 bytes), 1 on the CPU
    # (10 bytes at 5 bytes/s after 1 s). DRAM gives 12 bytes/s. Until 1 the link has it alone: 10 bytes move. Then 15
    # bytes/s are wanted, so that both slow down to 12/15: 8 and 4 bytes/s. The load arrives at 1 + 10/8 = 2.25, the CPU
    # has done 5 bytes by then and takes 1 s for the rest.
    trace = RoutingTrace.from_arrays([[[0, 1]]], num_experts=2)
    profile = machine(Link("pcie", 10.0, 0.0, 0.0, 1), dram=12.0)
    costs = FixedCosts(expert_s=0.5, cpu_overhead=1.0, cpu_bytes=10.0, cpu_rate=5.0)
    tally, _ = check(job_of(trace), costs, profile, [20], make_action("split:0.5", profile), True)
    assert (tally.total, tally.links["pcie"].busy_s, tally.cpu, tally.compute) == (3.25, 2.25, 3.25, 0.5)


def test_nothing_recorded() -> None:
    profile = machine(Link("pcie", 10.0, 0.0, 0.0, 1))
    trace = RoutingTrace.from_arrays([[[-1, -1]]], num_experts=2)
    tally, counts = check(job_of(trace), FixedCosts(1.0), profile, [20], make_action("load", profile), True)
    assert (tally.total, int(counts.accesses.sum()), tally.by_step().shape) == (0, 0, (0, 5))


actions = st.sampled_from(["load", "cpu", "split", "split:0", "split:0.3", "split:0.5", "split:1"])
rules = {"warm": st.booleans(), "prefill": st.sampled_from(["step", "token", "chunk:2"]), "overlap": st.booleans()}
POLICIES = list(BUILT_IN)
SPECS = [*POLICIES, "pinned-lru:0.2", "pinned-lru:1", "slru:0.3", "dali:9,heavy=2", "hobbit:w1=0,w2=0,w3=1,w4=0"]
SPECS += [
    f"admit2:{window}+{name}" for window, name in ((8, "mrs"), (20, SPECS[-1]), (20, "s3-fifo"), (8, "moe-infinity"))
]


@settings(max_examples=120)
@given(
    trace=traces(),
    profile=profiles(),
    costs=costs_drawn,
    action=actions,
    policy=st.sampled_from(POLICIES),
    scope=st.sampled_from(["layer", "model"]),
    cache=st.integers(0, 9),
    **rules,
)
def test_equals_the_event_driven_engine(
    trace: RoutingTrace,
    profile: HardwareProfile,
    costs: FixedCosts,
    action: str,
    policy: str,
    scope: Scope,
    cache: int,
    warm: bool,
    prefill: str,
    overlap: bool,
) -> None:
    assert trace.expert_bytes is not None
    job = job_of(trace, policy, cache, scope=scope, prefill=prefill, warm=warm)
    check(job, costs, profile, trace.expert_bytes.tolist(), action_of(action, profile), overlap)


@settings(max_examples=120)
@given(
    trace=traces(),
    profile=profiles(),
    runtime=runtimes,
    action=actions,
    policy=st.sampled_from(POLICIES),
    scope=st.sampled_from(["layer", "model"]),
    cache=st.integers(0, 9),
    **rules,
)
def test_any_runtime(
    trace: RoutingTrace,
    profile: HardwareProfile,
    runtime: Runtime,
    action: str,
    policy: str,
    scope: Scope,
    cache: int,
    warm: bool,
    prefill: str,
    overlap: bool,
) -> None:
    """On a machine so slow that every part of the roofline takes milliseconds."""
    assert trace.expert_bytes is not None
    profile = machine_under(profile, runtime)
    if profile.gpu is not None:
        profile = profile.with_part("gpu", bandwidth=400_000.0, compute=1e6)
    profile = profile.with_part("cpu", bandwidth=300_000.0 * runtime.cpu.share, compute=5e5 * runtime.cpu.compute)
    geometry = small(trace.num_layers, trace.num_experts)
    costs = RooflineCosts(geometry, profile, sizes=trace.expert_bytes, runtime=runtime)
    job = job_of(trace, policy, cache, scope=scope, prefill=prefill, warm=warm)
    does = action_of(action, profile)
    why = unsupported(job, costs, profile, does, runtime=runtime)
    if why is not None and not pinned_anew(job):
        assert why.startswith("evictions cost")
    if why is not None:
        runtime = replace(runtime, loads=replace(runtime.loads, eviction=0.0))
    check(job, costs, profile, trace.expert_bytes.tolist(), does, overlap, runtime)


@settings(max_examples=120)
@given(
    trace=traces(),
    profile=profiles(),
    action=actions,
    batch=st.integers(1, 3),
    batching=st.sampled_from(["continuous", "static"]),
    speculative=st.sampled_from([None, (1, 0.5), (3, 0.7), (2, [2, 0])]),
    cache=st.integers(0, 9),
    **rules,
)
def test_several_requests_and_drafts(
    trace: RoutingTrace,
    profile: HardwareProfile,
    action: str,
    batch: int,
    batching: Batching,
    speculative: Speculative | None,
    cache: int,
    warm: bool,
    prefill: str,
    overlap: bool,
) -> None:
    """In the order of a server, with windows, outputs of every draft, and tokens that did not run."""
    assert trace.expert_bytes is not None
    if profile.gpu is not None:
        profile = profile.with_part("gpu", bandwidth=400_000.0, compute=1e6)
    served = batched(trace, batch=batch, batching=batching, speculative=speculative, prefill=prefill)
    costs = RooflineCosts(small(trace.num_layers, trace.num_experts), profile, sizes=trace.expert_bytes)
    job = job_of(served, "lru", cache, prefill=prefill, warm=warm)
    check(job, costs, profile, trace.expert_bytes.tolist(), action_of(action, profile), overlap)


@pytest.mark.parametrize("policy", SPECS)
@settings(max_examples=12)
@given(trace=traces(), action=actions, cache=st.sampled_from([1, 2, 3, 5, "5000B", "21000B", "40000B"]), **rules)
def test_every_policy(
    policy: str, trace: RoutingTrace, action: str, cache: int | str, warm: bool, prefill: str, overlap: bool
) -> None:
    """In one pool, of slots or bytes, with times that show whichever access is counted wrong."""
    profile = machine(Link("pcie", 1e6, 1e-3, 0.0, 2), dram=1.1e6)
    costs = FixedCosts(0.01, 0.003, 0.0, 0.0, 2000.0, 9e5)
    assert trace.expert_bytes is not None
    job = job_of(trace, policy, cache, scope="model", prefill=prefill, warm=warm)
    check(job, costs, profile, trace.expert_bytes.tolist(), action_of(action, profile), overlap)


class Patient(CompiledScore):
    """Evict the fewest uses per step since the first."""

    bypass = True
    wants = frozenset({"weights"})

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.uses / (now.step - expert.first_step + 1) + expert.weight_ahead


@settings(max_examples=40)
@given(trace=traces(), action=actions, cache=st.integers(0, 9), **rules)
def test_a_policy_of_ones_own(
    trace: RoutingTrace, action: str, cache: int, warm: bool, prefill: str, overlap: bool
) -> None:
    profile = machine(Link("pcie", 1e6, 1e-3, 0.0, 2), dram=1.1e6)
    job = job_of(trace, Patient, cache, scope="model", prefill=prefill, warm=warm)
    check(job, FixedCosts(0.01, 0.003), profile, [1000] * trace.num_layers, action_of(action, profile), overlap)


class Whim(Policy):
    """A user's own in Python: evict by a number made of all that it is told."""

    needs = frozenset({"weights", "future"})

    def reset(self) -> None:
        self.told: dict[int, int] = {}

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        view = self.view
        for key, weight, later in zip(batch, view.weights, view.next_use, strict=False):
            self.told[key] = int(1e6 * weight) + 7 * view.step + 3 * view.layer + view.phase + later % 5 + view.request

    def victim(self, protected: Container[int]) -> int:
        return min((key for key in self.told if key not in protected), key=lambda key: (self.told[key] % 11, key))

    def evicted(self, key: int) -> None:
        del self.told[key]


@settings(max_examples=60)
@given(trace=traces(), action=st.sampled_from(["load", "cpu"]), cache=st.integers(0, 9), **rules)
def test_a_policy_in_python(
    trace: RoutingTrace, action: str, cache: int, warm: bool, prefill: str, overlap: bool
) -> None:
    """The class says what hits; times are those of SimPy all the same."""
    profile = machine(Link("pcie", 1e6, 1e-3, 0.0, 2), dram=1.1e6)
    job = job_of(trace, Whim, cache, scope="model", prefill=prefill, warm=warm)
    assert not has_compiled_cache(job)
    check(job, FixedCosts(0.01, 0.003), profile, [1000] * trace.num_layers, action_of(action, profile), overlap)


def test_which_policies_are_compiled_too() -> None:
    trace = RoutingTrace.from_arrays([[[0, 1]], [[1, 2]]], num_experts=3)
    in_python = {name for name in BUILT_IN if not has_compiled_cache(job_of(trace, name))}
    assert in_python == set()
    unlike = RoutingTrace.from_arrays([[[0, 1], [1, 2]]], num_experts=3, expert_bytes=[1000, 2000])
    in_python = {name for name in BUILT_IN if not has_compiled_cache(job_of(unlike, name, "5kB", scope="model"))}
    assert in_python == {"sch-static"}
    assert not has_compiled_cache(job_of(trace, type("Mine", (BUILT_IN["lru"],), {})))
    for policy, step in (("access", 0), ("victim", 2)):

        def fails(*_: object) -> int:
            raise KeyError("oops")

        broken = type("Broken", (BUILT_IN["lru"],), {policy: fails})
        profile = machine(Link("pcie", 1e6, 0.0, 0.0, 1))
        routing = RoutingTrace.from_arrays([[[0]], [[1]], [[2]]], num_experts=3)
        with pytest.raises(PolicyError, match=f"policy Broken failed at step {step}, layer 0"):
            run_compiled(job_of(routing, broken), FixedCosts(), profile, [9], make_action("load", profile))


@pytest.mark.parametrize("action", ["load", "cpu", "split"])
@pytest.mark.parametrize("hardware", profile_names())
def test_roofline_of_every_machine(hardware: str, action: str) -> None:
    """A model with dense layers and shared experts, context that grows, two requests with prompts."""
    profile, geometry = load_profile(hardware), load_geometry("deepseek-v2-lite")
    layers, experts = len(geometry.moe_layers), geometry.experts
    ids = np.random.default_rng(0).random((40, layers, experts)).argsort(axis=2)[:, :, : geometry.top_k]
    phase = np.r_[np.zeros(12), np.ones(10), np.zeros(7), np.ones(11)].astype(int)
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=[0, 22, 40], phase=phase)
    costs = RooflineCosts(geometry, profile)
    if not profile.links:
        return
    for overlap in (True, False):
        job = job_of(trace, "pinned-lru", "2x", prefill="chunk:8")
        check(job, costs, profile, costs.bytes, action_of(action, profile), overlap)


@pytest.mark.parametrize("policy", ["lru", "hobbit", "belady"])
def test_bundled_trace(policy: str) -> None:
    """Its first three requests, with prompts in chunks."""
    whole = RoutingTrace.open()
    end = int(whole.offsets[3])
    columns = {name: whole.read(name, 0, end) for name in ("experts", "weights", "phase")}
    trace = RoutingTrace.from_arrays(
        **columns, num_experts=whole.num_experts, offsets=whole.offsets[:4], expert_bytes=whole.expert_bytes
    )
    profile, geometry = load_profile("rtx-4090"), load_geometry(whole.model)
    costs = RooflineCosts(geometry, profile)
    for action, warm in (("load", True), ("split", False)):
        job = job_of(trace, policy, "2x", prefill="chunk:64", warm=warm)
        check(job, costs, profile, costs.bytes, action_of(action, profile), True)


SHARED = Path(os.environ.get("LRCSIM_SHARED") or Path(__file__).resolve().parents[4] / "shared") / "traces"


@pytest.mark.parametrize("hardware", ["phone-ufs", "rtx-4060-laptop"])
def test_recorded_trace(hardware: str, tmp_path: Path) -> None:
    """Layers of unequal bytes in one pool."""
    source = SHARED / "qwen3-30b-a3b.route.csv"
    if not source.is_file():
        pytest.skip("the shared trace is not there (LRCSIM_SHARED names the folder that has traces/)")
    import_trace(source, tmp_path / "trace.h5")
    trace = RoutingTrace.open(tmp_path / "trace.h5")
    profile = load_profile(hardware)
    costs = RooflineCosts(load_geometry("qwen3-30b-a3b"), profile, sizes=trace.expert_bytes)
    for action in ("load", "split"):
        job = job_of(trace, "lru", "4000MiB", scope="model")
        check(job, costs, profile, costs.bytes, action_of(action, profile), True)


def test_what_it_does_not_do() -> None:
    trace = RoutingTrace.from_arrays([[[0, 1]], [[1, 2]]], num_experts=3, weights=np.full((2, 1, 2), 0.5))
    link = Link("nvme", 1e6, 0.0, 0.0, 1)
    profile, costs = machine(link), FixedCosts()
    load = make_action("load", profile)
    assert unsupported(job_of(trace), costs, profile, load, make_prefetcher("none")) is None
    flash = machine(None, link)
    assert "read from storage first" in str(unsupported(job_of(trace), costs, flash, make_action("cpu", flash)))
    other: Costs = type("Other", (), {})()
    sequential = Run.in_pools(trace, "lru", job_of(trace).pools, "sequential", "step", True)
    for why, reason in (
        (
            unsupported(job_of(trace), costs, profile, make_action("skip:0.2", profile)),
            "miss action skip:0.2 is not load, cpu or split",
        ),
        (
            unsupported(job_of(trace), costs, profile, load, make_prefetcher("temporal")),
            "prefetcher temporal brings experts ahead",
        ),
        (unsupported(job_of(trace), costs, profile, load, dram_cache=True), "main memory is a cache too"),
        (
            unsupported(job_of(trace), costs, profile, load, shrinks=True),
            "the KV cache takes memory from the experts",
        ),
        (unsupported(sequential, costs, profile, load), "access sequential is not coresident"),
        (unsupported(job_of(trace), costs, machine(), load), "the machine has no link"),
        (
            unsupported(job_of(trace), costs, machine(None, link, replace(link, name="cxl")), load),
            "experts come over several links, one after the other",
        ),
        (unsupported(job_of(trace), other, profile, load), "costs Other have no table()"),
    ):
        assert why == reason


def test_without_the_compiler() -> None:
    """The kernels as plain Python: index errors and wrong types show here."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    chosen = "hand_solved or equals or own or any_runtime"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, "-k", chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
