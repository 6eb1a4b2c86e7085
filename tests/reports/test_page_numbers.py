"""Numbers in the page are those of the files; names are text, whatever is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_files import MakePage, Results, command, embedded, html_of, load, toy

from lrcsim.reports.page import SCRIPTS, script_json

HOSTILE = "</script><img src=x onerror=alert(1)>&lt;b&gt;'\"{{7*7}}"


def lines_of(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in view["marks"]}


def values_of(view: dict[str, Any]) -> dict[str, float]:
    """Return the values of bars by their names."""
    marks = view["marks"]
    return {name: value for mark in marks for name, value in zip(mark["names"], mark["values"], strict=True)}


def test_curves_are_those_of_the_json(page_of: MakePage, results: Results) -> None:
    curve = load(results.curve)
    figures = embedded(html_of(page_of(results.curve)))
    views = {view["label"]: lines_of(view) for view in figures["curve1-curves"]}
    for label, key in (("all accesses", "hit_rate"), ("decode", "decode_hit_rate"), ("prefill", "prefill_hit_rate")):
        assert list(views[label]) == list(curve[key])
        for policy, rates in curve[key].items():
            line = views[label][policy]
            assert (line["x"], line["y"]) == (curve["relative"], rates)


def test_a_run_s_figures_are_those_of_its_json(page_of: MakePage, results: Results) -> None:
    run = load(results.timed)
    figures = embedded(html_of(page_of(results.timed, parts=[])))
    assert figures["run1-layers"][0]["marks"][0]["values"] == run["cache"]["per_layer_hit_rate"]
    time, bars = run["time"], figures["run1-token"][0]["marks"]
    assert sum(bar["values"][0] for bar in bars[:3]) == pytest.approx(time["decode_ms_per_token"], rel=1e-12)
    bounds = [1e3 / time["bounds"][name]["decode_tokens_per_s"] for name in ("optimum", "compute_only", "link_bound")]
    assert bars[3]["values"] == bounds


def test_what_is_worked_out_equals_what_the_commands_say(page_of: MakePage, results: Results) -> None:
    page = page_of(results.run)
    assert page.left_out == []
    figures = embedded(html_of(page))
    run, curve = load(results.run), load(results.curve)
    lines = lines_of(figures["run1-curve-curves"][0])
    assert list(lines) == ["lfu", "lru", "belady"]  # the run's own first
    assert lines["lru"]["y"] == curve["hit_rate"]["lru"]
    assert lines["belady"]["y"] == curve["hit_rate"]["belady"]
    assert lines["lfu"]["y"][lines["lfu"]["x"].index(2.0)] == run["cache"]["hit_rate"]
    [view] = figures["run1-compared"]
    rates = values_of(view)
    assert [rates[policy] for policy in view["y"]["names"]] == sorted(rates.values(), reverse=True)
    assert rates["lfu"] == run["cache"]["hit_rate"]
    assert rates["belady"] == run["bounds"]["belady"]["hit_rate"]
    assert rates["lru"] == run["baseline"]["lru"]["hit_rate"]
    assert rates["fifo"] == curve["hit_rate"]["fifo"][curve["relative"].index(2.0)]
    srp = {str(one["segment"]): one["value"] for one in load(results.srp)["results"]}
    drawn = figures["run1-srp-figure"][0]["marks"][0]
    assert {x: y for x, y in zip(drawn["x"], drawn["y"], strict=True) if x in srp} == srp


def test_srp_and_sch_of_files_replace_what_would_be_worked_out(page_of: MakePage, results: Results) -> None:
    page = page_of(results.run, results.srp, results.sch, results.curve)
    assert [s.name for s in page.sections if "srp" in s.name or "sch" in s.name] == ["srp1", "sch1"]
    assert [s.name for s in page.sections if "curve" in s.name] == ["curve1"]
    figures = embedded(html_of(page))
    sch = {f"m = {one['segment']}": one["hit_rate"] for one in load(results.sch)["results"]}
    assert {line["name"]: line["y"] for line in figures["sch1-figure"][0]["marks"]} == sch


def test_themed_colours_are_in_the_style(page_of: MakePage, results: Results) -> None:
    html = html_of(page_of(results.timed))
    from lrcsim.reports import drawing

    shades = [f"rate{number}" for number in range(5)]
    for colour in (*drawing.COLOURS, drawing.INK, drawing.MUTED, *shades):
        assert html.count(f"--{colour}: #") == 2  # on light and on dark paper


def test_names_are_text(page_of: MakePage, tmp_path: Path) -> None:
    trace = toy(tmp_path / "t.h5", model=HOSTILE)
    command("run", trace, "--json", tmp_path / "r.json")
    command("curve", trace, "--json", tmp_path / "c.json")
    command("srp", trace, "-m", "4", "--json", tmp_path / "s.json")
    data = load(tmp_path / "r.json")
    data["config"]["policy"] = HOSTILE
    data["warnings"] = [HOSTILE]
    (tmp_path / "r2.json").write_text(json.dumps(data))
    html = html_of(page_of(tmp_path / "r2.json", tmp_path / "c.json", tmp_path / "s.json"))
    assert "<img" not in html
    assert html.count("</script>") == 1 + len(SCRIPTS)
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&amp;lt;b&amp;gt;" in html
    assert "{{7*7}}" in html
    names = [line["name"] for line in embedded(html)["srp1-figure"][0]["marks"]]
    assert names == [HOSTILE, f"{HOSTILE}: floor"]  # the script puts them in as text


def test_json_in_a_script_cannot_end_it() -> None:
    text = script_json({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


def test_the_same_input_gives_the_same_bytes(page_of: MakePage, results: Results) -> None:
    first, second = (html_of(page_of(results.timed, results.sch)) for _ in range(2))
    assert first == second


def test_nothing_is_fetched(page_of: MakePage, results: Results) -> None:
    own = html_of(page_of(results.timed)).replace('"http://www.w3.org/2000/svg"', "")  # a name, not an address
    assert "http://" not in own
    assert "https://" not in own
    assert "src=" not in own
    assert "<link" not in own


def test_each_figure_has_words_and_numbers(page_of: MakePage, results: Results) -> None:
    page = page_of(results.timed, results.srp, results.sch)
    assert len({figure.name for figure in page.figures}) == len(page.figures) == 8
    for figure in page.figures:
        assert figure.title
        assert figure.text
        assert figure.table is not None
        assert all(len(row) == len(figure.table.head) for row in figure.table.rows)


def test_several_runs_stand_side_by_side(page_of: MakePage, results: Results) -> None:
    page = page_of(results.run, results.timed, parts=[])
    assert page.title == "2 runs"
    table: Any = page.sections[0].blocks[0]
    assert [row[0] for row in table.rows] == ["lfu, cache 2x", "lfu, cache 2x on rtx-3090"]
    assert table.rows[0][-1] == "–"
    assert len(page.answer) == 2
    assert len({section.name for section in page.sections}) == len(page.sections)


def test_a_trace_that_was_never_accessed(page_of: MakePage, tmp_path: Path) -> None:
    from lrcsim.traces import RoutingTrace

    RoutingTrace.from_arrays([[[-1, -1]]] * 8, num_experts=4, model="void").save(tmp_path / "t.h5")
    command("run", tmp_path / "t.h5", "--json", tmp_path / "r.json")
    page = page_of(tmp_path / "r.json")
    assert page.answer[0] == "The trace has no recorded access, so there is no hit rate."
    html_of(page)
