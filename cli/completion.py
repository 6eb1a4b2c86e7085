"""Completion in shells: of commands and options, of the values of options, of names and of files.

What an option may be is read from the name of its parameter (`NAMES`) or from what stands for its value in help:
words in small letters are values (``layer|model``), ``FILE`` and its like are files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from lrcsim.base.lists import Grammar, split_values
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


OPTION_OF = {"sizes": "cache"}
"""Options of a run whose lists are written as those of a parameter of another name."""

LISTS = {("curve", "policy"), ("curve", "sizes"), ("sch", "cache"), ("report", "policies")}
"""Parameters that take lists, with their commands, besides those of `compare`."""

WORDS = re.compile("[a-z]+|[0-9]+")
"""Words of a name."""


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


def list_grammar(name: str, command: str) -> Grammar | None:
    """Return how a list of values of a parameter is written; None: it takes one value only."""
    from lrcsim.cli.compare_options import listed
    from lrcsim.simulator.setup.option_lists import grammar_of

    if (command, name) not in LISTS and (command != "compare" or name not in listed()):
        return None
    return grammar_of(OPTION_OF.get(name, name))


def complete(
    values: Sequence[str], may_be_file: bool, grammar: Grammar | None, incomplete: str
) -> list[CompletionItem]:
    """Return what a value that somebody has begun to write may become.

    Args:
        values: those known.
        may_be_file: whether it may be a file instead.
        grammar: of a list, of whose last value is asked; None: it is no list.
        incomplete: what stands there so far.
    """
    before, last, more = ("", incomplete, values) if grammar is None else _next(incomplete, grammar, values)
    found = [CompletionItem(f"{before}{value}") for value in _meant(last, more)]
    if may_be_file and not before:
        found.insert(0, CompletionItem(incomplete, type="file"))
    return found


def _next(incomplete: str, grammar: Grammar, values: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """Return what stands before the last value of a list, that value, and what it may become.

    Behind a comma that may be what goes on with the value before: ``cpu,ad`` becomes ``cpu,admit:``.
    """
    place = max(incomplete.rfind(","), incomplete.rfind(";")) + 1
    before, last = incomplete[:place], incomplete[place:]
    given = split_values(before, grammar)
    name = re.split("[,:]", given[-1])[0] if given else ""
    words = [f"{word}:" for word in grammar.words.get(name, ()) if not re.search(f",{word}\\b", given[-1])]
    return before, last, [*values, *words] if before.endswith(",") else values


def _meant(typed: str, values: Sequence[str]) -> list[str]:
    """Return the values that begin with what was typed, else those of whose words it has beginnings (``RTX 40``).

    Where several are meant and have less in common than what was typed, that is one of them, so that no shell puts what
    they have in common in its place.
    """
    found = [value for value in values if value.startswith(typed)]
    wanted = WORDS.findall(typed.lower())
    if found or not wanted:
        return found

    def has(value: str) -> bool:
        words = WORDS.findall(value.lower())
        return all(any(word.startswith(one) for word in words) for one in wanted)

    found = [value for value in values if has(value)]
    if len(found) > 1:
        same = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*found, strict=False)))
        found += [] if has(found[0][:same]) else [typed]
    return found


FISH = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \\
        COMP_CWORD=(commandline -ct | string collect) %(prog_name)s)
    for line in $response
        set -l told (string split -m 1 "," -- $line)
        switch $told[1]
            case file dir
                __fish_complete_path $told[2]
            case plain
                echo $told[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a named described response
    local type value help
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete \\
        %(prog_name)s)}")
    for type value help in ${response}; do
        if [[ $type == file || $type == dir ]]; then
            _path_files -f
        elif [[ $help == _ ]]; then
            named+=("$value")
        else
            described+=("$value:$help")
        fi
    done
    if (( $#named > 1 )) && [[ $named[-1] == "${(Q)words[CURRENT]}" && $named[1] != "$named[-1]"* ]]; then
        compstate[insert]=  # several that begin otherwise: they are listed, and what was typed stays
        compstate[list]="list force"
        named[-1]=()
    fi
    (( $#described )) && _describe -V unsorted described -U
    (( $#named )) && compadd -U -V unsorted -a named
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class Zsh(ZshComplete):
    """zsh, which would put what several values have in common in place of what was typed."""

    source_template = ZSH


class Fish(FishComplete):
    """fish, whose values may have commas: what stands before the first is the kind."""

    source_template = FISH


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
            [[ $value == *: ]] && compopt -o nospace
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
add_completion_class(Zsh)
add_completion_class(Fish)


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
        echo(line, whole=True)
