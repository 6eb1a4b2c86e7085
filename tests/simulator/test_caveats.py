"""What is said of a hit rate: sizes at which it means little, and a profile from the trace that it is tested on."""

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


def said(trace: RoutingTrace, policy: str, cache: int | str, **options: Any) -> str:
    return " ".join(simulate(trace, policy, cache, bounds=False, **options).warnings)


def test_below_one_token_cycle() -> None:
    # Every token uses the same key in each of 8 layers, of 3 bytes in half of them and 6 else: 8 experts, or 36 bytes.
    trace = RoutingTrace.from_arrays(np.zeros((20, 8, 1), int), num_experts=4, expert_bytes=[3, 6] * 4)
    assert simulate(trace, "lru", 7, scope="model", bounds=False).hit_rate == 0.0
    assert "the pool holds 7, one token uses 8: below one token cycle" in said(trace, "lru", 7, scope="model")
    assert "one token uses 36: below one token cycle" in said(trace, "lru", "35B", scope="model")
    for policy, cache, more in (("lru", 8, {}), ("lru", "36B", {}), ("fifo", 7, {}), ("lru", 7, {"access": "paper"})):
        assert "cycle" not in said(trace, policy, cache, scope="model", **more), (policy, cache)


def test_a_token_that_does_not_fit() -> None:
    ids = [[[0, 1]], [[1, 2]]]
    trace = RoutingTrace.from_arrays(ids, num_experts=4)
    assert "1 of 1 layers hold fewer experts than one token uses there (top-2)" in said(trace, "lru", 1)
    assert "fewer experts" not in said(trace, "lru", 2)
    assert "fewer experts" not in said(trace, "lru", 1, access="sequential")
    in_bytes = RoutingTrace.from_arrays(ids, num_experts=4, expert_bytes=[[4, 2, 1, 1]])
    assert "fewer experts" not in said(in_bytes, "lru", "1B")  # a byte is no slot


def test_everything_fits() -> None:
    # One layer that goes round four experts of 10 bytes together; then two such layers in a pool.
    ids = np.tile(np.arange(4), 5)[:, None, None]
    one = RoutingTrace.from_arrays(ids, num_experts=4, expert_bytes=[[1, 2, 3, 4]])
    two = RoutingTrace.from_arrays(np.repeat(ids, 2, axis=1), num_experts=4)
    for trace, holds, lacks, scope in ((one, 4, 3, "layer"), (one, "10B", "9B", "layer"), (two, 8, 7, "model")):
        assert "holds every expert" in said(trace, "fifo", holds, scope=scope)
        assert said(trace, "fifo", lacks, scope=scope) == ""


def test_a_cache_that_never_fills() -> None:
    trace = RoutingTrace.from_arrays(np.arange(3).reshape(3, 1, 1), num_experts=64)
    assert "the cache never filled: the trace uses 3 experts in all" in said(trace, "fifo", 16)
    assert said(trace, "fifo", 2) == ""


def test_what_is_loaded_ahead_is_free() -> None:
    trace = RoutingTrace.from_arrays(np.tile(np.arange(4), 5)[:, None, None], num_experts=4)
    assert "2 experts were loaded ahead by the policy" in said(trace, "static", 2, profile=trace)


def test_one_pool_of_a_single_layer_is_one_pool() -> None:
    # Top-2 in one layer: a token uses 2, the cache holds 1. One pool is warned of the cliff, a layer of the buffer.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[1, 2]], [[2, 0]]], num_experts=3)
    for scope, words in (("model", "one token uses 2: below one token cycle"), ("layer", "1 of 1 layers hold fewer")):
        result = simulate(trace, "lru", 1, scope=scope)
        assert (result.run.scope, result.config["scope"]) == (scope, scope)
        assert any(words in warning for warning in result.warnings)


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
