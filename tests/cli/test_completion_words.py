"""Words that are kept for completion: the same as the commands say, made once, made anew when lrcsim changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from lrcsim.cli import completion_words
from lrcsim.cli.completion_words import Document, command_from, kept_at, words_of_all
from lrcsim.cli.main import COMMANDS, cli, command_of


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def words() -> dict[str, Document]:
    return words_of_all(COMMANDS, command_of)


def leaves(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """Every command below one that is no group."""
    if not isinstance(command, click.Group):
        return [(name, command)]
    return [leaf for below, one in command.commands.items() for leaf in leaves(one, f"{name} {below}")]


def test_they_have_every_option_of_every_command() -> None:
    made = words()
    assert list(made) == list(COMMANDS)
    for name in COMMANDS:
        real, kept = leaves(command_of(name), name), leaves(command_from(name, made[name]), name)
        assert [one for one, _ in real] == [one for one, _ in kept]
        for (_, mine), (_, theirs) in zip(real, kept, strict=True):
            for attribute in ("opts", "secondary_opts", "nargs", "param_type_name"):
                told, found = ([getattr(param, attribute) for param in one.params] for one in (mine, theirs))
                assert told == found, (name, attribute)


def test_they_are_made_once_and_read_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    first = words()
    assert json.loads(kept_at().read_text()) == json.loads(json.dumps(first))
    kept_at().write_text(json.dumps({"run": {"help": "kept", "params": []}}))
    assert words()["run"]["help"] == "kept"
    kept_at().write_text("{")
    assert words() == first
    older = kept_at()
    monkeypatch.setattr(completion_words, "SOURCES", ("base", "cli"))  # other files, as after a change
    assert kept_at() != older
    words()
    assert [path.name for path in older.parent.iterdir()] == [kept_at().name]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_where_nothing_can_be_kept_they_are_worked_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "run" in words()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "lrcsim").write_text("")
    assert "run" in words()


def test_a_tab_imports_nothing_slow() -> None:
    """Neither numpy (0.1 s) nor numba (0.5 s), once the words are kept."""
    words()
    code = (
        "import sys; from click.shell_completion import ShellComplete; from lrcsim.cli.main import cli; "
        "ask = ShellComplete(cli, {}, 'lrcsim', 'X').get_completions; "
        "print([one.value for one in ask(['run', '--policy'], 'belady-')]); "
        "print([one for one in ('numba', 'numpy', 'rich', 'lrcsim.simulator') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['belady-bypass']", "[]"]


def test_an_option_that_takes_no_value_is_no_question_for_one() -> None:
    ask = ShellComplete(cli, {}, "lrcsim", "X").get_completions
    assert "lru" in [one.value for one in ask(["run", "--cold", "--policy"], "l")]
    assert [one.value for one in ask(["run"], "--war")] == ["--warm"]
