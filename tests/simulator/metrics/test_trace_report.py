"""The report on a trace: its parts together, the router's confidence, what it warns of."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lrcsim.simulator.metrics.trace_report import confidence, report_on
from lrcsim.traces import RoutingTrace


def made(tokens: int = 40, requests: int = 4, **more: object) -> RoutingTrace:
    rng = np.random.default_rng(1)
    ids = rng.random((tokens, 2, 8)).argsort(axis=2)[:, :, :2]
    offsets = np.linspace(0, tokens, requests + 1).astype(int)
    return RoutingTrace.from_arrays(ids, num_experts=8, **{"offsets": offsets, **more})  # type: ignore[arg-type]


def test_all_parts_as_json() -> None:
    seen: list[tuple[int, int]] = []
    report = report_on(made(), progress=lambda done, total: seen.append((done, total)))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [one["batch"] for one in data["batches"]] == [1, 2, 4]
    assert [one["tokens"] for one in data["working_sets"]] == ["4", "request", "trace"]
    assert data["batches"][0]["over_capacity"] == {"1x": 1.0, "2x": 0.5, "4x": 0.25}
    assert data["reuse"]["accesses"] == 160
    for key, at in (("lru_slots", report.reuse.slots_at), ("tokens", report.reuse.tokens_at)):
        assert data["reuse"][key] == {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99)}
    assert data["position_locked"] is True
    assert data["confidence"] is None
    assert (data["repeats"]["requests"], data["repeats"]["distinct"]) == (4, 4)
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert report.warnings() == []


def test_a_trace_without_routing() -> None:
    report = report_on(RoutingTrace.from_arrays(np.full((3, 1, 1), -1), num_experts=2))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (data["batches"], data["working_sets"], data["reuse"]["cold_share"]) == ([], [], None)
    assert (data["repeats"]["requests"], data["repeats"]["repeated_share"]) == (0, None)
    assert report.warnings() == []


def test_lengths() -> None:
    assert report_on(made(offsets=[0, 10, 20, 40])).position_locked is False
    assert report_on(made(requests=1)).position_locked is None
    phase = np.tile([0] * 4 + [1] * 6, 4)
    assert report_on(made(phase=phase)).position_locked is True
    phase[13:15] = 0, 1
    phase[14] = 0
    assert report_on(made(phase=phase)).position_locked is False


def test_confidence_solved_by_hand() -> None:
    """Shares 3/4 and 1/2; the third has weights below 0, the fourth none, the fifth an expert that is not recorded."""
    ids = np.array([[0, 1], [0, 1], [0, 1], [0, 1], [0, -1]])[:, None, :]
    weights = np.array([[6, 2], [0.25, 0.25], [1, -1], [0, 0], [1, 0]])[:, None, :]
    found = confidence(RoutingTrace.from_arrays(ids, num_experts=2, weights=weights))
    assert found is not None
    data = found.to_dict()
    assert (data["pairs"], data["left_out"], data["even"]) == (2, 3, 0.5)
    assert data["first_share"] == pytest.approx(0.625)
    assert (data["p10"], data["p50"], data["p90"]) == (0.5, 0.5, 0.75)


def test_confidence_of_nothing() -> None:
    trace = RoutingTrace.from_arrays(np.full((2, 1, 2), -1), num_experts=2, weights=np.zeros((2, 1, 2)))
    found = confidence(trace)
    assert found is not None
    assert found.to_dict() == dict.fromkeys(("even", "first_share", "p10", "p50", "p90")) | {"pairs": 0, "left_out": 0}


def test_warnings() -> None:
    ids = made(tokens=10, requests=1).experts
    twice = RoutingTrace.from_arrays(np.concatenate([ids, ids]), num_experts=8, offsets=[0, 10, 20])
    (warning,) = report_on(twice).warnings()
    assert warning.startswith("1 of 2 requests are the same as an earlier one (by routing)")
    other = ids.copy()
    other[9] = other[9, :, ::-1]
    template = RoutingTrace.from_arrays(np.concatenate([ids, other, other[:9]]), num_experts=8, offsets=[0, 10, 20, 29])
    (warning,) = report_on(template).warnings()
    assert warning.startswith("62% of the tokens of the requests are in beginnings")
