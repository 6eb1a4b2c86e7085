"""What a page is made of: plain values, which `page` turns into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lrcsim.reports.marks import Columns, FigureView


@dataclass(frozen=True)
class TableBlock:
    """A table; all cells are text as people read it.

    Attributes:
        title: what it shows.
        head: the columns' headings; the first column names the row.
        rows: as many cells each.
        marked: number of the row that is the run itself, or None.
        words: whether the cells are words, not numbers.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    words: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing with its alternative in words and numbers.

    Attributes:
        name: unique on the page, of letters, digits and ``-``.
        title: what it shows.
        text: the same in words, for those who do not see it; stands below it.
        views: one, or several to choose from.
        table: the numbers.
        columns: what the views' lines take their points from, where they name columns.
    """

    name: str
    title: str
    text: str
    views: Sequence[FigureView]
    table: TableBlock | None = None
    columns: Columns | None = None


@dataclass(frozen=True)
class KeyNumber:
    """A number worth large type: what, how much, and what to compare it with."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A part that the page does not have, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        name: unique on the page, of letters, digits and ``-``.
        title: the heading.
        text: paragraphs.
        blocks: figures and tables, in order.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    blocks: Sequence[Figure | TableBlock] = ()


@dataclass
class Page:
    """A page.

    Attributes:
        title: of the page.
        answer: the result in a few sentences.
        numbers: the result in a few numbers.
        notes: what a reader should know before believing them.
        sections: the parts, in order.
        left_out: parts that are missing, and why.
    """

    title: str
    answer: list[str] = field(default_factory=list)
    numbers: list[KeyNumber] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
