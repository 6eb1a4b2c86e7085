"""Complete schedules of tiny runs, each worked out by hand.

Unless a test says otherwise: an expert has 100 bytes and computes in 1 s per token, the link moves 100 bytes/s in one
lane, nothing else takes time. A line of the expected list is ``start-end track what layer.expert``.
"""

from __future__ import annotations

from typing import Any

import pytest
from both_engines import run
from helpers import QUICK, Wishes, link, machine, trace

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.hardware import HardwareProfile
from lrcsim.simulator.setup.costs import FixedCosts

SLOW = FixedCosts(expert_s=1.5)


# One lane, no frills


def test_one_miss() -> None:
    # link |load|
    # gpu       |0.0 |
    assert run(trace("0"), 4).events == ["0-1 pcie load 0.0", "1-2 gpu expert 0.0"]


def test_a_hit_computes_while_the_miss_is_loaded() -> None:
    # link |0.0 |    |0.1 |
    # gpu       |0.0 |0.0 |0.1 |
    assert run(trace("0", "01"), 4).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2-3 gpu expert 0.0",
        "2-3 pcie load 0.1",
        "3-4 gpu expert 0.1",
    ]


def test_without_overlap_the_hit_waits_for_the_miss() -> None:
    # link |0.0 |    |0.1 |
    # gpu       |0.0 |    |0.0 |0.1 |
    assert run(trace("0", "01"), 4, overlap=False).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2-3 pcie load 0.1",
        "3-4 gpu expert 0.0",
        "4-5 gpu expert 0.1",
    ]


def test_two_misses_on_one_lane_follow_each_other() -> None:
    # link |0.0 |0.1 |
    # gpu       |0.0 |0.1 |
    assert run(trace("01"), 4).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-3 gpu expert 0.1",
    ]


def test_a_least_recently_used_expert_makes_room() -> None:
    # Capacity 2: after 0 and 1 the third token's 2 puts out 0.
    assert run(trace("0", "1", "2"), 2).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2-3 pcie load 0.1",
        "3-4 gpu expert 0.1",
        "4 cache evict 0.0",
        "4-5 pcie load 0.2",
        "5-6 gpu expert 0.2",
    ]


def test_a_batch_larger_than_the_cache_is_computed_whole() -> None:
    # One slot. Step 0 loads 0 and 1 and keeps 1. In step 1 expert 1 is a hit, 0 a miss that the slot does not keep.
    found = run(trace("01", "01"), 1)
    assert found.events == [
        "0 cache evict 0.0",
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-3 gpu expert 0.1",
        "3 cache evict 0.0",
        "3-4 gpu expert 0.1",
        "3-4 pcie load 0.0",
        "4-5 gpu expert 0.0",
    ]
    assert found.counts.misses.sum() == 3


# Lanes, chunks, latency, overhead


def test_two_misses_on_two_lanes_share_the_bandwidth() -> None:
    # lane 1 |0.0      |
    # lane 2 |0.1      |
    # gpu              |0.0 |0.1 |
    assert run(trace("01"), 4, machine(link(lanes=2))).events == [
        "0-2 pcie load 0.0",
        "0-2 pcie load 0.1",
        "2-3 gpu expert 0.0",
        "3-4 gpu expert 0.1",
    ]


def test_a_third_miss_waits_for_a_lane_and_then_has_the_link_alone() -> None:
    # lane 1 |0.0      |0.2 |
    # lane 2 |0.1      |
    # gpu              |0.0 |0.1 |0.2 |
    assert run(trace("012"), 4, machine(link(lanes=2))).events == [
        "0-2 pcie load 0.0",
        "0-2 pcie load 0.1",
        "2-3 gpu expert 0.0",
        "2-3 pcie load 0.2",
        "3-4 gpu expert 0.1",
        "4-5 gpu expert 0.2",
    ]


def test_chunks_follow_each_other_and_the_last_is_what_is_left() -> None:
    # 100 bytes in chunks of 75: 0.75 s, then 0.25 s.
    assert run(trace("0"), 4, machine(link(chunk=75))).events == [
        "0-0.75 pcie load 0.0",
        "0.75-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
    ]


def test_latency_runs_from_submission_for_all_at_once() -> None:
    # Both are submitted at 0 and may start at 0.5: the second does not pay it again.
    # link   ..|0.0 |0.1 |
    # gpu           |0.0 |0.1 |
    assert run(trace("01"), 4, machine(link(latency=0.5))).events == [
        "0.5-1.5 pcie load 0.0",
        "1.5-2.5 gpu expert 0.0",
        "1.5-2.5 pcie load 0.1",
        "2.5-3.5 gpu expert 0.1",
    ]


def test_every_chunk_pays_the_overhead_of_a_transfer() -> None:
    # Two chunks of 50 bytes, each 0.25 s of overhead and 0.5 s of data.
    assert run(trace("0"), 4, machine(link(overhead=0.25, chunk=50))).events == [
        "0-0.75 pcie load 0.0",
        "0.75-1.5 pcie load 0.0",
        "1.5-2.5 gpu expert 0.0",
    ]


def test_during_the_overhead_of_one_lane_the_other_has_all_the_bandwidth() -> None:
    # Two lanes, 1 s of overhead, chunks of 50 bytes. Until 1 both pay overhead. 1-2 they share: 50 bytes each. Then
    # the same again, because both lanes are always in step: 2-3 overhead, 3-4 data. The third has them alone:
    # 4-5 overhead, 5-5.5 data, 5.5-6.5, 6.5-7.
    assert run(trace("012"), 4, machine(link(lanes=2, overhead=1, chunk=50))).events == [
        "0-2 pcie load 0.0",
        "0-2 pcie load 0.1",
        "2-4 pcie load 0.0",
        "2-4 pcie load 0.1",
        "4-5 gpu expert 0.0",
        "4-5.5 pcie load 0.2",
        "5-6 gpu expert 0.1",
        "5.5-7 pcie load 0.2",
        "7-8 gpu expert 0.2",
    ]


# What a layer and a step cost besides


def test_layer_overhead_and_overhead_for_each_expert_loaded() -> None:
    # Dense 1 s, then 0.5 s for the layer and 0.25 s for each of two loads. With both resident: 0.5 s alone.
    hardware = machine(layer_overhead=0.5, expert_overhead=0.25)
    found = run(trace("01", "01"), 4, hardware, costs=FixedCosts(dense=1, expert_s=1))
    assert found.events == [
        "0-1 gpu dense 0",
        "1-2 host overhead 0",
        "2-3 pcie load 0.0",
        "3-4 gpu expert 0.0",
        "3-4 pcie load 0.1",
        "4-5 gpu expert 0.1",
        "5-6 gpu dense 0",
        "6-6.5 host overhead 0",
        "6.5-7.5 gpu expert 0.0",
        "7.5-8.5 gpu expert 0.1",
    ]
    assert (found.tally.compute, found.tally.overhead, found.tally.total) == (6, 1.5, 8.5)


def test_output_at_the_end_of_every_step() -> None:
    # Two layers; the output follows the last.
    assert run(trace("0|1", "0|1"), 4, costs=FixedCosts(expert_s=1, output=0.5)).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2-3 pcie load 1.1",
        "3-4 gpu expert 1.1",
        "4-4.5 gpu output",
        "4.5-5.5 gpu expert 0.0",
        "5.5-6.5 gpu expert 1.1",
        "6.5-7 gpu output",
    ]


def test_a_prompt_of_two_tokens_is_one_step_over_the_union() -> None:
    # Order of last use: 1 (first token), then 0 and 2 (second token). Expert 0 serves both tokens: 2 s.
    # link |0.1 |0.0 |0.2 |
    # gpu       |0.1 |0.0      |0.2 |
    assert run(trace("01", "02", phase=[0, 0]), 4).events == [
        "0-1 pcie load 0.1",
        "1-2 gpu expert 0.1",
        "1-2 pcie load 0.0",
        "2-3 pcie load 0.2",
        "2-4 gpu expert 0.0",
        "4-5 gpu expert 0.2",
    ]


def test_a_prompt_in_chunks_is_as_many_steps() -> None:
    # Two prompt tokens per step: 0 and 1 together, then 0 alone.
    assert run(trace("0", "1", "0", phase=[0, 0, 0]), 4, prefill="chunk:2").events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-3 gpu expert 0.1",
        "3-4 gpu expert 0.0",
    ]


def test_prefill_then_decode() -> None:
    # Prompt {0, 1}: loads until 2, computes until 3, output 0.5 s: the first token is out at 3.5. Decode: 0 is a hit,
    # 1 s + 0.5 s; 2 a miss, 1 s + 1 s + 0.5 s.
    found = run(trace("0", "1", "0", "2", phase=[0, 0, 1, 1]), 4, costs=FixedCosts(expert_s=1, output=0.5))
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-3 gpu expert 0.1",
        "3-3.5 gpu output",
        "3.5-4.5 gpu expert 0.0",
        "4.5-5 gpu output",
        "5-6 pcie load 0.2",
        "6-7 gpu expert 0.2",
        "7-7.5 gpu output",
    ]
    time = found.tally.to_dict()["time"]
    assert (time["prefill_s"], time["decode_s"], time["decode_tokens_per_s"]) == (3.5, 4, 0.5)
    assert time["ttft_ms"]["max"] == 3500
    assert (time["tpot_ms"]["p50"], time["tpot_ms"]["max"]) == (2000, 2500)


# Prefetches


def test_a_prefetch_that_arrives_in_time_costs_nothing() -> None:
    # link |0.0 |1.1 |
    # gpu       |0.0 |1.1 |
    found = run(trace("0|1"), 4, prefetch="oracle")
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie prefetch 1.1",
        "2-3 gpu expert 1.1",
    ]
    assert found.tally.prefetch.useful == 100


def test_a_prefetch_in_flight_is_joined_and_only_its_rest_is_paid() -> None:
    # Layer 0 is done at 1.25; layer 1 waits 0.75 s for what has been under way since 1.
    found = run(trace("0|1"), 4, prefetch="oracle", costs=QUICK)
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-2 pcie prefetch 1.1",
        "1.25 cache join 1.1",
        "2-2.25 gpu expert 1.1",
    ]
    assert (found.tally.prefetch.late, found.tally.prefetch.useful) == (100, 0)
    assert found.tally.links["pcie"].bytes == 200


def test_oracle_two_layers_ahead_and_a_demand_that_preempts_it_between_chunks() -> None:
    # Chunks of 50 bytes. Step 0, layer 0 loads 0.0 until 1 and asks for 0.2, which step 1 needs. Layer 1 comes at 1.25
    # with a miss: it takes over when the chunk is done, at 1.5. The other chunk of 0.2 follows at 2.5. Step 1 begins at
    # 2.75 and waits for it until 3.
    found = run(trace("0|1", "2|1"), 4, machine(link(chunk=50)), prefetch="oracle:2", costs=QUICK)
    assert found.events == [
        "0-0.5 pcie load 0.0",
        "0.5-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-1.5 pcie prefetch 0.2",
        "1.5-2 pcie load 1.1",
        "2-2.5 pcie load 1.1",
        "2.5-2.75 gpu expert 1.1",
        "2.5-3 pcie prefetch 0.2",
        "2.75 cache join 0.2",
        "3-3.25 gpu expert 0.2",
        "3.25-3.5 gpu expert 1.1",
    ]


def test_without_chunks_a_demand_waits_for_the_whole_prefetch() -> None:
    # The same run: the miss of layer 1 starts at 2 instead of 1.5, and 0.2 is there long before step 1.
    assert run(trace("0|1", "2|1"), 4, prefetch="oracle:2", costs=QUICK).events == [
        "0-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-2 pcie prefetch 0.2",
        "2-3 pcie load 1.1",
        "3-3.25 gpu expert 1.1",
        "3.25-3.5 gpu expert 0.2",
        "3.5-3.75 gpu expert 1.1",
    ]


def test_a_joined_prefetch_goes_before_the_others() -> None:
    # 1.2 and 1.1 are asked for in this order. Layer 1 needs 1.1: from 1.25 on it is urgent, and preempts 1.2.
    wishes = Wishes(after_0_0="1.2 1.1")
    found = run(trace("0|1", "0|2"), 4, machine(link(chunk=50)), prefetch=wishes, costs=QUICK)
    assert found.events == [
        "0-0.5 pcie load 0.0",
        "0.5-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-1.5 pcie prefetch 1.2",
        "1.25 cache join 1.1",
        "1.5-2 pcie prefetch 1.1",
        "2-2.5 pcie prefetch 1.1",
        "2.5-2.75 gpu expert 1.1",
        "2.5-3 pcie prefetch 1.2",
        "2.75-3 gpu expert 0.0",
        "3-3.25 gpu expert 1.2",
    ]


def test_a_prefetch_evicted_in_flight_is_cancelled() -> None:
    # Two slots: 0 and the prefetched 3. Step 1 begins at 1.25, needs 1 and 2, and puts out both. The chunk of 3 under
    # way ends at 1.5; the other is never moved: 350 bytes in all.
    found = run(trace("0", "12"), 2, machine(link(chunk=50)), prefetch=Wishes(after_0_0="0.3"), costs=QUICK)
    assert found.events == [
        "0-0.5 pcie load 0.0",
        "0.5-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-1.5 pcie prefetch 0.3",
        "1.25 cache evict 0.0",
        "1.25 cache evict 0.3",
        "1.5-2 pcie load 0.1",
        "2-2.5 pcie load 0.1",
        "2.5-2.75 gpu expert 0.1",
        "2.5-3 pcie load 0.2",
        "3-3.5 pcie load 0.2",
        "3.5-3.75 gpu expert 0.2",
    ]
    assert (found.tally.prefetch.issued, found.tally.prefetch.wasted) == (100, 100)
    assert found.tally.links["pcie"].bytes == 350


def test_a_prefetch_evicted_before_it_starts_moves_nothing() -> None:
    # As above with a second prefetch, 4, and three slots: all of 0, 3 and 4 go at 1.25, before 4 has started.
    found = run(trace("0", "125"), 3, machine(link(chunk=50)), prefetch=Wishes(after_0_0="0.3 0.4"), costs=QUICK)
    assert [event for event in found.events if "prefetch" in event] == ["1-1.5 pcie prefetch 0.3"]
    assert found.tally.prefetch.wasted == 200
    assert found.tally.links["pcie"].bytes == 450


def test_a_prefetch_evicted_after_its_arrival_is_wasted() -> None:
    # 3 is there at 2; step 1 begins at 2.5 and puts it out.
    found = run(trace("0", "12"), 2, prefetch=Wishes(after_0_0="0.3"), costs=SLOW)
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-2 pcie prefetch 0.3",
        "1-2.5 gpu expert 0.0",
        "2.5 cache evict 0.0",
        "2.5 cache evict 0.3",
        "2.5-3.5 pcie load 0.1",
        "3.5-4.5 pcie load 0.2",
        "3.5-5 gpu expert 0.1",
        "5-6.5 gpu expert 0.2",
    ]
    assert (found.tally.prefetch.issued, found.tally.prefetch.wasted) == (100, 100)
    assert found.tally.links["pcie"].bytes == 400


def test_a_prefetch_used_and_evicted_by_the_same_batch_is_waited_for() -> None:
    # Two slots; the batch of step 1 is 1, 2, 3. Expert 1 is a hit, still under way until 2; the policy keeps 2 and 3.
    # It computes when it has arrived, and it was late, not wasted.
    found = run(trace("0", "123"), 2, prefetch=Wishes(after_0_0="0.1"), costs=QUICK)
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-2 pcie prefetch 0.1",
        "1.25 cache join 0.1",
        "1.25 cache evict 0.0",
        "1.25 cache evict 0.1",
        "2-2.25 gpu expert 0.1",
        "2-3 pcie load 0.2",
        "3-3.25 gpu expert 0.2",
        "3-4 pcie load 0.3",
        "4-4.25 gpu expert 0.3",
    ]
    assert (found.tally.prefetch.late, found.tally.prefetch.wasted) == (100, 0)


def test_what_a_prefetch_puts_out() -> None:
    # Two slots. In step 1 expert 1 runs and 2 is brought ahead, for which 0 goes. Step 2 uses 2, step 3 misses 0.
    found = run(trace("0", "1", "2", "0"), 2, prefetch=Wishes(after_1_0="0.2"))
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2 cache evict 0.0",
        "2-3 pcie load 0.1",
        "3-4 gpu expert 0.1",
        "3-4 pcie prefetch 0.2",
        "4-5 gpu expert 0.2",
        "5 cache evict 0.1",
        "5-6 pcie load 0.0",
        "6-7 gpu expert 0.0",
    ]
    assert (found.tally.prefetch.displaced, found.tally.prefetch.displaced_missed) == (1, 1)


def test_no_prefetch_for_which_the_batch_would_have_to_go() -> None:
    found = run(trace("0"), 1, prefetch=Wishes(after_0_0="0.2"))
    assert found.events == ["0-1 pcie load 0.0", "1-2 gpu expert 0.0"]
    assert found.tally.prefetch.issued == 0


def test_without_overlap_nothing_is_brought_ahead() -> None:
    assert run(trace("0|1"), 4, prefetch="oracle", overlap=False).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2-3 pcie load 1.1",
        "3-4 gpu expert 1.1",
    ]


# The contents over time


def test_warm_and_cold_between_two_requests() -> None:
    two = trace("0", "0", offsets=[0, 1, 2])
    assert run(two, 4).events == ["0-1 pcie load 0.0", "1-2 gpu expert 0.0", "2-3 gpu expert 0.0"]
    assert run(two, 4, warm=False).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "2-3 pcie load 0.0",
        "3-4 gpu expert 0.0",
    ]


def test_a_prefetch_does_not_outlive_the_request_in_a_cold_cache() -> None:
    # 1 is under way (1-2) when request 1 begins at 1.25: it is forgotten, and loaded as a miss.
    found = run(trace("0", "1", offsets=[0, 1, 2]), 4, warm=False, prefetch="oracle", costs=QUICK)
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-1.25 gpu expert 0.0",
        "1-2 pcie prefetch 0.1",
        "2-3 pcie load 0.1",
        "3-3.25 gpu expert 0.1",
    ]
    assert found.tally.prefetch.wasted == 100


def test_a_cache_that_shrinks_puts_out_before_the_step() -> None:
    # One slot less in each step, as a growing KV cache takes it: 2, then 1. Expert 0 goes, 1 is a hit.
    assert run(trace("01", "1"), 2, shrink=lambda step, pool: step.number).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-3 gpu expert 0.1",
        "3 cache evict 0.0",
        "3-4 gpu expert 0.1",
    ]


def test_an_expert_that_the_shrinking_cache_has_lost_is_loaded_again() -> None:
    # As above, but step 1 uses 0, which has gone; it puts out 1.
    assert run(trace("01", "0"), 2, shrink=lambda step, pool: step.number).events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-3 gpu expert 0.1",
        "3 cache evict 0.0",
        "3 cache evict 0.1",
        "3-4 pcie load 0.0",
        "4-5 gpu expert 0.0",
    ]


# What cannot run


@pytest.mark.parametrize(
    ("hardware", "options", "message"),
    [
        (machine(pcie=None), {}, "hardware test has neither pcie nor nvme"),
        (machine(), {"dram": 2}, "hardware test has no nvme: without it DRAM must hold all experts"),
        (machine(), {"policy": "belady", "prefetch": "oracle"}, "policy belady knows the future of uses only"),
        (machine(), {"policy": "static", "prefetch": "oracle"}, "policy static loads experts of its own accord"),
    ],
)
def test_what_cannot_run_says_so(hardware: HardwareProfile, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(trace("0"), 4, hardware, **options)


def test_a_policy_that_ranks_by_router_weight_goes_with_prefetches() -> None:
    # The pool of layer 1 has seen no weights yet when 1.1 is brought into it.
    found = run(trace("0|1", weights=[[[0.5], [0.5]]]), 4, policy="score-ema", prefetch="oracle")
    assert found.tally.prefetch.useful == 100


def test_a_prefetcher_that_names_no_expert() -> None:
    with pytest.raises(PolicyError, match="returned 60, which is no expert"):
        run(trace("0"), 4, prefetch=Wishes(after_0_0="10.0"))
