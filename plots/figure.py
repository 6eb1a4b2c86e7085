"""The one door for figures: how they are opened and written, names in them as they are.

`open_figure` takes proportions and makes the width that of a column or a page (`lrcsim.plots.settings`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.base.text import printable
from lrcsim.plots.fitted import fit_words
from lrcsim.plots.settings import DPI, FONTS, LOOKS, SIDE_BY_SIDE, asked, width

PICTURES = (".png", ".svg", ".pdf")


@contextmanager
def open_figure(
    path: str | None, rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **subplots: Any
) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes to draw on; written to ``path`` when all is drawn.

    Args:
        path: the picture, .png, .svg or .pdf; None: it is not written.
        rows: of axes.
        columns: of axes; a single row of them stands as a column where the figure is as wide as a column.
        figsize: width and height, of which the proportions count: the figure is as wide as `width` says.
        subplots: passed on to matplotlib's ``subplots``: ``sharex``, ``height_ratios``, ``squeeze`` ...

    Raises:
        ConfigError: the ending of the path is not one of a picture.
        TraceError: the file cannot be written.
    """
    check_picture(path)
    from lrcsim.base.folders import for_fonts

    for_fonts()
    import matplotlib

    from lrcsim.plots.picture import Picture

    wanted, (wide, high) = asked(), figsize
    if rows == 1 < columns and width() < SIDE_BY_SIDE and subplots.get("squeeze", True):
        rows, columns, wide, high = columns, 1, wide / columns, high * columns
        subplots.pop("width_ratios", None)
    with matplotlib.rc_context({**LOOKS, **wanted.style}):
        size = (width(), width() * high / wide if wanted.high is None else wanted.high)
        figure = Picture(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, **_for_figure(subplots))
        yield figure, axes
        if wanted.title is not None:
            _entitle(figure, wanted.title)
        _plain_names(figure)
        fit_words(figure)
        if path is not None:
            write_figure(figure, path)


def _for_figure(subplots: dict[str, Any]) -> dict[str, Any]:
    """Return options of pyplot's ``subplots`` as those of a figure's."""
    ratios = {name: subplots[name] for name in ("width_ratios", "height_ratios") if subplots.get(name) is not None}
    others = {name: value for name, value in subplots.items() if name not in ("width_ratios", "height_ratios")}
    return others | ratios


def _entitle(figure: Any, title: str) -> None:
    """Put the user's title in place of the figure's; panels keep theirs where there are several."""
    if len(figure.axes) == 1:
        figure.axes[0].set_title(title)
    else:
        figure.suptitle(title)


def write_figure(figure: Any, path: str, *, dpi: int = DPI) -> None:
    """Write a matplotlib figure in the format of the path's ending; it appears complete or not at all.

    The same figure gives the same bytes: no date is written.

    Raises:
        TraceError: the file cannot be written.
    """
    import matplotlib

    _plain_names(figure)
    ending = Path(path).suffix.lower()[1:]
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending)
    with matplotlib.rc_context(FONTS), replacing(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(partial, dpi=dpi, format=ending, metadata=undated)


def _plain_names(figure: Any) -> None:
    """Have every text but numbers on axes drawn as it is: titles, legends, labels come with names out of files."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    numbers = {
        id(text)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if not isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter)
        for text in axis.get_ticklabels(which="both")
    }
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
                formatter.seq = [printable(str(name)) for name in formatter.seq]
    for text in figure.findobj(Text):
        if id(text) not in numbers:
            text.set_parse_math(False)
            text.set_text(printable(text.get_text(), keep="\n"))


def check_picture(path: str | None) -> None:
    """Refuse a picture that could not be written, before the work is done.

    Raises:
        ConfigError: its name has another ending than .png, .svg, .pdf.
    """
    if path is not None and not path.lower().endswith(PICTURES):
        raise ConfigError(f"--plot {path}: pictures are {', '.join(PICTURES)}, name one of these")
