"""What is uploaded behind everything urgent: experts that are admitted, and those that a policy pins anew.

An expert has 100 bytes and takes a second on the CPU and on the GPU, unless told. Each case solved by hand is compared
with SimPy's spans, and then with the compiled event loop (`both_engines.run`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import helpers
import numpy as np
import pytest
from both_engines import run
from drawn_runs import profiles, traces
from helpers import SIZE, Wishes, link, machine, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.runtimes import IDEAL
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import MissAction
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.time.tally import Tally, UploadUse
from lrcsim.traces import RoutingTrace


def test_an_upload_that_arrives_too_late() -> None:
    # 2.5 s of link. 0 misses and runs on the CPU; the next two tokens hit while it is under way, and run there again.
    found = run(trace("0", "0", "0", "0"), 1, machine(link(40)), action="cpu,admit:1")
    assert found.events == [
        "0-1 cpu expert 0.0",
        "0-2.5 pcie admit 0.0",
        "1-2 cpu expert 0.0",
        "2-3 cpu expert 0.0",
        "3-4 gpu expert 0.0",
    ]
    assert found.tally.admitted == UploadUse(issued=100, useful=100, late_uses=2)
    assert (int(found.counts.misses.sum()), found.tally.misses(Outcome.ADMITTED)) == (1, 1)
    assert found.tally.moved["pcie"] == [0, 100]


def test_a_second_touch() -> None:
    # Half a second of link. 0 and 1 miss once and are not admitted; 0 is when it misses again.
    found = run(trace("0", "1", "0", "0"), 2, machine(link(200)), action="cpu,admit:1,touches:2")
    assert found.events == [
        "0-1 cpu expert 0.0",
        "1-2 cpu expert 0.1",
        "2-2.5 pcie admit 0.0",
        "2-3 cpu expert 0.0",
        "3-4 gpu expert 0.0",
    ]
    assert found.tally.outcomes[Outcome.ON_CPU] == [0, 2]
    assert found.tally.outcomes[Outcome.ADMITTED] == [0, 1]


def test_payback_refused() -> None:
    # The GPU takes half a second, so half a second is lost in each miss; the upload takes 1.25 s of link. It is refused
    # after 0.5 and 1 s, and granted at 1.5. It comes at 3.25: too late for the fourth token.
    costs = FixedCosts(expert_s=0.5, cpu_bytes=SIZE, cpu_rate=SIZE)
    found = run(trace(*"00000"), 1, machine(link(80)), action="cpu,admit:1,payback", costs=costs)
    assert found.events == [
        "0-1 cpu expert 0.0",
        "1-2 cpu expert 0.0",
        "2-3 cpu expert 0.0",
        "2-3.25 pcie admit 0.0",
        "3-4 cpu expert 0.0",
        "4-4.5 gpu expert 0.0",
    ]
    never = run(trace(*"00000"), 1, machine(link(80)), action="cpu,admit:1,payback")  # the GPU is no faster
    assert never.tally.admitted == UploadUse()
    assert never.tally.total == 5


def test_an_upload_that_an_urgent_load_overtakes() -> None:
    # Half a second on the CPU; a chunk of 50 bytes takes a second. 0.0 is uploaded, 1.1 prefetched behind it. At 0.5
    # layer 1 needs 1.1, which becomes urgent: it goes before the second chunk of 0.0.
    costs = FixedCosts(expert_s=1, cpu_bytes=50, cpu_rate=100)
    found = run(
        trace("0|1", "0|1"), 2, machine(link(50, chunk=50)), action="cpu,admit:1", prefetch=Wishes(after_0_0="1.1"),
        costs=costs,
    )  # fmt: skip
    assert found.events == [
        "0-0.5 cpu expert 0.0",
        "0-1 pcie admit 0.0",
        "0.5 cache join 1.1",
        "1-2 pcie prefetch 1.1",
        "2-3 pcie prefetch 1.1",
        "3-4 gpu expert 1.1",
        "3-4 pcie admit 0.0",
        "4-5 gpu expert 0.0",
        "5-6 gpu expert 1.1",
    ]
    assert found.tally.prefetch.late == 100


def test_an_upload_that_leaves_the_cache_under_way() -> None:
    # One slot; a chunk of 50 bytes takes 2 s. 1 misses at 1 and takes the place of 0: what is left of 0 is not moved.
    found = run(trace("0", "1", "1"), 1, machine(link(25, chunk=50)), action="cpu,admit:1")
    assert found.events == [
        "0-1 cpu expert 0.0",
        "0-2 pcie admit 0.0",
        "1 cache evict 0.0",
        "1-2 cpu expert 0.1",
        "2-3 cpu expert 0.1",
    ]
    assert found.tally.admitted == UploadUse(issued=200, wasted=200, late_uses=1)
    assert found.tally.links["pcie"].bytes == 50 + 25


def test_no_more_than_so_many_and_the_most_used_first() -> None:
    # A prompt of three tokens: batch order is 0, 2, 1; 1 is used by all three, 2 and 0 by one. Two are uploaded.
    found = run(
        trace("01", "21", "1_", phase=[0, 0, 0]), 6, machine(link(100)), action="cpu,admit:2",
        costs=FixedCosts(expert_s=1, cpu_bytes=SIZE, cpu_rate=SIZE),
    )  # fmt: skip
    uploads = [event.split(" ", 1)[1] for event in found.events if "admit" in event]
    assert uploads == ["pcie admit 0.1", "pcie admit 0.0"]
    assert found.tally.outcomes[Outcome.ADMITTED] == [2, 0]
    assert found.tally.outcomes[Outcome.ON_CPU] == [1, 0]


def test_what_main_memory_does_not_hold_is_uploaded_once_it_is_read() -> None:
    found = run(trace("0", "1", "0"), 2, machine(link(200), link(100)), action="cpu,admit:1", dram=6)
    assert found.events == [
        "0-1 nvme read 0.0",
        "1-1.5 pcie admit 0.0",
        "1-2 cpu expert 0.0",
        "2-3 nvme read 0.1",
        "3-3.5 pcie admit 0.1",
        "3-4 cpu expert 0.1",
        "4-5 gpu expert 0.0",
    ]


def test_what_a_batch_has_no_room_for_is_not_uploaded() -> None:
    # Both are admitted and one slot is there: the cache keeps the later one, and only that is uploaded.
    found = run(trace("01", "1_"), 1, machine(link(1000)), action="cpu,admit:9")
    assert [event for event in found.events if "admit" in event] == ["0-0.1 pcie admit 0.1"]
    assert found.tally.admitted == UploadUse(issued=100, useful=100)


def test_the_host_pays_once_where_hits_alone_run_on_the_cpu() -> None:
    # cpu.layer, half a second, is due before the miss, and again when the routing shows that the upload is under way.
    runtime = replace(IDEAL, cpu=replace(IDEAL.cpu, layer=0.5))
    found = run(trace("0", "0"), 1, machine(link(40)), action="cpu,admit:1", runtime=runtime)
    assert found.tally.by_step()[:, :4].tolist() == [[0, 1.5, 0, 0.5], [1.5, 3, 0, 0.5]]


POPULAR = [9, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("action", "overlap", "second", "use"),
    [
        ("load", True, [1, 3], UploadUse(100, 100, 0, 1, 100)),  # it becomes urgent and is waited for
        ("cpu", True, [1, 2], UploadUse(100, 0, 100, 1, 100)),  # it runs on the CPU meanwhile
        ("load", False, [1, 3], UploadUse(100, 100, 0, 0, 100)),  # the step begins when it is there
    ],
)
def test_what_a_policy_pins_anew(action: str, overlap: bool, second: list[float], use: UploadUse) -> None:
    # The cache is emptied between two requests. At first 0 is there: the model was loaded with it. Then it is uploaded.
    routing = trace("0", "0", offsets=[0, 1, 2])
    found = run(routing, 1, policy="static", profile=POPULAR, warm=False, action=action, overlap=overlap)
    assert found.tally.by_step()[:, :2].tolist() == [[0, 1], second]
    assert found.tally.repinned == use
    assert found.counts.preloaded.tolist() == [2]
    assert int(found.counts.misses.sum()) == 0


def test_windows_of_sch_static_cost() -> None:
    # Windows of one step, one slot: 0 is there at the beginning, 1 comes before the second step and is waited for.
    found = run(trace("0", "1"), 1, policy="sch-static:1")
    assert found.events == [
        "0-1 gpu expert 0.0",
        "1 cache evict 0.0",
        "1 cache join 0.1",
        "1-2 pcie re-pin 0.1",
        "2-3 gpu expert 0.1",
    ]
    assert found.tally.repinned == UploadUse(100, 100, 0, 1, 100)


def test_a_hot_set_pinned_anew_while_the_cpu_runs_its_misses() -> None:
    # 2.5 s of link, passes before every second step. Misses on the CPU heat, too: before the third step 0 (heat 2)
    # takes the free slot, and is under way until 4.5. 1 has heat 2 and 1 at the next passes and stays outside.
    found = run(trace(*"00001101"), 1, machine(link(40)), policy="repin:2", action="cpu")
    assert found.events == [
        "0-1 cpu expert 0.0",
        "1-2 cpu expert 0.0",
        "2-3 cpu expert 0.0",
        "2-4.5 pcie re-pin 0.0",
        "3-4 cpu expert 0.0",
        "4-5 cpu expert 0.1",
        "5-6 cpu expert 0.1",
        "6-7 gpu expert 0.0",
        "7-8 cpu expert 0.1",
    ]
    assert found.tally.repinned == UploadUse(issued=100, useful=100, late_uses=2)
    assert (int(found.counts.misses.sum()), found.counts.preloaded.tolist()) == (5, [1])


def test_the_coldest_makes_room_for_a_hotter_one() -> None:
    # Misses are loaded, a second of link each; 0 stays, and 1 bypasses. Before the seventh step the heat of 1, 5, is no
    # more than that of 0, 1, and a quarter of it (rounded down) and 4. Before the 13th 1 has 5 // 2 + 6, and 0 none.
    found = run(trace(*"01111111111111"), 1, policy="repin:6")
    assert found.tally.by_step()[:, :2].tolist()[:3] == [[0, 2], [2, 4], [4, 6]]
    assert found.events[-5:] == [
        "24 cache evict 0.0",
        "24 cache join 0.1",
        "24-25 pcie re-pin 0.1",
        "25-26 gpu expert 0.1",
        "26-27 gpu expert 0.1",
    ]
    assert found.counts.preloaded.tolist() == [1]


def test_where_nothing_can_be_uploaded() -> None:
    with pytest.raises(ConfigError, match=r"'cpu,admit:1' uploads beside compute, and transfers do not run beside"):
        run(trace("0"), 1, action="cpu,admit:1", overlap=False)
    with pytest.raises(ConfigError, match="test has no link from main memory to a GPU"):
        run(trace("0"), 1, machine(None, link()), action="cpu,admit:1")

    class Mine(MissAction):
        def decide(self, missed: Any, step: Any, residents: Any) -> list[Outcome]:
            return [Outcome.ADMITTED for _ in missed]

    assert helpers.run(trace("0", "0", "0"), 1, action=Mine()).tally.admitted == UploadUse(100, 100)
    with pytest.raises(PolicyError, match=r"Mine: decide\(\) returned Outcome.ADMITTED, and transfers do not run"):
        helpers.run(trace("0"), 1, action=Mine(), overlap=False)


PRICED = FixedCosts(dense=0.01, expert_s=0.003, cpu_bytes=1000, cpu_rate=1e5)


def naive(routing: RoutingTrace, capacity: int, number: int, touches: int) -> tuple[list[int], int, float]:
    """Run token after token over a link that takes no time, each layer a plain LRU list.

    Returns:
        Misses by layer, uploads, and seconds: a layer's misses on the CPU one after the other, its hits on the GPU.
    """
    order: list[list[int]] = [[] for _ in range(routing.num_layers)]
    missed_before: Counter[tuple[int, int]] = Counter()
    misses, uploads, seconds = [0] * routing.num_layers, 0, 0.0
    for token in np.asarray(routing.experts).tolist():
        for layer, row in enumerate(token):
            batch = [expert for expert in dict.fromkeys(row) if expert >= 0]
            if not batch:
                continue
            missed = [expert for expert in batch if expert not in order[layer]]
            misses[layer] += len(missed)
            seconds += PRICED.dense + max(0.01 * len(missed), 0.003 * (len(batch) - len(missed)))
            missed_before.update((layer, expert) for expert in missed)
            admitted = [expert for expert in missed if missed_before[layer, expert] >= touches][:number]
            for expert in admitted:
                missed_before[layer, expert] = 0
            uploads += len(admitted)
            used = [expert for expert in batch if expert not in missed or expert in admitted]
            order[layer] = [expert for expert in order[layer] if expert not in used] + used
            del order[layer][:-capacity]
    return misses, uploads, seconds


@settings(max_examples=80, deadline=None)
@given(routing=traces(), room=st.integers(0, 3), number=st.sampled_from([0, 1, 2, 99]), touches=st.integers(1, 3))
def test_a_free_link_against_the_naive_list(routing: RoutingTrace, room: int, number: int, touches: int) -> None:
    single = RoutingTrace.from_arrays(np.asarray(routing.experts), num_experts=routing.layers.num_experts.tolist())
    capacity = min(routing.top_k + room, min(routing.layers.num_experts.tolist()))
    action = f"cpu,admit:{number},touches:{touches}" if number else "cpu"
    found = run(single, capacity, machine(link(1e30), dram=1e30), action=action, costs=PRICED, log=False)
    misses, uploads, seconds = naive(single, capacity, number, touches)
    assert found.counts.misses.sum(axis=0).tolist() == misses
    assert found.tally.misses(Outcome.ADMITTED) == uploads
    assert found.tally.admitted.late_uses == 0
    assert found.tally.total == pytest.approx(seconds, rel=1e-9)


def same_outputs(one: Tally, other: Tally) -> bool:
    return one.to_dict() == other.to_dict()


@settings(max_examples=60, deadline=None)
@given(
    routing=traces(),
    profile=profiles(ways=["pcie", "both"]),
    cache=st.integers(1, 5),
    prefill=st.sampled_from(["step", "token"]),
)
def test_none_admitted_is_cpu_and_all_admitted_hits_as_load_does(
    routing: RoutingTrace, profile: Any, cache: int, prefill: str
) -> None:
    assert routing.expert_bytes is not None
    how: dict[str, Any] = {"sizes": routing.expert_bytes.tolist(), "prefill": prefill, "log": False}
    plain, none, everything, load = (
        run(routing, cache, profile, action=action, **how)
        for action in ("cpu", "cpu,admit:0", "cpu,admit:999999", "load")
    )
    assert same_outputs(none.tally, plain.tally)
    assert everything.counts.misses.tolist() == load.counts.misses.tolist()
    assert everything.counts.evictions == load.counts.evictions
    assert everything.tally.outcomes[Outcome.ADMITTED] == load.tally.outcomes[Outcome.LOADED]


@settings(max_examples=100, deadline=None)
@given(
    routing=traces(predicted=True), profile=profiles(ways=["pcie", "both"]), cache=st.integers(1, 5),
    action=st.sampled_from(["load", "split", "cpu,admit:1", "cpu,admit:9,touches:2"]),
    policy=st.sampled_from(["lru", "pinned-lru", "static"]), warm=st.booleans(),
)  # fmt: skip
def test_bytes_are_conserved_by_kind(
    routing: RoutingTrace, profile: Any, cache: int, action: str, policy: str, warm: bool
) -> None:
    assert routing.expert_bytes is not None
    ahead = "next-gate" if policy == "lru" else "none"
    sizes, popular = routing.expert_bytes.tolist(), np.arange(routing.num_layers * routing.num_experts)
    found = run(
        routing, cache, profile, action=action, policy=policy, warm=warm, prefetch=ahead, sizes=sizes, log=False,
        profile=popular.astype(float).tolist(),
    )  # fmt: skip
    tally = found.tally
    kinds = (tally.admitted, tally.repinned)
    assert all(kind.issued == kind.useful + kind.wasted for kind in kinds)
    assert tally.prefetch.issued == tally.prefetch.useful + tally.prefetch.late + tally.prefetch.wasted
    assert found.counts.loaded_bytes is not None
    asked = int(found.counts.loaded_bytes.sum()) + tally.prefetch.issued + sum(kind.issued for kind in kinds)
    moved = tally.links["pcie"].bytes
    assert moved <= asked
    unused = tally.prefetch.wasted + sum(kind.wasted for kind in kinds)
    assert moved >= asked - unused - 1  # only what nobody used may not have moved; moved bytes are rounded
    filled = tally.repinned.issued + tally.repinned.before
    assert filled == int(found.counts.preloaded @ np.array(sizes))


def test_the_bundled_trace() -> None:
    """All admitted hits as `load` does; one a layer-step hits more often, as it puts out less."""
    how: dict[str, Any] = {"hardware": "rtx-4090", "bounds": False, "batch": 2}
    results = {
        miss: simulate(RoutingTrace.open(), "lru", "4x", miss=miss, **how).to_dict()
        for miss in ("load", "cpu", "cpu,admit:1", "cpu,admit:99")
    }
    rates = {miss: data["cache"]["hit_rate"] for miss, data in results.items()}
    assert 0 == rates["cpu"] < rates["load"] == rates["cpu,admit:99"] < rates["cpu,admit:1"]
    admitted = results["cpu,admit:99"]["admitted"]
    assert admitted["issued_bytes"] == admitted["useful_bytes"] + admitted["wasted_bytes"]
