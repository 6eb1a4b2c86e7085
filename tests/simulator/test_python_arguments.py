"""`simulate` takes what the command line takes and refuses the rest in a line; results print briefly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import LrcsimError
from lrcsim.simulator import hit_rate_curve, sch, simulate, srp
from lrcsim.simulator.curves.allocate import allocate
from lrcsim.traces import RoutingTrace


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    bundled = RoutingTrace.open()
    return RoutingTrace.from_arrays(
        bundled.experts[:300],
        num_experts=bundled.num_experts,
        phase=bundled.read("phase", 0, 300),
        offsets=[0, 150, 300],
        expert_bytes=bundled.expert_bytes,
        model=bundled.model,
    )


def test_a_profile_is_a_trace_a_file_or_the_trace_itself(trace: RoutingTrace, tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    trace.save(path)
    runs = [
        simulate(trace, "static", "2x", profile=profile).counts.misses.tolist()
        for profile in (trace, "self", str(path), path)
    ]
    assert all(misses == runs[0] for misses in runs)
    assert simulate(trace, "static", "2x", profile="self", batch=2).counts.preloaded.sum() > 0
    assert hit_rate_curve(trace, "static", profile="self", capacities=[16]).hit_rate[0] == pytest.approx(
        simulate(trace, "static", 16, profile="self").hit_rate
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": 5}, "profile 5 is not allowed: give a RoutingTrace, the path of one, or 'self'"),
        ({"profile": ""}, "profile '' is not allowed"),
        ({"profile": "nowhere.h5"}, "nowhere.h5: there is no such file"),
        ({"prefill": 5}, "prefill 5 is not known"),
        ({"prefill": ""}, "prefill '' is not known"),
        ({"warm": "no"}, "warm must be True, False or None"),
        ({"polcy": "lru"}, "there is no option 'polcy'"),
        ({"dtype": "q4_k_m"}, "option 'dtype' is about time"),
        ({"hardware": "rtx-4090", "dtype": 4}, "dtype must be text, given 4"),
        ({"hardware": "rtx-4090", "miss": 3}, "miss must be text, given 3"),
        ({"hardware": "rtx-4090", "overlap": "no"}, "overlap must be True or False, given 'no'"),
        ({"hardware": "rtx-4090", "overrides": "pcie.lanes=2"}, "overrides must be a list"),
        ({"hardware": "rtx-4090", "overrides": 5}, "overrides must be a list"),
        ({"hardware": "rtx-4090", "arrivals": 5}, "arrivals 5: give poisson:RATE, a file of seconds, or a list"),
        ({"hardware": "rtx4090x"}, "there is no hardware profile 'rtx4090x'"),
        ({"hardware": "rtx-4090", "model": "nope"}, "there is no model 'nope'"),
        ({"cache": float("nan")}, "cache size nan is no whole number"),
    ],
)
def test_refused_in_a_line(trace: RoutingTrace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LrcsimError) as caught:
        simulate(trace, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_is_no_trace() -> None:
    with pytest.raises(LrcsimError, match=r"open a file with RoutingTrace\.open"):
        simulate("x.h5")  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers(trace: RoutingTrace) -> None:
    found = simulate(trace, "lru", np.int64(16), batch=np.int64(2), speculative=(2, (np.int64(1), 0)))  # type: ignore[arg-type]
    assert found.hit_rate == simulate(trace, "lru", 16, batch=2, speculative=(2, [1, 0])).hit_rate
    json.dumps(found.to_dict(), allow_nan=False)


def test_results_print_in_a_few_lines(trace: RoutingTrace) -> None:
    plain = simulate(trace, "lfu", "2x")
    assert repr(plain).startswith("<Result lfu, cache '2x': <RoutingTrace lrcsim-toy-baseline: 300 tokens, 2 requests")
    assert f"hit rate {plain.hit_rate:.4f}, belady (optimum) {plain.bounds['belady'].hit_rate:.4f}" in repr(plain)
    timed = simulate(trace, "lru", [16] * 8, hardware="rtx-4090", log=True, samples=True, prefetch="temporal")
    assert timed.timed is not None
    per_expert = srp(trace, 16, level="expert", bootstrap=20)
    shown = [
        *(trace, plain, timed, plain.bounds["belady"], timed.counts, timed.timed, timed.timed.tally),
        *(timed.timed.limits, timed.timed.samples, timed.timed.log, timed.timed.run),
        *(timed.timed.platform, timed.timed.tally.prefetch, hit_rate_curve(trace), allocate(trace, "lru", "2x")),
        *(per_expert, per_expert.groups, srp(trace, 16, level="position"), sch(trace, 16)),
    ]
    for value in shown:
        assert len(repr(value)) < 1_000, type(value)
        assert repr(value).count("\n") < 5
    assert "tokens/s" in repr(timed)
    assert repr(hit_rate_curve(trace)).startswith("<Curve lru, at every capacity of 1 to ")
