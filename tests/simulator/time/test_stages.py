"""The order in which tensors are computed: by itself, and in the engine beside prefetches, storage, batches, the CPU.

In the engine an expert has 120 bytes, the link moves 40 bytes/s, so a tensor comes in 1 s and is computed in 0.5 s.
"""

from __future__ import annotations

from typing import Any

import pytest
from both_engines import run
from helpers import Wishes, link, machine, trace
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.runtimes import Runtime
from lrcsim.runtimes.runtime import LoadUse
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.time.stages import Stages

BY_TENSOR = Runtime("test", loads=LoadUse(overlap="tensor"))
COSTS = FixedCosts(expert_s=1.5, cpu_bytes=120, cpu_rate=60)


def stages(number: int, expected: int) -> tuple[Stages, list[int]]:
    """Make stages that wait for so many experts, and the list of what they compute."""
    computed: list[int] = []
    made = Stages(number, computed.append)
    for _ in range(expected):
        made.expect()
    return made, computed


def test_a_stage_opens_when_all_of_the_one_before_have_arrived() -> None:
    made, computed = stages(3, 2)
    made.resident(7)
    made.advance()
    assert computed == [7]  # its first tensor; the second waits for the gates of 1 and 2
    made.arrived(1, 0)
    assert computed == [7, 1]
    made.arrived(1, 1)  # before its stage is open: kept
    assert computed == [7, 1]
    made.arrived(2, 0)  # opens stage 1: the resident, and what has come for it
    assert computed == [7, 1, 2, 7, 1]
    made.arrived(2, 1)
    assert computed == [7, 1, 2, 7, 1, 2, 7]
    made.arrived(2, 2)
    made.arrived(1, 2)
    assert computed == [7, 1, 2, 7, 1, 2, 7, 2, 1]


def test_an_expert_that_comes_whole_is_there_for_every_stage() -> None:
    made, computed = stages(3, 2)
    made.arrived(1, None)
    assert computed == [1]
    made.arrived(2, 0)  # opens stage 1, where 1 is already
    assert computed == [1, 2, 1]
    made.arrived(2, 1)
    made.arrived(2, 2)
    assert computed == [1, 2, 1, 2, 1, 2]


def test_with_one_stage_an_expert_is_computed_when_it_is_there() -> None:
    made, computed = stages(1, 2)
    made.arrived(2, None)
    made.resident(7)
    made.arrived(1, 0)
    assert computed == [2, 7, 1]


def test_a_layer_step_begins_with_nothing() -> None:
    made, computed = stages(3, 2)
    made.resident(7)
    made.begin()
    made.resident(8)
    made.advance()  # nothing is expected: all three at once
    assert computed == [7, 8, 8, 8]


@given(
    number=st.integers(1, 3),
    loads=st.integers(0, 4),
    residents=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_every_tensor_is_computed_once_stage_by_stage(number: int, loads: int, residents: int, order: Any) -> None:
    """Whatever the order of arrival, whole or in parts."""
    made, computed = stages(number, loads)
    for key in range(residents):
        made.resident(100 + key)
    made.advance()
    whole = [key for key in range(loads) if order.random() < 0.3]
    coming = [(key, None) for key in whole]
    coming += [(key, stage) for key in range(loads) if key not in whole for stage in range(number)]  # type: ignore[misc]
    order.shuffle(coming)
    arrived = 0
    for key, stage in coming:
        made.arrived(key, stage)
        arrived += number if stage is None else 1
        assert len(computed) <= residents * number + arrived
    everyone = sorted([*range(loads), *(100 + key for key in range(residents))])
    assert len(computed) == number * len(everyone)
    for stage in range(number):  # no stage begins before all of the one before are computed
        assert sorted(computed[stage * len(everyone) : (stage + 1) * len(everyone)]) == everyone


def tensors(*arguments: Any, **options: Any) -> list[str]:
    """Run it by tensor; return transfers and compute as ``start-end track expert``, from the end of step 0."""
    settings = {"runtime": BY_TENSOR, "costs": COSTS, "sizes": [120] * arguments[0].num_layers} | options
    done = run(*arguments, **settings)
    begin = done.tally.by_step()[1, 0] if len(done.tally.phases) > 1 else 0.0
    shown = [
        (round(span.start - begin, 9), round(span.end - begin, 9), span.track, f"{span.layer}.{span.expert}")
        for span in done.spans
        if span.track in ("gpu", "pcie", "nvme", "cpu") and span.end > begin + 1e-9
    ]
    return [f"{start:g}-{end:g} {track} {expert}" for start, end, track, expert in sorted(shown)]


def test_beside_a_prefetch_that_is_under_way() -> None:
    # Token 0 loads 0.0 (0-3 s in tensors) and asks for 1.1, which comes whole, 3-6. Layer 1 begins at 3.5 with 1.1 late
    # and 1.2 missing: its gate follows at 6-7, up 7-8, down 8-9. 1.1's gate is computed at 6, the ups when both gates
    # are there, at 7.
    wishes = Wishes(after_0_0="1.1")
    assert tensors(trace("0|12"), 4, machine(link(40)), prefetch=wishes) == [
        "0-1 pcie 0.0",
        "1-1.5 gpu 0.0",
        "1-2 pcie 0.0",
        "2-2.5 gpu 0.0",
        "2-3 pcie 0.0",
        "3-3.5 gpu 0.0",
        "3-6 pcie 1.1",
        "6-6.5 gpu 1.1",
        "6-7 pcie 1.2",
        "7-7.5 gpu 1.2",
        "7-8 pcie 1.2",
        "7.5-8 gpu 1.1",
        "8-8.5 gpu 1.2",
        "8-9 pcie 1.2",
        "8.5-9 gpu 1.1",
        "9-9.5 gpu 1.2",
    ]


def test_from_storage_through_main_memory() -> None:
    # Main memory holds one expert. Each tensor goes over nvme (1 s) and then pcie (1 s), while the next one follows.
    hardware = machine(link(40), link(40))
    assert tensors(trace("0"), 4, hardware, dram=1) == [
        "0-1 nvme 0.0",
        "1-2 nvme 0.0",
        "1-2 pcie 0.0",
        "2-2.5 gpu 0.0",
        "2-3 nvme 0.0",
        "2-3 pcie 0.0",
        "3-3.5 gpu 0.0",
        "3-4 pcie 0.0",
        "4-4.5 gpu 0.0",
    ]


def test_an_expert_whose_reading_goes_on_comes_whole() -> None:
    # One slot a layer. Token 0 brings 0.0 and 1.2 into main memory too. Token 1 asks for 1.1, which puts 1.2 out, and
    # then loads 1.2 again, which puts 1.1 out: that only goes on from storage to main memory, 12 s. Token 2 needs it
    # meanwhile, and joins: one reading, one copy of all of it, three tensors computed.
    hardware = machine(link(4000), link(10))
    done = run(
        trace("0|2", "0|2", "0|1"),
        1,
        hardware,
        runtime=BY_TENSOR,
        costs=COSTS,
        sizes=[120] * 2,
        dram=4,
        prefetch=Wishes(after_1_0="1.1"),
    )
    reads = [span for span in done.spans if span.track == "nvme" and (span.layer, span.expert) == (1, 1)]
    copies = [span for span in done.spans if span.track == "pcie" and (span.layer, span.expert) == (1, 1)]
    assert (len(reads), len(copies)) == (1, 1)
    assert sum(span.track == "gpu" and (span.layer, span.expert) == (1, 1) for span in done.spans) == 3


def test_a_batch_of_tokens_computes_each_tensor_for_all_of_them() -> None:
    # A prompt of two tokens: 0 serves both, 3 s in all, 1 s a tensor.
    assert tensors(trace("0", "0", phase=[0, 0]), 4, machine(link(40))) == [
        "0-1 pcie 0.0",
        "1-2 gpu 0.0",
        "1-2 pcie 0.0",
        "2-3 gpu 0.0",
        "2-3 pcie 0.0",
        "3-4 gpu 0.0",
    ]


def test_experts_on_the_cpu_are_not_waited_for_between_stages() -> None:
    # Of two misses 0 is loaded; 1 takes 2 s on the CPU meanwhile.
    assert tensors(trace("01"), 4, machine(link(40)), action="split:0.5") == [
        "0-1 pcie 0.0",
        "0-2 cpu 0.1",
        "1-1.5 gpu 0.0",
        "1-2 pcie 0.0",
        "2-2.5 gpu 0.0",
        "2-3 pcie 0.0",
        "3-3.5 gpu 0.0",
    ]


def test_copies_of_low_precision_come_in_tensors_too() -> None:
    # 0, with most of the weight, as it is: tensors at 1, 2.25, 3.5; 1 as a copy of 30 bytes, 0.25 s a tensor: at 1.25,
    # 2.5, 3.75, each computed after 0's.
    done = tensors(trace("01", weights=[[[0.75, 0.25]]]), 4, machine(link(40)), action="low:0.5,0.25")
    assert done[:3] == ["0-1 pcie 0.0", "1-1.25 pcie 0.1", "1-1.5 gpu 0.0"]
    assert done[-1] == "4-4.5 gpu 0.1"


@pytest.mark.parametrize("action", ["substitute:0.5", "skip:0.5"])
def test_what_stands_in_is_computed_as_a_resident(action: str) -> None:
    # 2 is resident; 0 is loaded; 1 is light: 2 stands in for it in each stage, or nothing does.
    weights = [[[1.0, 0.0]], [[0.75, 0.25]]]
    done = tensors(trace("2_", "01", weights=weights), 4, machine(link(40)), action=action)
    stand_in = ["0-0.5 gpu 0.1"] if action.startswith("sub") else []
    assert [one for one in done if one.startswith("0-0.5")] == stand_in
    assert sum("gpu 0.1" in one for one in done) == 3 * len(stand_in)
    assert sum("gpu 0.0" in one for one in done) == 3
