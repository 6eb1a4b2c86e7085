r"""The door of all text to terminals: nothing that stands in a file can steer a terminal or a table's markup.

Names of models, layers, domains and policies, keys of headers and messages of errors come out of files. Control
characters (escape sequences among them), marks that turn the reading direction, and halves of characters are shown as
``\x1b``, ``\u202e``; square brackets stay what they are.
"""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import click

__all__ = ["DEGRADE", "Screen", "echo", "printable", "quoted"]

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that are not seen, or steer what is."""

JOINERS = "\u200c\u200d\u00ad"
"""Of these the ones that ordinary words are written with."""

TAGS = "|".join(("bold", "dim", "green", "red", "yellow"))
TAG = re.compile(r"(\\*)\[([a-z#/@][^[]*?)\]")
"""What rich takes for markup."""

OURS = re.compile(rf"/?(?:{TAGS})")
"""The markup that the commands themselves write."""

BRACKET, SLASH = "\ue0ff", "\ue0fe"
"""Stand for ``[`` and a backslash out of a file until they are printed; out of a file they are shown escaped."""


KEPT = f"\n\t{BRACKET}{SLASH}"
"""What a console is given to lay out."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with everything that is not simply seen written as an escape.

    Args:
        text: any.
        keep: control characters to leave, line ends say.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _seen(character, keep) else _escaped(character) for character in text)


def _seen(character: str, keep: str) -> bool:
    return character in keep or character in JOINERS or unicodedata.category(character) not in HIDDEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def quoted(value: Any) -> Any:
    """Return JSON values for a display: every text in them as it is, whatever stands in it, on one line."""
    if isinstance(value, str):
        own = value.replace(BRACKET, _escaped(BRACKET)).replace(SLASH, _escaped(SLASH))
        return printable(own).replace("[", BRACKET).replace("\\", SLASH)
    if isinstance(value, dict):
        return {quoted(key): quoted(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [quoted(one) for one in value]
    return value


def echo(text: object, *, err: bool = False) -> None:
    """Print one line, on which control characters, line ends among them, are shown."""
    click.echo(_back(printable(str(text), keep=BRACKET + SLASH)), err=err)


def _back(text: str) -> str:
    return text.replace(BRACKET, "[").replace(SLASH, "\\")


def _degraded(error: UnicodeError) -> tuple[str | bytes, int]:
    """Give what the encoding of the output has not in characters that it has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, _escaped(character)) for character in characters), error.end


PLAIN = {
    "–": "-", "—": "-", "−": "-", "─": "-", "━": "-", "│": "|", "┃": "|", "×": "x", "·": ".", "•": "*", "…": "...",
    "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "ρ": "rho", "’": "'", "“": '"', "”": '"', "\xa0": " ",
    "╸": "-", "╺": "-", "⠋": "*",
}  # fmt: skip

DEGRADE = "lrcsim_degrade"
"""Name of the error handler of standard output and error."""

codecs.register_error(DEGRADE, _degraded)


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
            text = printable(text, keep=KEPT)
            if options.get("markup") is not False:
                try:
                    return self._plain(super().render_str(_escape_markup(text), **options))
                except MarkupError:
                    options["markup"] = False
            return self._plain(super().render_str(text, **options))

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                    yield segment
                else:
                    yield Segment(_back(printable(segment.text, keep=KEPT)), segment.style)

        @staticmethod
        def _plain(text: Text) -> Text:
            if BRACKET in text.plain or SLASH in text.plain:
                text.plain = _back(text.plain)
            return text

    file = sys.stderr if stderr else sys.stdout
    return _Screen(stderr=stderr, highlight=False, emoji=False, width=None if file.isatty() else 110)
