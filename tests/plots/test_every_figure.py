"""Every kind of figure, at the size of a column and of a page, on light and on dark: nothing cut, over another, alike.

The kinds are those of docs/figures.md, whose commands run once, and those that it does not show.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from legible import faults

from lrcsim.plots.charts import HeatMap, NameRow, draw_heat, draw_names
from lrcsim.plots.curves import AskedSizes, plot_curves
from lrcsim.plots.figure import open_figure
from lrcsim.plots.frontier import plot_frontier
from lrcsim.plots.looks import legend_columns
from lrcsim.plots.settings import figures
from lrcsim.simulator import hit_rate_curve
from lrcsim.traces import RoutingTrace

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
NAMES = re.findall(r"--plot (\w+)\.png", PAGE)


@pytest.fixture(scope="module")
def gallery() -> Iterator[Any]:
    """Give the hook of the page."""
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        import gallery

        yield gallery
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def drawings(gallery: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Run the page's commands, each of which must work; give what draws each figure again."""
    folder = tmp_path_factory.mktemp("gallery")
    with contextlib.chdir(folder), gallery.kept() as found:
        for command in gallery.commands(PAGE, folder):
            gallery.run(command)
    (folder / "dark.mplstyle").write_text(gallery.DARK, encoding="utf-8")
    assert sorted(path.stem for path in folder.glob("*.png")) == sorted(NAMES)
    return {drawing.name: drawing.draw for drawing in found} | {"dark": str(folder / "dark.mplstyle")}


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_commands_can_be_read(drawings: Mapping[str, Any], name: str) -> None:
    for size, style in (("column", None), ("page", drawings["dark"])):
        with figures(size=size, style=style):
            figure = drawings[name](None)
        assert faults(figure) == [], (name, size)
        assert figure.get_size_inches()[1] <= 9


def test_the_page_shows_every_figure_and_says_how_to_read_it(gallery: Any) -> None:
    shown = gallery.with_pictures(PAGE)
    for name in NAMES:
        assert f"(figures/{name}.png#only-light)" in shown
        assert f"(figures/{name}-dark.png#only-dark)" in shown
    for section in PAGE.split("\n## ")[1:-1]:
        assert re.search(r"```\n\n\S[^#]{60,}", section), section.partition("\n")[0]


def test_a_command_that_fails_stops_the_build(gallery: Any) -> None:
    with pytest.raises(RuntimeError, match=r"lrcsim run no\.h5: .*there is no such file"):
        gallery.run("lrcsim run no.h5")


# --- kinds that the page does not show -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["column", "page"])
def test_forty_heat_maps_are_one_panel(size: str) -> None:
    """Ten traces at four lengths, of 8 and of 48 layers: a name each, ticks at the ends of layers where they fit."""
    rng = np.random.default_rng(0)
    for layers in (8, 48):
        heats = [HeatMap(f"a model, m = {m}", rng.random((layers, 64)), [], "expert") for m in range(40)]
        with figures(size=size):
            figure = draw_heat(None, heats, "SRP")
        assert len(figure.axes) == 2  # with the colour bar
        assert len(figure.axes[0].texts) == 40
        assert faults(figure) == []


def test_heat_maps_below_each_other_hold_their_values() -> None:
    heats = [HeatMap(str(i), np.full((2, 3), float(i)), ["4", "16", "64"], "m") for i in range(5)]
    axes = draw_heat(None, heats, "SRP").axes[0]
    assert [image.get_array().mean() for image in axes.images] == [0, 1, 2, 3, 4]
    tops = [image.get_extent()[3] for image in axes.images]
    assert tops == sorted(tops)  # y goes downwards: the first on top
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "16", "64"]
    low, high = axes.images[0].get_clim()
    assert (low, high) == (0, 4)  # one scale


@pytest.mark.parametrize("size", ["column", "page"])
@pytest.mark.parametrize("timed", [True, False])
def test_quality_against_speed_can_be_read(size: str, timed: bool) -> None:
    rows = [
        {
            "rule": f"{name}:0.{i}",
            "loss_difference": 0.004 * i**2,
            "loss_interval": (0.004 * i**2 - 0.003, 0.004 * i**2 + 0.004) if i else None,
            "tokens_per_s": 900.0 + 90 * i - 60 * (name == "skip") if timed else None,
            "loads_per_access": 0.5 - 0.05 * i,
        }
        for i in range(5)
        for name in ("prior", "skip")
    ]
    front = [row["rule"] for row in rows if row["rule"].startswith("prior")]
    with figures(size=size):
        figure = plot_frontier(None, rows, front, "prior:0.2", "a model with a name that is rather long, 6,144 tokens")
    assert faults(figure) == []


# --- what the figures are made with ----------------------------------------------------------------------------------


def test_sizes_are_marked_on_the_whole_curve() -> None:
    """Two layers of 8 experts, top-2: 2x is 4 experts, and so is 50 %; 6 experts are 3x."""
    ids = np.random.default_rng(0).random((60, 2, 8)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=8)
    whole = [hit_rate_curve(trace, policy) for policy in ("lru", "belady")]
    some = [hit_rate_curve(trace, policy, capacities=[4, 4, 6]) for policy in ("lru", "belady")]
    figure = plot_curves(None, {"t": whole}, "", {"t": AskedSizes(["2x", "50%", "6 experts"], some)})
    (axes,) = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == ["2x, 50%", "6 experts"]
    squares = [line for line in axes.lines if line.get_marker() == "s" and len(line.get_xdata()) == 3]
    for line, curve in zip(squares, whole, strict=True):
        assert line.get_xdata().tolist() == [2, 2, 3]
        assert line.get_ydata() == pytest.approx(100 * curve.hit_rate[[3, 3, 5]])
    lines = [line for line in axes.lines if len(line.get_xdata()) == 8]
    assert len(lines) == 2


def test_every_point_of_a_single_name_is_inside() -> None:
    rows = [NameRow(f"m = {m}", ["decoder"], np.array([0.1 * m])) for m in range(5)]
    axes = draw_names(None, {"t": rows}, "SRP").axes[0]
    low, high = axes.get_ylim()
    at = [line.get_ydata()[0] for line in axes.lines]
    assert low + 0.15 < min(at) < max(at) < high - 0.15
    assert len(set(at)) == 5


def test_areas_are_hatched_apart(drawings: Mapping[str, Any]) -> None:
    """Computing and stalls are alike in grey, and lie on each other where there is no overhead."""
    axes = drawings["run"](None).axes[0]
    areas = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    assert areas["compute"].get_hatch() != areas["stall"].get_hatch()
    bars = drawings["plan"](None).axes[0].containers
    assert len({bar.patches[0].get_hatch() for bar in bars}) == len(bars) > 1


def test_titles_and_labels_are_broken_at_the_edge() -> None:
    long = "the position of the middle of each segment in the request that it is a part of [tokens]"
    with figures(size="column"), open_figure(None, figsize=(7, 5)) as (figure, axes):
        axes.set(title=long, xlabel=long, ylabel=long)
    assert faults(figure) == []
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        assert "\n" in text.get_text()
        assert text.get_text().replace("\n", " ") == long


def test_columns_of_a_legend_by_hand() -> None:
    # A name takes 0.45 + 0.053 per letter: 1 letter 0.503, 20 letters 1.51 inches. Beside each other 4 short ones are
    # 2.01; with a long one they are 3.02, in two columns 1.51 + 0.50.
    assert legend_columns(["a"] * 4, 2.1) == 4
    assert legend_columns(["a"] * 4, 1.9) == 3
    assert legend_columns(["a" * 20, "a", "a", "a"], 3.1) == 4
    assert legend_columns(["a" * 20, "a", "a", "a"], 2.1) == 2
    assert legend_columns(["a" * 20], 1.0) == 1


def test_what_cannot_be_read_is_found() -> None:
    with open_figure(None, figsize=(7, 3)) as (figure, axes):
        for name in ("a", "b"):
            axes.plot([0, 1], [0, 1], "o-", label=name)
        axes.text(0.5, 0.5, "one word")
        axes.text(0.51, 0.5, "another")
        axes.text(0.2, 0.8, "small", fontsize=5)
        figure.text(0.98, 0.5, "beyond the edge")
    assert faults(figure) == [
        "'beyond the edge' is cut",
        "'small' has 5 points",
        "'one word' lies on 'another'",
        "a looks like b",
    ]
