"""Maps of runs that prefetch, or do not load every miss: what the engine that knows the time saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lrcsim.models import load_geometry
from lrcsim.reports import residency_in_time
from lrcsim.reports.allowed import Unavailable
from lrcsim.reports.rerun import Again
from lrcsim.reports.residency import watch
from lrcsim.reports.residency_in_time import watch_in_time
from lrcsim.reports.residents import ABSENT, AHEAD, HIT, MISS, SPARE, Residents
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

BYTES = 1 << 20


def trace_of(seed: int = 3, tokens: int = 60, requests: int = 1) -> RoutingTrace:
    """Return a random trace of 3 layers, all of which are drawn."""
    ids = np.random.default_rng(seed).random((tokens, 3, 8)).argsort(axis=2)[:, :, :2]
    offsets = np.linspace(0, tokens, requests + 1).astype(int)
    phase = np.ones(tokens, np.uint8)
    for first in offsets[:-1]:
        phase[first : first + 4] = 0
    return RoutingTrace.from_arrays(ids, num_experts=8, phase=phase, offsets=offsets, expert_bytes=BYTES, model="toy")


def options_of(**more: Any) -> dict[str, Any]:
    geometry = replace(
        load_geometry("lrcsim-toy-baseline"), name="toy", layers=3, moe_layers=(0, 1, 2), experts=8, top_k=2
    )
    return {"cache": 4, "hardware": "rtx-3090", "model": geometry, "engine": "events", **more}


def seen_of(trace: RoutingTrace, request: int | None = None, **more: Any) -> tuple[Residents, dict[str, Any]]:
    """Return what was seen of a run, and its JSON."""
    options = options_of(**more)
    result = simulate(trace, **options).to_dict()
    run = Run.of(trace, **options)
    return watch_in_time(Again(run, "", False, timed=run), result["cache"], request, None), result


def test_hand_solved() -> None:
    # One layer, 2 slots, LRU, every token a step; oracle:1 brings what the next step needs.
    #   0: misses, is loaded. Holds 0; 1 is brought. Holds 0 1.
    #   1: hits, brought ahead. 2 is brought, for 0. Holds 1 2.
    #   2: hits, brought ahead. 1 is needed next and there. Holds 1 2.
    #   1: hits; it had been used before. Nothing follows.
    trace = RoutingTrace.from_arrays([[[0]], [[1]], [[2]], [[1]]], num_experts=3, expert_bytes=BYTES, model="toy")
    geometry = replace(load_geometry("lrcsim-toy-baseline"), name="toy", layers=1, moe_layers=(0,), experts=3, top_k=1)
    seen, _ = seen_of(trace, cache=2, model=geometry, prefetch="oracle:1")
    kinds = seen.experts[0].tolist()
    assert [kinds[0][0], kinds[1][1], kinds[2][2], kinds[1][3]] == [MISS, AHEAD, AHEAD, HIT]
    assert (seen.hits, seen.accesses) == (3, 4)


@pytest.mark.parametrize("prefetch", ["oracle:1", "oracle:2", "popularity"])
@pytest.mark.parametrize("warm", [True, False])
def test_what_was_useful_is_what_the_result_says(prefetch: str, warm: bool) -> None:
    trace = trace_of()
    seen, result = seen_of(trace, prefetch=prefetch, warm=warm, profile="self")
    used = sum(int((kinds == AHEAD).sum()) for kinds in seen.experts.values())
    ahead = result["prefetch"]
    assert used * BYTES == ahead["useful_bytes"] + ahead["late_bytes"] > 0
    for layer, kinds in seen.experts.items():
        assert seen.own is not None
        hits = int(seen.own.hits[layer].sum())
        assert int(((kinds == HIT) | (kinds == AHEAD)).sum()) == hits
        assert int((kinds == MISS).sum()) == int(seen.own.accesses[layer].sum()) - hits
        assert ((kinds != ABSENT).sum(axis=0)[1:] <= 4).all()  # slots; the first step is prefill, and larger


def test_loading_on_demand_is_the_map_of_the_replay() -> None:
    trace = trace_of(requests=3)
    for request in (0, 2):
        for warm in (True, False):
            seen, _ = seen_of(trace, request, warm=warm, policy="fifo")
            plain = watch(Run.of(trace, policy="fifo", cache=4, warm=warm), request)
            assert np.array_equal(seen.whole.hits, plain.whole.hits)
            for layer, kinds in plain.experts.items():
                assert np.array_equal(seen.experts[layer], kinds)


def test_misses_that_run_on_the_cpu() -> None:
    trace = trace_of()
    seen, result = seen_of(trace, miss="cpu", policy="static", profile="self")
    assert (seen.hits, seen.accesses) == (result["cache"]["hits"], result["cache"]["accesses"])
    for kinds in seen.experts.values():
        held = (kinds == HIT) | (kinds == SPARE)  # the same experts all along: what misses is not taken in
        assert len({tuple(column) for column in held.T}) == 1
        assert int(held[:, 0].sum()) == 4


def test_other_hits_or_too_long_a_trace_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = trace_of()
    run = Run.of(trace, **options_of(prefetch="oracle:1"))
    with pytest.raises(Unavailable, match=r"hits of 3\d\d, the result says 1 of 2: lrcsim has changed"):
        watch_in_time(Again(run, "", False, timed=run), {"hits": 1, "accesses": 2}, None, None)
    monkeypatch.setattr(residency_in_time, "LAYER_STEPS", 10)
    with pytest.raises(Unavailable, match="up to 10 layer-steps; it has 1"):
        watch_in_time(Again(run, "", False, timed=run), {"hits": 1, "accesses": 2}, None, None)
    with pytest.raises(Unavailable, match="its hardware is a secret"):
        watch_in_time(Again(run, "", False, untimed="its hardware is a secret"), {}, None, None)
