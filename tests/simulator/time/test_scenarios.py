"""Complete schedules of tiny runs, each worked out by hand.

Unless a test says otherwise: an expert has 100 bytes and computes in 1 s per token, the link moves 100 bytes/s in one
lane, nothing else takes time. A line of the expected list is ``start-end track what layer.expert``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from both_engines import run
from helpers import SIZE, Finished, Wishes, engine, link, machine, trace

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.hardware import HardwareProfile, Link
from lrcsim.policies import View
from lrcsim.policies.recency import Lru
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.outcomes import Outcome

QUICK = FixedCosts(expert_s=0.25, cpu_bytes=SIZE, cpu_rate=SIZE)
"""Experts that compute in a quarter of a second, so that transfers outlast them."""

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


# Other miss actions


def test_cpu_runs_misses_one_after_the_other() -> None:
    # 100 bytes at 100 bytes/s each; nothing is loaded, so the second step is like the first.
    found = run(trace("01", "0"), 4, action="cpu")
    assert found.events == ["0-1 cpu expert 0.0", "1-2 cpu expert 0.1", "2-3 cpu expert 0.0"]
    assert (found.tally.cpu, found.tally.misses(Outcome.ON_CPU), found.tally.compute) == (3, 3, 0)


def test_cpu_overhead_comes_before_the_bytes() -> None:
    costs = FixedCosts(cpu_overhead=0.5, cpu_bytes=100, cpu_rate=200)
    assert run(trace("01"), 4, action="cpu", costs=costs).events == ["0-1 cpu expert 0.0", "1-2 cpu expert 0.1"]


def test_split_loads_one_half_and_runs_the_other() -> None:
    # link |0.0 |
    # cpu  |0.1 |
    # gpu       |0.0 |
    assert run(trace("01"), 4, action="split:0.5").events == [
        "0-1 cpu expert 0.1",
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
    ]


def test_split_loads_what_most_tokens_use() -> None:
    # A prompt of two tokens: 1 serves both, 0 one.
    assert run(trace("01", "1", phase=[0, 0]), 4, action="split:0.5").events == [
        "0-1 cpu expert 0.0",
        "0-1 pcie load 0.1",
        "1-3 gpu expert 0.1",
    ]


def test_a_cpu_expert_and_a_transfer_share_dram() -> None:
    # DRAM gives 100 bytes/s. The transfer and the CPU want 100 each and get 50. At 2 the transfer's 100 bytes are
    # moved; the CPU has 100 of its 200 left and draws them alone at 100 until 3.
    costs = FixedCosts(expert_s=0.5, cpu_bytes=200, cpu_rate=100)
    assert run(trace("01"), 4, machine(dram=100), action="split:0.5", costs=costs).events == [
        "0-2 pcie load 0.0",
        "0-3 cpu expert 0.1",
        "2-2.5 gpu expert 0.0",
    ]


def given_up(found: Finished, outcome: Outcome) -> tuple[int, float]:
    """Return how many tokens (times layers) there were, and the shares of their router weight that were given up."""
    tally = found.tally.given_up
    return sum(tally.tokens), sum(tally.shares[outcome])


def test_skip_leaves_out_light_experts() -> None:
    found = run(trace("01", weights=[[[0.75, 0.25]]]), 4, action="skip:0.5")
    assert found.events == ["0-1 pcie load 0.0", "1-2 gpu expert 0.0"]
    assert found.tally.misses(Outcome.SKIPPED) == 1
    assert given_up(found, Outcome.SKIPPED) == (1, 0.25)


def test_skip_in_a_prompt_loads_what_one_token_needs_for_all_of_them() -> None:
    # Token 0 could do without 1 (0.25), token 1 needs it (0.75), so it is loaded and computed for both: 2 s. Neither
    # needs 2, which is gone for both: of their weight 0.125 and 0.25. The means over the step, 0.3125, 0.5 and 0.1875,
    # would have skipped 0 as well.
    weights = [[[0.625, 0.25, 0.125]], [[0.0, 0.75, 0.25]]]
    routing = trace("012", "_12", phase=[0, 0], weights=weights)
    found = run(routing, 4, action="skip:0.4")
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-2 gpu expert 0.0",
        "1-2 pcie load 0.1",
        "2-4 gpu expert 0.1",
    ]
    assert found.tally.misses(Outcome.SKIPPED) == 1
    assert given_up(found, Outcome.SKIPPED) == (2, 0.375)
    assert found.tally.to_dict()["missed"] == {
        "on_cpu": 0, "skipped": 1, "substituted": 0, "low_precision": 0, "admitted": 0,
        "skipped_weight": 0.1875, "substituted_weight": 0.0, "low_precision_weight": 0.0,
        "prefill": {"skipped_weight": 0.1875, "substituted_weight": 0.0, "low_precision_weight": 0.0},
        "decode": {"skipped_weight": 0.0, "substituted_weight": 0.0, "low_precision_weight": 0.0},
    }  # fmt: skip


def test_what_is_there_is_used_however_light() -> None:
    # Step 0 leaves 0 and 1 behind. In step 1 1 is light and stays: nothing is dropped.
    found = run(trace("01", "01", weights=[[[0.5, 0.5]], [[0.875, 0.125]]]), 4, action="skip:0.4")
    assert found.events[-2:] == ["3-4 gpu expert 0.0", "4-5 gpu expert 0.1"]
    assert found.tally.misses(Outcome.SKIPPED) == 0
    assert given_up(found, Outcome.SKIPPED) == (2, 0)


def test_weights_given_up_are_means_over_tokens_and_layers_that_use_experts() -> None:
    # Layer 1 of token 1 was not recorded: three tokens and layers. 1 and 4 are skipped, 0.25 and 0.125 of the weight of
    # their token there; in token 1 it is all of token 1's 4, with 0.375.
    weights = [[[0.75, 0.25], [0.875, 0.125]], [[0.625, 0.375], [0, 0]]]
    found = run(trace("01|34", "04|__", weights=weights), 4, action="skip:0.4")
    assert found.tally.misses(Outcome.SKIPPED) == 3
    assert given_up(found, Outcome.SKIPPED) == (3, 0.25 + 0.125 + 0.375)
    assert found.tally.to_dict()["missed"]["skipped_weight"] == 0.25


def test_substitute_computes_at_once_with_a_resident_expert() -> None:
    # Step 1: 1 is light and not resident, and 2, which the token does not use, is there in its place.
    weights = [[[0.5, 0.5]], [[0.75, 0.25]]]
    found = run(trace("02", "01", weights=weights), 4, action="substitute:0.5")
    assert found.events[-2:] == ["3-4 gpu expert 0.0", "4-5 gpu expert 0.1"]
    assert found.tally.misses(Outcome.SUBSTITUTED) == 1
    assert given_up(found, Outcome.SUBSTITUTED) == (2, 0.25)


def test_substitutes_are_residents_outside_the_batch_and_each_serves_once() -> None:
    # Step 1 wants 0, 1, 2, 3, of which 0 is there and 1, 2 are light: no resident is left over for them. All are
    # loaded, in batch order.
    weights = [[[1.0, 0, 0, 0]], [[0.5, 0.125, 0.125, 0.25]]]
    found = run(trace("0", "0123", weights=weights), 6, action="substitute:0.2")
    assert [event for event in found.events if "load" in event] == [
        "0-1 pcie load 0.0",
        "2-3 pcie load 0.1",
        "3-4 pcie load 0.2",
        "4-5 pcie load 0.3",
    ]
    # With 4 and 5 resident beside, both are substituted.
    weights = [[[0.4, 0.3, 0.3, 0]], *weights[1:]]
    found = run(trace("045", "0123", weights=weights), 6, action="substitute:0.2")
    assert found.tally.misses(Outcome.SUBSTITUTED) == 2
    assert found.counts.misses.sum() == 6
    assert [event for event in found.events if "load" in event][3:] == ["4-5 pcie load 0.3"]


def test_low_precision_copies_are_smaller_and_used_once() -> None:
    # A quarter of the bytes: 0.25 s, in the second step again.
    weights = [[[0.75, 0.25]]] * 2
    found = run(trace("01", "01", weights=weights), 4, action="low:0.5,0.25")
    assert found.events == [
        "0-1 pcie load 0.0",
        "1-1.25 pcie load low 0.1",
        "1-2 gpu expert 0.0",
        "2-3 gpu expert 0.1",
        "3-3.25 pcie load low 0.1",
        "3-4 gpu expert 0.0",
        "4-5 gpu expert 0.1",
    ]
    assert (found.tally.misses(Outcome.LOW_PRECISION), found.tally.links["pcie"].bytes) == (2, 150)
    assert given_up(found, Outcome.LOW_PRECISION) == (2, 0.5)


def test_the_host_takes_its_time_for_low_precision_copies_too() -> None:
    # 0.25 s for each of the two loads, but not for what is skipped.
    routing, hardware = trace("01", weights=[[[0.75, 0.25]]]), machine(expert_overhead=0.25)
    low = run(routing, 4, hardware, action="low:0.5,0.25")
    assert low.events[:2] == ["0-0.5 host overhead 0", "0.5-1.5 pcie load 0.0"]
    skip = run(routing, 4, hardware, action="skip:0.5")
    assert skip.events[:2] == ["0-0.25 host overhead 0", "0.25-1.25 pcie load 0.0"]


def test_low_precision_copies_come_from_storage_where_dram_does_not_hold_the_expert() -> None:
    # Storage 50 bytes/s. 1's copy, 25 bytes, is read in 0.5 s each time, for DRAM keeps whole experts only: so in the
    # third step, where 1 is heavy, all of it is read, and 0, whole in DRAM, comes as a copy over the link alone.
    weights = [[[0.75, 0.25]], [[0.75, 0.25]], [[0.25, 0.75]]]
    found = run(trace("01", "21", "01", weights=weights), 1, machine(nvme=link(50)), action="low:0.5,0.25", dram=4)
    moved = [event for event in found.events if "nvme" in event or "pcie" in event]
    assert moved == [
        "0-2 nvme load 0.0",
        "2-2.5 nvme load low 0.1",
        "2-3 pcie load 0.0",
        "3-3.25 pcie load low 0.1",
        "5-7 nvme load 0.2",
        "7-7.5 nvme load low 0.1",
        "7-8 pcie load 0.2",
        "8-8.25 pcie load low 0.1",
        "10-10.25 pcie load low 0.0",
        "10-12 nvme load 0.1",
        "12-13 pcie load 0.1",
    ]
    assert {name: use.bytes for name, use in found.tally.links.items()} == {"pcie": 375, "nvme": 350}


# What the caches' policies are told


class Witness(Lru):
    """LRU that writes down when it was asked: step, layer being run, experts."""

    asked: ClassVar[list[tuple[int, int, list[int]]]] = []

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.asked.append((self.view.step, self.view.layer, list(batch)))
        super().access(batch, missed)


def test_a_prefetch_tells_the_pool_of_a_later_layer_where_the_run_is() -> None:
    # Six experts per layer: layer 1 has keys 6 to 11. It was last told of step 0 when step 1 prefetches from layer 0.
    Witness.asked.clear()
    run(trace("0|1", "0|2"), 3, policy=Witness, prefetch=Wishes(after_1_0="1.3"), costs=QUICK)
    assert Witness.asked == [(0, 0, [0]), (0, 1, [7]), (1, 0, [0]), (1, 0, [9]), (1, 1, [8])]


def test_dram_is_told_where_the_run_is() -> None:
    Witness.asked.clear()
    made = engine(trace("0|1", "0|2"), 1, machine(nvme=link(50)), dram=6)
    size = PoolSize((0, 1), 6)
    made.residency.dram = Pool(size, Witness(), View(6, 6, size.layers, 2, 1))
    made.run()
    assert Witness.asked == [(0, 0, [0]), (0, 1, [7]), (1, 1, [8])]


def test_dram_does_not_hear_of_low_precision_copies() -> None:
    Witness.asked.clear()
    made = engine(trace("01", weights=[[[0.75, 0.25]]]), 2, machine(nvme=link(50)), dram=6, action="low:0.5")
    size = PoolSize((0,), 6)
    made.residency.dram = Pool(size, Witness(), View(6, 6, size.layers, 1, 2))
    made.run()
    assert Witness.asked == [(0, 0, [0])]
    assert made.residency.dram.resident == {0}


# Storage below


def test_misses_in_dram_and_below_it() -> None:
    # One slot on the GPU, two in DRAM, storage of 50 bytes/s. 0 and 1 come from storage, 2 s, then over the link, 1 s.
    # The third token's 0 is in DRAM: 1 s.
    found = run(trace("0", "1", "0"), 1, machine(nvme=link(50)), dram=2)
    assert found.events == [
        "0-2 nvme load 0.0",
        "2-3 pcie load 0.0",
        "3-4 gpu expert 0.0",
        "4 cache evict 0.0",
        "4-6 nvme load 0.1",
        "6-7 pcie load 0.1",
        "7-8 gpu expert 0.1",
        "8 cache evict 0.1",
        "8-9 pcie load 0.0",
        "9-10 gpu expert 0.0",
    ]
    assert {name: use.bytes for name, use in found.tally.links.items()} == {"pcie": 300, "nvme": 200}
    assert {name: use.busy_s for name, use in found.tally.links.items()} == {"pcie": 3, "nvme": 4}


def test_storage_and_link_work_side_by_side() -> None:
    # nvme |0.0      |0.1      |
    # pcie           |0.0 |    |0.1 |
    # gpu                 |0.0 |    |0.1 |
    assert run(trace("01"), 4, machine(nvme=link(50)), dram=4).events == [
        "0-2 nvme load 0.0",
        "2-3 pcie load 0.0",
        "2-4 nvme load 0.1",
        "3-4 gpu expert 0.0",
        "4-5 pcie load 0.1",
        "5-6 gpu expert 0.1",
    ]


def test_storage_and_link_share_dram() -> None:
    # As above with 75 bytes/s of DRAM. 0-2: storage alone, 50. From 2: storage wants 50, the link 100, both get half:
    # 25 and 50. At 4 the link has moved its 100 bytes; storage has moved 50 and does the other 50 alone until 5. Then
    # the link alone, at 75.
    found = run(trace("01"), 4, machine(nvme=link(50), dram=75), dram=4)
    assert found.events[:4] == [
        "0-2 nvme load 0.0",
        "2-4 pcie load 0.0",
        "2-5 nvme load 0.1",
        "4-5 gpu expert 0.0",
    ]
    assert found.tally.total == 5 + 100 / 75 + 1


def test_the_cpu_reads_what_dram_does_not_hold() -> None:
    # Storage 50 bytes/s: 2 s, then 1 s on the CPU. The second time it is in DRAM.
    assert run(trace("0", "0"), 4, machine(nvme=link(50)), dram=2, action="cpu").events == [
        "0-2 nvme read 0.0",
        "2-3 cpu expert 0.0",
        "3-4 cpu expert 0.0",
    ]


def test_unified_memory_loads_from_storage_alone() -> None:
    # One memory: what is not in it comes from storage, and is there.
    assert run(trace("0", "0"), 4, machine(pcie=None, nvme=link(50))).events == [
        "0-2 nvme load 0.0",
        "2-3 gpu expert 0.0",
        "3-4 gpu expert 0.0",
    ]


def test_the_cpu_of_a_unified_machine_reads_misses_from_storage_every_time() -> None:
    # Nothing is kept, and there is no other memory to find it in.
    assert run(trace("0", "0"), 4, machine(pcie=None, nvme=link(50)), action="cpu").events == [
        "0-2 nvme read 0.0",
        "2-3 cpu expert 0.0",
        "3-5 nvme read 0.0",
        "5-6 cpu expert 0.0",
    ]


def test_a_cancelled_prefetch_is_still_read_into_dram() -> None:
    # Storage 50 bytes/s. The prefetch of 3 is read 2-4; at 3.25 step 1 needs both slots, and it is cancelled. DRAM gets
    # it all the same, so step 2 has it in 1 s.
    wishes = Wishes(after_0_0="0.3")
    found = run(trace("0", "12", "3"), 2, machine(nvme=link(50)), dram=4, prefetch=wishes, costs=QUICK)
    assert found.events == [
        "0-2 nvme load 0.0",
        "2-3 pcie load 0.0",
        "2-4 nvme prefetch 0.3",
        "3-3.25 gpu expert 0.0",
        "3.25 cache evict 0.0",
        "3.25 cache evict 0.3",
        "4-6 nvme load 0.1",
        "6-7 pcie load 0.1",
        "6-8 nvme load 0.2",
        "7-7.25 gpu expert 0.1",
        "8-9 pcie load 0.2",
        "9-9.25 gpu expert 0.2",
        "9.25 cache evict 0.1",
        "9.25-10.25 pcie load 0.3",
        "10.25-10.5 gpu expert 0.3",
    ]
    assert (found.tally.prefetch.issued, found.tally.prefetch.wasted) == (100, 100)


def test_a_miss_joins_the_read_that_a_cancelled_prefetch_left_behind() -> None:
    # Storage 50 bytes/s in chunks of 25, the link 200. The read of 3 has moved two chunks when 1 and 2 preempt it at 3.
    # Its other two chunks are moved 7-8; step 2 wants it at 7.75 and pays the rest, 0.25 s, and the link, 0.5 s.
    hardware = machine(link(200), nvme=link(50, chunk=25))
    wishes = Wishes(after_0_0="0.3")
    found = run(trace("0", "12", "3"), 2, hardware, dram=4, prefetch=wishes, costs=QUICK)
    assert [event for event in found.events if event.endswith(".3") or "gpu" in event] == [
        "2-2.5 nvme prefetch 0.3",
        "2.5-2.75 gpu expert 0.0",
        "2.5-3 nvme prefetch 0.3",
        "2.75 cache evict 0.3",
        "5.5-5.75 gpu expert 0.1",
        "7-7.5 nvme prefetch 0.3",
        "7.5-7.75 gpu expert 0.2",
        "7.5-8 nvme prefetch 0.3",
        "7.75 cache join 0.3",
        "8-8.5 pcie load 0.3",
        "8.5-8.75 gpu expert 0.3",
    ]
    assert found.tally.links["nvme"].bytes == 400


# Several links in a row


def cxl(bandwidth: float) -> Link:
    """Return a link that leads on from storage's link to DRAM."""
    return link(bandwidth, name="cxl")


def test_from_storage_over_every_link_in_turn_and_from_dram_over_the_last() -> None:
    # As with two links, with one of 100 bytes/s between storage and DRAM: a second more, but not for what DRAM holds.
    found = run(trace("0", "1", "0"), 1, machine(link(), link(50), cxl(100)), dram=2)
    assert found.events == [
        "0-2 nvme load 0.0",
        "2-3 cxl load 0.0",
        "3-4 pcie load 0.0",
        "4-5 gpu expert 0.0",
        "5 cache evict 0.0",
        "5-7 nvme load 0.1",
        "7-8 cxl load 0.1",
        "8-9 pcie load 0.1",
        "9-10 gpu expert 0.1",
        "10 cache evict 0.1",
        "10-11 pcie load 0.0",
        "11-12 gpu expert 0.0",
    ]
    assert {name: use.bytes for name, use in found.tally.links.items()} == {"pcie": 300, "cxl": 200, "nvme": 200}
    assert {name: use.busy_s for name, use in found.tally.links.items()} == {"pcie": 3, "cxl": 2, "nvme": 4}


def test_three_links_work_side_by_side() -> None:
    # nvme |0.0      |0.1      |
    # cxl            |0.0 |    |0.1 |
    # pcie                |0.0 |    |0.1 |
    # gpu                      |0.0 |    |0.1 |
    assert run(trace("01"), 4, machine(link(), link(50), cxl(100)), dram=4).events == [
        "0-2 nvme load 0.0",
        "2-3 cxl load 0.0",
        "2-4 nvme load 0.1",
        "3-4 pcie load 0.0",
        "4-5 cxl load 0.1",
        "4-5 gpu expert 0.0",
        "5-6 pcie load 0.1",
        "6-7 gpu expert 0.1",
    ]


def test_a_cancelled_prefetch_goes_on_over_every_link_to_dram() -> None:
    # Storage 50 bytes/s, the next link 400. At 3.5 step 1 needs both slots while 3 is on storage's link; it comes to
    # DRAM at 4.25 all the same, so that step 2 has it in 1 s.
    wishes = Wishes(after_0_0="0.3")
    hardware = machine(link(), link(50), cxl(400))
    assert run(trace("0", "12", "3"), 2, hardware, dram=4, prefetch=wishes, costs=QUICK).events == [
        "0-2 nvme load 0.0",
        "2-2.25 cxl load 0.0",
        "2-4 nvme prefetch 0.3",
        "2.25-3.25 pcie load 0.0",
        "3.25-3.5 gpu expert 0.0",
        "3.5 cache evict 0.0",
        "3.5 cache evict 0.3",
        "4-4.25 cxl prefetch 0.3",
        "4-6 nvme load 0.1",
        "6-6.25 cxl load 0.1",
        "6-8 nvme load 0.2",
        "6.25-7.25 pcie load 0.1",
        "7.25-7.5 gpu expert 0.1",
        "8-8.25 cxl load 0.2",
        "8.25-9.25 pcie load 0.2",
        "9.25-9.5 gpu expert 0.2",
        "9.5 cache evict 0.1",
        "9.5-10.5 pcie load 0.3",
        "10.5-10.75 gpu expert 0.3",
    ]


def test_a_miss_that_joins_a_cancelled_prefetch_takes_the_links_left() -> None:
    # Storage 50 bytes/s in chunks of 25, then 800, then 200. The read of 3 has moved two chunks when 1 and 2 preempt it
    # at 3. Its others are moved 7-8; step 2 wants it at 7.875 and pays the rest: 0.125 s, 0.125 s and 0.5 s.
    hardware = machine(link(200), link(50, chunk=25), cxl(800))
    wishes = Wishes(after_0_0="0.3")
    found = run(trace("0", "12", "3"), 2, hardware, dram=4, prefetch=wishes, costs=QUICK)
    assert [event for event in found.events if event.endswith(".3") or "gpu" in event] == [
        "2-2.5 nvme prefetch 0.3",
        "2.5-3 nvme prefetch 0.3",
        "2.625-2.875 gpu expert 0.0",
        "2.875 cache evict 0.3",
        "5.625-5.875 gpu expert 0.1",
        "7-7.5 nvme prefetch 0.3",
        "7.5-8 nvme prefetch 0.3",
        "7.625-7.875 gpu expert 0.2",
        "7.875 cache join 0.3",
        "8-8.125 cxl load 0.3",
        "8.125-8.625 pcie load 0.3",
        "8.625-8.875 gpu expert 0.3",
    ]


def test_unified_memory_loads_over_every_link_and_keeps_no_cancelled_prefetch() -> None:
    # The prefetch of 3 is cancelled at 3.25, so nothing more of it starts behind storage's link: step 2 pays for both.
    wishes = Wishes(after_0_0="0.3")
    found = run(trace("0", "12", "3"), 2, machine(None, link(50), cxl(100)), prefetch=wishes, costs=QUICK)
    assert [event for event in found.events if event.endswith((".0", ".3"))] == [
        "0-2 nvme load 0.0",
        "2-3 cxl load 0.0",
        "2-4 nvme prefetch 0.3",
        "3-3.25 gpu expert 0.0",
        "3.25 cache evict 0.0",
        "3.25 cache evict 0.3",
        "9.25-11.25 nvme load 0.3",
        "11.25-12.25 cxl load 0.3",
        "12.25-12.5 gpu expert 0.3",
    ]


def test_the_cpu_reads_over_every_link_to_dram() -> None:
    assert run(trace("0", "0"), 4, machine(link(), link(50), cxl(100)), dram=2, action="cpu").events == [
        "0-2 nvme read 0.0",
        "2-3 cxl read 0.0",
        "3-4 cpu expert 0.0",
        "4-5 cpu expert 0.0",
    ]


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
