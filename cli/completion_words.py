"""What may be completed, by command: worked out once from the commands themselves, and kept on disk for the next <TAB>.

Importing a command of the simulator takes most of a second, which nobody waits for at a <TAB>. So the options of all
commands, with the values that are known of each, are kept as JSON in the user's cache folder, and made into commands of
click that can be asked and not run. The file is made anew when a file of lrcsim has changed; where it cannot be written
every question works it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from lrcsim.base.errors import LrcsimError
from lrcsim.base.files import write_text
from lrcsim.base.folders import home_cache
from lrcsim.base.lists import Grammar

ROOT = Path(__file__).resolve().parents[1]

SOURCES = (
    *("base", "cli", "hardware", "models", "policies", "prediction", "runtimes", "simulator/setup", "traces"),
    *("hardware/data", "hardware/data/components", "models/data", "runtimes/data"),
)
"""Folders of lrcsim that options and the names of their values come from."""

Document = dict[str, Any]


def kept_at() -> Path:
    """Return where the words are kept: in the user's cache folder, by this installation and the files of it."""
    files = [entry for folder in SOURCES for entry in _files(ROOT / folder)]
    stamp = [(entry.name, (said := entry.stat()).st_size, said.st_mtime_ns) for entry in files]
    here, made_from = (sha256(repr(of).encode()).hexdigest()[:12] for of in (str(ROOT), sorted(stamp)))
    return home_cache() / "lrcsim" / f"completion-{here}-{made_from}.json"


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name.endswith((".py", ".toml")))


def words_of_all(names: Iterable[str], command_of: Callable[[str], click.Command]) -> dict[str, Document]:
    """Return what may be completed, by the command's name.

    Args:
        names: of all commands.
        command_of: imports one; called where nothing is kept.
    """
    try:
        path = kept_at()
        found: dict[str, Document] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):  # not there yet, or no longer what was written
        pass
    made = {name: words_of(command_of(name), name) for name in names}
    try:
        path = kept_at()
        path.parent.mkdir(parents=True, exist_ok=True)
        for older in path.parent.glob(f"{path.name.rpartition('-')[0]}-*.json"):
            older.unlink(missing_ok=True)
        write_text(str(path), json.dumps(made))
    except (OSError, LrcsimError):  # nowhere to keep it: the next question works it out again
        pass
    return made


def words_of(command: click.Command, name: str) -> Document:
    """Return what may be completed of a command and those below it, as a value for JSON.

    Args:
        command: as it runs.
        name: by which its arguments are known (`lrcsim.cli.completion.NAMES`).
    """
    if isinstance(command, click.Group):
        return {"help": command.get_short_help_str(), "below": {n: words_of(c, n) for n, c in command.commands.items()}}
    from lrcsim.cli.completion import list_grammar, values_of

    params = []
    for param in command.params:
        told: Document = {"name": param.name, "opts": [*param.opts], "nargs": param.nargs}
        if isinstance(param, click.Option):
            told |= {"secondary": [*param.secondary_opts], "help": param.help, "multiple": param.multiple}
            told["flag"] = bool(param.is_flag or param.count)
        if not told.get("flag"):
            told["values"], told["file"] = values_of(param, name)
            told["grammar"] = list_grammar(param.name or "", name)
        params.append(told)
    return {"help": command.get_short_help_str(), "params": params}


def command_from(name: str, words: Document) -> click.Command:
    """Make a command that can be asked what may stand next, and not run."""
    if "below" in words:
        below = {one: command_from(one, said) for one, said in words["below"].items()}
        return click.Group(name, commands=below, short_help=words["help"])
    return click.Command(name, params=[_param(told) for told in words["params"]], short_help=words["help"])


def _param(told: Document) -> click.Parameter:
    if "help" not in told:
        param: click.Parameter = click.Argument(told["opts"], nargs=told["nargs"], required=False)
    else:
        names = ["/".join(pair) for pair in zip(told["opts"][:1], told["secondary"][:1], strict=False)]
        names = [told["name"], *(names or told["opts"])]
        rest = {"is_flag": True} if told["flag"] else {"nargs": told["nargs"], "multiple": told["multiple"]}
        param = click.Option(names, help=told["help"], **rest)
    if not told.get("flag"):
        param.shell_complete = _asks(told)  # type: ignore[method-assign]  # of this one alone
    return param


def _asks(told: Document) -> Any:
    """Return what click calls to complete a parameter."""
    from lrcsim.cli.completion import complete

    def asked(_: click.Context, incomplete: str) -> list[CompletionItem]:
        grammar = None if told["grammar"] is None else Grammar(*told["grammar"])
        return complete(told["values"], told["file"], grammar, incomplete)

    return asked
