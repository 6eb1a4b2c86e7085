"""Rows worked out by hand; sharing a pass changes nothing; failing runs are rows; what is there is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from watched import logged

from lrcsim.base.errors import ConfigError
from lrcsim.simulator import simulate
from lrcsim.simulator.simulate import result_of
from lrcsim.sweeps import TaskList, divide, read_spec, read_table, run_of, run_sweep
from lrcsim.sweeps.execute import run_task
from lrcsim.sweeps.store import TableStore
from lrcsim.traces import RoutingTrace


def sweep(folder: Path, name: str = "t.parquet", **table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_sweep(divide(read_spec(table, folder)), folder / name).table.to_pylist()
    return rows


def test_a_grid_by_hand(folder: Path) -> None:
    """0 1 2 0 1 2: LRU needs all three. With two slots the optimum keeps 0 for time 3 and 2 for time 5: two hits."""
    rows = sweep(folder, grid={"trace": "round.h5", "policy": ["lru", "belady"], "cache": [1, 2, 3]})
    assert [(r["policy"], r["cache"], r["hits"], r["misses"]) for r in rows] == [
        ("lru", "1", 0, 6), ("lru", "2", 0, 6), ("lru", "3", 3, 3),
        ("belady", "1", 0, 6), ("belady", "2", 2, 4), ("belady", "3", 3, 3),
    ]  # fmt: skip
    first, best = rows[1], rows[4]
    assert {name: first[name] for name in ("hit_rate", "belady_hit_rate", "bytes_loaded", "cache_bytes")} == {
        "hit_rate": 0.0, "belady_hit_rate": 2 / 6, "bytes_loaded": 60, "cache_bytes": 20,
    }  # fmt: skip
    assert (first["gap_closed"], best["gap_closed"]) == (0.0, 1.0)
    assert (first["trace"], first["model"], first["scope"], first["warm"]) == ("round.h5", "unknown", "layer", True)
    assert (first["hardware"], first["overlap"], first["decode_tokens_per_s"], first["error"]) == (None,) * 4
    assert len(first["trace_sha256"]) == 64


def test_with_a_prefetcher_there_is_no_share_of_the_gap(recorded: Path) -> None:
    """Of a table by an older lrcsim, which has one (thousands of percent), it is left out too."""
    grid = {"trace": recorded.name, "policy": "lfu", "hardware": "rtx-3090", "prefetch": ["none", "oracle"]}
    on_demand, ahead = sweep(recorded.parent, "gap.parquet", grid=grid)
    assert on_demand["gap_closed"] is not None
    assert ahead["gap_closed"] is None
    table = pq.read_table(recorded.parent / "gap.parquet")
    place = table.schema.get_field_index("gap_closed")
    older = table.set_column(place, "gap_closed", pa.array([on_demand["gap_closed"], 48.2]))
    pq.write_table(older, recorded.parent / "older.parquet")
    assert read_table(recorded.parent / "older.parquet").equals(table)


def test_where_no_cache_is_filled_there_is_no_share_of_the_gap(recorded: Path) -> None:
    """Every miss runs on the CPU: no hit, and so far below LRU (-247.7 %); with uploads there are hits, and a share."""
    grid = {"trace": recorded.name, "policy": "lfu", "hardware": "rtx-3090", "miss": ["cpu", "cpu,admit:1", "load"]}
    rows = sweep(recorded.parent, "filled.parquet", grid=grid)
    assert [(row["hits"] > 0, row["gap_closed"] is not None) for row in rows] == [
        (False,) * 2,
        (True,) * 2,
        (True,) * 2,
    ]
    table = pq.read_table(recorded.parent / "filled.parquet")
    place = table.schema.get_field_index("gap_closed")
    older = table.set_column(place, "gap_closed", pa.array([-2.477, *table["gap_closed"].to_pylist()[1:]]))
    pq.write_table(older, recorded.parent / "older.parquet")
    assert read_table(recorded.parent / "older.parquet").equals(table)


def test_rows_have_what_simulate_says(recorded: Path) -> None:
    row, again = sweep(
        recorded.parent,
        runs=[
            {"trace": recorded.name, "cache": "3x", "policy": "slru", "access": "sequential", "prefill": "chunk:8"},
            {"trace": recorded.name, "cache": "3x", "hardware": "rtx-3090", "pcie.bandwidth": "1GB/s", "batch": 2},
        ],
    )
    trace = RoutingTrace.open(recorded)
    alone = simulate(trace, "slru", "3x", access="sequential", prefill="chunk:8")
    assert row["hit_rate"] == alone.hit_rate
    assert row["decode_bytes_per_token"] == alone.bytes_per_token(1)
    timed = simulate(trace, "lru", "3x", batch=2, hardware="rtx-3090", overrides=["pcie.bandwidth=1GB/s"])
    data = timed.to_dict()
    assert again["decode_tokens_per_s"] == data["time"]["decode_tokens_per_s"]
    assert again["ttft_ms_p90"] == data["time"]["ttft_ms"]["p90"]
    assert again["optimum_decode_tokens_per_s"] == data["time"]["bounds"]["optimum"]["decode_tokens_per_s"]
    assert (again["pcie_bytes"], again["pcie_bandwidth"]) == (data["links"]["pcie"]["bytes"], 1e9)
    assert (again["pcie.bandwidth"], again["model"], again["dtype"]) == ("1GB/s", trace.model, "bf16")
    assert again["gpu_bytes"] > again["cache_bytes"]
    assert (row["pcie.bandwidth"], row["overlap"], again["overlap"]) == (None, None, True)


def test_a_row_is_a_run_again(recorded: Path) -> None:
    """Also where a column has more than was asked for: the dtype and the bytes of main memory that were settled on."""
    told: list[dict[str, Any]] = [
        {"cache": "3x", "policy": "slru", "access": "sequential", "prefill": "chunk:8"},
        {"cache": [8, 9, 10, 11, 12, 13, 14, 15], "warm": False},
        {"cache": "20%", "scope": "model", "policy": "static", "profile": "self", "expert_bytes": "1MiB"},
        {"cache": "3x", "batch": 2, "speculative": [2, 0.5], "seed": 3},
        {"cache": "2x", "hardware": "rtx-3090", "pcie.bandwidth": "1GB/s", "dram": "50%", "miss": "cpu"},
        {"cache": "1,2"},
    ]
    *rows, failed = sweep(recorded.parent, runs=[{"trace": recorded.name} | one for one in told])
    trace = RoutingTrace.open(recorded)
    for row in rows:
        run = run_of(row, trace)
        result = result_of(run)
        assert json.dumps(run.to_dict()["options"]) == row["options"]
        assert int((result.counts.accesses - result.counts.misses).sum()) == row["hits"]
        assert (result.hit_rate, result.bytes_loaded()) == (row["hit_rate"], row["bytes_loaded"])
        if row["hardware"] is not None:
            assert result.timed is not None
            assert result.timed.to_dict()["time"]["total_s"] == row["total_s"]
    assert run_of(rows[0], trace, policy="lru").policy == "lru"
    for row in (failed, {"policy": "lru"}):
        with pytest.raises(ConfigError, match="the row has no options: its run failed"):
            run_of(row, trace)
    with pytest.raises(ConfigError, match="options of the row is no JSON"):
        run_of({"options": "{"}, trace)


def test_a_table_says_what_it_is(folder: Path) -> None:
    path = folder / "t.parquet"
    run_sweep(divide(read_spec({"runs": [{"trace": "round.h5"}]}, folder)), path)
    table = pq.read_table(path)
    assert {key: table.schema.metadata[key] for key in (b"kind", b"version")} == {b"kind": b"sweep", b"version": b"1"}
    pq.write_table(table.replace_schema_metadata(), path)  # of an older lrcsim: its columns tell
    assert len(read_table(path)) == 1
    for name, value in (("kind", "paper"), ("version", "2")):
        pq.write_table(table.replace_schema_metadata({name: value}), path)
        with pytest.raises(ConfigError, match=f"no table of results that this lrcsim reads: its {name} is '{value}'"):
            read_table(path)


def test_sharing_a_pass_changes_nothing(recorded: Path) -> None:
    """All kinds of policies, each rule; the rows of runs that share a pass are those of runs by themselves."""
    cache = ["1x", 20, "8MiB", ",".join(str(8 + layer) for layer in range(8)), "1,2"]
    grid = {
        "trace": recorded.name,
        "policy": ["lru", "lfu", "belady", "belady-bypass", "sch-lookahead:16", "sch-static", "slru", "mrs"],
        "scope": ["layer", "model"],
        "access": ["coresident", "sequential", "paper"],
        "cache": cache,
    }
    more = {"trace": recorded.name, "cache": cache, "warm": False, "prefill": "chunk:16", "bounds": False}
    profiled = {"trace": recorded.name, "cache": cache, "policy": "static", "profile": "self", "expert_bytes": "1MiB"}
    plan = divide(read_spec({"grid": [grid, more, profiled]}, recorded.parent))
    assert all(task.kind == "pass" for task in plan.tasks())
    assert len(plan.tasks()) == 8 * 2 * 3 + 2
    shared = {row["run"]: row for task in plan.tasks() for row in run_task(task)}
    alone = {row["run"]: row for task in plan.tasks(share=False) for row in run_task(task)}
    for run in plan.runs:
        assert shared[run.key] == alone[run.key], run.values
    failed = [row for row in shared.values() if "error" in row]
    assert {row["error"][:23] for row in failed} == {
        "cache size '8,9,10,11,1", "cache size '1,2' has 2 ", "cache size '1,2' is a l", "policy belady-bypass le",
        "policy sch-static lets ",
    }  # fmt: skip
    assert len(failed) < len(shared) / 2


def test_experts_of_unequal_bytes_do_not_share(tmp_path: Path) -> None:
    """The bytes loaded do not follow from the hits: layer 0 misses three times 10 bytes, layer 1 once 1 byte."""
    trace = RoutingTrace.from_arrays([[[0], [0]], [[1], [0]], [[2], [0]]], num_experts=3, expert_bytes=[10, 1])
    trace.save(tmp_path / "u.h5")
    table = {"grid": {"trace": "u.h5", "cache": [1, 2]}}
    assert [task.kind for task in divide(read_spec(table, tmp_path)).tasks()] == ["replay", "replay"]
    assert [row["bytes_loaded"] for row in sweep(tmp_path, **table)] == [31, 31]


def test_a_run_that_fails_is_a_row_and_the_rest_goes_on(folder: Path) -> None:
    table = {"grid": {"trace": "round.h5", "policy": ["lru", "mrs", "mine.py:Wrong"], "cache": [2, "1,2", 3]}}
    (folder / "mine.py").write_text(
        "from lrcsim.policies.recency import Lru\n\nclass Wrong(Lru):\n    def evicted(self, key):\n        1 / 0\n"
    )
    plan = divide(read_spec(table, folder))
    outcome = run_sweep(plan, folder / "t.parquet")
    rows = outcome.table.to_pylist()
    lists = "cache size '1,2' has 2 entries, the model has 1 MoE layers"
    weights = "policy mrs needs router weights, and this trace has none recorded"
    assert [row["error"] and row["error"][:65] for row in rows] == [
        None, lists, None, weights, lists, weights,
        "policy Wrong failed at step 2, layer 0: ZeroDivisionError: divisi", lists, None,
    ]  # fmt: skip
    assert (outcome.failed, outcome.first_error) == (6, lists)
    assert (rows[3]["policy"], rows[3]["cache"], rows[3]["scope"], rows[3]["hits"]) == ("mrs", "2", "layer", None)
    again = run_sweep(plan, folder / "t.parquet")
    assert (again.ran, again.failed) == (0, 6)
    assert run_sweep(plan, folder / "t.parquet", retry=True).ran == 6


def test_a_combination_that_does_not_fit_is_a_row_too(recorded: Path) -> None:
    rows = sweep(
        recorded.parent,
        grid={"trace": recorded.name, "hardware": "rtx-3090", "cache": ["2x"], "gpu.memory": ["1MiB"]},
        runs=[{"trace": recorded.name, "hardware": "rtx-3090", "policy": "belady", "prefetch": "temporal"}],
    )
    assert ["exceeds the" in rows[0]["error"], "prefetching would change" in rows[1]["error"]] == [True, True]


def test_what_is_there_is_not_done_again(folder: Path) -> None:
    def grid(*sizes: int) -> dict[str, Any]:
        return {"grid": {"trace": "round.h5", "policy": "mine.py:Watched", "cache": list(sizes), "bounds": False}}

    first = sweep(folder, **grid(1, 2))
    assert [capacity for capacity, _ in logged(folder)] == [1, 2]
    rows = sweep(folder, **grid(3, 1, 2))
    assert [capacity for capacity, _ in logged(folder)] == [1, 2, 3]
    assert [row["cache"] for row in rows] == ["3", "1", "2"]
    assert rows[1:] == first
    with pytest.raises(ConfigError, match=r"has 1 rows of runs that are not in spec, .* drop them with --replace"):
        sweep(folder, **grid(1, 2))
    plan = divide(read_spec(grid(1, 2), folder))
    assert run_sweep(plan, folder / "t.parquet", replace=True).table.to_pylist() == first
    assert [capacity for capacity, _ in logged(folder)] == [1, 2, 3]


def test_a_hardware_value_more_is_a_column_more(recorded: Path) -> None:
    runs: list[dict[str, Any]] = [{"trace": recorded.name, "cache": "4x"}]
    sweep(recorded.parent, runs=runs)
    runs.append({"trace": recorded.name, "cache": "2x", "hardware": "rtx-3090", "pcie.lanes": 2})
    rows = sweep(recorded.parent, runs=runs)
    assert [row["pcie.lanes"] for row in rows] == [None, "2"]


def test_a_sweep_over_runtimes(recorded: Path) -> None:
    """By name, and a file beside the spec; without a machine there is none."""
    (recorded.parent / "mine.toml").write_text("[device]\nlayer = '1 s'\n", encoding="utf-8")
    plain, own, ideal = sweep(
        recorded.parent,
        runs=[
            {"trace": recorded.name, "cache": "2x"},
            *(
                {"trace": recorded.name, "cache": "2x", "hardware": "rtx-3090", "runtime": one}
                for one in ("mine.toml", "ideal")
            ),
        ],
    )
    assert [row["runtime"] for row in (plain, own, ideal)] == [None, "mine.toml", "ideal"]
    assert own["total_s"] > ideal["total_s"] + 100
    with pytest.raises(ConfigError, match=r"there is no runtime 'lama.cpp'.*did you mean 'llama.cpp'"):
        sweep(recorded.parent, grid={"trace": recorded.name, "hardware": "rtx-3090", "runtime": ["ideal", "lama.cpp"]})


def test_two_sweeps_do_not_write_one_table(folder: Path) -> None:
    plan = divide(read_spec({"runs": [{"trace": "round.h5"}]}, folder))
    schema = run_sweep(plan, folder / "t.parquet").table.schema
    with (
        TableStore(folder / "t.parquet", schema).writing(),
        pytest.raises(ConfigError, match=r"another sweep is writing .*t\.parquet"),
    ):
        run_sweep(plan, folder / "t.parquet")
    with pytest.raises(ConfigError, match=r"a table is a Parquet file: name it .*t\.parquet, given .*t\.csv"):
        run_sweep(plan, folder / "t.csv")


def test_a_sweep_that_is_stopped_keeps_what_is_finished(folder: Path) -> None:
    table = {"grid": {"trace": "round.h5", "policy": ["lru", "belady"], "cache": [1, 2]}}
    plan, path = divide(read_spec(table, folder)), folder / "t.parquet"

    def stopped(tasks: Any) -> Any:
        yield run_task(tasks[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, path, workers=stopped)
    assert not path.exists()
    assert read_table(path)["policy"].to_pylist() == ["lru", "lru"]  # the parts can be read already
    outcome = run_sweep(plan, path)
    assert outcome.ran == 2
    assert sorted(file.name for file in folder.iterdir()) == ["mine.py", "round.h5", "t.parquet"]
    whole = run_sweep(plan, folder / "whole.parquet")
    assert path.read_bytes() == (folder / "whole.parquet").read_bytes()
    assert outcome.table.equals(whole.table)


def test_many_parts_become_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrcsim.sweeps.store.PARTS_AT_MOST", 5)
    plan = divide(read_spec({"runs": [{"trace": "round.h5", "cache": 2}]}, folder))
    (row,) = run_task(plan.tasks()[0])
    store = TableStore(folder / "t.parquet", run_sweep(plan, folder / "other.parquet").table.schema)
    with store.writing():
        for number in range(8):
            store.waiting = [row | {"run": str(number)}]
            store.flush()
        assert len(list((folder / "t.parquet.parts").glob("*.parquet"))) == 3
        keys = [str(number) for number in reversed(range(8))]
        assert store.finish(keys)["run"].to_pylist() == keys


def test_a_trace_that_changes_meanwhile_is_told(folder: Path) -> None:
    plan = divide(read_spec({"grid": {"trace": "round.h5", "cache": [2, 3]}}, folder))
    (folder / "round.h5").write_bytes((folder / "round.h5").read_bytes() + b"\0")
    assert all("is not what it was when the sweep was planned" in row["error"] for row in run_task(plan.tasks()[0]))


def test_types_do_not_depend_on_what_was_run(folder: Path, recorded: Path) -> None:
    small = divide(read_spec({"runs": [{"trace": "round.h5"}]}, folder))
    large = divide(read_spec({"runs": [{"trace": recorded.name, "hardware": "rtx-3090"}]}, recorded.parent))
    one, two = (run_sweep(plan, folder / f"{i}.parquet").table.schema for i, plan in enumerate((small, large)))
    assert one.equals(two)
    assert pa.null() not in one.types
    assert pq.read_table(folder / "0.parquet").schema.equals(one)


def test_files_are_in_the_row(folder: Path) -> None:
    (row,) = sweep(folder, runs=[{"trace": "round.h5", "policy": "mine.py:Watched"}])
    assert list(json.loads(row["files"])) == ["policy"]


def test_a_plan_goes_trace_by_trace(folder: Path, recorded: Path) -> None:
    plan: TaskList = divide(read_spec({"grid": {"cache": [2, 3], "trace": ["round.h5", recorded.name]}}, folder))
    assert [task.trace for task in plan.tasks(share=False)] == ["round.h5"] * 2 + [recorded.name] * 2
