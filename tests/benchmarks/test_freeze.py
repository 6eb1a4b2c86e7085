"""What the freeze calls a difference: worked out by hand, for every kind of leaf."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "freeze.py"


@pytest.fixture
def freeze() -> Any:
    spec = importlib.util.spec_from_file_location("freeze", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (1, 1, True), (1, 2, False), (10**9, 10**9 + 1, False), (1, 1.0, True), (1, True, False), (None, 0, False),
        (2.0, 2.0 + 1e-9, True), (2.0, 2.0 + 1e-8, False), (1e12, 1e12 + 100.0, True), (1e12, 1e12 + 2000.0, False),
        (0.0, 1e-13, True), (0.0, 1e-11, False), (3.0, 3, True), (3.0, 4, False), (3.0, None, False),
        (3.0, "3.0", False), ("a", "a", True), ("a", "b", False),
        (True, True, True), (False, 0, False), (None, None, True),
    ],
)  # fmt: skip
def test_leaves(freeze: Any, old: Any, new: Any, same: bool) -> None:
    assert freeze.equal(old, new) is same


def test_what_is_new_is_no_difference_and_what_is_gone_is(freeze: Any) -> None:
    old = {"hits": 3, "rows": [{"rate": 0.5}, {"rate": 0.25}], "empty": [], "text": "one\ntwo\nthree"}
    assert freeze.differences("c", old, {**old, "more": 1, "rows": [{"rate": 0.5, "x": 1}, {"rate": 0.25}]}) == []
    new = {"hits": 4, "rows": [{"rate": 0.5}], "text": "one\n2\nthree"}
    assert freeze.differences("c", old, new) == [
        "c/hits: 3 -> 4",
        "c/rows/#: 2 -> 1",
        "c/rows/1/rate: 0.25 -> nothing",
        "c/empty/#: 0 -> nothing",
        "c/text: line 2: 'two' -> '2'",
    ]


def test_what_moved_is_looked_for_where_it_is_now(freeze: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = {"missed": {"on_cpu": 3, "skipped": 1}}, {"outcomes": {"cpu": 3, "skipped": 2}}
    monkeypatch.setattr(freeze, "MOVED", {r"/missed/on_cpu$": "/outcomes/cpu", r"/missed/": "/outcomes/"})
    assert freeze.differences("c", old, new) == ["c/missed/skipped: 1 -> 2"]


def test_what_depends_on_the_version_may_differ(freeze: Any) -> None:
    old = {"provenance": {"lrcsim": "0.1"}, "trace": {"path": "/a", "tokens": 2}}
    assert freeze.differences("c", old, {"trace": {"path": "/b", "tokens": 2}}) == []


def test_texts_that_end_early(freeze: Any) -> None:
    assert freeze.differences("c", "one\ntwo", "one") == ["c: line 2: 'two' -> '<end>'"]
