"""`lrcsim report` as a user meets it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.traces import RoutingTrace

pytest.importorskip("jinja2", reason="jinja2 is not installed (pip install '.[report]')")


@pytest.fixture
def result(lrcsim: Callable[..., Any], tmp_path: Path) -> Path:
    ids = np.random.default_rng(0).random((60, 3, 8)).argsort(axis=2)[:, :, :2]
    RoutingTrace.from_arrays(ids, num_experts=8, model="toy").save(tmp_path / "t.h5")
    path = tmp_path / "result.json"
    assert lrcsim("run", tmp_path / "t.h5", "--json", path).code == 0
    return path


def test_a_page_and_its_answer(lrcsim: Callable[..., Any], result: Path, tmp_path: Path) -> None:
    done = lrcsim("report", result, "--policies", "fifo,belady", "-o", tmp_path / "page.html")
    assert (done.code, done.err) == (0, "")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    answer, *_, last = done.out.splitlines()
    assert answer in html
    assert answer.startswith("lru with a cache of 2x (4 experts per layer) has ")
    assert last.startswith(f"{tmp_path / 'page.html'}: ")
    assert "KiB" in last


def test_json_alone_and_the_page_s_default_name(lrcsim: Callable[..., Any], result: Path) -> None:
    done = lrcsim("report", result, "--without", "all", "--json", "-")
    data = json.loads(done.out)
    assert data["file"] == str(result.with_suffix(".html"))
    assert data["bytes"] == result.with_suffix(".html").stat().st_size
    assert data["sections"] == ["Hit rate", "Configuration and provenance"]
    assert data["left_out"] == []
    assert data["title"] == "toy: lru, cache 2x"


def test_from_standard_input(
    lrcsim: Callable[..., Any], result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped() -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(result.read_bytes()))

    monkeypatch.setattr(sys, "stdin", piped())
    assert lrcsim("report", "-", "--without", "all", "-o", tmp_path / "p.html").code == 0
    assert "toy: lru" in (tmp_path / "p.html").read_text()
    monkeypatch.setattr(sys, "stdin", piped())
    assert "give one with -o" in lrcsim("report", "-").err


def test_what_is_left_out_is_said(lrcsim: Callable[..., Any], result: Path, tmp_path: Path) -> None:
    (tmp_path / "t.h5").unlink()
    done = lrcsim("report", result)
    assert done.code == 0
    assert "Not on the page, residency map: its trace" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.json"], "absent.json cannot be read (No such file or directory): give what lrcsim run"),
        (["{folder}/t.h5"], "is a trace: run it first, lrcsim run"),
        (["{result}", "--without", "pap"], "there is no part 'pap'"),
        (["{result}", "--policies", "lruu"], "did you mean 'lru'"),
        (["{result}", "--policies", ","], "--policies ',' is an empty list: give values with commas between"),
        (["{result}", "--request", "1"], "there is no request 1"),
        (["{result}", "-o", "page.pdf"], "-o page.pdf: a page is HTML, name it .html"),
        (["{result}", "-o", "absent/page.html", "--without", "all"], "absent/page.html: cannot be written"),
    ],
)
def test_bad_input(
    refused: Callable[..., None], result: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    refused(message, "report", *(argument.format(folder=tmp_path, result=result) for argument in arguments))


def test_without_jinja2(lrcsim: Callable[..., Any], result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = lrcsim("report", result)
    assert done.code == 1
    assert "pip install '.[report]'" in done.err
    assert not result.with_suffix(".html").exists()
