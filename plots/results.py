"""Figures of `lrcsim results`: a pivot as lines, a Pareto front among all runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, dress, legend_below, look_of

if TYPE_CHECKING:
    import pyarrow as pa

    from lrcsim.sweeps.query import Pivot


def plot_pivot(path: str, pivot: Pivot) -> None:
    """Draw a line for each row of a pivot: columns such as 2x, 4x stand where their numbers say; names give dots.

    Raises:
        ConfigError: another ending than that of a picture.
        TraceError: the file cannot be written.
    """
    numbers = [_number(value) for value in pivot.columns]
    units = {unit for _, unit in numbers}
    to_scale = len(units) == 1 and all(number is not None for number, _ in numbers)
    at: list[Any] = [number for number, _ in numbers] if to_scale else list(range(len(numbers)))
    scale, label = _unit(pivot.value, [cell for cells in pivot.cells for cell in cells])
    with open_figure(path, figsize=(7, 3.8)) as (figure, axes):
        for number, (name, cells) in enumerate(zip(pivot.rows, pivot.cells, strict=True)):
            points = sorted((x, scale * cell) for x, cell in zip(at, cells, strict=True) if cell is not None)
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=str(name),
                **(look_of(number) | ({} if to_scale else {"linestyle": "", "ms": 5})),
            )
        if not to_scale:
            axes.set_xticks(at, [str(value) for value in pivot.columns])
        suffix = f" [{units.pop()}]" if to_scale and units != {""} else ""
        dress(axes, pivot.column + suffix, label)
        axes.set_ylim(bottom=0)
        legend_below(figure, [axes], title=pivot.row)


def plot_front(path: str, table: pa.Table, front: pa.Table, columns: Sequence[str]) -> None:
    """Draw all runs as dots over two columns, the Pareto front as a line.

    Args:
        path: the picture.
        table: all runs.
        front: those of the front.
        columns: the first goes up, the second to the right.

    Raises:
        ConfigError: another ending than that of a picture.
        TraceError: the file cannot be written.
    """
    from lrcsim.sweeps.query import direction

    up, right = (direction(table, column)[0] for column in columns[:2])
    step = "steps-post" if direction(table, columns[1])[1] < 0 else "steps-pre"  # what one run reaches, a worse x does
    (x_scale, x_label), (y_scale, y_label) = (_unit(name, table[name].to_pylist()) for name in (right, up))
    with open_figure(path, figsize=(7, 3.8)) as (figure, axes):
        for rows, style in (
            (table, {"linestyle": "", "color": "0.7", "label": f"{len(table):,} runs"}),
            (front, {"drawstyle": step, "color": COLOURS[0], "label": "Pareto front"}),
        ):
            pairs = zip(rows[right].to_pylist(), rows[up].to_pylist(), strict=True)
            points = sorted((x_scale * x, y_scale * y) for x, y in pairs if None not in (x, y))
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, **style)
        dress(axes, x_label, y_label)
        axes.set_ylim(bottom=0)
        legend_below(figure, [axes])


def _unit(name: str, values: Sequence[Any]) -> tuple[float, str]:
    """Return what to multiply a column by, and its label with the unit: rates in percent, bytes in MiB or GiB."""
    label = name.replace("_", " ")
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
