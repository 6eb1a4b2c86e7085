"""Figures in print: real fonts, the width asked for, the same bytes each time; lines that can be told apart."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from lrcsim.base.errors import ConfigError
from lrcsim.plots.charts import HeatMap, PlotLine, draw_heat, draw_lines
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import dress, legend_below, look_of, shortened, sparse
from lrcsim.plots.settings import WIDTHS, sized, width


def drawn(path: Path, **options: Any) -> bytes:
    """Draw a figure with all that has letters: title, labels, powers of ten, a legend."""
    with open_figure(str(path), figsize=(7, 3), **options) as (figure, axes):
        axes.plot([1, 1000], [1, 10], label="a name", **look_of(0))
        dress(axes, "x [tokens]", "y", "Title")
        axes.set_xscale("log")
        legend_below(figure, [axes])
    return path.read_bytes()


def test_a_pdf_has_truetype_fonts_and_no_type_3(tmp_path: Path) -> None:
    found = drawn(tmp_path / "a.pdf")
    assert b"/FontFile2" in found  # the program of a TrueType font
    assert b"/CIDFontType2" in found or b"/Subtype /TrueType" in found
    assert b"/Type3" not in found


def test_an_svg_has_its_words_as_text(tmp_path: Path) -> None:
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn(tmp_path / "a.svg").decode())
    assert {"Title", "x [tokens]", "y", "a name"} <= set(texts)


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_figure_is_the_same_bytes(tmp_path: Path, ending: str) -> None:
    assert drawn(tmp_path / f"a.{ending}") == drawn(tmp_path / f"b.{ending}")


def box(path: Path) -> tuple[float, float]:
    """Return width and height of a PDF in inches."""
    match = re.search(rb"/MediaBox \[ *0 0 ([0-9.]+) ([0-9.]+) *\]", path.read_bytes())
    assert match is not None
    return float(match[1]) / 72, float(match[2]) / 72


def test_a_figure_is_as_wide_as_a_column_or_a_page(tmp_path: Path) -> None:
    for size, wide in WIDTHS.items():
        with sized(size):
            assert width() == wide
            with open_figure(str(tmp_path / "a.pdf"), figsize=(14, 7)):
                pass
        assert box(tmp_path / "a.pdf") == pytest.approx((wide, wide / 2), abs=0.01)  # the proportions count
    assert width() == WIDTHS["page"]
    with pytest.raises(ConfigError, match="use column or page"), sized("poster"):  # type: ignore[arg-type]
        pass


def test_panels_beside_each_other_stand_below_each_other_in_a_column(tmp_path: Path) -> None:
    # Two panels of 3.5 x 2 inches beside each other: in a column of 3.3 inches each is 3.3 x 3.3 * 2 / 3.5.
    with sized("column"), open_figure(str(tmp_path / "a.pdf"), 1, 2, figsize=(7, 2)) as (_, (first, second)):
        assert first.get_subplotspec().rowspan.start < second.get_subplotspec().rowspan.start
    assert box(tmp_path / "a.pdf") == pytest.approx((3.3, 2 * 3.3 * 2 / 3.5), abs=0.01)


def test_the_letters_are_of_7_and_8_points(tmp_path: Path) -> None:
    for size in WIDTHS:
        with sized(size), open_figure(str(tmp_path / "a.png"), figsize=(7, 3)) as (figure, axes):
            axes.plot([0, 1], label="a name")
            dress(axes, "x", "y", "Title")
            legend_below(figure, [axes])
            sizes = {axes.title.get_fontsize(), axes.xaxis.label.get_fontsize()}
            assert sizes == {8}
            assert {text.get_fontsize() for text in axes.get_xticklabels()} == {7}
            assert {text.get_fontsize() for text in figure.legends[0].get_texts()} == {7}


def test_nothing_is_left_of_a_figure_that_failed(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums(), plt.rcParams["font.size"]
    with pytest.raises(KeyError), open_figure(str(tmp_path / "a.png"), figsize=(7, 3)):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert (plt.get_fignums(), plt.rcParams["font.size"]) == before


def test_no_two_of_twelve_lines_look_alike() -> None:
    looks = [look_of(i) for i in range(12)]
    for a, b in itertools.combinations(looks, 2):
        assert a["marker"] != b["marker"]
        assert (a["color"], a["linestyle"]) != (b["color"], b["linestyle"])
    places = [sparse(i)["markevery"][0] for i in range(12)]
    assert len(set(places)) == 12  # dense lines that lie on each other still show each other's markers


def test_a_legend_stands_below_and_takes_nothing_of_the_axes(tmp_path: Path) -> None:
    heights = []
    for names in (1, 12):
        path = tmp_path / f"{names}.pdf"
        with open_figure(str(path), figsize=(7, 3)) as (figure, axes):
            for i in range(names):
                axes.plot([0, 1], label=f"a rather long name {i}")
                axes.plot([0, 2], label=f"a rather long name {i}")  # named once
            legend_below(figure, [axes])
            assert len(figure.legends[0].get_texts()) == names
            figure.draw_without_rendering()
            heights.append(axes.get_window_extent().height / figure.dpi)
            below = figure.legends[0].get_window_extent().y1
            assert below <= axes.get_tightbbox().y0
            assert figure.legends[0].get_window_extent().x0 >= 0
    assert heights[1] == pytest.approx(heights[0], abs=0.12)


def test_long_names_lose_their_middle() -> None:
    assert shortened("a-very-long-name", 9) == "a-ve…name"
    assert [len(shortened("x" * 50, most)) for most in (4, 5, 12)] == [4, 5, 12]
    assert shortened("short", 5) == "short"
    assert shortened("a\nb") == r"a\nb"  # what is not seen is written out


def test_titles_and_heat_maps_fit_their_panels(tmp_path: Path) -> None:
    """Two panels with long names in a column: no title runs into the other's panel."""
    for size in WIDTHS:
        with sized(size):
            lines = {
                f"a/very/long/path/{i}/to/a/trace/of/a/model.teacher_forced.h5": [PlotLine("x", [1, 2], [0, 1])]
                for i in "ab"
            }
            draw_lines(str(tmp_path / "lines.svg"), lines, "x", "y", log=True)
            heats = [HeatMap(name, np.eye(4), ["4", "16"], "m") for name in lines]
            draw_heat(str(tmp_path / "heat.svg"), heats, "SRP")
        for name in ("lines", "heat"):
            texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
            titles = [text for text in texts if text.startswith("a/very")]
            assert len(titles) == 2
            assert all(len(title) <= 14 * WIDTHS[size] for title in titles)
