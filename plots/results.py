"""Figures of `lrcsim results`: a pivot as lines, a Pareto front among all runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.plots.figure import open_figure
from lrcsim.plots.labels import Point, along, place_names
from lrcsim.plots.looks import LETTER, MARKERS, colour, dress, grey, legend_below, look_of, shortened
from lrcsim.plots.settings import width

if TYPE_CHECKING:
    import pyarrow as pa

    from lrcsim.sweeps.query import Pivot


def plot_pivot(path: str | None, pivot: Pivot) -> Any:
    """Draw a line for each row of a pivot: columns such as 2x, 4x stand where their numbers say; names give dots.

    Raises:
        ConfigError: another ending than that of a picture.
        TraceError: the file cannot be written.
    """
    numbers = [_number(value) for value in pivot.columns]
    units = {unit for _, unit in numbers}
    to_scale = len(units) == 1 and all(number is not None for number, _ in numbers)
    at: list[Any] = [number for number, _ in numbers] if to_scale else list(range(len(numbers)))
    apart = 0 if to_scale else 0.5 / len(pivot.rows)  # so that no point hides another
    scale, label = _unit(pivot.value, [cell for cells in pivot.cells for cell in cells])
    with open_figure(path, figsize=(7, 3.8)) as (figure, axes):
        for number, (name, cells) in enumerate(zip(pivot.rows, pivot.cells, strict=True)):
            points = sorted((x, scale * cell) for x, cell in zip(at, cells, strict=True) if cell is not None)
            shift = apart * (number - (len(pivot.rows) - 1) / 2)
            axes.plot(
                [x + shift for x, _ in points],
                [y for _, y in points],
                label=str(name),
                **(look_of(number) | ({} if to_scale else {"linestyle": "", "ms": 5})),
            )
        named = not to_scale or _fit(at, pivot.columns)
        if named:
            axes.set_xticks(at, [str(value) for value in pivot.columns])
            axes.minorticks_off()
        suffix = "" if named or units == {""} else f" [{units.pop()}]"
        dress(axes, pivot.column.replace("_", " ") + suffix, label)
        _from_zero(axes)
        legend_below(figure, [axes], title=pivot.row)
    return figure


def _fit(at: Sequence[float], names: Sequence[Any]) -> bool:
    """Say whether ticks at these places have room for their names beside each other."""
    inches = (width() - 0.8) * np.diff(sorted(at)) / max(max(at) - min(at), 1e-9)
    return not len(inches) or inches.min() > LETTER * max(len(str(name)) for name in names) + 0.05


def _from_zero(axes: Any) -> None:
    """Have y begin at zero where no value is below it, and end above the highest marker."""
    low, high = axes.dataLim.intervaly
    if low >= 0:
        axes.set_ylim(0, 1.06 * high or 1)


NAMED = 24
"""Points of fronts that are named, as far as there is room; of more the first."""


def plot_front(path: str | None, table: pa.Table, candidates: pa.Table, columns: Sequence[str]) -> Any:
    """Draw all runs as dots over two columns, and the Pareto front of each machine as a line, its points named.

    Args:
        path: the picture; None: it is not written.
        table: all runs.
        candidates: those that the fronts are of.
        columns: the first goes to the right, the second up.

    Raises:
        ConfigError: another ending than that of a picture.
        TraceError: the file cannot be written.
    """
    import pyarrow as pa

    from lrcsim.sweeps.query import direction, pareto, varying

    (right, way), (up, _) = (direction(table, column) for column in columns[:2])
    step = "steps-pre" if way > 0 else "steps-post"  # what one run reaches, a worse x does
    (x_scale, x_label), (y_scale, y_label) = (_unit(name, table[name].to_pylist()) for name in (right, up))

    def points(rows: pa.Table) -> list[Point]:
        pairs = zip(rows[right].to_pylist(), rows[up].to_pylist(), _names(rows, said), strict=True)
        return sorted((x_scale * x, y_scale * y, name) for x, y, name in pairs if None not in (x, y))

    fronts = {machine: pareto(rows, columns) for machine, rows in _by_machine(candidates).items()}
    whole = pa.concat_tables(fronts.values())
    said = [name for name in varying(whole) if name not in (right, up, MACHINE)]
    with open_figure(path, figsize=(7, 3.8)) as (figure, axes):
        every = points(table)
        axes.plot(*_sides(every), "o", ms=3, color=grey(0.7), label=f"{len(table):,} runs", zorder=1)
        named: list[Point] = []
        kept_off = [(x, y, "") for x, y, _ in every]
        for number, (machine, rows) in enumerate(fronts.items()):
            found = points(rows)
            look = {"color": colour(number), "marker": MARKERS[number % len(MARKERS)], "ms": 4, "drawstyle": step}
            axes.plot(*_sides(found), label=f"Pareto front{machine and f', {machine}'}", **look)
            named += found
            kept_off += [*along(found, step), *((x, y, "") for x, y, _ in found)]
        dress(axes, x_label, y_label)
        axes.margins(x=0.08, y=0.1)
        _from_zero(axes)
        legend_below(figure, [axes])
        figure.draw_without_rendering()
        place_names({axes: [*_first_of_each(named)[:NAMED], *kept_off]})
    return figure


MACHINE = "hardware"
"""The column that says the machine."""


def _by_machine(table: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each machine, where there are several; else all under an empty name."""
    if MACHINE not in table.column_names:
        return {"": table}
    machines = table[MACHINE].to_pylist()
    names = list(dict.fromkeys(machines))
    if len(names) < 2:
        return {"": table}
    return {
        shortened(str(name), 30): table.take([row for row, machine in enumerate(machines) if machine == name])
        for name in names
    }


def _names(rows: pa.Table, said: Sequence[str]) -> list[str]:
    """Return what tells runs apart, in words: ``lru, 2x``."""
    cells = zip(*(rows[name].to_pylist() for name in said), strict=True) if said else [()] * len(rows)
    return [shortened(", ".join(str(cell) for cell in row if cell is not None), 28) for row in cells]


def _first_of_each(points: Sequence[Point]) -> list[Point]:
    """Return the points without those that lie on another and are named as it is."""
    return list({(round(x, 9), round(y, 9), name): (x, y, name) for x, y, name in points}.values())


def _sides(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _, _ in points], [y for _, y, _ in points]


def _unit(name: str, values: Sequence[Any]) -> tuple[float, str]:
    """Return what to multiply a column by, and its label with the unit: rates in percent, bytes in MiB or GiB."""
    label = name.replace("_per_s", "/s").replace("_", " ").replace("gpu", "GPU")
    if name.endswith("hit_rate"):
        return 100, f"{label} [%]"
    if "bytes" in name:
        large = max((value for value in values if value is not None), default=0) >= 2**30
        return (2.0**-30, f"{label} [GiB]") if large else (2.0**-20, f"{label} [MiB]")
    return 1, label


def _number(value: Any) -> tuple[float | None, str]:
    """Return the number that a value begins with and the unit after it: ``"12GB/s"`` is 12 and GB/s."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/%]*)\s*", str(value))
    return (float(match[1]), match[2]) if match else (None, "")
