"""Complete schedules of tiny runs, each worked out by hand, as in test_scenarios: storage below DRAM, caches told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from both_engines import run
from helpers import QUICK, Wishes, engine, link, machine, trace

from lrcsim.hardware import Link
from lrcsim.policies import View
from lrcsim.policies.recency import Lru
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.pool import Pool

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
