"""Panels beside and below each other: rows in one order, and every axis labelled where nothing stands below it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from lrcsim.plots.charts import HeatMap, NameRow, draw_heat, draw_names


def names_of(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_panels_of_the_same_names_have_one_order() -> None:
    """Means: prose (0.1 + 0.9) / 2 = 0.5, c (0.4 + 0.2) / 2 = 0.3, maths (0.5 + 0.3) / 2 = 0.4; rows go upwards."""
    first = NameRow("m = 4", ["prose", "c", "maths"], np.array([0.1, 0.4, 0.5]))
    second = NameRow("m = 4", ["c", "maths", "prose"], np.array([0.2, 0.3, 0.9]))
    panels = draw_names(None, {"one": [first], "two": [second]}, "SRP").axes
    assert [names_of(axes) for axes in panels] == [["c", "maths", "prose"]] * 2
    assert panels[0].lines[0].get_xdata().tolist() == [0.4, 0.5, 0.1]
    assert panels[1].lines[0].get_xdata().tolist() == [0.2, 0.3, 0.9]


def test_panels_of_other_names_are_each_in_their_own_order() -> None:
    first = NameRow("m = 4", ["prose", "c"], np.array([0.1, 0.4]))
    second = NameRow("m = 4", ["c", "maths"], np.array([0.3, 0.2]))
    panels = draw_names(None, {"one": [first], "two": [second]}, "SRP").axes
    assert [names_of(axes) for axes in panels] == [["prose", "c"], ["maths", "c"]]


def labelled(panels: list[Any]) -> list[bool]:
    """Say of each panel whether x is named, and its ticks too."""
    for axes in panels:
        ticks = axes.xaxis.get_major_ticks()
        assert all(tick.label1.get_visible() == bool(axes.get_xlabel()) for tick in ticks)
    return [bool(axes.get_xlabel()) for axes in panels]


def test_x_is_named_where_no_panel_stands_below() -> None:
    """Three panels in two columns, four in three: the last row is not full."""
    row = NameRow("m = 4", ["prose", "c"], np.array([0.1, 0.4]))
    panels = draw_names(None, {name: [row] for name in "abc"}, "SRP").axes[:3]
    assert labelled(panels) == [False, True, True]
    heats = [HeatMap(name, np.eye(2), ["4", "16"], "m") for name in "abcd"]
    assert labelled(draw_heat(None, heats, "SRP").axes[:4]) == [False, True, True, True]
