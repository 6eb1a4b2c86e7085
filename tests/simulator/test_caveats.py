"""A profile from the trace that it is tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.simulator import simulate
from lrcsim.simulator.time import Prefetcher
from lrcsim.traces import RoutingTrace


def made(seed: int = 0, requests: int = 3, **more: Any) -> RoutingTrace:
    ids = np.random.default_rng(seed).random((10 * requests, 8, 64)).argsort(axis=2)[:, :, :8]
    offsets = 10 * np.arange(requests + 1)
    return RoutingTrace.from_arrays(ids, num_experts=64, offsets=offsets, model="lrcsim-toy-baseline", **more)


def notes(trace: RoutingTrace, policy: str, profile: Any, **options: Any) -> list[str]:
    found = simulate(trace, policy, 16, profile=profile, bounds=False, **options).warnings
    return [warning for warning in found if "hindsight" in warning]


@pytest.mark.parametrize("policy", ["static", "pinned-lru"])
def test_the_trace_itself_under_any_name(policy: str, tmp_path: Path) -> None:
    trace = made()
    trace.save(tmp_path / "a.h5")
    trace.save(tmp_path / "b.h5", compression="none")  # another SHA-256, the same routing
    with RoutingTrace.open(tmp_path / "a.h5") as opened:
        for profile in ("self", opened, trace, tmp_path / "a.h5", str(tmp_path / "b.h5")):
            (note,) = notes(opened, policy, profile)
            assert "all requests of the very trace" in note
            assert "`lrcsim trace split`" in note


def test_some_requests_in_common() -> None:
    trace, other = made(0), made(1)
    both = RoutingTrace.from_arrays(
        np.concatenate([trace.experts[10:20], other.experts]), num_experts=64, offsets=[0, 10, 20, 30, 40]
    )
    (note,) = notes(trace, "static", both)
    assert "1 of the 3 requests that are run too (33% of the tokens)" in note
    assert notes(trace, "static", other) == []


def test_the_requests_of_the_trace_are_counted_not_those_of_the_profile(tmp_path: Path) -> None:
    """One request of the profile's file is run twice."""
    one, other = made(0, requests=1), made(1, requests=1)
    trace = RoutingTrace.from_arrays(
        np.concatenate([one.experts, one.experts, other.experts]), num_experts=64, offsets=[0, 10, 20, 30]
    )
    one.save(tmp_path / "one.h5")
    for profile in (one, tmp_path / "one.h5"):
        (note,) = notes(trace, "static", profile)
        assert "2 of the 3 requests that are run too (67% of the tokens)" in note


def test_a_profile_that_nothing_uses_is_no_matter() -> None:
    assert notes(made(), "lru", "self") == []
    assert notes(made(), "static", made(1)) == []


def test_several_requests_at_once() -> None:
    assert len(notes(made(), "static", "self", batch=2)) == 1
    assert len(notes(made(), "static", made(), batch=2)) == 1


class Mine(Prefetcher):
    """A user's prefetcher: it has the profile."""

    name = "mine"

    def propose(self, step: Any, place: int) -> list[int]:
        return []


@pytest.mark.parametrize(("prefetch", "expected"), [("popularity", 1), (Mine, 1), ("transition", 0), ("none", 0)])
def test_prefetchers(prefetch: Any, expected: int) -> None:
    machine: dict[str, Any] = {"hardware": "rtx-3090", "prefetch": prefetch}
    assert len(notes(made(), "lru", "self", **machine)) == expected
    assert notes(made(), "lru", made(1), **machine) == []


def test_on_the_command_line(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made(0).save(tmp_path / "t.h5")
    made(1).save(tmp_path / "u.h5")
    words = "hindsight"
    line = ("--policy", "static", "--profile")
    assert words in lrcsim("run", tmp_path / "t.h5", *line, tmp_path / "t.h5").out
    assert words not in lrcsim("run", tmp_path / "t.h5", *line, tmp_path / "u.h5").out
    assert words in lrcsim("curve", tmp_path / "t.h5", *line, "self").out
    assert words not in lrcsim("curve", tmp_path / "t.h5", *line, tmp_path / "u.h5").out


def test_a_budget_divided_by_its_own_curves(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made().save(tmp_path / "t.h5")
    words = "the very trace that it is tested on"
    out = " ".join(lrcsim("curve", tmp_path / "t.h5", "--policy", "lru", "--allocate", "2x").out.split())
    assert words in out
    assert words not in lrcsim("curve", tmp_path / "t.h5", "--policy", "lru").out
