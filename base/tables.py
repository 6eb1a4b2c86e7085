"""Tables as Markdown, as CSV and as JSON: rows of values by name."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lrcsim.base.files import replacing

Row = Mapping[str, Any]


def write_csv(path: str | Path, rows: Iterable[Row], names: Iterable[str] = ()) -> None:
    """Write rows as CSV; the file appears complete or not at all.

    A cell is empty where a row has no such value, or None, NaN or infinity. An interval, a tuple (low, high), takes two
    columns.

    Args:
        path: the file.
        rows: values by column.
        names: the first columns, so that there is a header without rows too; then whatever else the rows have.

    Raises:
        TraceError: the file cannot be written.
    """
    flat = [dict(_flat(row)) for row in rows]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*names, *(name for row in flat for name in row)])))
        writer.writeheader()
        writer.writerows(flat)


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
        formats: by column how its numbers are written otherwise, as ``"{:.1f} %"``; such columns stand right.
    """

    name: str
    caption: str
    rows: Sequence[Row]
    foot: str = ""
    shown: bool = True
    digits: int = 3
    formats: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the table alone as lines of Markdown, columns with numbers to the right."""
        names = list(self.rows[0])
        numeric = {name for row in self.rows for name, value in row.items() if isinstance(value, Real)}
        rule = "|" + "|".join("---:" if name in numeric | self.formats.keys() else "---" for name in names) + "|"
        cells = [[self._cell(row[name], self.formats.get(name)) for name in names] for row in self.rows]
        head, *body = ("| " + " | ".join(line) + " |" for line in [names, *cells])
        return [head, rule, *body]

    def markdown(self) -> str:
        """Return the table with its caption and foot as Markdown."""
        return "\n".join([self.caption, "", *self.lines(), *(["", self.foot] if self.foot else [])])

    def _cell(self, value: Any, format_: str | None) -> str:
        if isinstance(value, tuple):
            return "to".join(f" {self._cell(end, format_)} " for end in value).strip()
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        fraction = isinstance(value, Real) and not isinstance(value, Integral)
        if fraction and math.isinf(value):
            return "beyond"
        if format_ is not None and isinstance(value, Real):
            return format_.format(value)
        return f"{value:.{self.digits}f}" if fraction else str(value).replace("|", "\\|")

    def write_csv(self, folder: Path) -> None:
        """Write all rows into a folder."""
        write_csv(folder / f"{self.name}.csv", self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return caption, foot and rows as JSON values."""
        return {"caption": self.caption, "foot": self.foot, "rows": plain(self.rows)}


def plain(value: Any) -> Any:
    """Return a value as JSON has it: None for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, or a number of NumPy's
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Row) -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, tuple):
            yield f"{name} low", plain(value[0])
            yield f"{name} high", plain(value[1])
        else:
            yield name, plain(value)
