"""Recorded traces, against what the recording engine itself saw and against numbers worked out apart from lrcsim.

The traces are no part of the project: LRCSIM_SHARED names their folder, else `shared` beside the checkout.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.policies.registry import BUILT_IN
from lrcsim.simulator import Result, Schedule, hit_rate_curve, simulate
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

SHARED = Path(os.environ.get("LRCSIM_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "traces"
MIB = 2**20


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the shared trace {name} is not there (LRCSIM_SHARED names the folder that has traces/)")
    return path


# --- Qwen3-30B-A3B on a phone: one request, a global LRU of 4000 MiB, residency recorded ------------------------------


class Recorded(NamedTuple):
    trace: RoutingTrace
    residency: npt.NDArray[np.int64]  # [tokens, layers, k], 0 miss, 1 hit, 2 prefetched, -1 where nothing was recorded


@pytest.fixture(scope="module")
def qwen3() -> Recorded:
    """Read the table by hand: the importers have tests of their own."""
    sizes: dict[int, int] = {}
    rows = []
    with shared("qwen3-30b-a3b.route.csv").open(newline="") as file:
        for line in file:
            if not line.startswith("#"):
                break
            found = re.search(r"layer=(\d+) expert_bytes=(\d+)", line)
            if found:
                sizes[int(found[1])] = int(found[2])
        rows = list(csv.DictReader(file, fieldnames=line.strip().split(",")))
    shape = (1 + max(int(row["step"]) for row in rows), len(sizes), 1 + max(int(row["slot"]) for row in rows))
    experts, residency = np.full(shape, -1), np.full(shape, -1)
    weights, phase = np.zeros(shape, np.float32), np.zeros(shape[0], np.uint8)
    for row in rows:
        place = int(row["step"]), int(row["layer"]), int(row["slot"])
        experts[place], residency[place] = int(row["expert"]), int(row["residency"])
        weights[place], phase[place[0]] = float(row["weight"]), int(row["phase"])
    trace = RoutingTrace.from_arrays(
        experts, num_experts=128, phase=phase, weights=weights, expert_bytes=[sizes[i] for i in range(len(sizes))]
    )
    return Recorded(trace, residency)


def recorded_accesses(recorded: Recorded) -> dict[tuple[int, int, int], bool]:
    """Return (step, layer, expert) -> hit, each distinct expert once per batch, at its last occurrence.

    The prompt is step 0, the decoded tokens follow.
    """
    hit: dict[tuple[int, int, int], bool] = {}
    trace = recorded.trace
    assert trace.phase is not None
    prompt = int((trace.phase == PREFILL).sum())
    for token, layer, slot in np.argwhere(recorded.residency >= 0).tolist():
        step = max(token - prompt + 1, 0)
        hit[step, layer, int(trace.experts[token, layer, slot])] = bool(recorded.residency[token, layer, slot] != 0)
    return hit


def percent(rate: float | None) -> float:
    assert rate is not None
    return round(100 * rate, 1)


def test_lru_gives_the_recorded_rates(qwen3: Recorded) -> None:
    result = simulate(qwen3.trace, "lru", "4000MiB", scope="model", bounds=False)
    assert percent(result.hit_rate) == 74.9
    assert percent(result.phase_rate(DECODE)) == 80.3
    loaded = result.bytes_loaded(DECODE)
    assert loaded is not None
    assert round(loaded / MIB / 128, 1) == 155.8
    assert result.counts.steps.tolist() == [1, 128]


def test_lru_equals_the_recorded_residency_access_by_access(qwen3: Recorded) -> None:
    counts = simulate(qwen3.trace, "lru", "4000MiB", scope="model", bounds=False, record=True).counts
    assert counts.hit is not None
    recorded = recorded_accesses(qwen3)
    replayed: dict[tuple[int, int, int], bool] = {}
    for block in Schedule(qwen3.trace).blocks():
        lengths = np.diff(block.starts)
        step = np.repeat(block.step, lengths).tolist()
        flags = counts.hit[block.first_access : block.first_access + len(block.keys)].tolist()
        for one_step, key, flag in zip(step, block.keys.tolist(), flags, strict=True):
            replayed[one_step, key // 128, key % 128] = flag
    assert len(replayed) == len(counts.hit) == 39_526
    assert replayed == recorded


def test_policies_at_2000_mib(qwen3: Recorded) -> None:
    rates = {
        policy: percent(simulate(qwen3.trace, policy, "2000MiB", scope="model", bounds=False).phase_rate(DECODE))
        for policy in ("belady", "lru", "lfu")
    }
    assert rates == {"belady": 79.4, "lru": 56.5, "lfu": 58.6}


@pytest.mark.parametrize("cache", ["500MiB", "4000MiB"])
def test_nothing_exceeds_the_upper_bound(qwen3: Recorded, cache: str) -> None:
    result = simulate(qwen3.trace, "belady-bypass", cache, scope="model")
    upper = result.bounds["upper"]
    assert upper.proven
    for policy in ("lru", "lfu", "s3-fifo", "mrs", "belady", "belady-bypass"):
        rate = simulate(qwen3.trace, policy, cache, scope="model", bounds=False).hit_rate
        assert rate is not None
        assert rate <= upper.hit_rate + 1e-12


def test_the_cliff_of_lru_below_one_token_cycle(qwen3: Recorded) -> None:
    # Between two uses of an expert lie at least the 47 * 6 = 282 experts of the other layers, all used later than it:
    # 282 slots never hold it. From there to a whole cycle, 288, the others of its own batch come in one by one.
    rates = {slots: simulate(qwen3.trace, "lru", slots, scope="model", bounds=False) for slots in (282, 283, 288)}
    assert rates[282].phase_rate(DECODE) == 0
    assert 0 < (rates[283].phase_rate(DECODE) or 0) < (rates[288].phase_rate(DECODE) or 0)
    assert any("one token" in warning for warning in rates[282].warnings)
    assert not rates[288].warnings


# --- gpt-oss-20b: 78 requests of decoded tokens -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt_oss() -> RoutingTrace:
    """The first three requests."""
    with np.load(shared("gpt-oss-20b.decode.npz")) as arrays:
        offsets = arrays["offsets"][:4].astype(np.int64)
        experts = arrays["experts"][: offsets[-1]]
        domains = [str(name) for name in arrays["domains"][:3]]
    assert experts.shape[1:] == (24, 4)
    return RoutingTrace.from_arrays(experts, num_experts=32, offsets=offsets, domains=domains)


def run(trace: RoutingTrace, policy: str, cache: int | str, **options: str) -> Result:
    return simulate(trace, policy, cache, bounds=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("access", ["coresident", "sequential"])
def test_no_policy_beats_the_optimum(gpt_oss: RoutingTrace, scope: str, access: str) -> None:
    short = RoutingTrace.from_arrays(gpt_oss.experts[:120], num_experts=32)
    best = run(short, "belady", "2x", scope=scope, access=access).hit_rate
    assert best is not None
    for policy in BUILT_IN.values():
        if policy.needs - {"future"} or policy.bypass:  # no router weights in this trace; bypass has its own optimum
            continue
        rate = run(short, policy.name, "2x", scope=scope, access=access).hit_rate
        assert rate is not None
        assert rate <= best, policy.name


def test_rates_rise_with_the_cache_and_end_at_first_uses(gpt_oss: RoutingTrace) -> None:
    first_uses = sum(len(np.unique(gpt_oss.experts[:, layer])) for layer in range(24))
    accesses = gpt_oss.experts.size
    for policy in ("lru", "belady", "lfu"):  # stack algorithms
        results = [run(gpt_oss, policy, capacity) for capacity in (0, 2, 4, 8, 16, 24, 32)]
        rates = [result.hit_rate or 0.0 for result in results]
        assert rates == sorted(rates)
        assert rates[0] == 0
        assert rates[-1] == pytest.approx(1 - first_uses / accesses, abs=1e-12)
        assert results[-1].counts.evictions == 0


def test_the_optimum_stands_above_lru_by_a_real_margin(gpt_oss: RoutingTrace) -> None:
    # At 1x the batch fills the cache: nothing is left to decide, so every co-resident policy is the same.
    rates = {
        (policy, cache): run(gpt_oss, policy, cache).hit_rate or 0.0
        for policy in ("lru", "fifo", "belady")
        for cache in ("1x", "2x")
    }
    assert rates["lru", "1x"] == rates["fifo", "1x"] == rates["belady", "1x"]
    assert rates["belady", "2x"] > rates["lru", "2x"] + 0.05
    assert rates["lru", "2x"] > rates["lru", "1x"]


def test_a_cache_emptied_between_requests_hits_less(gpt_oss: RoutingTrace) -> None:
    warm = simulate(gpt_oss, "lru", "4x", bounds=False)
    cold = simulate(gpt_oss, "lru", "4x", warm=False, bounds=False)
    assert (cold.hit_rate or 0) < (warm.hit_rate or 0)
    assert cold.counts.cold_misses > warm.counts.cold_misses


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@pytest.mark.parametrize("size", [500, "1500MiB"])
def test_compiled_curves_equal_replays(qwen3: Recorded, size: int | str, access: str) -> None:
    """Every built-in policy that has no stack, on real routing; in one pool, in experts and in (unequal) bytes."""
    whole, tokens = qwen3.trace, 24
    trace = RoutingTrace.from_arrays(
        whole.experts[-tokens:],
        num_experts=whole.num_experts,
        weights=whole.column("weights")[-tokens:],
        expert_bytes=whole.expert_bytes,
    )
    for name, policy in BUILT_IN.items():
        if policy.bypass and access == "paper":
            continue  # refused
        profile = trace if "profile" in policy.needs else None
        curve = hit_rate_curve(trace, name, scope="model", access=access, profile=profile, capacities=[size])
        if curve.engine == "compiled":
            one = simulate(
                trace,
                name,
                size,
                scope="model",
                access=access,  # type: ignore[arg-type]
                profile=profile,
                bounds=False,
            )
            assert curve.hit_rate[0] == one.hit_rate, name
