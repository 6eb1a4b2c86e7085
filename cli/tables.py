"""Tables on the terminal: every command's rows are printed here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lrcsim.base.text import quoted
from lrcsim.cli.output import console


def print_rows(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    whole: Collection[int] = (),
    gap: int = 2,
    fold: bool = False,
) -> None:
    """Print rows of cells under headings; no headings are shown where all are empty.

    Args:
        headings: one a column.
        rows: cells, with markup of ours; what comes out of files goes through `quoted` first.
        left: columns that stand left; the others stand right.
        whole: columns of which no cell takes a second line.
        gap: spaces between columns.
        fold: break long words, so that no cell is cut.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_header=any(headings))
    for place, heading in enumerate(headings):
        table.add_column(
            heading,
            justify="left" if place in left else "right",
            no_wrap=place in whole,
            overflow="fold" if fold else "ellipsis",
        )
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_table(title: str, rows: Sequence[Mapping[str, Any]], *, note: str = "") -> None:
    """Print rows of equal keys under a title: the first column stands left, the others right."""
    out = console()
    out.print(f"[bold]{quoted(title)}[/bold]" + (f"\n{note}" if note else ""))
    out.print()
    print_rows(list(rows[0]), [[quoted(str(value)) for value in row.values()] for row in rows], gap=3)
    out.print()
