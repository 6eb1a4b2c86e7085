"""Compare choices: a sweep over a few lists, best run first, and which of them to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lrcsim.base.errors import LrcsimError
from lrcsim.policies import make_policy
from lrcsim.simulator.setup.outcomes import LOSSY
from lrcsim.sweeps.files import located
from lrcsim.sweeps.query import direction
from lrcsim.sweeps.spec import Spec, read_spec

CHOICES = ("policy", "cache", "prefetch", "miss", "route")
"""What a cache's maker chooses, in the order of the columns; all else that is compared is where it has to work."""

PLAIN: Mapping[str, str] = {"policy": "lru", "prefetch": "none", "miss": "load", "route": "none"}
"""What a choice is held against: the least that a runtime does."""

CLOSE = 0.01
"""Share of the best up to which others are as good: less than what any simulated speed is sure of."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """Which run to take.

    Attributes:
        best: its row.
        plain: the row of the same cache size that does least (`PLAIN`), None: there is none beside the best.
        close: rows of the same size within `CLOSE` of it, that of the best not among them.
        barred: why the rows before it in the order are not recommended, by row number.
    """

    best: Row
    plain: Row | None
    close: list[Row]
    barred: dict[int, str]


@dataclass(frozen=True)
class Comparison:
    """Runs, best first; those that failed last.

    Attributes:
        rows: of the table of results, as values by column, and ``of_optimum``: tokens per second over those of the
            optimal policy with perfect prefetch. ``gap_closed`` is None where the cache does not load on
            demand.
        by: the column that decides.
        recommended: the run to take of each cache size, and of each machine, batch and the like where several are
            compared, the best first; empty where every run failed.
    """

    rows: list[Row]
    by: str
    recommended: list[Recommendation]

    @property
    def failed(self) -> list[Row]:
        """The rows that have an error."""
        return [row for row in self.rows if row["error"] is not None]


def comparison_spec(trace: str, choices: Mapping[str, Sequence[Any]], same: Mapping[str, Any]) -> Spec:
    """Return the sweep that runs every combination of some choices.

    Args:
        trace: what to run.
        choices: the values of each option that is compared; one that is not there has its default.
        same: options of all runs, by name, ``overrides`` among them.

    Raises:
        ConfigError: an option or a value is wrong.
    """
    defaults = {name: value for name, value in same.items() if name != "overrides"} | {"trace": trace}
    for override in same.get("overrides", ()):
        key, _, value = override.partition("=")
        defaults[key.strip()] = value.strip()
    speculative = defaults.get("speculative")
    if isinstance(speculative, tuple):
        defaults["speculative"] = list(speculative)
    return read_spec({"defaults": defaults, "grid": {name: list(values) for name, values in choices.items()}})


def _of_optimum(row: Row) -> Row:
    """Return a row's share of the speed of the optimum."""
    speed, best = row["decode_tokens_per_s"], row["optimum_decode_tokens_per_s"]
    return {"of_optimum": speed / best if speed is not None and best else None}


def compare(table: pa.Table, folder: Path, where: Sequence[str] = ()) -> Comparison:
    """Order the runs of a table of results, the best first, and say which to take of each cache size.

    What decides is tokens per second of decode; without any the time of all; without a machine the hit rate. Of equal
    runs the one that comes first in the table is the better.

    Args:
        table: of results, all runs on one trace.
        folder: where relative paths of policies start.
        where: columns besides the cache size of whose values each has a run to take: machine, batch.
    """
    names = ("decode_tokens_per_s", "total_s", "hit_rate")
    by = next((name for name in names if table[name].null_count < len(table)), names[-1])
    _, sign = direction(table, by)
    all_rows = [row | _of_optimum(row) for row in table.to_pylist()]
    rows = sorted(all_rows, key=lambda row: (row[by] is None, -sign * (row[by] or 0.0)))
    good = [number for number, row in enumerate(rows) if row[by] is not None]
    barred = {number: why for number in good if (why := cannot_be_had(rows[number], folder))}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in good:
        groups.setdefault(tuple(rows[number][name] for name in ("cache", *where)), []).append(number)
    found = [_recommended(rows, numbers, barred, by) for numbers in groups.values()]
    kept = [one for one in found if one is not None]
    return Comparison(rows, by, sorted(kept, key=lambda one: -sign * one.best[by]))


def _recommended(rows: list[Row], numbers: list[int], barred: Mapping[int, str], by: str) -> Recommendation | None:
    """Return what to take of one group of runs, None where nothing can be had."""
    free = [number for number in numbers if number not in barred]
    if not free:
        return None
    best = rows[free[0]]
    others = [rows[number] for number in free[1:]]
    plain = [row for row in others if all(row[name] in (None, value) for name, value in PLAIN.items())]
    close = [row for row in others if abs(row[by] - best[by]) <= CLOSE * abs(best[by])]
    before = {number: barred[number] for number in numbers if number in barred and number < free[0]}
    return Recommendation(best, plain[0] if plain else None, close, before)


def cannot_be_had(row: Row, folder: Path) -> str | None:
    """Return why a run is no advice: it knows the future, or is not the model that was recorded; None: it is."""
    try:
        needs = make_policy(located(row["policy"], folder)).needs
    except LrcsimError:
        needs = frozenset()
    if "future" in needs or (row.get("prefetch") or "").partition(":")[0] == "oracle":
        return "knows the future"
    if "profile" in needs and row.get("profile") == "self":
        return "knows the trace beforehand (profile self)"
    given_up = max((row[f"{outcome.label}_weight"] or 0.0 for outcome in LOSSY), default=0.0)
    if given_up > 0:
        return f"changes what the model computes ({100 * given_up:.1f} % of the router weight)"
    if row.get("route") not in (None, "none"):
        return "changes the router's choice"
    return None
