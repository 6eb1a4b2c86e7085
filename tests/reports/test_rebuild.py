"""What is worked out from a run's trace, and what is said where that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_files import MakePage, Results, command, load, toy, unseen

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.policies import make_policy
from lrcsim.reports.blocks import Figure
from lrcsim.reports.from_trace import COMPARED, PARTS, parts_but, rebuild
from lrcsim.reports.map_section import map_section

MINE = '''
from lrcsim.policies import ScorePolicy


class Oldest(ScorePolicy):
    """Evict what was used first."""

    def score(self, key):
        return -key
'''


def run_json(tmp_path: Path, *options: object, trace: Path | None = None) -> dict[str, Any]:
    path = tmp_path / "run.json"
    command("run", trace or toy(tmp_path / "t.h5"), *options, "--json", path)
    data: dict[str, Any] = load(path)
    return data


def reasons(run: dict[str, Any], **options: Any) -> set[str]:
    found = rebuild(run, unseen, policies=["lru"], **options)
    assert {part.what for part in found.left_out} == set(PARTS.values())
    assert (found.curve, found.compared, found.residents, found.srp, found.sch) == (None, [], None, None, None)
    return {part.why for part in found.left_out}


def test_a_trace_that_is_gone(tmp_path: Path) -> None:
    run = run_json(tmp_path)
    (tmp_path / "t.h5").rename(tmp_path / "moved.h5")
    [why] = reasons(run)
    assert "t.h5 is not there (--trace FILE says where it is now)" in why
    found = rebuild(run, unseen, trace_path=str(tmp_path / "moved.h5"), policies=["lru"])
    assert found.left_out == []
    assert found.sha256 == run["provenance"]["trace_sha256"]


def test_a_trace_that_has_changed(tmp_path: Path) -> None:
    run = run_json(tmp_path)
    toy(tmp_path / "t.h5", seed=1)
    assert "has changed since the run: its SHA-256 is" in reasons(run).pop()
    del run["provenance"]  # as Result.to_dict() gives it: then its hits tell
    assert "the trace, the policy or lrcsim has changed since" in reasons(run).pop()
    toy(tmp_path / "t.h5", tokens=60)
    assert "is another trace: it has tokens 60, the result 40" in reasons(run).pop()


def test_a_result_without_a_file(tmp_path: Path) -> None:
    run = run_json(tmp_path)
    run["trace"]["path"] = None
    assert "does not say in which file" in reasons(run).pop()


@pytest.mark.parametrize(
    "options",
    [
        ["--scope", "model", "--cache", "50%", "--cold"],
        ["--batch", "2"],
        ["--draft", "2", "--acceptance", "0.5", "--seed", "3"],
        ["--policy", "static", "--profile", "self"],
        ["--cache", "2,3,4", "--policy", "fifo"],
        ["--policy", "belady"],
    ],
    ids=" ".join,
)
def test_runs_of_all_kinds_are_found_again(tmp_path: Path, options: list[str]) -> None:
    run = run_json(tmp_path, *options)
    found = rebuild(run, unseen, parts=["policies", "curve", "map"], policies=["lru", "belady"])
    assert found.left_out == []
    own = next(one for one in found.compared if one.own)
    assert own.hit_rate == run["cache"]["hit_rate"]
    lru = next(one for one in found.compared if one.policy == "lru")
    assert lru.hit_rate == run["baseline"]["lru"]["hit_rate"]
    assert found.residents is not None
    assert (found.residents.hits, found.residents.accesses) == (run["cache"]["hits"], run["cache"]["accesses"])
    assert found.curve is not None


def test_a_policy_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    run = run_json(tmp_path, "--policy", f"{tmp_path / 'mine.py'}:Oldest", "--cache", "3")
    found = rebuild(run, unseen, parts=["policies", "map"], policies=["lru"])
    assert {part.why for part in found.left_out} == {
        f"its policy {tmp_path / 'mine.py'}:Oldest is a class of the user's, and what a result names is not run: "
        "give --allow-code if you trust it"
    }
    found = rebuild(run, unseen, parts=["policies", "map"], policies=["lru"], allow_code=True)
    assert [one.policy for one in found.compared] == ["Oldest", "lru"]
    assert found.residents is not None
    (tmp_path / "mine.py").unlink()
    assert "mine.py does not exist" in reasons(run, allow_code=True).pop()


def test_experts_of_unequal_bytes_have_a_curve_in_bytes(tmp_path: Path) -> None:
    from lrcsim.traces import RoutingTrace

    with RoutingTrace.open(toy(tmp_path / "t.h5")) as trace:
        sizes = [100, 200, 300]
        RoutingTrace.from_arrays(trace.experts, num_experts=8, expert_bytes=sizes).save(tmp_path / "u.h5")
    run = run_json(tmp_path, "--scope", "model", "--cache", "1800B", trace=tmp_path / "u.h5")
    found = rebuild(run, unseen, parts=["curve", "map"], policies=["lru"])
    assert found.left_out == []
    assert found.curve is not None
    assert found.curve["unit"] == "bytes"
    assert found.curve["capacities"] == [450, 900, 1350, 1800, 2700, 3600]  # 5400 is more than all 4800
    assert found.curve["hit_rate"]["lru"][3] == run["cache"]["hit_rate"]


def test_what_only_the_whole_run_could_say(results: Results, tmp_path: Path) -> None:
    run = run_json(tmp_path, "--hardware", "rtx-3090", "--prefetch", "oracle:1", trace=results.trace)
    found = rebuild(run, unseen, parts=["map", "policies"], policies=["lru"])
    assert found.left_out == []
    assert found.residents is not None
    assert not found.residents.on_demand
    assert found.residents.hits == run["cache"]["hits"]
    layers = list(found.residents.experts)
    middle = layers[len(layers) // 2]  # is shown first: before layer 0 there is little time to bring anything
    others = [layer for layer in layers if layer != middle]
    experts = map_section(found.residents, "one").blocks[1]
    assert isinstance(experts, Figure)
    assert [view.label for view in experts.views] == [f"layer {layer}" for layer in (middle, *others)]
    run["run"]["options"]["hardware"] = "mine.toml"
    found = rebuild(run, unseen, parts=["map"], policies=["lru"])
    assert [part.what for part in found.left_out] == ["residency map"]
    assert "mine.toml may be a file" in found.left_out[0].why
    run = run_json(tmp_path, "--access", "paper")
    found = rebuild(run, unseen, parts=["map"], policies=["lru"])
    assert "this run has paper" in found.left_out[0].why
    run = run_json(tmp_path, "--hardware", "rtx-3090", "--arrivals", "poisson:5", trace=results.trace)
    assert "depends on time" in reasons(run).pop()


def test_a_policy_that_cannot_serve_is_named(tmp_path: Path) -> None:
    found = rebuild(run_json(tmp_path), unseen, parts=["policies"], policies=["mrs", "lru"])
    assert [part.what for part in found.left_out] == ["policy mrs in the comparison"]
    assert "router weights" in found.left_out[0].why


def test_wrong_options_are_the_user_s_to_know(tmp_path: Path) -> None:
    run = run_json(tmp_path)
    with pytest.raises(ConfigError, match="there is no request 2, the trace has 2: give 0 to 1"):
        rebuild(run, unseen, request=2)
    with pytest.raises(PolicyError, match="did you mean 'lru'"):
        rebuild(run, unseen, policies=["lruu"])
    with pytest.raises(ConfigError, match=r"no part 'maps'.*did you mean 'map'"):
        parts_but("maps")
    assert parts_but("map, curve") == ["policies", "locality"]
    assert parts_but("all") == []


def test_the_policies_compared_by_default_exist() -> None:
    for policy in COMPARED:
        assert not make_policy(policy).needs & {"weights", "profile"}  # any trace will do


def test_the_page_says_what_is_left_out(page_of: MakePage, tmp_path: Path) -> None:
    run_json(tmp_path)
    (tmp_path / "t.h5").unlink()
    page = page_of(tmp_path / "run.json")
    assert [part.what for part in page.left_out] == list(PARTS.values())


def test_not_asked_for_is_not_missed(page_of: MakePage, tmp_path: Path) -> None:
    run_json(tmp_path)
    page = page_of(tmp_path / "run.json", parts=[])
    assert page.left_out == []
    assert [section.title for section in page.sections] == ["Hit rate", "Configuration and provenance"]


KINDS: list[tuple[Any, str]] = [
    ("not json", "is neither JSON nor a table of lrcsim sweep"),
    ([1, 2], "is no JSON of lrcsim run, compare, curve, srp or sch"),
    ({"kind": "curve", "version": 1, "capacities": [1], "relative": [1.0], "hit_rate": {}},
     "is no JSON of lrcsim curve: it has no trace, knee"),
    ({"kind": "curve", "version": 1, "traces": [1]}, "is no JSON of lrcsim curve: it has no trace, capacities"),
    ({"kind": "srp", "version": 1, "results": []}, "is no JSON of lrcsim srp: it has no level"),
    ({"level": "model", "results": []}, 'does not say what it is (it has no "kind"): written by an older lrcsim'),
    ({"kind": 1, "version": 1}, 'it has no "kind"'),
    ({"kind": "plan", "version": 1}, "or sch (it says that it is of 'plan')"),
    ([{"kind": "run", "version": 1}], "is no JSON of lrcsim run, compare, curve, srp or sch (it says"),
    ({"kind": "srp", "version": 2, "level": "model", "results": []},
     "is of lrcsim srp in version 2, this lrcsim reads 1: make one with --json FILE"),
    ({"kind": "srp", "version": [10**400]}, "is of lrcsim srp in version [1000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), KINDS, ids=[message for _, message in KINDS])
def test_files_that_are_none(lrcsim: Callable[..., Any], tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    done = lrcsim("report", path)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_file_that_was_changed_by_hand(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    run = run_json(tmp_path)
    run["cache"]["accesses"] = "many"
    (tmp_path / "x.json").write_text(json.dumps(run))
    done = lrcsim("report", tmp_path / "x.json", "--without", "all")
    assert done.code == 1
    assert "x.json is not as lrcsim run writes it (ValueError" in done.err
    assert done.err.count("\n") == 1
