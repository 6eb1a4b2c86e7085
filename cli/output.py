"""What the commands share: JSON to a file or standard output, a progress bar that appears when it is worth it."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from lrcsim.base import compiling
from lrcsim.base.kinds import named
from lrcsim.cli.screen import Screen, echo

Command = TypeVar("Command", bound=Callable[..., Any])


TELL_EVERY = 30.0
"""Seconds between two lines that say how far work is, where standard error is no terminal."""


def json_option(command: Command) -> Command:
    """Give a command the option ``--json``; see before it runs that whatever it is to write can be written.

    With ``--json -`` all that is printed otherwise, by a user's policy too, goes to standard error.
    """

    @functools.wraps(command)
    def checked(*arguments: Any, **given: Any) -> Any:
        from lrcsim.cli.outputs import check_outputs

        check_outputs(given)
        if given.get("json_path") != "-":
            return command(*arguments, **given)
        with _only_json():
            return command(*arguments, **given)

    option = click.option(
        "--json",
        "json_path",
        metavar="FILE",
        help="Write the result as JSON; with - to standard output, and nothing else.",
    )
    return option(checked)  # type: ignore[return-value]  # it takes and gives what the command does


def options(*several: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return what gives a command several options, listed in this order."""

    def add(command: Command) -> Command:
        for option in reversed(several):
            command = option(command)
        return command

    return add


def figure_options(command: Command) -> Command:
    """Give a command with ``--plot`` the options that say how its figure is to look."""

    @functools.wraps(command)
    def drawn(*arguments: Any, **given: Any) -> Any:
        asked = {name: given.pop(f"figure_{name}") for name in ("size", "title", "style")}
        told = [f"--{name}" for name, value in asked.items() if value is not None]
        if not told:
            return command(*arguments, **given)
        if given.get("plot_path", given.get("plot")) is None:
            raise click.UsageError(f"{told[0]} is about the figure: give --plot FILE with it")
        from lrcsim.plots.settings import figures

        with figures(**asked):
            return command(*arguments, **given)

    add = options(
        click.option(
            "--size", "figure_size", metavar="SIZE", help="Of the figure: column, page or inches, 5x3.  [default: page]"
        ),
        click.option("--title", "figure_title", metavar="TEXT", help="Of the figure, in place of its own."),
        click.option(
            "--style",
            "figure_style",
            metavar="FILE",
            help="Matplotlib settings for the figure (.mplstyle), or a style's name: dark_background.",
        ),
    )
    return add(drawn)  # type: ignore[return-value]  # it takes and gives what the command does


server_options = options(
    click.option(
        "--cached-prefix",
        metavar="drop|keep",
        help="Of a server: prompt tokens out of its prefix cache did not run (drop), or count as run (keep); "
        "else as its answers say.",
    ),
    click.option(
        "--stop-on-error",
        is_flag=True,
        help="Of a server: end at a request that it refused or aborted, or without routing; else skip it.",
    ),
)


_json_stream: list[TextIO] = []
"""Where ``--json -`` goes while everything else goes to standard error."""


@contextmanager
def _only_json() -> Iterator[None]:
    _json_stream.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _json_stream.pop()


def write_json(path: str, value: Mapping[str, Any] | Sequence[Mapping[str, Any]], kind: str) -> None:
    """Write JSON to a file, which appears complete or not at all, or to standard output for ``-``.

    Args:
        path: the file, or ``-``.
        value: a document, or a list of them.
        kind: what it says that it is, in a list each (`lrcsim.base.kinds`).

    Raises:
        TraceError: the file cannot be written.
        ConfigError: standard output is closed.
    """
    from lrcsim.base.errors import ConfigError

    document = named(kind, value) if isinstance(value, Mapping) else [named(kind, row) for row in value]
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if path == "-":
        if sys.__stdout__ is None:
            raise ConfigError("--json - writes to standard output, which is closed: give a file")
        (_json_stream[-1] if _json_stream else sys.stdout).write(text)
        return
    if Path(path).exists() and not Path(path).is_file():  # /dev/stdout, a pipe: nothing to replace
        Path(path).write_text(text, encoding="utf-8")
        return
    from lrcsim.base.files import write_text

    write_text(path, text)


def answer(json_path: str | None, value: Any, kind: str) -> bool:
    """Write the result as JSON where ``--json`` asks for it; return whether it is to be shown as text too.

    Args:
        json_path: what ``--json`` was given.
        value: a document or a list of them, or a function that returns it, called only where it is written.
        kind: as for `write_json`.

    Raises:
        TraceError: the file cannot be written.
        ConfigError: standard output is closed.
    """
    if json_path is not None:
        write_json(json_path, value() if callable(value) else value, kind)
    return json_path != "-"


def console(*, stderr: bool = False) -> Any:
    """Return the console that tables are printed on (`lrcsim.cli.text`)."""
    return Screen(stderr=stderr)


@contextmanager
def progress_bar(what: str, *, after: float = 1.0, lines: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total); a bar appears on a terminal's standard error after some seconds.

    Args:
        what: what is being done.
        after: seconds.
        lines: for what takes minutes: where standard error is no terminal, a line each `TELL_EVERY` seconds.
    """
    started = last = time.monotonic()
    bar: Any = None
    task: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar, task, last
        if lines and done < total and not sys.stderr.isatty() and time.monotonic() - last >= TELL_EVERY:
            last = time.monotonic()
            echo(f"{what}: {100 * done / total:.0f} %", err=True)
        if bar is None:
            if not sys.stderr.isatty() or time.monotonic() - started < after or done >= total:
                return
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            bar = Progress(*columns, console=console(stderr=True), transient=True)
            task = bar.add_task(what, total=total)
            bar.start()
            compiling.shown_by = lambda words: bar.update(task, description=words or what)
        bar.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        if bar is not None:
            compiling.shown_by = None
            bar.stop()
