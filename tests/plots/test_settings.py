"""What can be asked of figures: size, title, style; in Python and on the command line alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from matplotlib.colors import to_rgb

from lrcsim.base.errors import ConfigError
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import colour, dress, grey, ink, legend_below
from lrcsim.plots.settings import WIDTHS, figures, height, parse_size, read_style, width

DARK = """
axes.facecolor: 111111
figure.facecolor: 111111
text.color: eeeeee
axes.prop_cycle: cycler('color', ['ff0000', '00ff00'])
"""


SIZES = [("column", (3.3, None)), ("page", (7.0, None)), ("5x3", (5, 3)), ("6.5×2.25", (6.5, 2.25))]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sizes(text: str, size: tuple[float, float | None]) -> None:
    assert parse_size(text) == size
    with figures(size=text):
        assert (width(), height()) == size
    assert (width(), height()) == (WIDTHS["page"], None)


@pytest.mark.parametrize("text", ["", "poster", "5", "0.5x3", "5x99", "100x3", "-5x3", "5x3x1", "nanxnan", "5cmx3cm"])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="use column or page, or width x height in inches, 1 to 40: 5x3"):
        parse_size(text)


def test_a_size_in_inches_is_kept_whatever_the_legend_takes(tmp_path: Path) -> None:
    with figures(size="4x3"), open_figure(str(tmp_path / "a.png"), figsize=(7, 2)) as (figure, axes):
        for i in range(20):
            axes.plot([0, 1], label=f"a line of some name, {i}")
        dress(axes, "x", "y")
        legend_below(figure, [axes])
        assert tuple(figure.get_size_inches()) == (4, 3)


def test_a_title_takes_the_place_of_the_figures_own(tmp_path: Path) -> None:
    for panels, title in ((1, "own"), (2, "a panel")):
        path = tmp_path / f"{panels}.svg"
        with (
            figures(title="mine: $x$ <b>"),
            open_figure(str(path), 1, panels, figsize=(7, 3), squeeze=False) as (_, grid),
        ):
            for axes in grid.flat:
                axes.set_title(title)
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
        assert "mine: $x$ &lt;b&gt;" in texts
        assert (title in texts) == (panels > 1)


def test_a_style_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "dark.mplstyle").write_text(DARK)
    with figures(style=str(tmp_path / "dark.mplstyle")), open_figure(None, figsize=(7, 3)) as (_, axes):
        assert [colour(i) for i in range(3)] == ["#ff0000", "#00ff00", "#ff0000"]
        assert ink() == pytest.approx(to_rgb("#eeeeee"))
        assert grey(1) == pytest.approx(to_rgb("#111111"))
        assert grey(0.5) == pytest.approx([(0xEE + 0x11) / 2 / 255] * 3)
        assert axes.get_facecolor()[:3] == pytest.approx(to_rgb("#111111"))
        assert axes.title.get_fontsize() == 8  # what it does not set stays
    with open_figure(None, figsize=(7, 3)):
        assert colour(0) == "#0072B2"
        assert (ink(), grey(1)) == ((0, 0, 0), (1, 1, 1))


def test_a_style_of_matplotlibs() -> None:
    assert read_style("dark_background")["axes.facecolor"] == "black"
    assert "grid.color" not in read_style("dark_background")  # white there


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"there is no style '.*none\.mplstyle': give a file of matplotlib settings"),
        ("axes.facecolour: white\n", r"style .*: .*axes\.facecolour"),
        ("axes.facecolor: nocolour\n", r"style .*: .*nocolour"),
        ("lines.linewidth: wide\n", r"style .*: .*wide"),
        ("just words\n", r"style .*: .*"),
    ],
)
def test_a_style_that_is_none_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "none.mplstyle"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        read_style(str(path))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mplstyle").write_bytes(b"\xff\xfe\x00\x01" * 20)
    with pytest.raises(ConfigError, match=r"style .* cannot be read|style .*: "):
        read_style(str(tmp_path / "a.mplstyle"))


def test_the_closest_name_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dark_background'"):
        read_style("dark_backgroud")


@pytest.mark.parametrize("command", ["curve", "srp", "sch", "balance", "run"])
def test_every_command_with_a_figure_takes_them(lrcsim: Any, tmp_path: Path, command: str) -> None:
    path = tmp_path / "a.svg"
    more = {
        "run": ["--hardware", "rtx-4090"],
        "srp": ["--bootstrap", "0"],
        "sch": ["--bootstrap", "0"],
        "balance": ["--bootstrap", "0"],
    }
    done = lrcsim(
        command, *more.get(command, []), "--plot", path, "--size", "4x3", "--title", "Mine", "--style", "grayscale"
    )
    assert done.code == 0, done.err
    text = path.read_text()
    assert 'width="288pt" height="216pt"' in text
    assert ">Mine</text>" in text
    refused = lrcsim(command, *more.get(command, []), "--title", "Mine")
    assert (refused.code, "--title is about the figure: give --plot FILE with it" in refused.err) == (2, True)
    refused = lrcsim(command, *more.get(command, []), "--plot", path, "--size", "poster")
    assert (refused.code, "use column or page" in refused.err) == (1, True)


def test_every_command_that_draws_takes_them() -> None:
    """Those above run; here each command's options are looked at."""
    from lrcsim.cli.main import cli

    def commands(group: Any, context: click.Context) -> Iterator[tuple[str, Any]]:
        for name in group.list_commands(context):
            one = group.get_command(context, name)
            below = click.Context(one, info_name=name, parent=context)
            if isinstance(one, click.Group):
                yield from commands(one, below)
            else:
                yield below.command_path, {option for parameter in one.params for option in parameter.opts}

    drawing = {name: options for name, options in commands(cli, click.Context(cli)) if "--plot" in options}
    assert len(drawing) >= 11
    assert [name for name, options in drawing.items() if not {"--size", "--title", "--style"} <= options] == []


def test_the_header_alone_is_not_drawn(lrcsim: Any, tmp_path: Path) -> None:
    done = lrcsim("trace", "info", "--quick", "--plot", tmp_path / "a.png")
    assert (done.code, "--quick reads the header only, --plot the whole trace" in done.err) == (1, True)
