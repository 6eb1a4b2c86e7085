"""What a figure is drawn from: axes and marks as plain values, which the page's script (`figure.js`) draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Unit = Literal["number", "percent", "times"]
"""How the numbers of an axis are written: 1,234; 12.3 % of 0.123; 2x."""


@dataclass(frozen=True)
class Axis:
    """An axis, of numbers or of names.

    Attributes:
        title: what it shows, with its unit.
        unit: how its numbers are written.
        low: where it begins; None: with the smallest number.
        high: where it ends; None: past the greatest number.
        names: what stands along it instead of numbers, in order; None: numbers.
    """

    title: str = ""
    unit: Unit = "number"
    low: float | None = None
    high: float | None = None
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Line:
    """Points, joined or not.

    Attributes:
        name: in the legend.
        x: numbers, or names of the axis; or the name of a column of the figure.
        y: numbers; likewise.
        rows: which rows of the columns, where ``x`` and ``y`` are columns; None: all.
        colour: of `drawing`.
        dash: of `drawing.DASHES`.
        draw: the line, its points, or both.
        stairs: whether it goes level and then straight up or down.
        spread: low and high end of an interval about each point; empty: none.
        kind: what it draws, in the JSON.
    """

    name: str
    x: Sequence[Any] | str
    y: Sequence[Any] | str
    colour: str
    dash: str = "solid"
    draw: Literal["line", "points", "both"] = "line"
    rows: Sequence[int] | None = None
    stairs: bool = False
    spread: Sequence[tuple[float, float]] = ()
    kind: Literal["line"] = "line"


@dataclass(frozen=True)
class Bars:
    """Bars beside names of an axis; bars of several marks at one name stand one behind the other.

    Attributes:
        name: in the legend.
        names: where they stand.
        values: how long they are; None: there is none.
        colours: of each, or of all.
        kind: what it draws, in the JSON.
    """

    name: str
    names: Sequence[str]
    values: Sequence[float | None]
    colours: Sequence[str] | str
    kind: Literal["bars"] = "bars"


@dataclass(frozen=True)
class Heat:
    """A map of cells: rates from 0 to 1 in shades, or kinds in colours of their own.

    Attributes:
        starts: the number of each column, where several are taken together the first.
        rows: of rates a list for each row, None where there is none; of kinds a string of digits for each row.
        row: what a row is, in the tooltip.
        column: what a column is.
        kinds: names of the kinds by digit; empty: rates.
        colours: of the kinds.
        kind: what it draws, in the JSON.
    """

    starts: Sequence[int]
    rows: Sequence[Sequence[float | None]] | Sequence[str]
    row: str
    column: str
    kinds: Sequence[str] = ()
    colours: Sequence[str] = ()
    kind: Literal["heat"] = "heat"


Mark = Line | Bars | Heat


@dataclass(frozen=True)
class FigureView:
    """One drawing of a figure.

    Attributes:
        label: what to choose it by, where a figure has several.
        x: the axis across; with names, bars stand upright.
        y: the axis upwards; with names, bars lie.
        marks: what is drawn, in order.
        height: CSS pixels without the legend.
        group: what it is chosen under, where views fall into groups.
        all_at_once: whether the tooltip tells all lines at one x, else the nearest point.
        legend: whether the marks' names are shown.
        upright: a dotted line at an x, and its name; None: none.
        said: what the tooltip says of an x besides, by its place on the axis of the first line; empty: nothing.
    """

    label: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    height: int
    group: str = ""
    all_at_once: bool = False
    legend: bool = True
    upright: tuple[float, str] | None = None
    said: Sequence[str] = ()


@dataclass(frozen=True)
class Columns:
    """Columns that the views of a figure share, so that a page says each number once.

    Attributes:
        values: by name, all of one length.
        said: names of the columns of which the tooltip says the values.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    said: Sequence[str] = ()
