"""The columns of a sweep's table that a page shows, and how it writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from lrcsim.base.text import cell_text
from lrcsim.reports.marks import Unit

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS = ("decode_tokens_per_s", "hit_rate", "decode_hit_rate", "ttft_ms_p50", "decode_bytes_per_token")
"""What is drawn, where the table has it; the first it has is what the best runs are the best in."""

RATES = ("hit_rate", "decode_hit_rate")


def known(table: pa.Table, names: Iterable[str]) -> set[str]:
    """Return those of some columns that have a number in any row."""
    there = (name for name in names if name in table.column_names)
    return {name for name in there if any(map(is_known, table[name].to_pylist()))}


def is_known(value: float | None) -> bool:
    """Return whether a result is a number; none is where nothing was measured, or in a table of a stranger."""
    return value is not None and math.isfinite(value)


def words(column: str) -> str:
    """Return a column's name as people read it."""
    return column.replace("_per_s", "/s").replace("_", " ")


def unit_of(column: str) -> Unit:
    """Return how a column's numbers are written."""
    return "percent" if column in RATES else "number"


def described(row: Mapping[str, Any], columns: Iterable[str]) -> str:
    """Return a run's values of some columns in words."""
    return ", ".join(f"{name} {cell_text(name, row[name])}" for name in columns)


def is_ordered(table: pa.Table, column: str) -> bool:
    """Return whether the values have an order to draw lines along: 2x, 4x; 6GB/s, 12GB/s."""
    return all(natural(cell_text(column, value))[0] < float("inf") for value in table[column].to_pylist())


def natural(text: str) -> tuple[float, str]:
    """Return what sorts ``2x`` before ``16x``, and names after numbers."""
    digits = "".join(islice((c for c in text.partition(" ")[0] if c.isdigit() or c == "."), 20))
    try:
        return (float(digits) if text[:1].isdigit() else float("inf"), text)
    except ValueError:
        return (float("inf"), text)
