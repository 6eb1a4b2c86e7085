"""Complete schedules of tiny runs, each worked out by hand, as in test_scenarios: misses that are not simply loaded."""

from __future__ import annotations

from both_engines import run
from helpers import Finished, link, machine, trace

from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.outcomes import Outcome


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
