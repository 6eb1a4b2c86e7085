"""Whoever runs a trace leaves the blocks of its schedule, which are kept with it, as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "lru"},
        {"policy": "lru", "miss": "cpu"},
        {"policy": "lru", "miss": "split"},
        {"policy": "mrs", "miss": "split"},
        {"policy": "belady", "miss": "split"},
        {"policy": "slru", "miss": "cpu", "prefetch": "transition"},
        {"policy": "lru", "miss": "skip:0.2"},
    ],
    ids=str,
)
def test_blocks_stay_as_they_are(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    ids = rng.random((60, 16, 64)).argsort(axis=2)[:, :, :8]
    weights = np.sort(rng.random(ids.shape).astype(np.float32), axis=2)[:, :, ::-1]
    phase = np.array(([0] * 10 + [1] * 20) * 2)
    trace = RoutingTrace.from_arrays(ids, num_experts=64, phase=phase, weights=weights, model="olmoe")
    first = simulate(trace, cache="2x", hardware="rtx-4090", engine="compiled", **options).to_dict()
    again = simulate(trace, cache="2x", hardware="rtx-4090", engine="compiled", **options).to_dict()
    assert first == again
    fresh = RoutingTrace.from_arrays(ids, num_experts=64, phase=phase, weights=weights, model="olmoe")
    for weighted in (False, True):
        kept, made = (list(Schedule(one, weights=weighted).blocks()) for one in (trace, fresh))
        for one, other in zip(kept, made, strict=True):
            for name, value in vars(other).items():
                assert np.array_equal(getattr(one, name), value), name
