"""`lrcsim runtimes`, and `--runtime` where a run is told of it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.hardware import load_profile
from lrcsim.runtimes import load_runtime, runtime_names, runtimes
from lrcsim.runtimes.load import written
from lrcsim.runtimes.runtime import PARTS, keys


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, lrcsim: Any) -> Callable[..., str]:
    """Run a command on a terminal of 80 columns; return what it shows, without colours."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        outcome = lrcsim(*arguments)
        assert outcome.code == 0
        return re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)

    return run


def test_all(terminal: Callable[..., str]) -> None:
    out = terminal("runtimes")
    for name, document in runtimes().items():
        assert name in out
        for word in (document.formats, *document.devices, *document.strategies, *document.description.split()):
            assert word in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\u2026" not in out


@pytest.mark.parametrize("name", runtime_names())
def test_one_with_every_number_whole(terminal: Callable[..., str], name: str) -> None:
    out = terminal("runtimes", name)
    lines = [line.split() for line in out.splitlines()]
    for path, value in runtimes()[name].numbers.items():
        shown = next(line for line in lines if line and line[0] == path)
        assert shown[1 : 1 + len(written(path, value).split())] == written(path, value).split()
    assert max(map(len, out.splitlines())) <= 80


def test_sources_and_numbers_without(lrcsim: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    source = "measured on the third of May with eleven repetitions of a run of some 2,000 tokens"
    path.write_text(f'[device]\nlayer = {{ value = "60 us", source = "{source}" }}\n[cpu.desktop]\nshare = "90 %"\n')
    out = lrcsim("runtimes", path).out
    assert " ".join(word for word in out.split() if word not in ("device.layer", "60", "us")).count(source) == 1
    assert "cpu.desktop.share" in out
    assert "no source" in out
    here = lrcsim("runtimes", path, "--hardware", "rtx-3090").out
    assert "on rtx-3090 (device cuda, processor desktop):" in here
    lines = {line.split()[0]: line.split()[1:] for line in here.splitlines() if "." in line.split()[0]}
    assert set(lines) == {f"{part}.{key}" for part in PARTS for key in keys(part)}
    assert lines["cpu.share"] == ["90", "%", "no", "source"]
    assert lines["loads.miss"] == ["the", "machine's"]
    assert lines["device.layer"][:3] == ["60", "us", "measured"]


def test_json(lrcsim: Any) -> None:
    rows = json.loads(lrcsim("runtimes", "--json", "-").out)
    assert [row["name"] for row in rows] == runtime_names()
    one = json.loads(lrcsim("runtimes", "llama.cpp", "--hardware", "rtx-3090", "--json", "-").out)
    document = load_runtime("llama.cpp")
    assert one["numbers"] == document.numbers
    assert (one["released"], one["strategies"], one["formats"]) == (True, list(document.strategies), "gguf")
    assert one["hardware"] == {"name": "rtx-3090", "device": "cuda", "cpu": "desktop"}
    made = document.on(load_profile("rtx-3090"))
    for part in PARTS:
        assert one["on_hardware"][part] == {key: made.at(f"{part}.{key}") for key in keys(part)}
    assert "on_hardware" not in json.loads(lrcsim("runtimes", "llama.cpp", "--json", "-").out)


def test_toml_is_a_start_for_ones_own(lrcsim: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert lrcsim("runtimes", "llama.cpp", "--toml", path).code == 0
    assert load_runtime(path).numbers == load_runtime("llama.cpp").numbers
    assert lrcsim("runtimes", "llama.cpp", "--hardware", "rtx-3090", "--toml", path).code == 0
    profile = load_profile("rtx-3090")
    again, made = load_runtime(path).on(profile), load_runtime("llama.cpp").on(profile)
    assert (again.device, again.cpu, again.loads) == (made.device, made.cpu, made.loads)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("runtimes", "lama.cpp"), "did you mean 'llama.cpp'?"),
        (("runtimes", "missing.toml"), "cannot be read"),
        (("runtimes", "--hardware", "rtx-3090"), "name it"),
        (("runtimes", "llama.cpp", "--hardware", "rtx-309"), "did you mean 'rtx-3090'?"),
        (("run", "--hardware", "rtx-3090", "--runtime", "vlm"), "did you mean 'vllm'?"),
        (("run", "--runtime", "vllm"), "name a machine with it"),
    ],
)
def test_errors_are_one_line(refused: Any, arguments: tuple[str, ...], says: str) -> None:
    refused(says, *arguments)


def test_a_run_under_a_runtime(lrcsim: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[device]\nlayer = '1 s'\n", encoding="utf-8")
    arguments = ("run", "--cache", "2x", "--hardware", "rtx-3090")
    shown = lrcsim(*arguments, "--runtime", path)
    assert "on rtx-3090 under mine: " in shown.out
    assert "on rtx-3090: " in lrcsim(*arguments).out
    data = json.loads(lrcsim(*arguments, "--runtime", path, "--json", "-").out)
    assert data["config"]["runtime"] == "mine"
    assert data["run"]["options"]["runtime"] == str(path)
    assert data["time"]["overhead_s"] > data["trace"]["tokens"]
