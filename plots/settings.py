"""What is asked of figures: size, title, style; and the settings that all have.

A figure is as wide as it will be printed, so that its letters have the size they say. Fonts are real ones, so that
words can be searched and edited: Type 42 (TrueType) in PDF, text in SVG.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lrcsim.base.errors import ConfigError, brief, did_you_mean

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
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
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
    style: Mapping[Any, Any] = field(default_factory=dict)


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


def read_style(spec: str) -> dict[Any, Any]:
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
        return {key: value for key, value in known[spec].items() if key != "grid.color"}  # white in some: too loud
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


def high_as(page: float, column: float) -> float:
    """Return inches of height for a figure as wide as a page, or as a column."""
    return page if width() > SIDE_BY_SIDE else column


def height() -> float | None:
    """Return the height that was asked for of figures that are opened here, in inches; None: none was."""
    return _asked.get().high


def styled(key: str) -> Any:
    """Return what the user's style sets, None where it does not."""
    return _asked.get().style.get(key)


def asked() -> Asked:
    """Return what is asked of figures that are opened here."""
    return _asked.get()
