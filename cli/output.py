"""What the commands share: JSON to a file or standard output, a progress bar that appears when it is worth it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = [
    "capacity_text",
    "check_picture",
    "console",
    "human_bytes",
    "json_option",
    "option_bytes",
    "percent",
    "progress_bar",
    "short_dtype",
    "write_json",
]

PICTURES = (".png", ".svg", ".pdf")

json_option = click.option(
    "--json", "json_path", metavar="FILE", help="Write the result as JSON; with - to standard output, and nothing else."
)


def check_picture(path: str | None) -> None:
    """Refuse a picture that could not be written, before the work is done.

    Raises:
        ConfigError: its name has another ending than .png, .svg, .pdf.
    """
    from lrcsim.errors import ConfigError

    if path is not None and not path.lower().endswith(PICTURES):
        raise ConfigError(f"--plot {path}: pictures are {', '.join(PICTURES)}, name one of these")


def write_json(path: str, value: Any) -> None:
    """Write JSON to a file, which appears complete or not at all, or to standard output for ``-``.

    Raises:
        TraceError: the file cannot be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from lrcsim.traces.atomic import replacing

    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def console(*, stderr: bool = False) -> Any:
    """Return a rich console; wide enough for the tables when the output is no terminal."""
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if file.isatty() else 110)


@contextmanager
def progress_bar(what: str, *, after: float = 1.0) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total); a bar appears on a terminal's standard error after some seconds."""
    started = time.monotonic()
    bar: Any = None
    task: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar, task
        if bar is None:
            if not sys.stderr.isatty() or time.monotonic() - started < after or done >= total:
                return
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=console(stderr=True), transient=True)
            task = bar.add_task(what, total=total)
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def percent(rate: float | None, digits: int = 1) -> str:
    """Write a rate as people read it: ``74.9 %``, or a dash when it is not known."""
    return "–" if rate is None else f"{100 * rate:.{digits}f} %"


def option_bytes(option: str, text: str) -> int:
    """Read the value of an option that is a number of bytes: ``2752512``, ``2.5MiB``.

    Raises:
        ConfigError: it is none, or zero.
    """
    from lrcsim.errors import ConfigError
    from lrcsim.simulator.capacity import parse_bytes

    amount = int(text) if text.isdecimal() else parse_bytes(text)
    if not amount:
        raise ConfigError(f"{option} {text!r} is not a size: write bytes as 2752512 or with a unit, 2.5MiB")
    return amount


def capacity_text(config: dict[str, Any]) -> str:
    """Return what a cache size came to, from the ``config`` of a run."""
    sizes = config["capacity"]
    if config["capacity_unit"] == "bytes":
        return f"{human_bytes(sizes[0])} in one pool"
    if config["scope"] == "model":
        return f"{sizes[0]:,} experts in one pool"
    low, high = min(sizes), max(sizes)
    return f"{low:,} experts per layer" if low == high else f"{low:,} to {high:,} experts per layer"


def human_bytes(amount: float | None) -> str:
    """Write bytes in binary units: ``155.8 MiB``, or a dash when they are not known."""
    if amount is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:,.0f} B" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def short_dtype(dtype: str) -> str:
    """Write a dtype, with the number of its overrides in their place where they are many."""
    base, *overrides = dtype.split(",")
    return dtype if len(dtype) <= 48 else f"{base} with {len(overrides)} exceptions"
