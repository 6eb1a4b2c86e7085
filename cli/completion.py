"""Completion in shells: of commands and options, of the values of options, of names and of files.

What an option may be is read from the name of its parameter (`NAMES`) or from what stands for its value in help:
words in small letters are values (``layer|model``), ``FILE`` and its like are files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from lrcsim.cli.screen import echo

VARIABLE = "_LRCSIM_COMPLETE"
"""What a shell sets when it asks; click reads it."""

FILES = {"FILE", "TRACE", "CSV", "CONFIG", "OUT.h5", "FOLDER", "DIR", "RESULT", "RESULT..."}
"""Words in help that stand for a file."""

FILE_ARGUMENTS = {"trace", "traces", "path", "source", "spec", "table", "results", "traces_paths"}
"""Arguments of commands that are files."""

FILES_TOO = {"hardware", "models", "runtimes"}
"""Commands whose NAME may be a file."""

TRACES = {"trace", "traces", "path", "trace_path", "profile"}
"""Parameters that may be a trace that comes with lrcsim."""


def _policies() -> Iterable[str]:
    from lrcsim.policies import BUILT_IN

    return BUILT_IN


def _machines() -> Iterable[str]:
    from lrcsim.hardware import component_names, machine_names

    return dict.fromkeys([*machine_names(), *component_names("gpu"), "auto"])


def _models() -> Iterable[str]:
    from lrcsim.models import model_names

    return model_names()


def _runtimes() -> Iterable[str]:
    from lrcsim.runtimes import runtime_names

    return runtime_names()


def _plugins(kind: str) -> Callable[[], Iterable[str]]:
    def names() -> Iterable[str]:
        from lrcsim.cli.plugins import registry_of

        return registry_of(kind).built_in

    return names


NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "policy": _policies,
    "policies": _policies,
    "dram_policy": _policies,
    "hardware": _machines,
    "model": _models,
    "models": _models,
    "named": _models,
    "runtime": _runtimes,
    "runtimes": _runtimes,
    "prefetch": _plugins("prefetchers"),
    "prefetchers": _plugins("prefetchers"),
    "miss": _plugins("miss-actions"),
    "miss-actions": _plugins("miss-actions"),
    "route": _plugins("routes"),
    "routes": _plugins("routes"),
    "cache": lambda: ("1x", "2x", "4x", "25%"),
    "sizes": lambda: ("1x", "2x", "4x", "25%"),
}
"""Names that a value may be, by parameter, and for the argument NAME by command."""


def values_of(param: click.Parameter, command: str) -> tuple[list[str], bool]:
    """Return the values known of a parameter, and whether it may be a file.

    Args:
        param: of a command.
        command: the command's name.
    """
    key = command if isinstance(param, click.Argument) and param.name == "name" else param.name or ""
    if isinstance(param.type, click.Choice):
        return [str(one) for one in param.type.choices], False
    words = re.split(r"[|\[\]]", param.metavar or "")
    values = list(NAMES[key]()) if key in NAMES else [word for word in words if word and not re.search(r"[A-Z ]", word)]
    if key in TRACES:
        from lrcsim.traces.trace import BUNDLED

        values += list(BUNDLED)
    is_file = isinstance(param, click.Argument) and (param.name in FILE_ARGUMENTS or key in FILES_TOO)
    return list(dict.fromkeys(values)), is_file or bool(FILES & set(words))


def complete(param: click.Parameter, command: str, incomplete: str) -> list[CompletionItem]:
    """Return what a value that somebody has begun to write may become; after a comma the next of a list."""
    values, may_be_file = values_of(param, command)
    before, comma, last = incomplete.rpartition(",")
    found = [CompletionItem(f"{before}{comma}{value}") for value in values if value.startswith(last)]
    if may_be_file and not comma:
        found.insert(0, CompletionItem(incomplete, type="file"))
    return found


def completing(command: click.Command) -> click.Command:
    """Let a command and those below it complete the values of their parameters."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            completing(below)
        return command
    for param in command.params:
        if isinstance(param, click.Option) and (param.is_flag or param.count):
            continue

        param.shell_complete = _asks(param, command.name or "")  # type: ignore[method-assign]  # of this one alone
    return command


def _asks(param: click.Parameter, command: str) -> Any:
    """Return what click calls to complete a parameter."""
    return lambda _, incomplete: complete(param, command, incomplete)


BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response line type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    for line in $response; do
        type="${line%%%%,*}"
        value="${line#*,}"
        if [[ $type == file || $type == dir ]]; then
            compopt -o default
        else
            COMPREPLY+=("$value")
        fi
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """bash, which takes words apart at colons: what stands before one in a word is not to be said again."""

    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one at the cursor, and that one, out of the whole line."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        self.typed = "" if not words or line[-1:].isspace() else words.pop()
        return words, self.typed

    def format_completion(self, item: CompletionItem) -> str:
        """Write an item's kind and the part of its value that bash replaces."""
        typed = self.typed.partition("=")[2] if self.typed.startswith("--") else self.typed
        cut = typed.rfind(":") + 1 if ":" in os.environ.get("COMP_BREAKS", ":") else 0
        return f"{item.type},{item.value[cut:]}"


add_completion_class(Bash)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, names and files.

    \b
    bash: eval "$(lrcsim completion bash)" in ~/.bashrc (bash 4.4 or later)
    zsh:  eval "$(lrcsim completion zsh)" in ~/.zshrc, after compinit
    fish: lrcsim completion fish > ~/.config/fish/completions/lrcsim.fish
    """  # noqa: D301
    made: Any = get_completion_class(shell)
    found = made(click.get_current_context().find_root().command, {}, "lrcsim", VARIABLE)
    for line in (found.source_template % found.source_vars()).splitlines():
        echo(line)
