"""Tokens per second of a configuration: by hand, and equal to `simulate`; flash below main memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planned import geometry, local_trace, machine

from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.planner.flash import at, chained, flash_share, joint_rate
from lrcsim.planner.speed import Setup, Speed, interval, measure, resampled
from lrcsim.planner.synthetic_trace import routing_of_curve
from lrcsim.planner.traces import Shape, find_sources
from lrcsim.planner.workload import PLACED, POPULAR, Fold, OwnTrace, Transferred, all_experts, transferred
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

SETUP = Setup(machine(), geometry(moe_layers=(3,)), "bf16")


def one_layer(*experts: int, offsets: list[int] | None = None) -> RoutingTrace:
    """Make a trace of two experts per token in one layer."""
    ids = np.array(experts).reshape(-1, 1, 2)
    return RoutingTrace.from_arrays(ids, num_experts=8, offsets=offsets, model="toy")


def test_by_hand() -> None:
    # The link moves 1e5 bytes/s, an expert has 960: 9.6 ms. Compute, about 9 KB per token at 1 MB/s, is 10 to 13 ms.
    # 2 slots: token 1 loads both, token 2 none, token 3 one.
    trace = one_layer(0, 1, 0, 1, 1, 2)
    found = measure([Fold(trace, "lru", None)], "2", SETUP)
    resident = measure([Fold(trace, "static", all_experts(Shape(1, 8, 2)))], "8", SETUP)
    assert (found.hit_rate, resident.hit_rate) == (0.5, 1.0)
    waited = found.seconds.sum() - resident.seconds.sum()
    # the second of two loads overlaps the first expert's compute (0.96 ms)
    assert waited == pytest.approx(2 * 9.6e-3 - 0.96e-3 + 9.6e-3 - 0.96e-3, rel=1e-9)
    assert found.tokens.sum() == 3
    assert found.context == 2.0
    assert resident.binds == ("gpu", pytest.approx(1.0))


@pytest.mark.parametrize(
    ("policy", "cache", "miss"), [("lru", "3", "load"), ("slru", "2", "load"), ("lru", "3", "split")]
)
def test_is_what_simulate_gives(policy: str, cache: str, miss: str) -> None:
    trace, setup = local_trace(), Setup(machine(), geometry(), "bf16")
    found = measure([Fold(trace, policy, None)], cache, setup, miss)
    wanted = simulate(
        trace, policy, cache, bounds=False, hardware=setup.profile, model=setup.geometry, dtype="bf16", miss=miss
    ).to_dict()
    assert found.tokens_per_s == pytest.approx(wanted["time"]["decode_tokens_per_s"], rel=1e-12)
    assert found.hit_rate == wanted["cache"]["decode"]["hit_rate"]


def test_only_decoding_counts() -> None:
    ids = local_trace(tokens=40, requests=1).experts
    phase = np.repeat(np.array([0, 1], np.uint8), [10, 30])
    trace = RoutingTrace.from_arrays(ids, num_experts=8, phase=phase)
    setup = Setup(machine(), geometry(), "bf16")
    found = measure([Fold(trace, "lru", None)], "3", setup)
    wanted = simulate(trace, "lru", "3", bounds=False, hardware=setup.profile, model=setup.geometry, dtype="bf16")
    assert found.tokens.sum() == 30
    assert found.tokens_per_s == pytest.approx(wanted.to_dict()["time"]["decode_tokens_per_s"], rel=1e-12)
    assert found.context == np.arange(11, 41).mean()


def speed(seconds: list[float], tokens: list[float], context: float = 0.0) -> Speed:
    return Speed(np.array(seconds), np.array(tokens), 0.5, ("gpu", 1.0), context)


def test_context_by_hand() -> None:
    # 4 layers x 8 numbers per token: at 1,000 tokens 32,000 numbers, 64,000 bytes in f16, 64 ms at 1 MB/s beside 0.1 s
    assert speed([1.0], [10.0]).at_context(SETUP, 1_000, 2.0) == pytest.approx(1 / 0.164)
    assert speed([1.0], [10.0], context=500.0).at_context(SETUP, 1_000, 2.0) == pytest.approx(1 / 0.132)
    assert speed([1.0], [10.0]).at_context(SETUP, 1_000, 1.0) == pytest.approx(1 / 0.132)
    assert speed([1.0], [10.0], context=5_000.0).at_context(SETUP, 1_000, 2.0) == pytest.approx(10.0)  # never faster


def test_intervals() -> None:
    assert interval(speed([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])) == (0.5, 0.5)  # all alike
    low, high = interval(speed([1.0] * 10, list(range(1, 11))))
    assert 1 < low < 5.5 < high < 10
    fast, slow = speed([1.0, 2.0, 3.0], [2.0, 3.0, 5.0]), speed([2.0, 4.0, 6.0], [2.0, 3.0, 5.0])
    assert resampled(fast) / resampled(slow) == pytest.approx(2.0)  # drawn alike


def test_few_requests_are_divided_into_blocks() -> None:
    setup = Setup(machine(), geometry(), "bf16")
    assert len(measure([Fold(local_trace(tokens=100, requests=2), "lru", None)], "3", setup).tokens) == 4  # 32 32 32 4
    assert len(measure([Fold(local_trace(tokens=100, requests=5), "lru", None)], "3", setup).tokens) == 5


def test_measured_workload() -> None:
    source = find_sources(geometry(), [("own", local_trace())])[0][0]
    work = OwnTrace(source)
    placed = measure(work.folds(PLACED), "0,8,8", Setup(machine(), geometry(), "bf16"), "cpu")
    assert placed.hit_rate == pytest.approx(2 / 3)  # whatever is used
    folds = work.folds(POPULAR)
    assert sum(fold.trace.num_tokens for fold in folds) == source.trace.num_tokens
    assert folds[0].profile is not None
    assert np.array_equal(folds[0].profile.experts[: folds[1].trace.num_tokens], folds[1].trace.experts)


def test_transferred_workloads() -> None:
    sources, _ = find_sources(geometry(experts=16), [])
    works = transferred(Shape(3, 16, 2), sources)
    assert [work.label.split(",")[0] for work in works] == ["published curves"] * 3
    assert [work.end for work in works] == [0, -1, 1]
    setup = Setup(machine(), geometry(experts=16), "bf16")
    for policy in ("lru", POPULAR):
        rates = [measure(work.folds(policy), "6", setup).hit_rate for work in works]
        assert rates[1] < rates[0] < rates[2]
        for work, rate in zip(works, rates, strict=True):
            assert isinstance(work, Transferred)
            assert rate == pytest.approx(work.curve(policy)[6], abs=0.005)
    assert works[0].curve("belady")[6] > works[0].curve("lru")[6] > works[0].curve(POPULAR)[6]


def test_traces_of_other_models_are_among_the_published_ones() -> None:
    shape = Shape(3, 16, 2)
    plain = transferred(shape, find_sources(geometry(experts=16), [])[0])[0]

    def with_trace(stay: float, model: str) -> Transferred:
        given = [("other", local_trace(3, 64, 2, stay=stay, model=model))]
        return transferred(shape, find_sources(geometry(experts=16), given)[0])[0]

    low, high = with_trace(0.1, "other"), with_trace(0.9, "other")
    assert low.curve("lru")[4] < plain.curve("lru")[4] < high.curve("lru")[4]
    # a trace that names the model, of another shape, counts as the model's own
    assert with_trace(0.9, "Toy-Q4_K_M.gguf").curve("lru")[4] > high.curve("lru")[4] + 0.02
    assert with_trace(0.9, "Toy-Q4_K_M.gguf").lru.sources == ("other",)
    # one in which nothing is missed or nothing hit says nothing
    still = RoutingTrace.from_arrays(np.zeros((200, 3, 1), int), num_experts=64, model="other")
    assert transferred(shape, find_sources(geometry(experts=16), [("still", still)])[0])[0].lru == plain.lru


def test_share_of_flash_by_hand() -> None:
    curve = np.array([0.0, 0.5, 0.75, 1.0])
    assert at(curve, 1.5) == 0.625
    assert flash_share(curve, 0.5, 1, 2) == 0.5  # half of what the GPU misses is in main memory
    assert flash_share(curve, 1.0, 0, 2) == 0.25
    assert flash_share(curve, 0.5, 2, 2) == 1.0  # main memory has nothing that the GPU has not
    assert flash_share(curve, 0.1, 1, 2) == 1.0  # a policy better than LRU above: what is left is in neither
    assert flash_share(curve, 0.0, 1, 2) == 0.0


def test_joint_rate_by_hand() -> None:
    # one expert per token, always missed: from flash (4 s) half the time, then 1 s more; else 1 s. 3 s on average
    assert joint_rate(1.0, 0.25, 1, 1.0, 0.5) == pytest.approx(1 / 3)
    # two: none, one, two from flash: 2 s; max(2, 4 + 1); 8 + 1 with chances 1/4 1/2 1/4: 5.25 s for two
    assert joint_rate(1.0, 0.25, 2, 1.0, 0.5) == pytest.approx(2 / 5.25)
    assert joint_rate(1.0, 0.25, 4, 0.3, 0.0) == pytest.approx(1.0)
    assert joint_rate(1.0, 0.25, 4, 0.0, 1.0) == 1.0
    slower = chained(machine(), 1, 1.0, 0.5)  # link and CPU 1e5, flash 2e4: half the time 1 + 5 of the link's units
    assert slower.part("pcie") is not None
    assert (slower.part("pcie").bandwidth, slower.cpu.bandwidth) == (pytest.approx(1e5 / 3.5), pytest.approx(1e5 / 3.5))


@pytest.mark.parametrize(("exponent", "gpu", "ram"), [(2, 8, 32), (4, 16, 64), (7, 8, 96)])
def test_flash_against_the_event_engine(exponent: float, gpu: int, ram: int) -> None:
    """The chain of two links as one is at most a fifth faster than the event engine, and not slower."""
    shape = replace(load_geometry("qwen3-30b-a3b"), layers=2, moe_layers=(0, 1))
    curve = 1 - (1 - np.arange(129) / 128) ** exponent
    trace = routing_of_curve(Shape(2, 128, 8), curve, 300)
    hardware = load_profile("rtx-4090")
    real = simulate(trace, "lru", gpu, bounds=False, hardware=hardware, model=shape, dtype="bf16", dram=f"{2 * ram}")
    misses = 1 - at(curve, gpu)
    joint = chained(hardware, 8, misses, flash_share(curve, misses, gpu, ram))
    mine = simulate(trace, "lru", gpu, bounds=False, hardware=joint, model=shape, dtype="bf16")
    taken = []
    for result in (real, mine):
        assert result.timed is not None
        steps = result.timed.tally.by_step()[-150:]  # main memory is one pool, and warm after a while
        taken.append(float((steps[:, 1] - steps[:, 0]).sum()))
    assert 1 / 1.2 <= taken[1] / taken[0] <= 1.02
