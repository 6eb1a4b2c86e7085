"""A part of the report: tables, a figure, and what is missing; written as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.files import replacing

__all__ = ["Section", "Table", "plain"]

Row = Mapping[str, Any]


@dataclass
class Table:
    """Rows of equal keys.

    Attributes:
        name: of its CSV file.
        caption: above it.
        rows: values: text, numbers, None for what is not known, (low, high) for an interval.
        foot: below it: where published values come from.
        shown: whether the report shows it; all tables are written as CSV.
        digits: decimals of its numbers.
    """

    name: str
    caption: str
    rows: Sequence[Row]
    foot: str = ""
    shown: bool = True
    digits: int = 3

    def markdown(self) -> str:
        """Return the table as Markdown, numbers to the right."""
        names = list(self.rows[0])
        numeric = [any(isinstance(row[name], int | float | np.number) for row in self.rows) for name in names]
        lines = [self.caption, "", "| " + " | ".join(names) + " |"]
        lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
        lines += ["| " + " | ".join(self._cell(row[name]) for name in names) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.foot] if self.foot else lines)

    def _cell(self, value: Any) -> str:
        if isinstance(value, tuple):
            return "to".join(f" {self._cell(end)} " for end in value).strip()
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, float | np.floating):
            return "beyond" if math.isinf(value) else f"{value:.{self.digits}f}"
        return str(value).replace("|", "\\|")

    def write_csv(self, folder: Path) -> None:
        """Write all rows; intervals take two columns; None, NaN and infinity are empty cells."""
        with replacing(folder / f"{self.name}.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            rows = [dict(_flat(row)) for row in self.rows]
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


@dataclass
class Section:
    """A figure or table of the paper.

    Attributes:
        name: of its files.
        title: heading.
        paper: what of the paper it reproduces.
        text: paragraphs.
        tables: the numbers.
        missing: what could not be made, and why.
        draw: draws the figure to a path, or None.
    """

    name: str
    title: str
    paper: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    draw: Callable[[str], None] | None = None

    def add(self, table: Table) -> None:
        """Add a table, unless it has no rows."""
        if table.rows:
            self.tables.append(table)

    def markdown(self, figures: str) -> str:
        """Return the section as Markdown; ``figures`` is the folder of the figures, relative to the report."""
        parts = [f"## {self.title}", f"In the paper: {self.paper}."]
        parts += self.text
        if self.draw is not None:
            parts.append(f"![{self.title}]({figures}/{self.name}.png)")
        parts += [table.markdown() for table in self.tables if table.shown]
        if self.missing:
            parts.append("Not there:\n\n" + "\n".join(f"* {line}" for line in dict.fromkeys(self.missing)))
        files = ", ".join(f"`data/{table.name}.csv`" for table in self.tables)
        return "\n\n".join([*parts, f"Data: {files}." if files else "No data."])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "title": self.title,
            "paper": self.paper,
            "text": self.text,
            "missing": list(dict.fromkeys(self.missing)),
            "tables": {
                table.name: {"caption": table.caption, "foot": table.foot, "rows": plain(table.rows)}
                for table in self.tables
            },
        }


def plain(value: Any) -> Any:
    """Return a value as JSON has it: None for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Row) -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, tuple):
            yield f"{name} low", plain(value[0])
            yield f"{name} high", plain(value[1])
        else:
            yield name, plain(value)
