"""The one door for figures: their size and fonts in print, how they are written, names in them as they are.

A figure is as wide as it will be printed, so that its letters have the size they say: `open_figure` takes proportions
and makes the width that of a column or a page. Fonts are real ones, so that words can be searched and edited: Type 42
(TrueType) in PDF, text in SVG.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lrcsim.base.errors import ConfigError, brief, did_you_mean
from lrcsim.base.files import replacing
from lrcsim.base.text import printable

PICTURES = (".png", ".svg", ".pdf")
Size = Literal["column", "page"]
WIDTHS: dict[Size, float] = {"column": 3.3, "page": 7.0}
"""Inches: a column and the text of ACM's two-column style (acmart ``sigconf``: 241.1 and 506.3 pt of 1/72.27 in)."""
SIDE_BY_SIDE = 5.0
"""Inches from which on panels stand beside each other."""
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
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.35,
    "legend.columnspacing": 1.2,
}
"""Sizes in points: 8 for titles and labels, 7 for numbers and legends, at either width."""


@dataclass(frozen=True)
class Asked:
    """What the user wants of figures.

    Attributes:
        wide: inches.
        high: inches; None: as the figure's proportions say.
        title: in place of the figure's own; None: its own.
        style: matplotlib settings, over `LOOKS`.
    """

    wide: float = WIDTHS["page"]
    high: float | None = None
    title: str | None = None
    style: Mapping[str, Any] = field(default_factory=dict)


_asked: ContextVar[Asked] = ContextVar("what is asked of figures", default=Asked())  # noqa: B039  # it is frozen


@contextmanager
def figures(*, size: str | None = None, title: str | None = None, style: str | None = None) -> Iterator[None]:
    """Have figures that are opened within made as asked; what is None stays as it was.

    Args:
        size: ``"column"``, ``"page"``, or width and height in inches, ``"5x3"``.
        title: of the figure.
        style: a file of matplotlib settings (``*.mplstyle``), or the name of a style that comes with matplotlib, as
            ``dark_background``.

    Raises:
        ConfigError: another size; there is no such style, or it cannot be read.
    """
    asked = _asked.get()
    if size is not None:
        wide, high = parse_size(size)
        asked = replace(asked, wide=wide, high=high)
    if title is not None:
        asked = replace(asked, title=title)
    if style is not None:
        asked = replace(asked, style=read_style(style))
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def sized(size: Size) -> AbstractContextManager[None]:
    """Have figures that are opened within made as wide as a column or a page; as `figures`."""
    return figures(size=size)


def parse_size(text: str) -> tuple[float, float | None]:
    """Return width and height in inches; the height is None where the figure's proportions say it.

    Raises:
        ConfigError: it is no size, or too small or large for a page: 1 to 40 inches.
    """
    for name, wide in WIDTHS.items():
        if text == name:
            return wide, None
    match = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]+)?)[x×]([0-9]{1,2}(?:\.[0-9]+)?)", text.strip())
    sides = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not all(1 <= side <= 40 for side in sides):
        raise ConfigError(
            f"size {text!r} of figures is not known, use column or page, or width x height in inches, 1 to 40: 5x3"
        )
    return sides


def read_style(spec: str) -> dict[str, Any]:
    """Return the matplotlib settings of a file, or of a style that comes with matplotlib.

    Raises:
        ConfigError: there is none, or it cannot be read, or sets what is unknown.
    """
    from lrcsim.base.folders import for_fonts

    for_fonts()
    import matplotlib
    import matplotlib.style  # alone it brings no pyplot

    known = matplotlib.style.library
    if spec in known:
        return dict(known[spec])
    if not Path(spec).is_file():
        raise ConfigError(
            f"there is no style {spec!r}: give a file of matplotlib settings (lines as axes.facecolor: white), "
            f"or a style of matplotlib{did_you_mean(spec, list(known)) or ', as dark_background or grayscale'}"
        )
    try:
        with caught_log() as said:
            found = matplotlib.rc_params_from_file(spec, use_default_template=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"style {spec} cannot be read: {brief(error)}") from None
    if said:
        raise ConfigError(f"style {spec}: {' '.join(said[0].split())}")
    return {key: value for key, value in found.items() if key != "backend"}


@contextmanager
def caught_log() -> Iterator[list[str]]:
    """Collect what matplotlib logs of a file that it does not understand, in place of printing it."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, keep = logging.getLogger("matplotlib"), Keep(logging.WARNING)
    logger.addHandler(keep)
    before, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.removeHandler(keep)
        logger.propagate = before


def width() -> float:
    """Return the width of figures that are opened here, in inches."""
    return _asked.get().wide


def height() -> float | None:
    """Return the height that was asked for of figures that are opened here, in inches; None: none was."""
    return _asked.get().high


def styled(key: str) -> Any:
    """Return what the user's style sets, None where it does not."""
    return _asked.get().style.get(key)


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

    asked, (wide, high) = _asked.get(), figsize
    if rows == 1 < columns and width() < SIDE_BY_SIDE and subplots.get("squeeze", True):
        rows, columns, wide, high = columns, 1, wide / columns, high * columns
        subplots["height_ratios"] = subplots.pop("width_ratios", None)
    with matplotlib.rc_context({**LOOKS, **asked.style}):
        size = (width(), width() * high / wide if asked.high is None else asked.high)
        figure = Picture(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, **_for_figure(subplots))
        yield figure, axes
        if asked.title is not None:
            _entitle(figure, asked.title)
        if path is None:
            _plain_names(figure)
        else:
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
