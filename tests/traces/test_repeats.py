"""Experts twice in one token's top-k: by words, by ranks and by sorting, against the definition."""

import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_files import random_experts

from lrcsim.simulator.compiled.repeated_bytes import any_repeated_byte  # and so traces have it
from lrcsim.traces import repeats
from lrcsim.traces.repeats import any_repeated

assert numba is sys.modules["numba"]
assert repeats.get_byte_kernel is not None
assert repeats.get_byte_kernel() is any_repeated_byte  # so the compiled one runs


def by_definition(ids: np.ndarray) -> bool:
    return any(len(set(row) - {-1}) < sum(one >= 0 for one in row) for row in ids.reshape(-1, ids.shape[2]).tolist())


@pytest.mark.parametrize("experts", [9, 250, 255, 256, 300])
@pytest.mark.parametrize("compiled", [True, False])
@given(
    ranks=st.integers(1, 9),
    tokens=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    copied=st.booleans(),
    missing=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_way_finds_what_the_definition_does(
    experts: int, compiled: bool, ranks: int, tokens: int, seed: int, copied: bool, missing: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids = random_experts(rng, tokens, 2, experts, ranks).astype(np.int16)
    ids[0, 0, 0] = experts - 1 if experts - 1 not in ids[0, 0] else ids[0, 0, 0]
    if copied:
        to, of = rng.integers(ranks, size=2)
        ids[-1, 1, to] = ids[-1, 1, of]
    if missing:
        ids[rng.random(ids.shape) < 0.4] = -1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(repeats, "ROWS_AT_ONCE", 3)
        if not compiled:
            patched.setattr(repeats, "WORD", 0)
        assert any_repeated(ids, int(ids.min()), int(ids.max())) == by_definition(ids)


def test_every_pair_of_bytes_of_a_word_is_compared() -> None:
    # 0x80 and 0x7F, 0 and 255 are what sums of bytes could mix up.
    for first in range(8):
        for second in range(first):
            for value in (0, 1, 127, 128, 255):
                row = np.array([[2, 3, 64, 126, 129, 200, 253, 254]], np.uint8)
                assert not any_repeated_byte(row.view(np.uint64)[0])
                row[0, first] = row[0, second] = value
                assert any_repeated_byte(row.view(np.uint64)[0])
