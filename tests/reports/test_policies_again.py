"""Speeds of policies in a run's place are those that `lrcsim run` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_files import MakePage, Results, command, embedded, html_of, load, unseen

from lrcsim.reports.from_trace import rebuild
from lrcsim.reports.policies_again import SPEEDS


def test_the_speed_of_each_policy(results: Results, page_of: MakePage, tmp_path: Path) -> None:
    page = page_of(results.timed, parts=["policies"])
    assert page.left_out == []
    views = embedded(html_of(page))["run1-compared"]
    assert [view["label"] for view in views] == ["tokens/s", "hit rate"]
    speeds = {
        name: value for bars in views[0]["marks"] for name, value in zip(bars["names"], bars["values"], strict=True)
    }
    assert [speeds[name] for name in views[0]["y"]["names"]] == sorted(speeds.values(), reverse=True)
    for policy in ("lfu", "lru", "belady"):
        command("run", results.trace, "--policy", policy, "--hardware", "rtx-3090", "--json", tmp_path / "one.json")
        assert speeds[policy] == pytest.approx(load(tmp_path / "one.json")["time"]["decode_tokens_per_s"], rel=1e-9)


def test_a_result_that_says_another_speed(results: Results) -> None:
    run = load(results.timed)
    run["time"]["decode_tokens_per_s"] *= 1.01
    found = rebuild(run, unseen, parts=["policies"], policies=["lru"])
    [left] = found.left_out
    assert left.what == SPEEDS
    assert "tokens/s, the result says" in left.why
    assert [one.tokens_per_s for one in found.compared] == [None, None]
    assert found.compared[0].hit_rate == run["cache"]["hit_rate"]


def test_a_machine_in_a_file_is_not_opened(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = json.loads(results.timed.read_text())
    run["run"]["options"]["hardware"] = "secret.toml"
    [left] = rebuild(run, unseen, parts=["policies"], policies=["lru"]).left_out
    assert left.why == "its hardware secret.toml may be a file, and no file that a result names is opened"


def test_who_knows_the_future_has_no_speed_beside_a_prefetcher(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    command("run", results.trace, "--hardware", "rtx-3090", "--prefetch", "oracle:1", "--json", path)
    found = rebuild(load(path), unseen, parts=["policies"], policies=["lru", "belady"])
    assert [left.what for left in found.left_out] == ["tokens/s of belady"]
    assert [one.tokens_per_s is None for one in found.compared] == [False, True]
