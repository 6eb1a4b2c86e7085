"""Figures of SRP and SCH of several traces: what a line is, where it stands."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from lrcsim.plots.metrics import plot_sch, plot_srp
from lrcsim.simulator import Sch, Srp, sch, srp
from lrcsim.traces import RoutingTrace


def trace_of(top_k: int, seed: int) -> RoutingTrace:
    """Make two layers of 8 experts and two requests of 20 tokens."""
    ids = np.random.default_rng(seed).random((40, 2, 8)).argsort(axis=2)[:, :, :top_k]
    return RoutingTrace.from_arrays(ids, num_experts=8, offsets=[0, 20, 40])


def sch_of(top_k: int, m: int, caches: tuple[str, ...]) -> list[Sch]:
    return [sch(trace_of(top_k, 0), m, cache, definition="static", scope="layer") for cache in caches]


def test_sch_of_one_length_stands_over_cache_size() -> None:
    """Top-2: 2x is 4 experts; top-4: 6 experts are 1.5x. The smallest comes first, however they were asked for."""
    found = {"two": sch_of(2, 4, ("2x", "1x", "6")), "four": sch_of(4, 4, ("2x", "1x", "6"))}
    (axes,) = plot_sch(None, found).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["two", "four"]
    assert lines["two"].get_xdata() == pytest.approx([1, 2, 3])
    assert lines["four"].get_xdata() == pytest.approx([1, 1.5, 2])
    assert lines["two"].get_ydata() == pytest.approx([found["two"][i].value for i in (1, 0, 2)])
    assert lines["four"].get_ydata() == pytest.approx([found["four"][i].value for i in (1, 2, 0)])
    assert "m = 4" in axes.get_title()
    assert "cache size" in axes.get_xlabel()


def test_sch_of_several_lengths_or_one_size_stands_over_length() -> None:
    several = {"two": [*sch_of(2, 4, ("1x", "2x")), *sch_of(2, 8, ("1x", "2x"))]}
    (axes,) = plot_sch(None, several).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[4, 8], [4, 8]]
    (axes,) = plot_sch(None, {"two": sch_of(2, 4, ("1x",))}).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[4]]


def srp_by_position(seed: int, *lengths: int) -> list[Srp]:
    return [srp(trace_of(2, seed), m, level="position") for m in lengths]


def test_positions_of_one_length_share_a_panel() -> None:
    found = {"a": srp_by_position(0, 4), "b": srp_by_position(1, 4)}
    (axes,) = plot_srp(None, found).axes
    assert axes.get_title() == "m = 4"
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert found["b"][0].groups is not None
    assert axes.lines[1].get_ydata() == pytest.approx(found["b"][0].groups.value)


def test_positions_of_several_lengths_have_a_panel_for_each_trace() -> None:
    panels = plot_srp(None, {"a": srp_by_position(0, 4, 8), "b": srp_by_position(1, 4, 8)}).axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert [[line.get_label() for line in axes.lines] for axes in panels] == [["m = 4", "m = 8"]] * 2
