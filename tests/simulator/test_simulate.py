"""`simulate`: options, the result's JSON, warnings, bounds beside the result."""

from __future__ import annotations

import gc
import json
import weakref
from copy import copy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.simulator import baselines, hit_rate_curve, simulate
from lrcsim.simulator.compiled import every_size
from lrcsim.simulator.curves.allocate import allocate
from lrcsim.traces import DECODE, RoutingTrace


def cyclic(tokens: int = 12, **options: object) -> RoutingTrace:
    """Two layers of 4 experts, top-1: every layer walks 0, 1, 2, 3, 0 ..."""
    experts = np.tile(np.arange(tokens).reshape(-1, 1, 1) % 4, (1, 2, 1))
    return RoutingTrace.from_arrays(experts, num_experts=4, **options)  # type: ignore[arg-type]


def test_json_has_the_names_of_the_design() -> None:
    phase = [0] * 4 + [1] * 8
    data = simulate(cyclic(phase=phase, expert_bytes=10, model="walk"), "lru", 2).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    # One prefill step over 0, 1, 2, 3: four misses a layer; decode then misses all 8 tokens: LRU on a cycle.
    assert data["cache"]["prefill"] == {
        "hit_rate": 0.0, "hits": 0, "accesses": 8, "bytes_loaded": 80, "tokens": 4, "steps": 1, "bytes_per_token": 20.0,
    }  # fmt: skip
    assert data["cache"]["decode"]["accesses"] == 16
    assert data["cache"]["bytes_loaded"] == 240
    assert data["cache"]["cold_misses"] == 8
    # Farthest next use: the prefill ends holding 0 and 1, next used first. Decode 0h 1h, 2 puts out 1 (next use of 0 at
    # 4, of 1 at 5), 3 puts out 2, 0h, 1 puts out 0 ... : hits at 0, 1, 0, 3 of 0 1 2 3 0 1 2 3.
    assert data["bounds"]["belady"]["decode_hit_rate"] == 0.5
    assert data["bounds"]["belady"]["proven"] is True
    assert data["baseline"]["gap_closed"] == 0.0
    assert data["config"]["policy"] == "lru"
    assert data["trace"]["model"] == "walk"


def test_unknown_sizes_and_empty_phases_are_none_not_nan() -> None:
    data = simulate(cyclic(), "lru", 2).to_dict()
    assert data["cache"]["bytes_loaded"] is None
    assert data["cache"]["prefill"]["hit_rate"] is None
    assert data["config"]["prefill"] is None


def test_prefill_groups_prompt_tokens() -> None:
    trace = cyclic(8, phase=[0] * 6 + [1] * 2)
    steps = {
        prefill: simulate(trace, "lru", 4, prefill=prefill, bounds=False).to_dict()["cache"]["prefill"]
        for prefill in ("step", "chunk:4", "chunk:100", "token")
    }
    # Prompt 0 1 2 3 0 1: one batch of 4; batches {0 1 2 3} and {0 1}; six batches of one. Two layers.
    assert [(part["steps"], part["accesses"], part["hits"]) for part in steps.values()] == [
        (1, 8, 0), (2, 12, 4), (1, 8, 0), (6, 12, 4),
    ]  # fmt: skip


def test_cold_empties_between_requests() -> None:
    trace = cyclic(8, offsets=[0, 4, 8])
    assert simulate(trace, "lru", 4).hit_rate == 0.5
    cold = simulate(trace, "lru", 4, warm=False)
    assert cold.hit_rate == 0.0
    assert cold.counts.cold_misses == 16
    assert cold.bounds["belady"].hit_rate == 0.0


def test_positions_not_recorded_are_in_no_account() -> None:
    experts = np.array([[[0, 1]], [[-1, -1]], [[0, -1]]])
    result = simulate(RoutingTrace.from_arrays(experts, num_experts=4), "lru", 2)
    assert (result.counts.accesses.sum(), result.counts.misses.sum()) == (3, 2)
    assert result.to_dict()["trace"]["unrecorded"] == 3


def test_record_marks_each_access() -> None:
    result = simulate(cyclic(6), "lru", 4, record=True, bounds=False)
    assert result.counts.hit is not None
    assert result.counts.hit.tolist() == [False] * 8 + [True] * 4


def test_progress_covers_all_runs() -> None:
    seen: list[tuple[int, int]] = []
    trace = cyclic()
    simulate(trace, "fifo", 2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(12, 12)]  # fifo alone is replayed, what it is compared with is compiled
    trace = cyclic(expert_bytes=[10, 30])
    simulate(trace, "fifo", "80B", scope="model", progress=lambda done, total: seen.append((done, total)))
    assert seen[1:] == [(12, 36), (24, 36), (36, 36)]  # in bytes: fifo, lru, belady


def test_bounds_are_computed_once_per_trace() -> None:
    trace = cyclic()
    first = simulate(trace, "fifo", 2).bounds["belady"]
    known = baselines._every_size.of(trace)
    kept = dict(known)
    assert [name for name, *_ in kept] == ["lru", "belady"]
    assert simulate(copy(trace), "mru", 2, expert_bytes=10).bounds["belady"] == first
    assert all(known[key] is value for key, value in kept.items())
    assert len(known) == 2
    gone = [weakref.ref(value) for value in known.values()]
    del trace, known, kept
    gc.collect()
    assert [value() for value in gone] == [None, None]


def test_unequal_bytes_get_a_bound_that_nothing_exceeds() -> None:
    trace = cyclic(expert_bytes=[10, 30])
    result = simulate(trace, "lru", "100B", scope="model")
    assert result.bounds["belady"].proven is False
    assert "heuristic" in result.bounds["belady"].note
    assert result.bounds["upper"].proven is True
    assert result.bounds["upper"].hit_rate >= result.bounds["belady"].hit_rate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"access": "corresident"}, "did you mean 'coresident'"),
        ({"prefill": "chunks"}, "prefill 'chunks' is not known"),
        ({"prefill": "chunk:0"}, "prefill 'chunk:0' is not known"),
        ({"prefill": "chunk:-1"}, "is not known"),
        ({"access": "paper", "prefill": "step"}, "a batch is one token"),
        ({"access": "paper", "warm": True}, "every request starts cold"),
        ({"profile": RoutingTrace.from_arrays([[[0]]], num_experts=4)}, "the profile is of another model"),
    ],
)
def test_refused_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(cyclic(), "static" if "profile" in options else "lru", 2, **options)  # type: ignore[arg-type]


def test_a_file_is_replayed_as_the_arrays_are(tmp_path: Path) -> None:
    trace = cyclic(40, phase=[0] * 10 + [1] * 30, offsets=[0, 40])
    trace.save(tmp_path / "t.h5")
    with RoutingTrace.open(tmp_path / "t.h5") as opened:
        assert simulate(opened, "lru", 3).to_dict()["cache"] == simulate(trace, "lru", 3).to_dict()["cache"]


@pytest.mark.parametrize(("experts", "fault"), [([[[0, 0]]], "stands twice"), ([[[0, 9]]], "expert id 9")])
@pytest.mark.parametrize("policy", ["lru", "lfu", "belady", "sch-lookahead:2"])
def test_a_file_that_nobody_checked_is_refused_not_miscounted(
    tmp_path: Path, experts: list[list[list[int]]], fault: str, policy: str
) -> None:
    good = RoutingTrace.from_arrays([[[0, 1]]] * 3, num_experts=4)
    good.save(tmp_path / "t.h5", version=1)
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["routing/experts"][1] = experts[0]
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        with pytest.raises(TraceError, match=f"token 1, layer 0: .*{fault}.*lrcsim trace check"):
            simulate(trace, policy, 2)
        with pytest.raises(TraceError, match=f"token 1, layer 0: .*{fault}.*lrcsim trace check"):
            hit_rate_curve(trace, policy)


def test_what_is_proven_and_of_what() -> None:
    # The hand-solved case of test_optimum: two slots, LFU hits 3 of 4 in decode, the optimum of both phases 2 of 4.
    trace = RoutingTrace.from_arrays(
        [[[x]] for x in (0, 0, 0, 1, 2, 1, 0)],
        num_experts=3,
        offsets=[0, 3, 5, 6, 7],
        phase=[1, 1, 1, 0, 0, 0, 1],
    )
    result = simulate(trace, "lfu", 2, prefill="token")
    belady = result.to_dict()["bounds"]["belady"]
    assert result.phase_rate(DECODE) == 3 / 4 > belady["decode_hit_rate"] == 2 / 4
    assert result.hit_rate == belady["hit_rate"] == 3 / 7
    assert (belady["proven"], belady["proven_of"], belady["kind"]) == (True, "hit_rate", "optimum")
    for policy in ("static", "pinned-lru", "sch-static:4"):  # loads of their own accord
        found = simulate(trace, policy, 2, prefill="token", profile="self").to_dict()["bounds"]["belady"]
        assert (found["proven"], found["proven_of"], found["kind"]) == (False, None, "optimum on demand")
        assert "of its own accord" in found["note"]
    bypass = simulate(trace, "belady-bypass", 1, prefill="token")  # has hits that no policy without bypass has
    without, best = bypass.bounds["belady"], bypass.bounds["belady-bypass"]
    assert without.hit_rate is not None
    assert bypass.hit_rate == best.hit_rate > without.hit_rate
    assert (without.proven, without.kind, best.proven) == (False, "optimum without bypass", True)
    paper = simulate(trace, "lru", 2, access="paper").to_dict()["bounds"]["belady"]
    assert (paper["proven"], paper["kind"]) == (False, "heuristic")


def test_a_curve_says_where_belady_is_the_optimum() -> None:
    sizes = RoutingTrace.from_arrays(np.arange(24).reshape(6, 2, 2) % 4, num_experts=4, expert_bytes=[3, 5])
    assert hit_rate_curve(sizes, "belady").proven
    assert hit_rate_curve(sizes, "belady-bypass", scope="model").proven
    assert not hit_rate_curve(sizes, "belady", access="paper").proven
    assert not hit_rate_curve(sizes, "belady", scope="model", capacities=["10B", "20B"]).proven
    assert not hit_rate_curve(sizes, "lru").proven


def test_without_an_access_there_is_no_rate() -> None:
    nothing = RoutingTrace.from_arrays(np.full((4, 2, 1), -1), num_experts=4, expert_bytes=100)
    data = simulate(nothing, "lru", 2).to_dict()
    assert (
        data["cache"]["hit_rate"] is data["bounds"]["belady"]["hit_rate"] is data["baseline"]["lru"]["hit_rate"] is None
    )
    assert data["cache"]["decode"]["bytes_per_token"] is data["baseline"]["gap_closed"] is None
    for measure in (hit_rate_curve, lambda trace: allocate(trace, "lru", "2x")):
        with pytest.raises(ConfigError, match="no expert of this trace was recorded"):
            measure(nothing)


def test_bytes_per_token_are_of_tokens_that_were_recorded() -> None:
    # Three prompt tokens of which one was recorded, two decoded ones, one recorded: 100 bytes each.
    trace = RoutingTrace.from_arrays(
        [[[-1]], [[-1]], [[0]], [[1]], [[-1]]], num_experts=4, phase=[0, 0, 0, 1, 1], expert_bytes=100
    )
    cache = simulate(trace, "lru", 2).to_dict()["cache"]
    assert (cache["prefill"]["tokens"], cache["decode"]["tokens"]) == (3, 2)
    assert (cache["prefill"]["bytes_per_token"], cache["decode"]["bytes_per_token"]) == (100, 100)


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_run_that_is_a_bound_itself_is_not_counted_again(
    scope: str, access: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(5).random((120, 3, 9)).argsort(axis=2)[:, :, :2]

    def fresh() -> RoutingTrace:  # bounds are kept with a trace
        return RoutingTrace.from_arrays(ids, num_experts=9, offsets=[0, 50, 120], phase=[0] * 20 + [1] * 100)

    counted, stack_hits = [], every_size.stack_hits

    def noted(trace: RoutingTrace, name: str, *rest: object, **how: object) -> object:
        counted.append(name)
        return stack_hits(trace, name, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(every_size, "stack_hits", noted)
    how: dict[str, Any] = {"scope": scope, "access": access, "warm": access != "paper"}
    with_bypass = access != "paper"
    wanted = simulate(fresh(), "belady-bypass" if with_bypass else "fifo", 4, **how)
    for policy in ("lru", "belady", "belady-bypass")[: 3 if with_bypass else 2]:
        counted.clear()
        found = simulate(fresh(), policy, 4, **how)
        assert policy not in counted
        assert found.lru is not None
        assert wanted.lru is not None
        for name, bound in {**found.bounds, "lru": found.lru}.items():
            other = wanted.lru if name == "lru" else wanted.bounds[name]
            rates = "hit_rate", "prefill_hit_rate", "decode_hit_rate"
            assert [getattr(bound, rate) for rate in rates] == [getattr(other, rate) for rate in rates], (policy, name)
