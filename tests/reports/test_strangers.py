"""Results of strangers: nothing that only a result names is run or opened; wrong values are one clear line."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_files import command, load, toy, unseen

from lrcsim.reports.from_trace import rebuild
from lrcsim.simulator.setup.options import declared

EVIL = """
from pathlib import Path
Path(__file__).with_name("PWNED").touch()
from lrcsim.policies import ScorePolicy
class P(ScorePolicy):
    def score(self, key):
        return key
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The JSON of a run of t.h5, made in this folder."""
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    command("run", toy(tmp_path / "t.h5"), "--json", "run.json")
    data: dict[str, Any] = load(tmp_path / "run.json")
    return data


def as_policy(run: dict[str, Any], policy: object) -> None:
    as_option_only(run, policy)
    run["provenance"]["options"]["policy"] = policy
    run["config"]["policy"] = policy


def as_option_only(run: dict[str, Any], policy: object) -> None:
    run["run"]["options"]["policy"] = policy


def as_list(run: dict[str, Any], policy: object) -> None:
    run["run"]["options"]["policy"] = [policy]


@pytest.mark.parametrize("place", [as_policy, as_option_only, as_list])
@pytest.mark.parametrize(
    "policy", ["evil.py:P", "./evil.py:P", "evil:P", "evil_of_strangers.inner:P", "antigravity:P", "evil.py:P:x=1"]
)
def test_no_code_that_a_result_names_is_run(
    place: Callable[[dict[str, Any], object], None],
    policy: str,
    run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lrcsim: Callable[..., Any],
) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "evil_of_strangers").mkdir()
    (tmp_path / "evil_of_strangers" / "inner.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    place(run, policy)
    del run["provenance"]["trace_sha256"]
    (tmp_path / "evil.json").write_text(json.dumps(run))
    before = set(sys.modules)
    code, out, _ = lrcsim("report", "evil.json", "-o", "page.html", "--without", "map,locality,curve")
    assert code == 0
    assert "is a class of the user's, and what a result names is not run: give --allow-code" in out
    assert not list(tmp_path.rglob("PWNED"))
    assert not {name for name in set(sys.modules) - before if "evil" in name or name == "antigravity"}


def test_allow_code_runs_it(run: dict[str, Any], tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    command("run", "t.h5", "--policy", "evil.py:P", "--json", "mine.json")
    (tmp_path / "PWNED").unlink()
    (tmp_path / "evil.py").write_text(EVIL + "\n")  # run anew
    arguments = ("mine.json", "-o", "page.html", "--without", "map,locality,curve", "--policies", "lru")
    code, out, _ = lrcsim("report", *arguments)
    assert (code, (tmp_path / "PWNED").exists()) == (0, False)
    code, out, _ = lrcsim("report", *arguments, "--allow-code")
    assert (code, (tmp_path / "PWNED").exists()) == (0, True)
    assert "Not on the page" not in out


_opened: list[str] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_hear)  # for good: there is no way to take it off


@contextmanager
def opened() -> Iterator[list[str]]:
    """Give the paths that are opened meanwhile."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.mark.parametrize("where", ["trace", "profile"])
@pytest.mark.parametrize("kind", ["text", "link", "pipe", "device", "network", "number", "folder", "far"])
def test_no_file_that_a_result_names_is_opened(
    where: str, kind: str, run: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    secret = away / "secret.txt"
    secret.write_text("secret")
    toy(away / "far.h5", seed=1)
    (away / "link.h5").symlink_to(secret)
    (away / "folder.h5").mkdir()
    if kind == "pipe":
        os.mkfifo(away / "pipe.h5")
    path: object = {
        "text": str(secret),
        "link": str(away / "link.h5"),
        "pipe": str(away / "pipe.h5"),
        "device": "/dev/zero",
        "network": f"/{away / 'far.h5'}",
        "number": 0,
        "folder": str(away / "folder.h5"),
        "far": str(away / "far.h5"),  # a trace, of which the result does not know the SHA-256
    }[kind]
    if where == "trace":
        run["trace"]["path"] = path
        del run["provenance"]["trace_sha256"]
    else:
        run["run"]["options"] |= {"profile": path, "policy": "static"}
        run["config"]["policy"] = "static"
    if kind != "far":  # it says that it knows the file
        run["provenance"][f"{where}_sha256"] = "0" * 64
    with opened() as seen:
        found = rebuild(run, unseen, policies=["lru"], beside=(tmp_path,))
    assert found.left_out
    assert found.compared == []
    assert not [name for name in seen if name.startswith((str(away), f"/{away}", "/dev/zero"))]
    assert "secret" not in str(found.left_out).replace("secret.txt", "")


def test_a_trace_elsewhere_is_used_where_its_sha256_is_known(
    run: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    (tmp_path / "t.h5").rename(away / "t.h5")
    run["trace"]["path"] = str(away / "t.h5")
    found = rebuild(run, unseen, parts=["policies"], policies=["lru"], beside=(tmp_path,))
    assert found.left_out == []
    del run["provenance"]["trace_sha256"]
    [left] = rebuild(run, unseen, parts=["policies"], policies=["lru"], beside=(tmp_path,)).left_out
    assert f"--trace {away / 't.h5'} says that it may be opened" in left.why
    trace = str(away / "t.h5")
    assert rebuild(run, unseen, parts=["policies"], policies=["lru"], trace_path=trace).left_out == []


def test_a_profile_is_known_by_its_sha256(run: dict[str, Any], tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    toy(tmp_path / "p.h5", seed=2)
    command("run", "t.h5", "--policy", "static", "--profile", "p.h5", "--json", "static.json")
    static = load(tmp_path / "static.json")
    assert len(static["provenance"]["profile_sha256"]) == 64
    assert rebuild(static, unseen, parts=["policies"], policies=["lru"], beside=(tmp_path,)).left_out == []
    toy(tmp_path / "p.h5", seed=3)
    [left] = rebuild(static, unseen, parts=["policies"], policies=["lru"], beside=(tmp_path,)).left_out
    assert left.why == "its profile p.h5 has changed since the run (--profile FILE says where it is now)"
    toy(tmp_path / "moved.h5", seed=2)
    options = ("-o", "page.html", "--without", "map,locality,curve", "--policies", "lru")
    assert "Not on the page" not in lrcsim("report", "static.json", *options, "--profile", "moved.h5").out


WRONG: tuple[Any, ...] = (None, "x", [], {}, -1, 10**400, True, [[1]], {"a": 1}, "")


def paths(value: Any, to: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the values in JSON are, of a list the first."""
    yield to
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*to, key))
    elif isinstance(value, list) and value:
        yield from paths(value[0], (*to, 0))


def changed(value: Any, to: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    if not to:
        return new
    inner = value
    for key in to[:-1]:
        inner = inner[key]
    inner[to[-1]] = new
    return value


def test_wrong_values_are_one_clear_line(run: dict[str, Any], tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    for number, to in enumerate(paths(run)):
        for wrong in WRONG[number % 5 :: 5]:
            (tmp_path / "wrong.json").write_text(json.dumps(changed(run, to, wrong)))
            code, _, err = lrcsim("report", "wrong.json", "--without", "all")
            assert code in (0, 1), (to, wrong, err)
            assert code == 0 or (err.startswith("Error: wrong.json") and err.count("\n") == 1), (to, wrong, err)
            assert "this is a bug" not in err


def test_wrong_values_of_a_comparison_are_one_clear_line(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    pytest.importorskip("jinja2")
    path = tmp_path / "compare.json"
    command("compare", toy(tmp_path / "t.h5"), "--policy", "lru,belady", "--cache", "1x,2x", "--json", path)
    found = load(path)
    for number, to in enumerate(paths(found)):
        for wrong in WRONG[number % 3 :: 3]:
            (tmp_path / "wrong.json").write_text(json.dumps(changed(found, to, wrong)))
            code, _, err = lrcsim("report", tmp_path / "wrong.json")
            assert code in (0, 1), (to, wrong, err)
            assert code == 0 or (err.startswith("Error: ") and err.count("\n") == 1), (to, wrong, err)
            assert "this is a bug" not in err


def test_wrong_options_are_one_clear_line(run: dict[str, Any], tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    """With the trace there to run them on."""
    for number, name in enumerate([*declared(), "unknown"]):
        for wrong in WRONG[number % 4 :: 4]:
            (tmp_path / "wrong.json").write_text(json.dumps(changed(run, ("run", "options", name), wrong)))
            options = ("--without", "map,locality,curve", "--policies", "lru")
            code, _, err = lrcsim("report", "wrong.json", *options)
            assert code == 0 or (err.startswith("Error: wrong.json") and err.count("\n") == 1), (name, wrong, err)
            assert "this is a bug" not in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "is neither JSON nor a table"),
        ('{"a": ' * 100_000, "is neither JSON nor a table"),
        ("9" * 10_000, "is neither JSON nor a table"),
        ("NaN", "NaN is no JSON number"),
        ("[Infinity]", "Infinity is no JSON number"),
        ("[1e999]", "1e999 is no JSON number that fits 64 bits"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("PAR1nothing", "is no Parquet table"),
        ("", "is neither JSON nor a table"),
        ("\x00", "is neither JSON nor a table"),
    ],
    ids=["lists", "objects", "digits", "nan", "infinity", "too large", "half a pair", "parquet", "empty", "zero"],
)
def test_files_that_are_no_results(content: str, said: str, tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "x.json").write_text(content)
    code, out, err = lrcsim("report", tmp_path / "x.json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err


def test_no_runtime_that_a_result_names_is_opened(
    run: dict[str, Any], tmp_path: Path, lrcsim: Callable[..., Any]
) -> None:
    """A pipe would be waited for; a file that is no TOML would be complained of."""
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("pipe.toml", "missing.toml", {"name": "x", "toml": "no toml ="}):
        run["run"]["options"]["runtime"] = name
        (tmp_path / "evil.json").write_text(json.dumps(run))
        code, out, err = lrcsim("report", "evil.json", "-o", "page.html", "--without", "map,locality,curve")
        assert (code, err) == (0, "")
        assert "runtime" not in out
