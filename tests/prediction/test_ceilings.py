"""Ceilings: each row is the run it says, bounds come in order, a tiny case by hand.

By hand: 12 tokens of 8 layers use experts 0 to 7 and 8 to 15 in turn, with slots for 8. Where every miss takes a slot
no eviction on demand ever hits: 64 loads a token. Foretold one layer ahead all but the very first layer-step's are on
their way: hits in 95 of 96 layer-steps, for as many bytes. With bypass 0 to 7 stay, and hit in 5 of 12 tokens; that is
8 + 6 x 8 = 56 loads a layer, 448 in all, and no way of prefetching does with fewer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrcsim.prediction.ceilings import Ceiling, ceilings
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

ON: dict[str, Any] = {"hardware": "rtx-3090", "model": "lrcsim-toy-baseline", "engine": "events"}


def drawn(tokens: int = 40, **more: Any) -> RoutingTrace:
    rng = np.random.default_rng(0)
    ids = (rng.random((tokens, 8, 64)) + 2 * (rng.random((1, 8, 64)) < 0.2)).argsort(axis=2)[:, :, ::-1][:, :, :8]
    offsets = np.linspace(0, tokens, 5).astype(int)
    return RoutingTrace.from_arrays(
        ids, num_experts=64, offsets=offsets, predictions={1: ids}, model="lrcsim-toy-baseline", **more
    )


def by_name(rows: list[Ceiling]) -> dict[str, Ceiling]:
    return {row.name: row for row in rows}


def test_rows_are_the_runs_they_say() -> None:
    trace = drawn()
    rows = by_name(ceilings(trace, recorded="next-gate:1", learned=(trace, "next-gate:distance=1,width=4"), **ON))
    for name, policy, prefetch, miss in (
        ("no prefetching", "lru", "none", "load"),
        ("recorded predictions", "lru", "next-gate:1", "load"),
        ("learned predictor", "lru", "next-gate:distance=1,width=4", "load"),
        ("perfect, 2 ahead", "lru", "oracle:2", "load"),
        ("optimum", "belady", "none", "load"),
        ("optimum, bypass", "belady-bypass", "none", "load"),
        ("CPU, admit 1", "lru", "none", "cpu,admit:1"),
    ):
        result = simulate(trace, policy, prefetch=prefetch, miss=miss, **ON)
        time, row = result.to_dict()["time"], rows[name]
        assert row.tokens_per_s == time["decode_tokens_per_s"]
        assert row.hit_rate == result.hit_rate
        assert row.stall == pytest.approx(time["decode"]["stall_s"] / time["decode_s"])
        assert row.bytes_per_token == pytest.approx(result.to_dict()["links"]["pcie"]["bytes"] / 40, rel=1e-6)
        assert not row.proven
    bounds = simulate(trace, "belady-bypass", **ON).to_dict()["time"]
    assert rows["fewest bytes, early"].tokens_per_s == bounds["bounds"]["optimum"]["decode_tokens_per_s"]
    assert rows["all hits"].tokens_per_s == bounds["all_resident"]["decode_tokens_per_s"]
    on_cpu = simulate(trace, "lru", miss="cpu", **ON).to_dict()["time"]["bounds"]["compute_only"]
    assert rows["CPU, uploads free"].tokens_per_s == on_cpu["decode_tokens_per_s"]


@pytest.mark.parametrize("cache", [8, "1x", "3x", 64])
@pytest.mark.parametrize("policy", ["lru", "fifo"])
@pytest.mark.parametrize("phases", [False, True])
def test_what_is_proven_is_not_exceeded(cache: int | str, policy: str, phases: bool) -> None:
    phase = np.tile([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], 4) if phases else None
    rows = ceilings(drawn(phase=phase), recorded="next-gate:1", policy=policy, cache=cache, **ON)
    found = by_name(rows)
    fewest, whole, helped = (found[name] for name in ("fewest bytes, early", "all hits", "CPU, uploads free"))
    assert fewest.tokens_per_s is not None
    assert fewest.bytes_per_token is not None
    assert whole.tokens_per_s is not None
    assert helped.tokens_per_s is not None
    admitted = found["CPU, admit 1"]
    assert admitted.tokens_per_s is not None
    assert admitted.tokens_per_s <= helped.tokens_per_s * (1 + 1e-9)  # the CPU helps, so the other bounds are not its
    for row in rows:
        if row.proven or row is admitted:
            continue
        assert row.tokens_per_s is not None
        assert row.tokens_per_s <= fewest.tokens_per_s * (1 + 1e-9)
        assert row.bytes_per_token is not None
        if not phases:  # with them a prompt may have loaded what decode uses
            assert row.bytes_per_token >= fewest.bytes_per_token * (1 - 1e-6)
    assert fewest.tokens_per_s <= whole.tokens_per_s * (1 + 1e-9)
    assert whole.tokens_per_s <= helped.tokens_per_s * (1 + 1e-9)
    split = simulate(drawn(phase=phase), policy, cache, miss="split", **ON).to_dict()["time"]["decode_tokens_per_s"]
    assert split <= helped.tokens_per_s * (1 + 1e-9)


def test_admission_is_run_where_something_can_be_uploaded() -> None:
    names = [
        [row.name for row in ceilings(drawn(), **ON | {"hardware": hardware})] for hardware in ("rtx-3090", "m3-max")
    ]
    assert [name for name in names[0] if name not in names[1]] == ["CPU, admit 1"]


def test_a_policy_that_loads_of_its_own_accord_goes_without_prediction() -> None:
    trace = drawn()
    rows = ceilings(trace, recorded="next-gate:1", learned=(trace, "next-gate:1"), policy="repin:8", **ON)
    assert [row.name for row in rows] == [
        *["no prefetching", "optimum", "optimum, bypass", "CPU, admit 1"],
        *["fewest bytes, early", "CPU, uploads free", "all hits"],
    ]
    speed = simulate(trace, "repin:8", **ON).to_dict()["time"]["decode_tokens_per_s"]
    fewest = by_name(rows)["fewest bytes, early"].tokens_per_s
    assert fewest is not None
    assert rows[0].tokens_per_s == speed <= fewest * (1 + 1e-9)


def test_two_experts_in_turn() -> None:
    full = np.tile([[*range(8)], [*range(8, 16)]], (6, 1))[:, None, :].repeat(8, axis=1)
    rows = by_name(ceilings(RoutingTrace.from_arrays(full, num_experts=64, expert_bytes=196_608), cache=8, **ON))
    assert rows["no prefetching"].hit_rate == 0.0
    assert rows["optimum"].hit_rate == 0.0
    assert rows["perfect, 1 ahead"].hit_rate == (12 * 8 - 1) / (12 * 8)
    assert rows["perfect, 1 ahead"].bytes_per_token == pytest.approx(64 * 196_608)
    assert rows["optimum, bypass"].hit_rate == 5 / 12
    assert rows["fewest bytes, early"].bytes_per_token == pytest.approx(448 / 12 * 196_608)
