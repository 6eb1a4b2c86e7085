"""The sentences say what the numbers say."""

from __future__ import annotations

from typing import Any

import pytest

from lrcsim.reports.verdict import answer_of, numbers_of, policys_share, token_shares


def run_of(
    hit_rate: float, best: float, *, proven: bool = True, upper: float | None = None, **config: Any
) -> dict[str, Any]:
    """Make the JSON of a run without phases, of 1,000 accesses."""
    part = {"hit_rate": hit_rate, "hits": round(1000 * hit_rate), "accesses": 1000, "bytes_per_token": None}
    none = {"hit_rate": None, "hits": 0, "accesses": 0, "bytes_per_token": None}
    bound = {"prefill_hit_rate": None, "note": "", "proven": proven}
    bounds = {"belady": {"hit_rate": best, "decode_hit_rate": best, **bound}}
    if upper is not None:
        bounds["upper"] = {"hit_rate": upper, "decode_hit_rate": None, **bound}
    settled = {"policy": "fifo", "cache": "2x", "capacity": [16, 16], "capacity_unit": "experts", "scope": "layer"}
    return {
        "trace": {"model": "toy", "has_phases": False},
        "config": settled | config,
        "cache": {
            "hit_rate": hit_rate,
            "accesses": 1000,
            "misses": 1000 - round(1000 * hit_rate),
            "prefill": none,
            "decode": part,
        },
        "bounds": bounds,
        "baseline": {"lru": {"hit_rate": 0.45, "decode_hit_rate": 0.45}},
        "warnings": [],
    }


def test_whose_fault_hand_solved() -> None:
    # 600 misses; the optimum has 250: it avoids 350 of 600 = 58 %
    run = run_of(0.4, 0.75)
    assert policys_share(run) == pytest.approx(350 / 600)
    first, second = answer_of(run)
    assert first == (
        "fifo with a cache of 2x (16 experts per layer) has 40.0 % of the experts that are needed in the cache. "
        "LRU has 45.0 %; the optimum has 75.0 %."
    )
    assert second == (
        "It is mostly the policy: the optimum, which knows the future, avoids 58 % of the 600 misses; the other 42 % "
        "only a larger cache, or fewer different experts, could."
    )


def test_the_working_set() -> None:
    # 600 misses, the optimum 480: it avoids 120 = 20 %
    assert (
        "mostly the working set: the optimum, which knows the future, avoids 20 % of" in answer_of(run_of(0.4, 0.52))[1]
    )


def test_an_optimal_run_has_no_fault() -> None:
    assert answer_of(run_of(0.52, 0.52, policy="belady"))[1].startswith("Nearly all of its 480 misses are the working")


def test_a_heuristic_is_not_called_the_optimum() -> None:
    # 600 misses: farthest next use avoids 270 = 45 %, no policy more than 330 = 55 %
    words = " ".join(answer_of(run_of(0.4, 0.67, proven=False, upper=0.73)))
    assert "the optimum" not in words
    assert "the policy and the working set alike: farthest next use, which knows the future, avoids 45 %" in words
    assert "and no policy more than 55 %; the other 45 % only" in words
    assert [number.label for number in numbers_of(run_of(0.4, 0.67, proven=False))][1] == "best heuristic"


def test_prefetched_hits_exceed_the_optimum() -> None:
    run = run_of(0.8, 0.6)
    assert policys_share(run) is None
    assert "ahead of their use count as hits" in answer_of(run)[1]


def timed(compute: float, stall: float, overhead: float, **more: Any) -> dict[str, Any]:
    parts = {"compute_s": compute, "stall_s": stall, "overhead_s": overhead}
    whole = compute + stall + overhead
    bound = {"decode_tokens_per_s": 30.0, "decode_ratio": 3.0, "proven": True}
    return run_of(0.4, 0.75, hardware="rtx-3090") | {
        "time": {
            "decode_tokens_per_s": 10.0,
            "decode": parts,
            "bounds": {"optimum": bound, "compute_only": bound | {"decode_ratio": 4.0}},
            "binds": {"resource": "pcie", "busy": 0.6},
            "decode_s": whole,
        }
        | more
    }


def test_what_binds() -> None:
    assert list(token_shares(timed(1, 2, 0.5)["time"])) == ["stall", "compute", "overhead"]
    *_, speed, spent = answer_of(timed(1, 2, 1))
    assert speed == (
        "On rtx-3090 that makes 10 tokens/s in decode; the optimal policy with perfect prefetching would give "
        "30 tokens/s, 3.00 times as many, at most."
    )
    assert spent.startswith("Of a token's time, 50 % waiting for experts, 25 % computing, 25 % synchronisation")
    assert spent.endswith(
        "Loading experts binds (pcie is busy 60 % of the time): more hits, or loads that come ahead, make it faster."
    )
    assert answer_of(timed(3, 1, 0))[-1].endswith(
        "Computing binds, not loading; with every expert resident it would be 4.00 times as fast."
    )
