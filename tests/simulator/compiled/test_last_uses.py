"""Batches in the order of last use, compiled and by sorting, against a hand-solved case and plain lists."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import naive_traces
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.simulator.compiled.last_uses import order_by_last_use  # and so traces have it
from lrcsim.traces import RoutingTrace, schedule
from lrcsim.traces.schedule import Schedule, distinct_experts

assert numba is sys.modules["numba"]
assert schedule.get_batch_kernel is not None
assert schedule.get_batch_kernel() is order_by_last_use  # so the compiled one runs


@pytest.fixture(params=["compiled", "sorted"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with the kernel and without."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "sorted":
            patched.setattr(schedule, "get_batch_kernel", None)
        yield request.param


def test_hand_solved(way: str) -> None:
    # Step 0 is tokens 0 to 2, step 1 token 3, step 2 token 4, of which nothing is recorded.
    # Layer 0 of step 0: 2 1 | 0 2 | 1 0. Last uses, the latest first: 0 (token 2, rank 1), 1 (token 2, rank 0),
    # 2 (token 1): the batch is 2, 1, 0, each used by two tokens. Weights over the three tokens:
    # 2: (0.75 + 0.25) / 3, 1: (0.25 + 0.5) / 3, 0: (0.5 + 0.5) / 3.
    # Layer 1 of step 0: token 1 alone uses 3: key 7. Step 1: 1 and 0 in layer 0; nothing in layer 1.
    ids = [[[2, 1], [-1, -1]], [[0, 2], [-1, 3]], [[1, 0], [-1, -1]], [[1, 0], [-1, -1]], [[-1, -1], [-1, -1]]]
    weights = [
        [[0.75, 0.25], [9, 9]],
        [[0.5, 0.25], [9, 0.9]],
        [[0.5, 0.5], [9, 9]],
        [[0.6, 0.4], [9, 9]],
        [[9, 9]] * 2,
    ]
    found = distinct_experts(np.array(ids, np.int16), np.array(weights), np.array([3, 1, 1]), 4)
    assert found.keys.tolist() == [2, 1, 0, 7, 1, 0]
    assert found.tokens is not None
    assert found.tokens.tolist() == [2, 2, 2, 1, 1, 1]
    assert found.weights is not None
    assert found.weights.tolist() == pytest.approx([1 / 3, 0.25, 1 / 3, 0.3, 0.6, 0.4])
    assert (found.starts.tolist(), found.layer.tolist(), found.step.tolist()) == ([0, 3, 4, 6], [0, 1, 0], [0, 0, 1])
    assert [column.dtype for column in (found.keys, found.weights, found.tokens)] == [np.int32, np.float32, np.int64]


def test_nothing_recorded_at_all(way: str) -> None:
    found = distinct_experts(np.full((2, 3, 2), -1), None, np.array([2]), 4)
    assert (len(found.keys), found.starts.tolist(), len(found.layer), found.weights) == (0, [0], 0, None)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
@given(
    steps=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    layers=st.integers(1, 3),
    experts=st.integers(1, 7),
    weighed=st.booleans(),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_as_plain_lists_have_it(
    dtype: type[np.integer], steps: list[int], layers: int, experts: int, weighed: bool, missing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = sum(steps)
    ids = rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, : int(rng.integers(1, experts + 1))]
    ids[rng.random(ids.shape) < missing] = -1
    weights = (rng.integers(0, 64, ids.shape) / 64).astype(np.float32)
    ends = np.cumsum(steps).tolist()
    plain = naive_traces.Trace(
        ids.tolist(),
        [experts] * layers,
        [ids.shape[2]] * layers,
        [0, tokens],
        weights=weights.tolist() if weighed else None,
    )
    passes = [(0, 1, list(range(end - length, end))) for end, length in zip(ends, steps, strict=True)]
    wanted = [
        (step.number, one.layer, one.batch, [float(weight) for weight in one.weights])
        for step in naive_traces.schedule(plain, "step", passes)
        for one in step.layers
    ]
    for kernel in (lambda: order_by_last_use, None):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(schedule, "get_batch_kernel", kernel)
            rows = distinct_experts(ids.astype(dtype), weights if weighed else None, np.array(steps), experts)
        cuts = rows.starts[1:-1]
        assert rows.step.tolist() == [step for step, _, _, _ in wanted]
        assert rows.layer.tolist() == [layer for _, layer, _, _ in wanted]
        assert rows.keys.tolist() == [key for _, _, batch, _ in wanted for key in batch]
        if rows.weights is not None:
            assert rows.weights.tolist() == pytest.approx([w for _, _, _, weights in wanted for w in weights], rel=1e-6)
        assert (rows.tokens is None) == (max(steps) == 1)
        if rows.tokens is not None and wanted:
            used = [ids[end - length : end] for end, length in zip(ends, steps, strict=True)]
            for (step, layer, batch, _), counts in zip(wanted, np.split(rows.tokens, cuts), strict=True):
                assert counts.tolist() == [int((used[step][:, layer] == key % experts).sum()) for key in batch]


def test_a_real_trace_with_prompts() -> None:
    trace = RoutingTrace.open()
    for prefill in ("step", "chunk:7"):
        with pytest.MonkeyPatch.context() as patched:
            compiled = list(Schedule(trace, prefill, weights=True).blocks(300))
            patched.setattr(schedule, "get_batch_kernel", None)
            by_sort = list(Schedule(trace, prefill, weights=True).blocks(300))
        for one, other in zip(compiled, by_sort, strict=True):
            for name in ("keys", "weights", "tokens", "starts", "layer", "step"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_without_the_compiler() -> None:
    """The kernel as plain Python: index errors and wrong types show here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        [*command, "-k", "hand_solved or nothing or plain_lists"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
