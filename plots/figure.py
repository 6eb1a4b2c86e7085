"""Names in figures as they are: no formulas out of dollar signs, no control characters; and how a figure is written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.base.text import printable

PICTURES = (".png", ".svg", ".pdf")


def write_figure(figure: Any, path: str, *, dpi: int = 150) -> None:
    """Write a matplotlib figure in the format of the path's ending; it appears complete or not at all.

    Raises:
        TraceError: the file cannot be written.
    """
    _plain_names(figure)
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(partial, dpi=dpi, format=Path(path).suffix.lower()[1:])


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
