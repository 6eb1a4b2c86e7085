"""Which token uses which expert how much: hand-solved, and against plain lists."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.simulator.serving.uses import uses_of, uses_table
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


def test_hand_solved() -> None:
    # A prompt of three tokens, then one. Layer 0 of the prompt: 2 1 | nothing | 1 3; last uses, the oldest first: 2, 1,
    # 3. So token 0 uses places 0 and 1, the second token that uses any places 1 and 2. Shares: 0.25 and 0.75 of 1, then
    # 0.5 and 0.5 of 0.5, a tie in rank order. Layer 1: token 1 alone uses 0, all of its weight being 0: share 0.
    # The fourth token: 3 has 0.75, 0 has 0.25; only layer 0 is recorded.
    ids = [[[2, 1], [-1, -1]], [[-1, -1], [0, -1]], [[1, 3], [-1, -1]], [[3, 0], [-1, -1]]]
    weights = [[[0.25, 0.75], [9, 9]], [[9, 9], [0, 9]], [[0.25, 0.25], [9, 9]], [[0.75, 0.25], [9, 9]]]
    trace = RoutingTrace.from_arrays(ids, num_experts=4, phase=[0, 0, 0, 1], weights=weights)
    (block,) = Schedule(trace).blocks()
    found = uses_table(trace, block)
    assert found.starts.tolist() == [0, 4, 5, 7]
    assert found.token.tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert found.place.tolist() == [0, 1, 1, 2, 0, 0, 1]
    assert found.share.tolist() == [0.25, 0.75, 0.5, 0.5, 0.0, 0.75, 0.25]
    assert found.order.tolist() == [1, 0, 0, 1, 0, 0, 1]
    assert found.tokens.tolist() == [2, 1, 1]
    whole = [np.int64, np.int32, np.int32, np.float64, np.int32, np.int64]
    assert [column.dtype for column in found] == whole


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    layers=st.integers(1, 3),
    experts=st.integers(1, 6),
    missing=st.sampled_from([0.0, 0.3, 0.8]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32),
    target=st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_as_plain_lists_have_it(
    lengths: list[int], layers: int, experts: int, missing: float, dtype: type, seed: int, target: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = sum(lengths)
    ids = rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, : int(rng.integers(1, experts + 1))]
    ids[rng.random(ids.shape) < missing] = -1
    weights = (rng.integers(0, 4, ids.shape) / 4).astype(dtype)  # ties, and tokens without weight
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, weights=weights)
    trace.columns["step"] = np.repeat(np.arange(len(lengths)), lengths)
    wanted = []
    for step, end in enumerate(np.cumsum(lengths).tolist()):
        for layer in range(layers):
            batch: list[int] = []
            rows, number = [], 0
            for token in range(end - lengths[step], end):
                pairs = [
                    (e, Fraction(w))
                    for e, w in zip(ids[token, layer].tolist(), weights[token, layer].tolist(), strict=True)
                    if e >= 0
                ]
                batch = [e for e in batch if e not in [e for e, _ in pairs]] + [e for e, _ in pairs]
                ranked = sorted(pairs, key=lambda pair: -pair[1])
                total = sum((w for _, w in pairs), Fraction(0))
                rows += [(number, e, float(w / total) if total else 0.0, ranked.index((e, w))) for e, w in pairs]
                number += bool(pairs)
            if batch:
                wanted.append(([(t, batch.index(e), w, order) for t, e, w, order in rows], number))
    found = []
    for block in Schedule(trace).blocks(target):
        if len(block.layer):
            for uses in uses_of(trace, block):
                columns = (uses.token.tolist(), uses.place.tolist(), uses.share.tolist(), uses.order.tolist())
                found.append((list(zip(*columns, strict=True)), uses.tokens))
    assert len(found) == len(wanted)
    for (mine, number), (theirs, tokens_there) in zip(found, wanted, strict=True):
        assert number == tokens_there
        assert [(t, p, o) for t, p, _, o in mine] == [(t, p, o) for t, p, _, o in theirs]
        assert [w for _, _, w, _ in mine] == pytest.approx([w for _, _, w, _ in theirs], rel=1e-12)


def test_without_the_compiler() -> None:
    """The kernel as plain Python: index errors and wrong types show here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        [*command, "-k", "not without"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
