"""Choices compared: the order, what is barred, what is recommended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.outcomes import LOSSY
from lrcsim.sweeps import divide
from lrcsim.sweeps.compare import Comparison, cannot_be_had, compare, comparison_spec
from lrcsim.sweeps.run import run_in_memory
from lrcsim.traces import RoutingTrace


def compared(trace: Path, choices: dict[str, list[Any]], **same: Any) -> Comparison:
    spec = comparison_spec(str(trace), choices, same)
    return compare(run_in_memory(divide(spec)), trace.parent)


def test_best_first_and_what_knows_the_future_is_no_advice(folder: Path) -> None:
    # 0 1 2 0 1 2 in a cache of 2. LRU: no hit. Farthest next use: 0 1 miss, 2 puts 1 out, 0 hits, 1 puts 0 out, 2 hits:
    # 2 of 6, the optimum. A cache of 3 misses 0 1 2 and hits the rest, whatever the policy.
    found = compared(folder / "round.h5", {"policy": ["lru", "belady"], "cache": ["2", "3"]})
    shown = [(row["policy"], row["cache"], row["hit_rate"], row["gap_closed"]) for row in found.rows]
    assert shown == [
        ("lru", "3", 0.5, None),
        ("belady", "3", 0.5, None),
        ("belady", "2", 2 / 6, 1.0),
        ("lru", "2", 0.0, 0.0),
    ]
    assert found.by == "hit_rate"
    assert [(one.best["policy"], one.best["cache"]) for one in found.recommended] == [("lru", "3"), ("lru", "2")]
    assert [one.barred for one in found.recommended] == [{}, {2: "knows the future"}]
    assert [one.close for one in found.recommended] == [[], []]  # belady is as good, and cannot be had
    assert all(one.plain is None for one in found.recommended)  # the plain run is the best itself


def test_the_plain_run_is_told_from_others_that_are_no_better(folder: Path) -> None:
    # 0 1 2 0 1 2 in a cache of 2. MRU: 0 1 miss, 2 puts 1 out, 0 hits, 1 puts 0 out, 2 hits. FIFO and LRU: no hit.
    found = compared(folder / "round.h5", {"policy": ["mru", "fifo", "lru"]}, cache="2")
    assert [(row["policy"], row["hit_rate"]) for row in found.rows] == [("mru", 2 / 6), ("fifo", 0.0), ("lru", 0.0)]
    (one,) = found.recommended
    assert one.best["policy"] == "mru"
    assert one.plain is not None
    assert one.plain["policy"] == "lru"


def test_what_is_recommended_is_held_against_the_plain_run(recorded: Path) -> None:
    choices = {"policy": ["lru", "lfu"], "prefetch": ["none", "oracle", "popularity"], "miss": ["load", "skip:0.2"]}
    found = compared(recorded, choices, cache="2x", hardware="rtx-3090")
    speeds = [row["decode_tokens_per_s"] for row in found.rows]
    assert found.by == "decode_tokens_per_s"
    assert speeds == sorted(speeds, reverse=True)
    (one,) = found.recommended
    place = found.rows.index(one.best)
    assert set(one.barred) == set(range(place))  # all that is faster, each for a reason
    for row in found.rows[:place]:
        assert row["prefetch"] == "oracle" or row["miss"] == "skip:0.2"
    assert one.best["miss"] == "load"
    assert one.best["prefetch"] != "oracle"
    plain = one.plain or one.best
    assert (plain["policy"], plain["prefetch"], plain["miss"]) == ("lru", "none", "load")
    with RoutingTrace.open(recorded) as trace:
        alone = simulate(trace, cache="2x", hardware="rtx-3090")
    assert alone.timed is not None
    time = alone.timed.to_dict()["time"]
    assert plain["decode_tokens_per_s"] == time["decode_tokens_per_s"]
    assert plain["of_optimum"] == time["decode_tokens_per_s"] / time["bounds"]["optimum"]["decode_tokens_per_s"]
    assert all((row["gap_closed"] is None) == (row["prefetch"] != "none") for row in found.rows)


@pytest.mark.parametrize(
    ("differs", "why"),
    [
        ({}, None),
        ({"policy": "belady"}, "knows the future"),
        ({"prefetch": "oracle:2"}, "knows the future"),
        ({"policy": "static", "profile": "self"}, "knows the trace beforehand (profile self)"),
        ({"policy": "static", "profile": "other.h5"}, None),
        ({"profile": "self"}, None),  # lru makes nothing of it
        ({"skipped_weight": 0.25}, "changes what the model computes (25.0 % of the router weight)"),
        ({"route": "prior:0.5"}, "changes the router's choice"),
        ({"policy": "gone.py:Mine"}, None),  # its run has failed and says so itself
    ],
)
def test_what_is_no_advice(differs: dict[str, Any], why: str | None, tmp_path: Path) -> None:
    row = dict.fromkeys(f"{outcome.label}_weight" for outcome in LOSSY) | {"policy": "lru", "prefetch": "none"}
    assert cannot_be_had(row | {"route": "none", "profile": None} | differs, tmp_path) == why


def test_a_combination_that_cannot_run_stands_last_with_its_error(recorded: Path) -> None:
    choices = {"policy": ["belady", "lru"], "prefetch": ["popularity", "none"]}
    found = compared(recorded, choices, hardware="rtx-3090")
    assert [(row["policy"], row["prefetch"]) for row in found.failed] == [("belady", "popularity")]
    assert found.rows[-1] is found.failed[0]


def test_options_of_all_runs_are_taken_as_simulate_takes_them(recorded: Path) -> None:
    spec = comparison_spec(
        str(recorded),
        {"cache": ["2x"]},
        {"hardware": "rtx-3090", "overrides": ["pcie.bandwidth=6GB/s"], "speculative": (3, 0.5)},
    )
    (run,) = spec.runs
    assert (run["pcie.bandwidth"], run["speculative"]) == ("6GB/s", [3, 0.5])
    (row,) = run_in_memory(divide(spec)).to_pylist()
    with RoutingTrace.open(recorded) as trace:
        alone = simulate(trace, hardware="rtx-3090", overrides=["pcie.bandwidth=6GB/s"], speculative=(3, 0.5))
    assert alone.timed is not None
    assert row["total_s"] == alone.timed.to_dict()["time"]["total_s"]


def test_a_wrong_value_is_refused_before_anything_runs(folder: Path) -> None:
    with pytest.raises(ConfigError, match="policy"):
        divide(comparison_spec(str(folder / "round.h5"), {"policy": ["lru", "lfuu"]}, {}))
