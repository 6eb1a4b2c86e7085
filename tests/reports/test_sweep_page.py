"""The page of a sweep's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_files import MakePage, command, embedded, html_of, toy

from lrcsim.reports import sweep_section
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
    assert by_cache["layout"]["xaxis"]["categoryarray"] == ["1x", "2x", "12"]  # in order of their numbers
    lines = {line["name"]: line for line in by_cache["data"]}
    for policy in ("lru", "fifo"):
        rates = {row["cache"]: row["hit_rate"] for row in rows if row["policy"] == policy}
        assert dict(zip(lines[policy]["x"], lines[policy]["y"], strict=True)) == rates
        assert lines[policy]["mode"] == "lines+markers"
    assert all(line["mode"] == "markers" for line in views["hit rate by policy"]["data"])  # names have no order
    tables: list[Any] = [block for block in page.sections[0].blocks if not hasattr(block, "views")]
    assert len(tables[0].rows) == 6
    assert tables[0].rows[0][:3] == ("1", best["policy"], best["cache"])


def test_many_runs_are_cut_and_this_is_said(page_of: MakePage, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_section, "DRAWN", 4)
    monkeypatch.setattr(sweep_section, "LINES", 1)
    page = page_of(table)
    figure = page.figures[0]
    assert "Of 6 runs the best 4 are drawn." in figure.text
    [dots] = figure.views[0].data
    assert len(dots["x"]) == 4
    assert min(dots["y"]) >= sorted(read_table(table)["hit_rate"].to_pylist())[2]


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
    assert len(page.figures[0].views[0].data[0]["x"]) + len(page.figures[0].views[0].data[1]["x"]) == 5
