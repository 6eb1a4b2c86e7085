"""Tables on the terminal: every command's rows are printed here, so that no number and no name is ever cut.

A table that fits stands as it is. Else columns of text take several lines, broken between words, down to `NARROW`
letters. Where that is not enough either, rows are stacked: the first cell on a line, below it the others, each behind
its heading, but for dashes, which say that nothing is known. Nothing else is left out, and nothing is stacked where the
output is no terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrcsim.base.text import quoted
from lrcsim.cli.output import console

if TYPE_CHECKING:
    from rich.segment import Segment

NARROW = 24
"""Letters of a line of text in a column at least; columns that need no more are not broken."""

INDENT, BETWEEN = 2, 3
"""Blanks before the lines of a stacked row, and between two of its cells."""


def print_rows(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    whole: Collection[int] = (),
    gap: int = 2,
) -> None:
    """Print rows of cells under headings; no headings are shown where all are empty.

    Args:
        headings: one a column.
        rows: cells, with markup of ours; what comes out of files goes through `quoted` first.
        left: columns that stand left; the others, which hold numbers, stand right and are never broken.
        whole: columns at the left of which no cell takes a second line either.
        gap: spaces between columns.
    """
    out = console()
    lines = [list(row) for row in rows]
    columns = [[headings[place], *(row[place] for row in lines)] for place in range(len(headings))]
    natural = [max(map(_width(out), cells)) for cells in columns]
    text = [place for place in left if place not in whole and natural[place] > NARROW]
    least = [
        max(NARROW, *(_longest_word(out, cell) for cell in cells)) if place in text else natural[place]
        for place, cells in enumerate(columns)
    ]
    needed = sum(least) + gap * (len(headings) - 1)
    if needed <= out.width or not out.file.isatty():
        _print_table(out, headings, lines, least, left, text, gap, max(out.width, needed))
    elif len(headings) == 2:
        _print_pairs(out, lines, natural[0] + gap)
    else:
        _print_stacked(out, headings, lines)


def _width(out: Any) -> Any:
    """Return what gives the letters of a cell."""
    return lambda cell: out.render_str(cell).cell_len


def _longest_word(out: Any, cell: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, out.render_str(cell).plain.split()), default=0)


def _print_table(
    out: Any,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    least: Sequence[int],
    left: Collection[int],
    text: Collection[int],
    gap: int,
    width: int,
) -> None:
    from rich.segment import Segment, Segments
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_header=any(headings))
    for place, heading in enumerate(headings):
        broken = place in text
        table.add_column(
            heading,
            justify="left" if place in left else "right",
            no_wrap=not broken,
            min_width=least[place] if broken else None,
        )
    for row in rows:
        table.add_row(*row)
    out.width = width
    lines = out.render_lines(table, pad=False)
    out.print(Segments([part for line in lines for part in (*_without_end(line), Segment.line())]), end="", crop=False)


def _without_end(line: list[Segment]) -> list[Segment]:
    """Return a line without the blanks that fill its last column."""
    from rich.segment import Segment

    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    return [*kept[:-1], Segment(kept[-1].text.rstrip(), kept[-1].style)] if kept else []


def _print_pairs(out: Any, rows: Sequence[Sequence[str]], wide: int) -> None:
    """Print rows of a name and a value: on one line where they fit, else the value on lines of its own."""
    for name, value in rows:
        first = out.render_str(name)
        if wide + _width(out)(value) <= out.width:
            first.pad_right(wide - first.cell_len)
            out.print(first + out.render_str(value), soft_wrap=True)
        else:
            _print_text(out, first, 0)
            _print_text(out, out.render_str(value), INDENT)


def _print_stacked(out: Any, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row over several lines: its first cell, then the others behind their headings.

    The heading of the first cells stands once, above all.
    """
    from rich.text import Text

    _print_text(out, Text(headings[0], "dim"), 0)
    for row in rows:
        _print_text(out, out.render_str(row[0]), 0)
        line = Text()
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            part = Text.assemble((f"{heading} " if heading else "", "dim"), out.render_str(cell))
            if cell in ("", "–"):  # nothing, or not known
                continue
            if line and INDENT + line.cell_len + BETWEEN + part.cell_len > out.width:
                _print_text(out, line, INDENT)
                line = Text()
            line = part if not line else Text.assemble(line, " " * BETWEEN, part)
        if line:
            _print_text(out, line, INDENT)


def _print_text(out: Any, text: Any, indent: int) -> None:
    """Print a text behind blanks, broken between words; with a word longer than a line as it is, whole."""
    from rich.padding import Padding
    from rich.text import Text

    if not text.plain.strip():
        return
    if any(indent + Text(word).cell_len > out.width for word in text.plain.split()):
        out.print(Text(" " * indent) + text, soft_wrap=True)
    else:
        out.print(Padding(text, (0, 0, 0, indent)) if indent else text)


def print_table(title: str, rows: Sequence[Mapping[str, Any]], *, note: str = "") -> None:
    """Print rows of equal keys under a title: the first column stands left, the others right."""
    out = console()
    out.print(f"[bold]{quoted(title)}[/bold]" + (f"\n{note}" if note else ""))
    out.print()
    print_rows(list(rows[0]), [[quoted(str(value)) for value in row.values()] for row in rows], gap=3)
    out.print()
