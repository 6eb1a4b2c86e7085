"""Whole plans of a toy: consistent with `simulate`, monotone, and honest about what they rest on."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from planned import geometry, local_trace, machine

from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.planner import Plan, make_plan
from lrcsim.runtimes import load_runtime
from lrcsim.runtimes.document import read_document
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

# All experts of the toy take 23,040 bytes; 9,216 of other weights and 6,400 of KV cache leave the rest.
FIXED, EXPERTS = 9_216 + 6_400, 23_040


def planned(vram: int, *traces: tuple[str, RoutingTrace], **options: Any) -> Plan:
    hardware = machine(vram=vram, **{name: options.pop(name) for name in ("ram",) if name in options})
    given = traces or (("own", local_trace()),)
    return make_plan(
        geometry(), hardware, dtype=options.pop("dtype", "bf16"), context=100, reserve=0, traces=given, **options
    )


@pytest.fixture(scope="module")
def half() -> Plan:
    """Plan with room for half the experts, on the toy's own trace."""
    return planned(FIXED + EXPERTS // 2)


@pytest.fixture(scope="module")
def carried() -> Plan:
    """Plan with the same room, on a trace of another shape."""
    return planned(FIXED + EXPERTS // 2, ("other", local_trace(6, 16, 2, tokens=400)))


def rows(plan: Plan) -> dict[str, Any]:
    return {row.strategy.name: row for row in plan.rows}


def test_is_what_run_gives(half: Plan) -> None:
    """The LRU row is `lrcsim run --cache BYTES --runtime NAME` on the same machine, to the last digit."""
    found = rows(half)["lru"]
    wanted = simulate(
        local_trace(), "lru", f"{EXPERTS // 2}B", bounds=False, hardware=half.profile, model=geometry(), dtype="bf16",
        runtime=found.standing.runtime,
    ).to_dict()  # fmt: skip
    assert found.slots == (4, 4, 4)
    assert found.speed == pytest.approx(wanted["time"]["decode_tokens_per_s"], rel=1e-12)
    assert found.hit_rate == wanted["cache"]["decode"]["hit_rate"]


def test_measured(half: Plan) -> None:
    assert half.measured
    assert half.best is not None
    for row in half.rows:
        low, high = row.spread
        assert low <= row.speed <= high
        accuracy = row.standing.accuracy
        assert row.range[0] <= min(low, row.speed * accuracy.low)
        assert row.range[1] >= max(high, row.speed * accuracy.high)
        assert row.full <= row.speed
    assert half.bound is not None
    assert half.bound.hit_rate >= rows(half)["lru"].hit_rate
    assert half.layer_budgets is not None
    assert sum(half.layer_budgets["experts_per_layer"]) * 960 <= EXPERTS // 2


def test_what_can_be_had_comes_first(half: Plan) -> None:
    """A cache is faster here, and nobody held one against measurements: the row to follow is llama.cpp's placing."""
    kinds = [row.kind for row in half.rows]
    assert kinds == sorted(kinds, key=lambda kind: kind != "released")
    released = [row for row in half.rows if row.kind == "released"]
    assert half.best is half.best_released is max(released, key=lambda row: row.speed)
    data = half.to_dict()
    assert data["recommended"] == data["recommended_released"] == data["strategies"][0]
    assert (data["recommended"]["strategy"], data["recommended"]["runtime"]) == ("n-cpu-moe", "llama.cpp")
    assert data["recommended"]["measured"] == "cpu-experts"
    assert data["flags"][0]["engine"] == "llama.cpp"
    assert "--n-cpu-moe" in data["flags"][0]["command"]
    speeds = {row.name: row.speed for row in [*half.rows, half.bound] if row is not None}
    assert {row["strategy"]: row["tokens_per_s"] for row in data["faster"]} == {
        name: speed for name, speed in speeds.items() if speed > half.best.speed
    }
    assert {row["kind"] for row in data["faster"]} <= {"fork", "bound"}
    lru = next(row for row in data["strategies"] if row["strategy"] == "lru")
    assert (lru["kind"], lru["released"], lru["measured"]) == ("bound", True, None)
    assert (lru["engines"], lru["runtime"]) == (["llama.cpp"], "llama.cpp-cache")
    assert data["optimum"]["kind"] == "bound"


def test_where_no_release_has_anything_nothing_is_called_released() -> None:
    # no GPU, not all in memory: experts come from flash, and no release chooses which stay
    alone = replace(machine(ram=28_000), gpu=None, links=machine().links[:1])
    plan = make_plan(
        geometry(), alone, dtype="bf16", context=100, reserve=0, traces=[("own", local_trace())], progress=None
    )
    assert plan.memory.fit == "flash"
    assert plan.best_released is None
    assert plan.best is not None
    assert plan.best.kind == "fork"
    assert plan.to_dict()["recommended_released"] is None
    assert any("held against no measurement" in note for note in plan.notes) == (plan.best.standing.measured is None)


@pytest.mark.parametrize("shared", [False, True])
def test_where_nothing_is_loaded_no_link_is_needed(shared: bool) -> None:
    """All in main memory, no flash: the same speed as with flash that nothing is read from."""
    base = replace(machine(ram=60_000), unified=True) if shared else replace(machine(ram=60_000), gpu=None)
    plans = [
        make_plan(geometry(), replace(base, links=links), dtype="bf16", context=100, reserve=0)
        for links in ((), machine().links[:1])
    ]
    assert plans[0].memory.fit == "gpu"
    assert [row.speed for row in plans[0].rows] == [row.speed for row in plans[1].rows]
    found = [[row["tokens_per_s"] for row in plan.contexts] for plan in plans]
    assert found[0][:2] == found[1][:2]
    assert found[0][2] is None  # 400 tokens do not fit beside all experts, and there is no flash
    assert found[1][2] is not None


def test_a_runtime_of_ones_own_stands_for_all_rows() -> None:
    """One that says it is released and has the row may be followed only if its class has points of it."""
    own = read_document("mine", {"released": True, "strategies": ["n-cpu-moe", "lru"], "device": {"layer": "1 s"}}, "x")
    plan = planned(FIXED + EXPERTS // 2, runtime=own)
    assert {row.standing.runtime for row in plan.rows} == {"mine"}
    assert all(row.speed < 1 / 3 for row in plan.rows)  # three layers of a second each
    kinds = {row.name: (row.kind, row.standing.released, row.standing.measured) for row in plan.rows}
    assert kinds["lru"] == ("bound", True, None)
    assert kinds["streamed"] == ("fork", False, None)


def test_a_runtime_without_costs_is_a_bound() -> None:
    plan = planned(FIXED + EXPERTS // 2, runtime=load_runtime("ideal"))
    assert {row.kind for row in plan.rows} == {"bound"}
    assert plan.best_released is None


def test_prompts_in_rows(half: Plan) -> None:
    """Of 2,048 tokens, but no more than the context has room for."""
    for row in half.to_dict()["strategies"]:
        assert row["prompt_tokens"] == 100
        assert row["prompt_tokens_per_s"] == pytest.approx(100 / row["time_to_first_token_s"])
    assert any("more than the context: times are those of 100 tokens" in note for note in half.notes)
    short = planned(FIXED + EXPERTS // 2, prompt=10)
    assert short.rows[0].prompt.tokens == 10
    assert not any("more than the context" in note for note in short.notes)
    assert short.rows[0].prompt.seconds < half.rows[0].prompt.seconds


def test_placed_layers_hit_by_their_number(half: Plan) -> None:
    # 11,520 bytes hold one layer of 7,680: a third of all uses, whoever is used
    assert rows(half)["n-cpu-moe"].hit_rate == pytest.approx(1 / 3)
    assert rows(half)["streamed"].slots == (0, 0, 8)
    llama = next(flags for flags in half.flags if flags.engine == "llama.cpp")
    assert "--n-cpu-moe 3" in llama.command  # the layer without experts, and two with


def test_transferred(carried: Plan) -> None:
    assert not carried.measured
    assert carried.layer_budgets is None  # how layers differ does not carry over
    evidence = carried.to_dict()["evidence"]
    assert evidence["kind"] == "transferred"
    assert evidence["traces"][0]["distance"] == pytest.approx(1 + 0.25)
    lru = rows(carried)["lru"]
    assert lru.spread[0] < lru.speed < lru.spread[1]
    placed = rows(carried)["n-cpu-moe"]  # does not depend on locality
    assert placed.spread[1] == pytest.approx(placed.spread[0], rel=0.02)


def test_everything_resident_needs_no_trace() -> None:
    plan = planned(FIXED + EXPERTS, ("other", local_trace(6, 16, 2)))
    assert [row.strategy.name for row in plan.rows] == ["all-resident"]
    assert plan.to_dict()["evidence"]["kind"] == "not needed"
    assert plan.rows[0].hit_rate == 1.0
    assert plan.knee is None


def test_does_not_fit() -> None:
    plan = planned(FIXED - 1)
    data = plan.to_dict()
    assert (data["fit"], data["strategies"], data["recommended"], data["flags"]) == ("no", [], None, [])
    assert plan.remedies is not None
    assert plan.remedies.device_bytes == FIXED


def test_from_flash() -> None:
    plan = planned(FIXED + EXPERTS // 4, ram=15_000)
    assert plan.memory.fit == "flash"
    assert plan.best is not None
    # llama.cpp pages experts in, slowly: nobody measured that, but it can be had; of a cache over files nobody said
    assert (plan.best.name, plan.best.kind, plan.best_released) == ("n-cpu-moe", "bound", None)
    assert {rows(plan)[name].kind for name in ("lru", "lru-split")} == {"fork"}
    assert plan.best.binds[0] == "flash"
    assert plan.best.speed < rows(planned(FIXED + EXPERTS // 4))[plan.best.name].speed
    assert plan.remedies is not None
    assert plan.remedies.main_memory_bytes == 22_756  # (23,040 - 5,760 + 3,200) / 0.9


def test_memory_never_slows_a_stack_policy_down(half: Plan) -> None:
    for series in (
        [size["by_strategy"]["lru"] for size in half.sizes],
        [rows(planned(FIXED + EXPERTS * part // 8))["lru"].speed for part in range(1, 8)],
    ):
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(series))


def test_sizes_knee_and_contexts(half: Plan) -> None:
    own = [size for size in half.sizes if size["own"]]
    assert len(own) == 1
    assert half.best is not None
    assert own[0]["tokens_per_s"] == pytest.approx(half.best.speed)
    assert len(half.sizes_fine) == 12
    assert [row["context"] for row in half.contexts] == [25, 100, 400]
    # 400 tokens take 25,600 bytes: more than there is
    assert [row["experts_bytes"] for row in half.contexts] == [EXPERTS // 2 + 4_800, EXPERTS // 2, 0]
    assert half.contexts[2]["tokens_per_s"] is None


def test_upgrades_never_slow_down(half: Plan) -> None:
    assert {row["upgrade"] for row in half.upgrades} >= {"pcie twice as fast", "GPU memory twice as fast"}
    assert all(row["gain"] > -1e-9 for row in half.upgrades)


def test_half_in_flash_is_not_faster_than_all_in_memory() -> None:
    """Of an Apple GPU the program that reads flash gets what llama.cpp gets, of which it is made."""
    plan = make_plan(load_geometry("gpt-oss-120b"), load_profile("apple-m3-max-64gb"))
    assert plan.rows[0].name == "lru"
    speeds = [size["by_strategy"]["lru"] for size in plan.sizes]
    assert speeds == sorted(speeds)
    assert {upgrade["upgrade"]: upgrade["gain"] > 0 for upgrade in plan.upgrades}["64 GiB of main memory"]
    assert all(upgrade["gain"] > -1e-9 for upgrade in plan.upgrades)


def test_gpus_that_nobody_measured_have_the_shares_of_those_that_somebody_did() -> None:
    """Without shares of its own a 7900 XTX, of 0.93 times the bandwidth, was faster than a 4090."""
    small = load_geometry("gpt-oss-20b")
    theirs, ours = (make_plan(small, load_profile(name), dtype="mxfp4") for name in ("rtx-4090", "rx-7900-xtx"))
    assert 0.9 < ours.rows[0].speed / theirs.rows[0].speed < 1
    said = (
        "no measured speed of llama.cpp is of such a GPU (rocm): its shares of the hardware's rates and the range are"
    )
    assert [note.startswith(said) for note in ours.notes if "GPU" in note] == [True]
    assert not [note for note in theirs.notes if "GPU" in note]


def test_json(half: Plan, carried: Plan) -> None:
    for plan in (half, carried, planned(FIXED - 1), planned(FIXED + EXPERTS)):
        assert json.loads(json.dumps(plan.to_dict(), allow_nan=False)) == plan.to_dict()


def test_policy_is_judged(half: Plan) -> None:
    note = half.policy_note
    assert note.startswith("none of lru, lfu, slru, lfru") or "faster than plain LRU" in note


def test_progress_ends_full() -> None:
    told: list[tuple[int, int]] = []
    planned(FIXED + EXPERTS // 2, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert all(done <= total for done, total in told)


def test_a_copy_of_all_is_needed_only_by_caches() -> None:
    """Main memory for what the GPU has not, but no copy of all: caches read from flash, placed experts do not."""
    room = FIXED + 3 * EXPERTS // 4
    scarce, ample = planned(room, ram=19_000), planned(room)
    assert scarce.memory.fit == "memory"
    assert "no copy of all of them" in scarce.notes[0]
    for name in ("n-cpu-moe", "popular"):
        assert rows(scarce)[name].speed == rows(ample)[name].speed
    assert rows(scarce)["lru"].speed < rows(ample)["lru"].speed
