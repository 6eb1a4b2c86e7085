"""Every mechanism of a runtime, solved by hand, in both engines; then what holds of any runtime.

Unless a test says otherwise: an expert has 120 bytes and computes in 1.5 s, the link moves 120 bytes/s in one lane, and
nothing else takes time. A line of the expected list is ``start-end track what layer.expert``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from both_engines import run
from drawn_runtimes import runtimes
from helpers import Finished, link, machine, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile
from lrcsim.models import Geometry
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import PAGEABLE, machine_under
from lrcsim.runtimes.runtime import CpuUse, DeviceUse, LoadUse
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.setup.costs import Costs, FixedCosts, RooflineCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import run_compiled, unsupported
from lrcsim.simulator.time.links import copies_before
from lrcsim.traces import RoutingTrace

BYTES = 120
COSTS = FixedCosts(expert_s=1.5, cpu_bytes=BYTES, cpu_rate=60)
"""An expert on the CPU takes 2 s."""

PCIE = link(BYTES)
GPU = machine(PCIE)


def using(**numbers: Any) -> Runtime:
    """Make a runtime of numbers by name: ``device_layer=2.0``."""
    parts: dict[str, dict[str, Any]] = {"device": {}, "cpu": {}, "loads": {}}
    for name, value in numbers.items():
        part, _, key = name.partition("_")
        parts[part][key] = value
    return Runtime("test", "", DeviceUse(**parts["device"]), CpuUse(**parts["cpu"]), LoadUse(**parts["loads"]))


def both(
    routing: RoutingTrace,
    capacity: int,
    runtime: Runtime,
    hardware: HardwareProfile = GPU,
    *,
    costs: Costs = COSTS,
    action: str = "load",
    sizes: list[int] | None = None,
    prefill: str = "step",
) -> Finished:
    """Run it in events and compiled, hold the two equal, return the events."""
    sizes = sizes or [BYTES] * routing.num_layers
    done = run(routing, capacity, hardware, runtime=runtime, costs=costs, action=action, sizes=sizes, prefill=prefill)
    used = machine_under(hardware, runtime)
    pools = tuple(resolve_capacity(capacity, routing.layers, "layer"))
    job, does = Run.in_pools(routing, "lru", pools, prefill=prefill), make_action(action, used)
    assert unsupported(job, costs, used, does, runtime=runtime) is None
    tally, _ = run_compiled(job, costs, used, sizes, does, runtime=runtime)
    assert tally.by_step() == pytest.approx(done.tally.by_step(), rel=1e-12)
    for name in ("total", "compute", "overhead", "cpu"):
        assert getattr(tally, name) == pytest.approx(getattr(done.tally, name), rel=1e-12), name
    for name, use in done.tally.links.items():
        assert tally.links[name].bytes == use.bytes
        assert tally.links[name].busy_s == pytest.approx(use.busy_s, rel=1e-12)
    return done


# What the host pays


def test_per_layer_in_place_of_the_machines() -> None:
    slow = replace(GPU, layer_overhead=5.0)
    assert both(trace("0"), 4, using(device_layer=2.0), slow).events == [
        "0-2 host overhead 0",
        "2-3 pcie load 0.0",
        "3-4.5 gpu expert 0.0",
    ]
    assert both(trace("0"), 4, IDEAL, slow).events[0] == "0-5 host overhead 0"
    assert both(trace("0"), 4, using(device_layer=0.0), slow).events[0] == "0-1 pcie load 0.0"  # 0 is a number too


def test_per_miss_in_place_of_the_machines() -> None:
    # Two misses at 0.5 s; the second token hits.
    slow = replace(GPU, expert_overhead=5.0)
    assert both(trace("01", "01"), 4, using(loads_miss=0.5), slow).events == [
        "0-1 host overhead 0",
        "1-2 pcie load 0.0",
        "2-3 pcie load 0.1",
        "2-3.5 gpu expert 0.0",
        "3.5-5 gpu expert 0.1",
        "5-6.5 gpu expert 0.0",
        "6.5-8 gpu expert 0.1",
    ]
    assert both(trace("0"), 4, using(loads_miss=0.0), slow).tally.overhead == 0  # 0 is a number too


def test_per_byte() -> None:
    # 2 x 120 bytes at 1/80 s
    done = both(trace("01", "0"), 4, using(loads_byte=1 / 80))
    assert done.events[:2] == ["0-3 host overhead 0", "3-4 pcie load 0.0"]
    assert done.tally.overhead == 3.0


def test_per_eviction() -> None:
    # Room for two. Token 0 fills it; token 1 puts one out, token 2 two, token 3 none. Token 4 has three: one more than
    # there is room for, so that besides the resident (0 stays, as one of the three) one of the batch goes.
    done = both(trace("01", "2", "34", "4", "450"), 2, using(loads_eviction=0.25))
    assert done.tally.by_step()[:, 3].tolist() == [0, 0.25, 0.5, 0, 0.5]
    assert done.counts.evictions == 5
    # What passes through a cache without room counts as evicted; what a policy lets pass by does not.
    assert both(trace("01"), 0, using(loads_eviction=0.25)).tally.overhead == 0.5
    beside = run(trace("0", "1", "0"), 1, GPU, runtime=using(loads_eviction=0.25), policy="belady-bypass")
    assert (beside.tally.overhead, beside.counts.bypassed, beside.counts.evictions) == (0, 1, 0)


def test_per_layer_with_experts_on_the_cpu() -> None:
    # Once for two of them, and not for the token whose only expert is loaded: of one miss, split loads one.
    done = both(trace("01", "2"), 4, using(cpu_layer=0.5), action="split:0.5")
    assert done.tally.by_step()[:, 3].tolist() == [0.5, 0]
    # Without a GPU there is no handing over.
    phone = replace(machine(None, link(BYTES)), gpu=None, unified=False)
    assert run(trace("01"), 4, phone, runtime=using(cpu_layer=0.5), action="cpu", costs=COSTS).tally.overhead == 0


# The link


def test_copies_of_an_expert_each_pay_the_overhead() -> None:
    # Three copies at 0.25 s + 0.25 s, then the bytes.
    slow = machine(link(BYTES, overhead=0.25))
    runtime = using(loads_copies=3, loads_copy=0.25)
    assert both(trace("0"), 4, runtime, slow).events == ["0-2.5 pcie load 0.0", "2.5-4 gpu expert 0.0"]
    # Two chunks are two of the copies: 0.5 + 0.5 s and 60 bytes, then 0.5 s and 60 bytes. Four chunks are more than the
    # copies, each pays for itself.
    chunked = machine(link(BYTES, overhead=0.25, chunk=60))
    assert both(trace("0"), 4, runtime, chunked).events[:2] == ["0-1.5 pcie load 0.0", "1.5-2.5 pcie load 0.0"]
    assert both(trace("0"), 4, runtime, machine(link(BYTES, overhead=0.25, chunk=30))).tally.total == 4 * 0.75 + 1.5
    # By tensor there are three transfers: one copy each, or two, where there are four to six.
    for copies, each in ((1, 1), (3, 1), (4, 2), (6, 2), (7, 3)):
        by_tensor = replace(runtime, loads=replace(runtime.loads, overlap="tensor", copies=copies))
        assert both(trace("0"), 4, by_tensor, slow).tally.links["pcie"].busy_s == pytest.approx(3 * each * 0.5 + 1)


def test_copies_before_the_first_chunk() -> None:
    assert [copies_before(3, 1, 100.0, chunk) for chunk in (100, 99, 50, 49, 1)] == [3, 2, 2, 1, 1]
    assert [copies_before(copies, 3, 40.0, 40) for copies in (1, 2, 3, 4, 6, 7)] == [1, 1, 1, 2, 2, 3]


def test_memory_that_is_not_pinned() -> None:
    # The link says what such copies reach, 60 bytes/s, then the runtime, then nobody.
    both_say = machine(replace(PCIE, pageable=60.0))
    assert both(trace("0"), 4, using(loads_pinned=False, loads_pageable=30.0), both_say).events[0] == (
        "0-2 pcie load 0.0"
    )
    assert both(trace("0"), 4, using(loads_pinned=False, loads_pageable=30.0)).events[0] == "0-4 pcie load 0.0"
    assert both(trace("0"), 4, using(loads_pinned=True, loads_pageable=30.0), both_say).events[0] == (
        "0-1 pcie load 0.0"
    )
    fast = machine(link(1e12))
    assert machine_under(fast, using(loads_pinned=False)).links[0].bandwidth == PAGEABLE
    # Never faster than the link; and on unified memory nothing is copied.
    assert machine_under(GPU, using(loads_pinned=False)).links[0].bandwidth == BYTES
    unified = machine(None, link(1e12))
    assert machine_under(unified, using(loads_pinned=False)).links[0].bandwidth == 1e12


def test_share_of_the_links_bandwidth() -> None:
    assert both(trace("0"), 4, using(loads_bandwidth=0.5)).events[0] == "0-2 pcie load 0.0"
    # Of the links that loads take: that from storage to main memory is not this runtime's.
    chain = machine(PCIE, link(BYTES))
    used = machine_under(chain, using(loads_bandwidth=0.5, loads_copy=1.0, loads_lanes=2, loads_lane_bandwidth=9.0))
    assert used.storage_links == chain.storage_links


def test_lanes_with_a_cap_each() -> None:
    # Two lanes, at most 48 bytes/s each though the link gives 120: 2.5 s for two at once, then one alone, no faster.
    capped = using(loads_lanes=2, loads_lane_bandwidth=48.0)
    assert both(trace("012"), 4, capped).events == [
        "0-2.5 pcie load 0.0",
        "0-2.5 pcie load 0.1",
        "2.5-4 gpu expert 0.0",
        "2.5-5 pcie load 0.2",
        "4-5.5 gpu expert 0.1",
        "5.5-7 gpu expert 0.2",
    ]
    # Three lanes of 48 would want 144: the link's 120 are shared, 40 each.
    assert both(trace("012"), 4, using(loads_lanes=3, loads_lane_bandwidth=48.0)).events[0] == "0-3 pcie load 0.0"
    # The link's own cap, where the runtime says nothing.
    own = machine(replace(PCIE, lane_bandwidth=60.0))
    assert both(trace("0"), 4, IDEAL, own).events[0] == "0-2 pcie load 0.0"
    assert both(trace("0"), 4, using(loads_lane_bandwidth=40.0), own).events[0] == "0-3 pcie load 0.0"


# What runs beside what. Expert 0 is resident, 1 and 2 are loaded in 3 s each: a tensor takes 1 s on the link of 40
# bytes/s, and 0.5 s on the GPU.

SLOW = machine(link(40))


def second_token(overlap: str) -> list[str]:
    """Return what happens after token 0, which loads expert 0, with times from its end."""
    done = both(trace("0", "012"), 4, using(loads_overlap=overlap), SLOW)
    begin = done.tally.by_step()[1, 0]
    lines = [(span.start - begin, span.end - begin, span.track, span.expert) for span in done.spans]
    shown = [one for one in lines if one[0] >= 0]
    return [f"{start:g}-{end:g} {track} {expert}" for start, end, track, expert in sorted(shown)]


def test_overlap_none() -> None:
    assert second_token("none") == ["0-3 pcie 1", "3-6 pcie 2", "6-7.5 gpu 0", "7.5-9 gpu 1", "9-10.5 gpu 2"]


def test_overlap_by_expert() -> None:
    assert second_token("expert") == ["0-1.5 gpu 0", "0-3 pcie 1", "3-4.5 gpu 1", "3-6 pcie 2", "6-7.5 gpu 2"]


def test_overlap_by_tensor() -> None:
    # gates 1, 2, ups 1, 2, downs 1, 2; the resident's up when both gates are there (at 2), its down when both ups (4).
    assert second_token("tensor") == [
        "0-0.5 gpu 0",
        "0-1 pcie 1",
        "1-1.5 gpu 1",
        "1-2 pcie 2",
        "2-2.5 gpu 2",
        "2-3 pcie 1",
        "2.5-3 gpu 0",
        "3-3.5 gpu 1",
        "3-4 pcie 2",
        "4-4.5 gpu 2",
        "4-5 pcie 1",
        "4.5-5 gpu 0",
        "5-5.5 gpu 1",
        "5-6 pcie 2",
        "6-6.5 gpu 2",
    ]


# The roofline. Layers 0 and 2 are dense, layer 1 has 4 experts. Every weight is 2 bytes.
# Attention: q 10 x 10, k and v 10 x 5, output 10 x 10: 300 parameters, and 20 in norms. A dense block of 3 x 10 x 4 =
# 120; the router 40. An expert 3 x 10 x 5 = 150 parameters, 300 bytes. Output 50 x 10 = 500, 1,000 bytes. KV cache 2 x
# 5 = 10 numbers, 20 bytes per token and layer; 4 x 2 heads x 5 = 40 operations for each pair of tokens.

MODEL = Geometry(
    name="three",
    source="",
    layers=3,
    moe_layers=(1,),
    experts=4,
    top_k=2,
    shared_experts=0,
    hidden=10,
    expert_width=5,
    shared_width=0,
    dense_width=4,
    matrices=3,
    heads=2,
    kv_heads=1,
    head_dim=5,
    vocab=50,
    tied=False,
)
MEMORY_BOUND = HardwareProfile(
    name="test",
    gpu=Gpu(memory=10**6, bandwidth=100.0, compute=1e9, overhead=0.25),
    cpu=Cpu(compute=1e9, bandwidth=50.0, overhead=0.5, cores=1),
    dram=Dram(10**6, 1e9),
    links=(link(1e9),),
    layer_overhead=0,
    expert_overhead=0,
)
COMPUTE_BOUND = replace(
    MEMORY_BOUND,
    gpu=Gpu(memory=10**6, bandwidth=1e9, compute=100.0, overhead=0.25),
    cpu=Cpu(compute=50.0, bandwidth=1e9, overhead=0.5, cores=1),
)
# With the 0.25 s of each operation: layers 0 and 1 before the routing (context 2: 40 bytes of KV cache), an expert,
# layer 2 with the output.
DENSE, EXPERT, OUTPUT = 8.8 + 0.4 + 7.2 + 0.4 + 2 * 0.25, 3 + 0.25, 8.8 + 0.4 + 10 + 2 * 0.25


def computed(
    runtime: Runtime, hardware: HardwareProfile = MEMORY_BOUND, model: Geometry = MODEL, **options: Any
) -> list[float]:
    """Return the seconds of the dense part, of an expert and of the output, of the last step of two tokens."""
    used = machine_under(hardware, runtime)
    costs = RooflineCosts(model, used, runtime=runtime)
    routing = trace("0", "0", experts=4, **options)
    done = both(routing, 4, runtime, hardware, costs=costs, sizes=costs.bytes)
    last = done.tally.by_step()[-1, 0]
    return [span.end - span.start for span in done.spans if span.track == "gpu" and span.start >= last]


def test_shares_of_the_memorys_bandwidth() -> None:
    assert computed(IDEAL) == pytest.approx([DENSE, EXPERT, OUTPUT])
    half = computed(using(device_dense=0.5))  # all but the experts and the KV cache take twice as long
    assert half == pytest.approx([DENSE + 8.8 + 7.2, EXPERT, OUTPUT + 8.8 + 10])
    assert computed(using(device_experts=0.5)) == pytest.approx([DENSE, 2 * 3 + 0.25, OUTPUT])
    assert computed(using(device_cache=0.5)) == pytest.approx([DENSE + 2 * 0.4, EXPERT, OUTPUT + 0.4])


def test_shares_of_the_peak() -> None:
    # A prompt of two tokens, the expert for both: 2 operations per parameter and token, 3 pairs of 40 operations. The
    # output is for one.
    pairs = 3 * 40 / 100
    layer0, layer1, expert, head = (2 * n * 2 / 100 for n in (420, 340, 150, 250))
    whole = [layer0 + layer1 + 2 * pairs + 0.5, expert + 0.25, layer0 + pairs + head + 0.5]
    prompt = {"phase": [0, 0]}
    assert computed(IDEAL, COMPUTE_BOUND, **prompt) == pytest.approx(whole)
    half = [2 * (layer0 + layer1 + 2 * pairs) + 0.5, 2 * expert + 0.25, 2 * (layer0 + head + pairs) + 0.5]
    assert computed(using(device_compute=0.5), COMPUTE_BOUND, **prompt) == pytest.approx(half)
    assert computed(using(device_attention=0.25), COMPUTE_BOUND, **prompt) == pytest.approx(whole)


def test_share_of_the_peak_in_attention_a_token_at_a_time() -> None:
    # The second token alone: as above for one token, and 2 pairs of 40 operations; attention is in layers 0 to 2.
    pairs = 2 * 40 / 100
    layer0, layer1, expert, head = (2 * n / 100 for n in (420, 340, 150, 500))
    whole = [layer0 + layer1 + 2 * pairs + 0.5, expert + 0.25, layer0 + pairs + head + 0.5]
    assert computed(IDEAL, COMPUTE_BOUND) == pytest.approx(whole)
    found = computed(using(device_attention=0.5), COMPUTE_BOUND)
    assert found == pytest.approx([whole[0] + 2 * pairs, whole[1], whole[2] + pairs])
    found = computed(using(device_compute=0.5), COMPUTE_BOUND)  # attention has its own share
    assert found == pytest.approx(
        [2 * (layer0 + layer1) + 2 * pairs + 0.5, 2 * expert + 0.25, 2 * (layer0 + head) + pairs + 0.5]
    )


def test_per_kernel_per_layer_with_mla_and_per_step() -> None:
    kernels = computed(using(device_kernel=1.0))  # two dense parts; an expert; a dense part and the output
    assert kernels == pytest.approx([DENSE + 2 * 0.75, EXPERT + 0.75, OUTPUT + 2 * 0.75])
    assert computed(using(device_kernel=0.0)) == pytest.approx([DENSE - 0.5, EXPERT - 0.25, OUTPUT - 0.5])
    assert computed(using(device_step=2.0)) == pytest.approx([DENSE, EXPERT, OUTPUT + 2])
    assert computed(using(device_mla=2.0)) == pytest.approx([DENSE, EXPERT, OUTPUT])  # it has none
    compressed = replace(MODEL, kv_rank=4, rope_dim=1)
    plain = computed(IDEAL, model=compressed)
    assert computed(using(device_mla=2.0), model=compressed) == pytest.approx([plain[0] + 4, plain[1], plain[2] + 2])


def test_windows_of_attention() -> None:
    # Layer 0 looks back one token, itself: 20 bytes less at the second token.
    short = replace(MODEL, window=1, window_layers=(0,))
    assert computed(IDEAL, model=short) == pytest.approx([DENSE - 0.2, EXPERT, OUTPUT])
    # A prompt of two reads what its first token looks back, and its second; each of the two is one pair.
    prompt = {"phase": [0, 0]}
    assert computed(IDEAL, model=short, **prompt) == pytest.approx([DENSE, EXPERT, OUTPUT])
    pairs = 40 / 100
    less = computed(IDEAL, COMPUTE_BOUND, short, **prompt)[0]
    assert less == pytest.approx(computed(IDEAL, COMPUTE_BOUND, **prompt)[0] - pairs)


def test_the_processor() -> None:
    # 300 bytes at half of 50 bytes/s, after 0.125 s instead of 0.5 s
    runtime = using(cpu_share=0.5, cpu_expert=0.125)
    for machine_is, takes in ((MEMORY_BOUND, 12.125), (COMPUTE_BOUND, 0.125 + 2 * 150 / 50)):
        used = machine_under(machine_is, runtime)
        costs = RooflineCosts(MODEL, used, runtime=runtime)
        done = both(trace("0", experts=4), 4, runtime, machine_is, costs=costs, sizes=costs.bytes, action="cpu")
        assert done.tally.cpu == pytest.approx(takes)
    used = machine_under(COMPUTE_BOUND, using(cpu_compute=0.5))
    assert used.cpu.compute == 25
    # Where it is the device, the kernel's seconds are an expert's too.
    alone = machine_under(replace(MEMORY_BOUND, gpu=None), using(cpu_expert=0.125, device_kernel=1.0))
    assert (alone.cpu.overhead, alone.gpu) == (1.0, None)
    assert machine_under(MEMORY_BOUND, using(cpu_expert=0.0)).cpu.overhead == 0


# What holds of any runtime


@st.composite
def routings(draw: st.DrawFn) -> RoutingTrace:
    tokens, layers = draw(st.integers(1, 6)), draw(st.integers(1, 2))
    one = st.lists(st.sampled_from("012345"), min_size=1, max_size=4, unique=True).map("".join)
    return trace(*draw(st.lists(st.lists(one, min_size=layers, max_size=layers).map("|".join), min_size=tokens)))


CHAIN = replace(machine(link(1e5, latency=0.001, overhead=0.002, lanes=2), layer_overhead=0.01, expert_overhead=0.003))


@settings(max_examples=60)
@given(routing=routings(), runtime=runtimes, capacity=st.integers(0, 6), action=st.sampled_from(["load", "split:0.5"]))
def test_what_moves_is_what_is_loaded(routing: RoutingTrace, runtime: Runtime, capacity: int, action: str) -> None:
    sizes = [1000] * routing.num_layers
    done = run(routing, capacity, CHAIN, runtime=runtime, costs=COSTS, sizes=sizes, action=action)
    assert done.counts.loads is not None
    use, total = done.tally.links["pcie"], done.tally.total
    assert use.bytes == 1000 * done.counts.loads.sum()
    assert use.bytes / use.bandwidth * (1 - 1e-9) <= use.busy_s <= total * (1 + 1e-9)
    assert done.tally.cpu <= total * (1 + 1e-9)
    assert done.tally.compute + done.tally.overhead <= total * (1 + 1e-9)


@settings(max_examples=60)
@given(routing=routings(), capacity=st.integers(0, 6), action=st.sampled_from(["load", "cpu", "split:0.5"]))
def test_costs_of_zero_and_shares_of_one_are_ideal(routing: RoutingTrace, capacity: int, action: str) -> None:
    """To the bit, whether the machine's numbers are left out or said again."""
    lanes, gpu = CHAIN.links[0].lanes, CHAIN.gpu
    assert gpu is not None
    again = Runtime(
        "again",
        "",
        DeviceUse(layer=CHAIN.layer_overhead, kernel=gpu.overhead),
        CpuUse(expert=CHAIN.cpu.overhead),
        LoadUse(miss=CHAIN.expert_overhead, lanes=lanes, lane_bandwidth=1e9),
    )
    assert machine_under(CHAIN, IDEAL) == CHAIN
    sizes = [1000] * routing.num_layers
    plain, said = (
        run(routing, capacity, CHAIN, runtime=runtime, costs=COSTS, sizes=sizes, action=action)
        for runtime in (IDEAL, again)
    )
    assert said.tally.by_step().tolist() == plain.tally.by_step().tolist()
    assert said.events == plain.events


SERIAL = {
    "device": ("layer",),
    "cpu": ("layer",),
    "loads": ("miss", "eviction", "byte"),
}
"""Costs in which everything else waits: they add to the time whatever they are."""


@settings(max_examples=60)
@given(
    routing=routings(),
    runtime=runtimes,
    capacity=st.integers(0, 6),
    action=st.sampled_from(["load", "cpu", "split:0.5"]),
    name=st.sampled_from([(part, key) for part, keys in SERIAL.items() for key in keys]),
)
def test_a_cost_of_the_host_adds_its_own_seconds(
    routing: RoutingTrace, runtime: Runtime, capacity: int, action: str, name: tuple[str, str]
) -> None:
    part, key = name
    runtime = replace(runtime, loads=replace(runtime.loads, beside=False))  # beside transfers it may be hidden
    more, less = (
        replace(runtime, **{part: replace(getattr(runtime, part), **{key: seconds})}) for seconds in (0.5, 0.0)
    )
    sizes = [1000] * routing.num_layers
    slow, quick = (
        run(routing, capacity, CHAIN, runtime=one, costs=COSTS, sizes=sizes, action=action) for one in (more, less)
    )
    added = slow.tally.overhead - quick.tally.overhead
    assert added >= 0
    assert slow.tally.total - quick.tally.total == pytest.approx(added, abs=1e-9)


SLOWER: dict[tuple[str, str], tuple[Any, Any]] = {
    ("loads", "bandwidth"): (1.0, 0.4),
    ("loads", "copy"): (0.0, 0.01),
    ("loads", "copies"): (1, 3),
    ("loads", "lane_bandwidth"): (1e9, 20_000.0),
    ("loads", "pinned"): (True, False),
    ("loads", "overlap"): ("expert", "none"),
}


@settings(max_examples=100)
@given(routing=routings(), runtime=runtimes, capacity=st.integers(0, 6), name=st.sampled_from(sorted(SLOWER)))
def test_a_slower_way_is_never_faster(
    routing: RoutingTrace, runtime: Runtime, capacity: int, name: tuple[str, str]
) -> None:
    """Where every miss is loaded; beside the CPU a slower link leaves that more of main memory."""
    part, key = name
    quick, slow = (
        replace(runtime, **{part: replace(getattr(runtime, part), **{key: value})}) for value in SLOWER[name]
    )
    sizes = [1000] * routing.num_layers
    before, after = (
        run(routing, capacity, CHAIN, runtime=one, costs=COSTS, sizes=sizes).tally for one in (quick, slow)
    )
    assert after.total >= before.total * (1 - 1e-12)


@settings(max_examples=40)
@given(routing=routings(), runtime=runtimes)
def test_with_everything_resident_tensors_make_no_difference(routing: RoutingTrace, runtime: Runtime) -> None:
    """The second time round nothing is loaded."""
    experts = np.concatenate([routing.experts[:]] * 2)
    twice = RoutingTrace.from_arrays(experts, num_experts=6)
    runtime = replace(runtime, device=replace(runtime.device, ahead=False))  # which does not go with tensors
    sizes = [1000] * twice.num_layers
    seconds = []
    for overlap in ("tensor", "expert"):
        one = replace(runtime, loads=replace(runtime.loads, overlap=overlap))
        steps = both(twice, 6, one, CHAIN, sizes=sizes).tally.by_step()[routing.num_tokens :]
        seconds.append((steps[:, 1] - steps[:, 0]).tolist())
    assert seconds[0] == pytest.approx(seconds[1], rel=1e-9)
