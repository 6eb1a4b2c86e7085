"""The page of a sweep's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_files import MakePage, command, embedded, html_of, toy

from lrcsim.reports import sweep_figures, sweep_section
from lrcsim.sweeps import read_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    toy(tmp_path / "t.h5")
    spec = tmp_path / "s.toml"
    spec.write_text(
        '[grid]\ntrace = ["t.h5"]\npolicy = ["lru", "fifo"]\ncache = ["2x", "1x", "12"]\nscope = ["model"]\n'
    )
    command("sweep", spec, "--jobs", "1", "-o", tmp_path / "s.parquet")
    return tmp_path / "s.parquet"


def test_answer_figure_and_best_runs(page_of: MakePage, table: Path) -> None:
    page = page_of(table)
    rows = read_table(table).to_pylist()
    best = max(rows, key=lambda row: row["hit_rate"])
    assert page.answer[0].endswith("6 runs over policy (2), cache (3).")
    assert page.answer[1] == (
        f"Best hit rate: {100 * best['hit_rate']:.1f} % with policy {best['policy']}, cache {best['cache']}."
    )
    views = {view["label"]: view for view in embedded(html_of(page))["sweep1-figure"]}
    by_cache = views["hit rate by cache"]
    assert by_cache["x"]["names"] == ["1x", "2x", "12"]  # in order of their numbers
    lines = {line["name"]: line for line in by_cache["marks"]}
    for policy in ("lru", "fifo"):
        rates = {row["cache"]: row["hit_rate"] for row in rows if row["policy"] == policy}
        assert dict(zip(lines[policy]["x"], lines[policy]["y"], strict=True)) == rates
        assert lines[policy]["draw"] == "both"
    assert all(line["draw"] == "points" for line in views["hit rate by policy"]["marks"])  # names have no order
    tables: list[Any] = [block for block in page.sections[0].blocks if not hasattr(block, "views")]
    assert len(tables[0].rows) == 6
    assert tables[0].rows[0][:3] == ("1", best["policy"], best["cache"])


def test_many_runs_are_cut_and_this_is_said(page_of: MakePage, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_section, "DRAWN", 4)
    monkeypatch.setattr(sweep_figures, "LINES", 1)
    page = page_of(table)
    figure = next(one for one in page.figures if one.name == "sweep1-figure")
    assert "Of 6 runs the best 4 are drawn." in figure.text
    view = embedded(html_of(page))["sweep1-figure"][0]
    dots = [mark for mark in view["marks"] if mark["draw"] == "points"]
    rates = sorted(rate for mark in dots for rate in mark["y"])
    assert rates == sorted(read_table(table)["hit_rate"].to_pylist())[2:]
    for mark in view["marks"]:  # a line joins the best of each size
        if mark["draw"] == "line":
            of = next(one for one in dots if one["name"] == mark["name"])
            best = {x: max(y for at, y in zip(of["x"], of["y"], strict=True) if at == x) for x in of["x"]}
            assert dict(zip(mark["x"], mark["y"], strict=True)) == best


def test_best_of_each_machine_and_policy(page_of: MakePage, table: Path) -> None:
    rows = read_table(table)
    machines = ["rtx-3090", "rtx-4090"] * 3
    speeds = [10.0, 31.0, 20.0, 22.0, 15.0, 5.0]
    for name, values in (("hardware", pa.array(machines)), ("decode_tokens_per_s", pa.array(speeds))):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    pq.write_table(rows, table)
    page = page_of(table)
    figures = embedded(html_of(page))
    [view] = figures["sweep1-each"]
    drawn = {
        name: (mark["name"], value)
        for mark in view["marks"]
        for name, value in zip(mark["names"], mark["values"], strict=True)
    }
    naive: dict[str, tuple[str, float]] = {}
    for machine, policy, speed in zip(machines, rows["policy"].to_pylist(), speeds, strict=True):
        name = f"{machine}, {policy}"
        naive[name] = (machine, max(speed, naive.get(name, (machine, 0.0))[1]))
    assert drawn == naive
    assert view["y"]["names"][0].startswith("rtx-4090")  # the machine with the best run first
    views = figures["sweep1-figure"]
    assert [one["group"] for one in views] == sorted((one["group"] for one in views), reverse=True)
    for one in views:
        if one["label"] == "decode tokens/s by cache":
            mine = [speed for machine, speed in zip(machines, speeds, strict=True) if machine == one["group"]]
            assert sorted(speed for mark in one["marks"] for speed in mark["y"]) == sorted(mine)


def test_the_best_at_each_value_is_the_most_of_speed_and_the_least_of_waiting() -> None:
    rows = [
        {"cache": cache, "decode_tokens_per_s": speed, "ttft_ms_p50": wait}
        for cache, speed, wait in [("1x", 5.0, 2.0), ("1x", 7.0, 3.0), ("2x", 9.0, 1.0)]
    ]
    assert sweep_figures._best_at(rows, [0, 1, 2], "cache", "decode_tokens_per_s") == [1, 2]
    assert sweep_figures._best_at(rows, [0, 1, 2], "cache", "ttft_ms_p50") == [0, 2]


def test_of_each_machine_as_many_are_drawn() -> None:
    good = pa.table({"hardware": ["a", "a", "a", "b", "b", "c"], "policy": ["x"] * 6, "n": range(6)})
    assert sweep_figures.to_draw(good, ["hardware"], 6)["n"].to_pylist() == [0, 1, 3, 4, 5]
    assert sweep_figures.to_draw(good, ["policy"], 2)["n"].to_pylist() == [0, 1]
    assert len(sweep_figures.to_draw(good.slice(0, 0), ["hardware"], 6)) == 0


def test_runs_that_hardly_run_the_model_are_told(page_of: MakePage, table: Path) -> None:
    rows = read_table(table)
    for name, weights in (("skipped_weight", [0.34, 1 / 3, 0.1]), ("substituted_weight", [0.0, 0.0, 0.9])):
        column = pa.array([*weights, None, None, None])
        rows = rows.set_column(rows.column_names.index(name), name, column)
    pq.write_table(rows, table)
    assert page_of(table).answer[-1] == (
        "2 of 6 runs leave out or replace more than a third of the router weight (skipped_weight, substituted_weight), "
        "in all or in one phase: what they run is hardly the model that was recorded."
    )


def test_runs_that_failed_are_listed(page_of: MakePage, table: Path) -> None:
    rows = read_table(table)
    failed = pa.array(["out of memory", *[None] * 5])
    unknown = pa.array([None, *rows["hit_rate"].to_pylist()[1:]])
    for name, values in (("error", failed), ("hit_rate", unknown)):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    pq.write_table(rows, table)
    page = page_of(table)
    assert page.answer[-1] == "1 runs failed; the table below has the reasons."
    tables: list[Any] = [block for block in page.sections[0].blocks if not hasattr(block, "views")]
    assert tables[1].rows == [("lru, 2x", "out of memory")]
    view = embedded(html_of(page))["sweep1-figure"][0]
    assert sum(len(line["x"]) for line in view["marks"]) == 5


HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_no_row_one_row_a_thousand_and_numbers_that_are_none(page_of: MakePage, table: Path, count: int) -> None:
    some = read_table(table).to_pylist()
    rows = [
        some[number % 6]
        | {
            "run": str(number),
            "policy": HOSTILE if number % 5 == 0 else f"p{number % 5}",
            "cache": f"{1 + number % 9}x",
            "hit_rate": float("nan") if number % 7 == 3 else number / 1000,
            "decode_hit_rate": float("inf") if number % 7 == 3 else None,
        }
        for number in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=read_table(table).schema), table)
    page = page_of(table)
    html = html_of(page)
    assert "<img" not in html
    assert len(html) < 600_000
    assert [figure.name for figure in page.figures] == (["sweep1-each", "sweep1-figure"] if count > 1 else [])
    if count > 1:
        drawn = [y for mark in embedded(html)["sweep1-figure"][0]["marks"] for y in mark["y"]]
        assert max(drawn) == 0.999
