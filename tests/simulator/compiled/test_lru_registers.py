"""LRU in registers equals sets of bits and places, on CPUs that have the instructions; on others these are taken."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled import lru_registers, lru_turn
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.traces import RoutingTrace

needs_registers = pytest.mark.skipif(not lru_turn.available(), reason="needs AVX-512 with VBMI2 and BITALG")


def both(trace: RoutingTrace, access: str, prefill: str, warm: bool) -> tuple[list[object], list[object]]:
    """Return hits and accesses by registers (runs of `lru.FOR_REGISTERS` batches and more) and by sets of bits."""
    found = []
    for available in (True, False):
        with patch.object(lru_turn, "available", lambda given=available: given):
            taken = stack_hits(trace, "lru", "layer", access, prefill, warm, jobs=1)
        found.append([[hits.tolist() for hits in taken.hits], taken.accesses.tolist()])
    return found[0], found[1]


@needs_registers
def test_hand_solved() -> None:
    # Top-2, stack with the newest first. (0 1) new: 1 0. (1 2): 1 at place 0, 2 new: 2 1 0. (0 3): 0 at place 2, 3 new:
    # 3 0 2 1. (2 1): 2 at place 2, 1 at place 3.
    found = np.zeros(65, np.int64)
    newer = np.full(4, 2**64 - 1, np.uint64)
    ids = np.array([0, 1, 1, 2, 0, 3, 2, 1], np.int16)
    assert lru_registers.run_sets((0, 0), ids, 0, 4, newer, found)
    assert found[:4].tolist() == [1, 0, 2, 1]
    assert found[64] == 4
    assert newer.tolist() == [0b1110, 0b0000, 0b0010, 0b0110]  # the stack is 1 2 3 0: newer than 0 are 1, 2 and 3
    found[:] = 0  # and on from there, one batch: 3 at place 2, 0 at place 3
    assert lru_registers.run_sets((0, 0), np.array([3, 0], np.int16), 0, 1, newer, found)
    assert np.flatnonzero(found).tolist() == [2, 3]


@needs_registers
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.sampled_from([1, 2, 40, 300, 700, 4_000]),
    experts=st.sampled_from([8, 9, 63, 64, 65, 127, 128]),
    k=st.sampled_from([1, 3, 8]),
    access=st.sampled_from(["coresident", "paper"]),
    prompts=st.booleans(),
    warm=st.booleans(),
)
def test_equals_the_sets_of_bits(
    seed: int, tokens: int, experts: int, k: int, access: str, prompts: bool, warm: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids = (rng.random((tokens, 1, experts)) ** (1 + np.arange(experts) / 20)).argsort(axis=2)[:, :, :k]
    offsets = [0, *sorted(rng.integers(0, tokens + 1, 2).tolist()), tokens]
    phase = (np.arange(tokens) % 50 > 5).astype(np.uint8) if prompts else None
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets, phase=phase)
    registers, bits = both(trace, access, "token" if access == "paper" else "step", warm and access != "paper")
    assert registers == bits


@needs_registers
def test_places_hand_solved() -> None:
    # The same with places: the stack is 1 2 3 0 in the end, and what was never used below.
    found, places = np.zeros(129, np.int64), np.arange(65, dtype=np.uint8)
    ids = np.array([0, 1, 1, 2, 0, 3, 2, 1], np.int16)
    assert lru_registers.run_places((0, 0), ids, 0, 4, places, 0, found) == (4, True)
    assert found[:4].tolist() == [1, 0, 2, 1]
    assert found[128] == 4
    assert places.tolist() == [3, 0, 1, 2, *range(4, 65)]


@needs_registers
@pytest.mark.parametrize("tail", [0, 1, 2])
def test_long_runs_are_cut_into_pieces(tail: int) -> None:
    """A seldom expert was last used pieces before; one is first used in the last piece, one never."""
    rng = np.random.default_rng(tail)
    tokens = lru_registers.FOR_PIECES + 1_000 + tail
    ids = rng.random((tokens, 1, 60)).argsort(axis=2)[:, :, :4]
    ids[(ids == 0) & (np.arange(tokens)[:, None, None] % (tokens - 50) > 5)] = 60
    ids[(ids == 1) & (np.arange(tokens)[:, None, None] < tokens - 20)] = 61
    trace = RoutingTrace.from_arrays(ids, num_experts=64)
    registers, bits = both(trace, "coresident", "step", True)
    assert registers == bits


@needs_registers
def test_long_runs_go_on_from_block_to_block() -> None:
    """Counters are bytes, emptied every 255 batches: an expert at one place all along counts further."""
    ids = np.tile(np.arange(4), (2_000, 1, 1))
    trace = RoutingTrace.from_arrays(ids, num_experts=64)
    with patch("lrcsim.simulator.compiled.every_size.TOKENS_PER_BLOCK", 700):
        found = stack_hits(trace, "lru", "layer", "coresident", "step", True, jobs=1)
    assert found.hits[0][1, :6].tolist() == [0, 1_999, 3_998, 5_997, 7_996, 7_996]


@needs_registers
@pytest.mark.parametrize("experts", [64, 128])
def test_an_expert_twice_in_a_token_is_refused(experts: int) -> None:
    trace = RoutingTrace.from_arrays(np.tile([3, experts - 1], (40, 1, 1)), num_experts=experts)
    trace.experts[20, 0] = 3
    with pytest.raises(TraceError, match="twice in one token"):
        stack_hits(trace, "lru", "layer", "coresident", "step", True, jobs=1)


def test_without_the_instructions_the_sets_of_bits_are_taken() -> None:
    trace = RoutingTrace.from_arrays(np.arange(80).reshape(40, 1, 2) % 6, num_experts=6)
    with patch.object(lru_turn, "available", lambda: False):
        found = stack_hits(trace, "lru", "layer", "coresident", "step", True, jobs=1)
    # 0 1, 2 3, 4 5 and again: of each two the second is at place 4, the first at place 5.
    assert found.hits[0][1].tolist() == [0, 0, 0, 0, 0, 37, 74]
