"""The console: what stands in files is shown as it is (`lrcsim.base.text`), and cannot steer a terminal or a table."""

from __future__ import annotations

import codecs
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, TextIO

import click

from lrcsim.base.text import BRACKET, SLASH, escaped, plain, printable

TAGS = "|".join(("bold", "dim", "green", "red", "yellow"))
TAG = re.compile(r"(\\*)\[([a-z#/@][^[]*?)\]")
"""What rich takes for markup."""

OURS = re.compile(rf"/?(?:{TAGS})")
"""The markup that the commands themselves write."""

KEPT = f"\n\t{BRACKET}{SLASH}"
"""What a console is given to lay out."""


GLUE = "\ue0fd"
"""Stands for the blank between a number and its unit, where no line is broken, until it is printed."""

BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[KMGT]?i?B(?:/s)?|[mun]?s|tokens?(?:/s)?|experts?|GB/s|layers?)(?![\w/]))")
"""A blank that belongs to a number with a unit."""


def glued(text: str) -> str:
    """Return a text whose numbers stand on one line with their units (`GLUE`), of the same length."""
    return BEFORE_UNIT.sub(GLUE, text)


def echo(text: object, *, err: bool = False, whole: bool = False) -> None:
    """Print one line, on which control characters, line ends among them, are shown.

    On a terminal that is narrower, it goes on below, broken between words; in a pipe it is one line.

    Args:
        text: the line.
        err: to standard error.
        whole: it is to be copied, as a command, and never broken.
    """
    line = plain(printable(str(text), keep=BRACKET + SLASH))
    for part in [line] if whole else _broken(line, sys.stderr if err else sys.stdout):
        click.echo(part, err=err)


def _broken(line: str, file: TextIO | None) -> list[str]:
    """Return a line as several where a terminal is narrower; what begins with blanks goes on behind as many."""
    width = terminal_width(file)
    if width is None or len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    broken = textwrap.wrap(
        glued(line), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, tabsize=1
    )
    return [part.replace(GLUE, " ") for part in broken]


def terminal_width(file: TextIO | None) -> int | None:
    """Return the letters on a line of the terminal that a file is, as ``COLUMNS`` has it first; None: it is none."""
    if file is None or not file.isatty():
        return None
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"]) or None
    return terminal_size(file)[0]


def _degraded(error: UnicodeError) -> tuple[str | bytes, int]:
    """Give what the encoding of the output has not in characters that it has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, escaped(character)) for character in characters), error.end


PLAIN = {
    "–": "-", "—": "-", "−": "-", "─": "-", "━": "-", "│": "|", "┃": "|", "×": "x", "·": ".", "•": "*", "…": "...",
    "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "ρ": "rho", "’": "'", "“": '"', "”": '"', "\xa0": " ",
    "╸": "-", "╺": "-", "⠋": "*",
}  # fmt: skip

DEGRADE = "lrcsim_degrade"
"""Name of the error handler of standard output and error."""

codecs.register_error(DEGRADE, _degraded)


def encodable(text: str, encoding: str) -> str:
    """Return a text in characters that an encoding has, so that columns are as wide as they will be."""
    if text.isascii() or encoding.lower().replace("-", "") == "utf8":
        return text
    return text.encode(encoding, DEGRADE).decode(encoding)


def _escape_markup(text: str) -> str:
    """Escape for rich what looks like markup and is none of ours."""

    def one(found: re.Match[str]) -> str:
        slashes, tag = found.groups()
        if OURS.fullmatch(tag) or len(slashes) % 2:  # ours; or escaped already
            return found.group()
        return f"{slashes}{slashes}\\[{tag}]"

    return TAG.sub(one, text)


def Screen(*, stderr: bool = False) -> Any:  # noqa: N802  # a class, made when rich is needed
    """Return a rich console that shows what is in files as it is; wide enough for the tables when it is no terminal."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.errors import MarkupError
    from rich.segment import Segment
    from rich.text import Text

    class _Screen(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            text = glued(encodable(printable(text, keep=KEPT), self.encoding))
            if options.get("markup") is not False:
                try:
                    return self._plain(super().render_str(_escape_markup(text), **options))
                except MarkupError:
                    options["markup"] = False
            return self._plain(super().render_str(text, **options))

        def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
            """Print; a text that stays one line in a pipe is broken on a terminal, between words and nowhere else."""
            if soft_wrap and self.file.isatty() and isinstance(objects[0], str):
                words = self.render_str(objects[0]).plain.split()
                soft_wrap = any(Text(word).cell_len > self.width for word in words)
            super().print(*objects, soft_wrap=soft_wrap, **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                    yield segment
                else:
                    yield Segment(plain(printable(segment.text.replace(GLUE, " "), keep=KEPT)), segment.style)

        @staticmethod
        def _plain(text: Text) -> Text:
            if BRACKET in text.plain or SLASH in text.plain:
                text.plain = plain(text.plain)
            return text

    file = sys.stderr if stderr else sys.stdout
    width: int | None = None if file.isatty() else 110
    height: int | None = None
    if file.isatty() and not stderr:  # a progress bar follows its terminal's width by itself
        width, height = terminal_size(file)
    return _Screen(stderr=stderr, highlight=False, emoji=False, width=width, height=height)


def terminal_size(file: TextIO) -> tuple[int | None, int | None]:
    """Return width and height of the terminal that a file is, of a dumb one too; None: rich knows better."""
    try:
        size = os.get_terminal_size(file.fileno())
    except (OSError, ValueError):
        return None, None
    if os.environ.get("COLUMNS", "").isdigit() or not size.columns:
        return None, None
    return size.columns, max(size.lines, 1)
