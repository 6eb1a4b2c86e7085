"""Times of prompts: by hand on a machine in round numbers, and what they must never do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import geometry, machine

from lrcsim.planner.engines import UBATCH
from lrcsim.planner.prompt import OFFLOADED, PROMPT_RANGE, Prompt, distinct, prompt_of
from lrcsim.planner.speed import Setup
from lrcsim.planner.strategies import FREQUENT, ON_CPU, RESIDENT, STREAMED, Strategy
from lrcsim.runtimes import IDEAL

LRU = Strategy("lru", "", "lru", "load")
SETUP = Setup(machine(), geometry(moe_layers=(3,)), "bf16")
"""One MoE layer of 8 experts of 960 bytes, 2 per token; GPU memory 1 MB/s, link and CPU 0.1 MB/s, any arithmetic."""


def test_different_experts_by_hand() -> None:
    # two of eight: a token leaves an expert alone with 3/4, two tokens with 9/16
    assert distinct(8, 2, 1) == 2
    assert distinct(8, 2, 2) == 8 * 7 / 16
    assert distinct(8, 8, 1) == 8


@settings(max_examples=20)
@given(st.integers(2, 32), st.integers(1, 40), st.data())
def test_different_experts_are_those_of_random_routing(experts: int, tokens: int, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, experts))
    random = np.random.default_rng(tokens)
    counts = [
        len(set(np.concatenate([random.permutation(experts)[:top_k] for _ in range(tokens)]))) for _ in range(300)
    ]
    assert np.mean(counts) == pytest.approx(distinct(experts, top_k, tokens), abs=0.05 * experts)


def seconds(strategy: Strategy, held: int, tokens: int, setup: Setup = SETUP) -> float:
    return prompt_of(setup, strategy, [held], tokens, 2.0).seconds


def dense(tokens: int) -> float:
    """Return the time of all but experts: a batch reads 12,544 bytes of weights, and 64 of KV cache per token seen.

    Weights: attention 1,536 parameters, norms 128, a router 128, three dense blocks 2,880, output 1,600, 2 bytes each.
    """
    ends = [min(start + UBATCH, tokens) for start in range(0, tokens, UBATCH)]
    return sum(12_544 + 64 * end for end in ends) / 1e6


def test_resident_by_hand() -> None:
    # 512 tokens use all 8 experts: 7,680 bytes at 1 MB/s, once for each batch of 512
    assert seconds(RESIDENT, 8, 512) == pytest.approx(dense(512) + 7.68e-3, rel=1e-6)
    assert seconds(RESIDENT, 8, 1024) == pytest.approx(dense(1024) + 2 * 7.68e-3, rel=1e-6)
    assert seconds(RESIDENT, 8, 1) == pytest.approx(dense(1) + 1.92e-3, rel=1e-6)
    # arithmetic at 1,000 FLOP/s: two operations for each of 480 parameters, 512 tokens, 2 experts
    slow = replace(SETUP, profile=machine(gpu=replace(machine().gpu, compute=1e3)))  # type: ignore[type-var]
    more = seconds(RESIDENT, 8, 512, slow) - seconds(RESIDENT, 8, 512, replace(slow, geometry=geometry(
        moe_layers=(3,), experts=8, top_k=1)))  # fmt: skip
    assert more == pytest.approx(2 * 480 * 512 / 1e3)


def test_beside_the_gpu_by_hand() -> None:
    # fewer than 32 tokens run on the CPU: 7,680 bytes x (1 - (3/4)^31) at 0.1 MB/s
    used = distinct(8, 2, OFFLOADED - 1) * 960
    assert seconds(ON_CPU, 0, OFFLOADED - 1) == pytest.approx(dense(31) + used / 1e5, rel=1e-6)
    # 32 are copied over the link at 0.1 MB/s, then computed on the GPU
    used = distinct(8, 2, OFFLOADED) * 960
    assert seconds(ON_CPU, 0, OFFLOADED) == pytest.approx(dense(32) + used / 1e5 + used / 1e6, rel=1e-6)
    # a quarter of them popular and on the GPU: three quarters are copied
    assert seconds(FREQUENT, 2, OFFLOADED) == pytest.approx(dense(32) + 0.75 * used / 1e5 + used / 1e6, rel=1e-6)
    # what is loaded overlaps what is computed
    assert seconds(STREAMED, 0, OFFLOADED) == pytest.approx(dense(32) + used / 1e5, rel=1e-6)
    assert seconds(LRU, 4, OFFLOADED) == pytest.approx(dense(32) + 0.5 * used / 1e5, rel=1e-6)


def test_the_runtimes_costs_are_paid() -> None:
    # 50 % of the bandwidth: twice as long; a second per MoE layer and batch
    half = replace(IDEAL, device=replace(IDEAL.device, experts=0.5, dense=0.5, cache=0.5))
    assert seconds(RESIDENT, 8, 600, replace(SETUP, runtime=half)) == pytest.approx(2 * seconds(RESIDENT, 8, 600))
    layer = replace(IDEAL, device=replace(IDEAL.device, layer=1.0))
    assert seconds(RESIDENT, 8, 600, replace(SETUP, runtime=layer)) == pytest.approx(seconds(RESIDENT, 8, 600) + 2)
    none = replace(IDEAL, loads=replace(IDEAL.loads, overlap="none"))
    used = distinct(8, 2, OFFLOADED) * 960
    assert seconds(LRU, 0, OFFLOADED, replace(SETUP, runtime=none)) == pytest.approx(
        dense(32) + used / 1e5 + used / 1e6, rel=1e-6
    )


@pytest.mark.parametrize("part", [512, 500])
def test_attention_sees_all_that_came_before(part: int) -> None:
    """However a prompt is divided, n tokens attend to n (n + 1) / 2.

    Where arithmetic binds, all else grows with tokens or batches: of one, two and three parts the second difference
    has only attention's share, part^2 pairs in each layer. The share of the peak that it reaches a token at a time has
    no part in it.
    """
    profile = SETUP.profile.with_part("gpu", compute=1e3)
    runtime = replace(IDEAL, device=replace(IDEAL.device, attention=0.01))
    one, two, three = (
        seconds(RESIDENT, 8, count * part, replace(SETUP, profile=profile, runtime=runtime)) for count in (1, 2, 3)
    )
    model = SETUP.geometry
    pairs = sum(model.attention_flops_per_pair(layer) for layer in range(model.layers)) * part**2
    assert three - 2 * two + one == pytest.approx(pairs / 1e3, rel=1e-6)


def test_handing_over_and_links_cost_time() -> None:
    # half a second for a layer with experts on the CPU, where they are computed there
    handing = replace(SETUP, runtime=replace(IDEAL, cpu=replace(IDEAL.cpu, layer=0.5)))
    assert seconds(ON_CPU, 0, 31, handing) == pytest.approx(seconds(ON_CPU, 0, 31) + 0.5)
    assert seconds(ON_CPU, 0, 32, handing) == pytest.approx(seconds(ON_CPU, 0, 32))
    # a link with a second of latency, and a tenth for each of the 8 experts (of 512 tokens all are used)
    link = replace(SETUP.profile.links[1], latency=1.0, overhead=0.1)
    late = replace(SETUP, profile=machine(links=(SETUP.profile.links[0], link)))
    assert seconds(ON_CPU, 0, 512, late) == pytest.approx(seconds(ON_CPU, 0, 512) + 1.8)


def test_nothing_to_load_over() -> None:
    alone = replace(SETUP, profile=replace(machine(), gpu=None, links=()))
    assert seconds(RESIDENT, 8, 512, alone) == pytest.approx(10 * seconds(RESIDENT, 8, 512), rel=1e-6)


@given(st.integers(1, 3_000), st.integers(0, 8))
def test_longer_prompts_and_smaller_caches_take_longer(tokens: int, held: int) -> None:
    for strategy in (LRU, FREQUENT):
        assert seconds(strategy, held, tokens) >= seconds(strategy, min(held + 1, 8), tokens) * (1 - 1e-9)
    assert seconds(RESIDENT, 8, tokens) < seconds(RESIDENT, 8, tokens + 1)


def test_what_is_said() -> None:
    found = Prompt(2_000, 4.0)
    low, high = PROMPT_RANGE
    assert found.to_dict() == {
        "prompt_tokens": 2_000,
        "time_to_first_token_s": 4.0,
        "range_time_to_first_token_s": [4 / high, 4 / low],
        "prompt_tokens_per_s": 500.0,
    }
