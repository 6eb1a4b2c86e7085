"""The one door for figures: their size and fonts in print, how they are written, names in them as they are.

A figure is as wide as it will be printed, so that its letters have the size they say: `open_figure` takes proportions
and makes the width that of a column or a page. Fonts are real ones, so that words can be searched and edited: Type 42
(TrueType) in PDF, text in SVG.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.base.text import printable

PICTURES = (".png", ".svg", ".pdf")
Size = Literal["column", "page"]
WIDTHS: dict[Size, float] = {"column": 3.3, "page": 7.0}
"""Inches: a column and the text of ACM's two-column style (acmart ``sigconf``: 241.1 and 506.3 pt of 1/72.27 in)."""
DPI = 200
"""Dots per inch of pictures that are made of dots."""

FONTS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "lrcsim"}
LOOKS: dict[Any, Any] = {
    "font.size": 8,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "figure.titlesize", "figure.labelsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 7),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("xtick.major.pad", "ytick.major.pad"), 2.0),
    "axes.titlepad": 4,
    "axes.labelpad": 2,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.35,
    "legend.columnspacing": 1.2,
}
"""Sizes in points: 8 for titles and labels, 7 for numbers and legends, at either width."""

_size: ContextVar[Size] = ContextVar("size of figures", default="page")


@contextmanager
def sized(size: Size) -> Iterator[None]:
    """Have figures that are opened within made as wide as a column or a page.

    Raises:
        ConfigError: another size.
    """
    if size not in WIDTHS:
        raise ConfigError(f"size {size!r} of figures is not known, use column or page")
    token = _size.set(size)
    try:
        yield
    finally:
        _size.reset(token)


def width() -> float:
    """Return the width of figures that are opened here, in inches."""
    return WIDTHS[_size.get()]


@contextmanager
def open_figure(
    path: str, rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **subplots: Any
) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes to draw on; written to ``path`` when all is drawn.

    Args:
        path: the picture, .png, .svg or .pdf.
        rows: of axes.
        columns: of axes; a single row of them stands as a column where the figure is as wide as a column.
        figsize: width and height, of which the proportions count: the figure is as wide as `width` says.
        subplots: passed on to matplotlib's ``subplots``: ``sharex``, ``height_ratios``, ``squeeze`` ...

    Raises:
        ConfigError: the ending of the path is not one of a picture.
        TraceError: the file cannot be written.
    """
    check_picture(path)
    pyplot = _pyplot()
    import matplotlib

    wide, high = figsize
    if rows == 1 < columns and width() < WIDTHS["page"] and subplots.get("squeeze", True):
        rows, columns, wide, high = columns, 1, wide / columns, high * columns
        subplots["height_ratios"] = subplots.pop("width_ratios", None)
    with matplotlib.rc_context(LOOKS):
        size = (width(), width() * high / wide)
        figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", **subplots)
        try:
            yield figure, axes
            write_figure(figure, path)
        finally:
            pyplot.close(figure)


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


def _pyplot() -> Any:
    from lrcsim.base.folders import for_fonts

    for_fonts()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


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
