"""What runs of the bundled traces say besides: a toy's bytes and speeds are no model's, and commands that come next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.cli.bundled import program
from lrcsim.traces import RoutingTrace


def next_commands(err: str) -> list[list[str]]:
    """Return the command lines under "Next", without ``lrcsim``."""
    lines = err[err.index("\nNext\n") :].splitlines()[2:]
    assert all(line.startswith("lrcsim ") for line in lines)
    return [shlex.split(line.partition("  ")[0])[1:] for line in lines]


def test_the_end_of_the_first_command_leads_on(lrcsim: Callable[..., Any]) -> None:
    code, out, hints = lrcsim("run", "--policy", "lru", "--cache", "2x")
    assert code == 0
    assert out.splitlines()[-1].startswith("loaded ")  # what is piped on is the result
    # 8 layers x 64 experts of 3 matrices 256 x 128 of 2 bytes, 196,608; qwen3-30b-a3b has 48 layers x 128 experts
    said = " ".join(hints.split())
    assert "lrcsim-toy-baseline is a toy, 512 experts of 192.0 KiB" in said
    assert "qwen3-30b-a3b has 6,144 of 2.7 MiB (q4_k_m)" in said
    commands = next_commands(hints)
    assert len(commands) == 3
    for command in commands:
        code, shown, err = lrcsim(*command)
        assert (code, err) == (0, "")
        assert shown


def test_a_machine_is_taken_along_and_the_note_comes_before_its_speed(lrcsim: Callable[..., Any]) -> None:
    code, out, hints = lrcsim("run", "--hardware", "RTX 4090")
    assert code == 0
    assert out.index("is a toy") < out.index("tokens/s  ")
    assert "toy" not in hints
    first = next_commands(hints)[0]
    assert first == ["plan", "qwen3-30b-a3b", "--hardware", "RTX 4090"]
    code, shown, _ = lrcsim(*first)
    assert code == 0
    assert "on rtx-4090" in shown


def test_who_names_a_bundled_trace_knows_the_way_on_but_not_what_speed_it_has(lrcsim: Callable[..., Any]) -> None:
    code, out, err = lrcsim("run", "bundled:generated", "--hardware", "rtx-4090")
    assert (code, err) == (0, "")
    assert "is a toy" in out


def test_speeds_that_are_compared_are_a_toy_s_too(lrcsim: Callable[..., Any]) -> None:
    """As those of the ceilings; hits alone need no word, and JSON is alone."""
    machine = ["--hardware", "rtx-4090"]
    for command in (
        ["compare", "--policy", "lru", "--cache", "2x", *machine],
        ["ceilings", "--from", "none", *machine],
    ):
        code, out, err = lrcsim(*command)
        assert (code, err) == (0, "")
        assert "lrcsim-toy-baseline is a toy, 512 experts of 192.0 KiB" in out
    assert " toy, " not in lrcsim("compare", "--policy", "lru", "--cache", "2x")[1]
    json.loads(lrcsim("compare", "--policy", "lru", "--cache", "2x", *machine, "--json", "-")[1])


def test_a_trace_of_one_s_own_ends_as_before(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    bundled = RoutingTrace.open()
    RoutingTrace.from_arrays(bundled.experts[:50], num_experts=64, model=bundled.model).save(tmp_path / "t.h5")
    code, out, err = lrcsim("run", str(tmp_path / "t.h5"), "--hardware", "rtx-4090")
    assert (code, err) == (0, "")
    assert " toy" not in out


def test_json_is_alone(lrcsim: Callable[..., Any]) -> None:
    code, out, err = lrcsim("run", "--json", "-")
    assert (code, err) == (0, "")
    json.loads(out)


def test_a_real_model_without_a_trace_of_it_leads_to_the_plan(lrcsim: Callable[..., Any]) -> None:
    code, out, err = lrcsim("run", "--model", "Qwen/Qwen3-30B-A3B", "--hardware", "rtx-4090")
    assert (code, out) == (1, "")
    assert "is of lrcsim-toy-baseline, not of qwen3-30b-a3b" in err
    assert err.endswith("plan without one: lrcsim plan qwen3-30b-a3b --hardware rtx-4090\n")


def test_the_bundled_trace_s_own_model_is_taken(lrcsim: Callable[..., Any]) -> None:
    assert lrcsim("run", "--model", "bundled", "--hardware", "rtx-4090")[0] == 0


def test_commands_are_written_as_lrcsim_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "lrcsim"
    script.write_text("")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    for typed, called, words in (
        (["python", str(script), "run"], str(script), [str(script)]),  # the environment is not active
        (["bin/python", "-m", "lrcsim", "run"], "/lib/lrcsim/__main__.py", ["bin/python", "-m", "lrcsim"]),
        (["python", "-m", "pytest"], "/lib/pytest/__main__.py", ["lrcsim"]),
    ):
        monkeypatch.setattr("sys.orig_argv", typed)
        monkeypatch.setattr("sys.argv", [called])
        assert program() == words
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == ["lrcsim"]
