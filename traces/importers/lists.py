"""Cells that hold lists, as lists or as text."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.names import ALIASES
from lrcsim.traces.importers.values import decoded, place

PLURALS = frozenset(name for name in ALIASES["expert"] if name.endswith("s") or name == "indices") | {"topk"}


def is_list(cell: str) -> bool:
    """Tell whether text is a list: in brackets, or of several items; ``Expert 7`` is one."""
    if re.fullmatch(r"[A-Za-z#]+[ _.-]?\d+", cell.strip()):
        return False
    return "[" in cell or len(re.findall(r"[^\s(){}<>,;|:/\"']+", cell)) > 1


def brackets(cell: str) -> int:
    """Count the brackets that a cell begins with."""
    return cell.count("[", 0, len(cell) - len(cell.lstrip(" [")))


def lengths(column: Any) -> npt.NDArray[np.int64]:
    """Return the length of each list; 0 for a missing one."""
    return np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def of_tokens(column: Any, rows: npt.NDArray[np.int64], token: npt.NDArray[np.int64]) -> Any:
    """Return the item of each row's token, of a column with one list per request; null where there is none.

    Args:
        column: Arrow lists.
        rows: int [n], which of the lists.
        token: int [n], which of its items.
    """
    given = lengths(column)
    starts = np.cumsum(given) - given
    inside = (token >= 0) & (token < given[rows])
    return pc.list_flatten(column).take(pa.array(np.where(inside, starts[rows] + token, 0), mask=~inside))


def as_lists(name: str, column: Any) -> Any:
    """Return cells that hold a list as lists, also text: ``[1, 2]``, ``1 2``, ``1;2``, ``1|2``, ``tensor([1, 2])``.

    Raises:
        TraceError: the column holds neither lists nor text, or lists in lists.
    """
    column = decoded(column)
    if pa.types.is_string(column.type):
        if pc.any(pc.match_substring(column, "(").fill_null(False)).as_py():  # tensor([1, 2], device='cuda:0')
            column = pc.replace_substring_regex(column, r",\s*[A-Za-z_]\w*=[^,)\]]*", "")
            column = pc.replace_substring_regex(column, r"\b[A-Za-z_][\w.]*\(", "(")
        inside = pc.match_substring_regex(column, r"\]\s*,?\s*\[").fill_null(False)
        if pc.any(inside).as_py():
            at = int(np.argmax(inside.to_numpy(zero_copy_only=False)))
            raise TraceError(
                f"{name} {' '.join(column[at].as_py().split())[:60]!r} holds lists in a list, where one list "
                "[k] is expected for a token and layer"
            )
        trimmed = pc.utf8_trim(pc.replace_substring_regex(column, r"[\[\](){}<>,;|:/\s\"']+", " "), characters=" ")
        filled = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
        return pc.split_pattern(filled, " ")
    if not pa.types.is_list(column.type):
        raise TraceError(
            f"{name} must be a list on each row, as the experts are; the column is {str(column.type)[:80]}"
        )
    return column


def nested_text(name: str, column: Any, first_row: int) -> Any:
    """Read cells such as ``[[1, 2], [3, 4]]`` of a CSV."""
    cells = []
    for at, text in enumerate(column.to_pylist()):
        try:
            cells.append(json.loads(text or "[]"))
        except (ValueError, RecursionError):
            raise TraceError(f"{place(first_row + at)}: {name} {str(text)[:60]!r} is no nested list") from None
    return decoded(pa.array(cells))
