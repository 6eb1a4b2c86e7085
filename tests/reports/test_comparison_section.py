"""What `lrcsim compare` wrote, on a page: the same numbers, the same order, the same advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_files import MakePage, command, embedded, html_of, load, toy

from lrcsim.reports.comparison_section import BARS, ROWS, comparison_section

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    path = tmp_path / "compare.json"
    trace = toy(tmp_path / "t.h5")
    command("compare", trace, "--policy", "lru,fifo,belady", "--cache", "1x,2x", "--json", path)
    return path


def found_of(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a document of some runs, with tokens per second."""
    nothing = dict.fromkeys(["total_s", "gap_closed", "of_optimum", "bytes_loaded", "decode_bytes_per_token", "error"])
    nothing |= {"prefetch": "none", "miss": "load", "route": None}
    nothing |= {"prefetch_issued_bytes": 0, "admitted_issued_bytes": 0}
    config = {"trace": "t.h5", "model": "toy", "hardware": "rtx-3090", "runtime": "ideal"}
    document = {"config": config, "compared": ["policy", "cache"], "by": "decode_tokens_per_s", "why": ["Take it."]}
    taken = [{"policy": "lru", "cache": "2x", "prefetch": "none", "miss": "load", "route": None}]
    return document | {"rows": [nothing | row for row in rows], "recommended": taken} | more


def test_hand_solved() -> None:
    rows = [
        {"policy": "belady", "cache": "2x", "decode_tokens_per_s": 30.0, "hit_rate": 0.75},
        {"policy": "lru", "cache": "2x", "decode_tokens_per_s": 20.0, "hit_rate": 0.5},
        {"policy": "lru", "cache": "1x", "decode_tokens_per_s": 10.0, "hit_rate": None},
        {"policy": "fifo", "cache": "1x", "decode_tokens_per_s": None, "hit_rate": None, "error": "no room"},
    ]
    section = comparison_section(found_of(rows), "compare1")
    assert section.title == "Comparison: toy on rtx-3090"
    assert list(section.text) == ["4 runs over policy, cache: 3 done, 1 failed.", "Take it."]
    figure: Any = section.blocks[0]
    assert [view.label for view in figure.views] == ["tokens/s", "hit rate"]
    first = figure.views[0]
    assert first.y.names == ["belady, cache 2x", "lru, cache 2x", "lru, cache 1x"]
    drawn = [(bars.name, bars.names, bars.values) for bars in first.marks]
    assert drawn == [
        ("cache 2x", ["belady, cache 2x", "lru, cache 2x"], [30.0, 20.0]),
        ("cache 1x", ["lru, cache 1x"], [10.0]),
    ]
    assert figure.table.head == ("policy", "cache", "tokens/s", "hit rate")
    assert figure.table.rows == [
        ("belady", "2x", "30.00", "75.0 %"),
        ("lru", "2x", "20.00", "50.0 %"),
        ("lru", "1x", "10.00", "–"),
    ]
    assert figure.table.marked == 1  # the run to take, not the first: belady knows the future
    failed: Any = section.blocks[1]
    assert failed.rows == [("fifo, cache 1x", "no room")]


def test_the_page_has_the_numbers_of_the_file(page_of: MakePage, compared: Path) -> None:
    data = load(compared)
    page = page_of(compared)
    assert page.title == "Comparison of runs of toy"
    assert page.answer == data["why"]
    [view] = embedded(html_of(page))["compare1-runs"]  # without a machine there are hits only
    drawn = {name: value for bars in view["marks"] for name, value in zip(bars["names"], bars["values"], strict=True)}
    assert drawn == {f"{row['policy']}, cache {row['cache']}": row["hit_rate"] for row in data["rows"]}
    assert [drawn[name] for name in view["y"]["names"]] == [row["hit_rate"] for row in data["rows"]]


def test_many_runs_and_none_to_take() -> None:
    rows = [
        {"policy": f"p{number % 7}", "cache": "2x", "decode_tokens_per_s": 1000.0 - number, "hit_rate": 0.5}
        for number in range(1000)
    ]
    section = comparison_section(found_of(rows, recommended=[], compared=["policy"]), "compare1")
    figure: Any = section.blocks[0]
    assert len(figure.table.rows) == ROWS
    assert figure.table.marked is None
    assert f"Of 1,000 the best {BARS} are drawn." in figure.text
    assert len(set(figure.views[0].y.names)) == BARS  # two runs of one name are two bars


def test_all_failed_or_none(page_of: MakePage, compared: Path) -> None:
    data = load(compared)
    for rows in ([], [row | {"error": HOSTILE, "hit_rate": None} for row in data["rows"]]):
        compared.write_text(json.dumps(data | {"rows": rows, "recommended": [], "why": [HOSTILE]}))
        page = page_of(compared)
        assert page.figures == []
        assert "<img" not in html_of(page)


def test_hostile_names_are_text(page_of: MakePage, compared: Path) -> None:
    data = load(compared)
    for row in data["rows"]:
        row["policy"] = row["cache"] = HOSTILE
    data["config"]["model"] = HOSTILE
    compared.write_text(json.dumps(data))
    assert "<img" not in html_of(page_of(compared))
