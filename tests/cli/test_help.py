"""Help: two examples for every command, each of which is understood; options in sections."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest

from lrcsim.cli.examples import EXAMPLES
from lrcsim.cli.main import COMMANDS, cli
from lrcsim.cli.sections import SECTIONS


def leaves(command: click.Command, words: str) -> Iterator[str]:
    """Yield the words of every command below one."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from leaves(below, f"{words} {name}")
    else:
        yield words


def command_at(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_every_command_has_two_examples() -> None:
    found = [words for name in COMMANDS for words in leaves(command_at(name), name)]
    assert sorted(found) == sorted(EXAMPLES)
    assert all(len(lines) >= 2 for lines in EXAMPLES.values())


@pytest.mark.parametrize("words", EXAMPLES)
def test_examples_are_understood_and_stand_in_the_help(words: str, lrcsim: Any) -> None:
    shown = lrcsim(*words.split(), "--help").out
    for line in EXAMPLES[words]:
        assert line in shown
        program, *arguments = shlex.split(line)
        assert program == "lrcsim"
        assert " ".join(arguments).startswith(words)
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context("lrcsim", list(arguments))  # an unknown option or a missing argument is a UsageError


def test_options_of_a_run_stand_in_sections(lrcsim: Any) -> None:
    shown = lrcsim("run", "--help").out.splitlines()
    places = [shown.index(f"{SECTIONS[name]}:") for name in ("cache", "serving", "machine", "")]
    assert places == sorted(places)
    at = {
        option: next(i for i, line in enumerate(shown) if line.strip().startswith(f"{option} "))
        for option in ("--policy", "--draft", "--miss", "--json")
    }
    assert places[0] < at["--policy"] < places[1] < at["--draft"] < places[2] < at["--miss"] < places[3] < at["--json"]


@pytest.mark.parametrize("kind", ["prefetchers", "miss-actions", "routes"])
def test_lists_of_plug_ins(kind: str, lrcsim: Any) -> None:
    from lrcsim.cli.plugins import registry_of

    shown = lrcsim(kind).out
    for name, plugin in registry_of(kind).built_in.items():
        assert name in shown
        one = lrcsim(kind, name)
        assert one.code == 0
        assert one.out.startswith(f"{name}: " if not plugin.aliases else f"{name} (also ")
        for param in plugin.params:
            assert f"  {param.name} = {param.default}: " in one.out
    wrong = lrcsim(kind, "no-such-thing")
    assert wrong.code == 1
    assert "no-such-thing" in wrong.err


@pytest.mark.parametrize("group", [[], ["trace"]])
def test_a_group_alone_shows_its_help_once(group: list[str], lrcsim: Any) -> None:
    code, out, err = lrcsim(*group)
    assert (code, out) == (2, "")
    assert err.count("Usage: ") == 1
    assert err.strip() == lrcsim(*group, "--help").out.strip()
