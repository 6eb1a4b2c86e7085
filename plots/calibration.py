"""The figure of a calibration: every token's time, measured and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.plots.figure import check_picture, open_figure
from lrcsim.plots.looks import colour, dress, grey, ink, legend_below, shortened

if TYPE_CHECKING:
    from lrcsim.calibration.from_run.calibrate import Calibration


def picture_ending(path: str) -> str:
    """Return the ending of a picture's name.

    Raises:
        ConfigError: it is none of those that can be drawn.
    """
    check_picture(path)
    return Path(path).suffix.lower()


def plot_calibration(path: str | None, found: Calibration, title: str) -> Any:
    """Draw measured and predicted milliseconds of every token, and predicted against measured beside them.

    Args:
        path: the picture, .png, .svg or .pdf.
        found: what was fitted.
        title: above the figure.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    with open_figure(path, 1, 2, figsize=(7, 2.7), width_ratios=(2.2, 1)) as (figure, (above, beside)):
        _per_token(above, found, title)
        _held_out(beside, found)
        legend_below(figure, [above])
    return figure


def _lines(found: Calibration) -> list[tuple[str, Any, str, str]]:
    """Return label, milliseconds by token, colour and dash of what was predicted."""
    lines = [("predicted from the routing", 1e3 * found.predicted.wall, colour(0), "-")]
    if found.given_compute is not None:
        lines.append(("predicted, its compute given", 1e3 * found.given_compute.wall, colour(1), "--"))
    return lines


def _per_token(axes: Any, found: Calibration, title: str) -> None:
    measured = 1e3 * found.measured["wall"]
    tokens = np.arange(1, len(measured) + 1)
    axes.axvspan(0.5, found.fitted + 0.5, color=grey(0.93), zorder=0, label="fitted")
    axes.plot(tokens, measured, color=ink(), label="measured")
    for label, values, shade, style in _lines(found):
        axes.plot(tokens, values, color=shade, linestyle=style, linewidth=0.9, label=label)
    if found.disturbed is not None and found.disturbed.any():
        at = found.disturbed
        axes.plot(tokens[at], measured[at], "o", color=colour(3), label="machine disturbed")
    dress(axes, "decoded token", "time [ms]", shortened(title, 60), xlim=(0.5, len(tokens) + 0.5), ylim=(0, None))


def _held_out(axes: Any, found: Calibration) -> None:
    held = slice(found.fitted, None)
    measured, lines = 1e3 * found.measured["wall"][held], _lines(found)
    top = 1.05 * max([measured.max(initial=1), lines[0][1][held].max(initial=1)])
    axes.plot([0, top], [0, top], color=grey(0.6), linewidth=0.8)
    for (_, values, shade, _), marker in zip(lines, ("o", "x"), strict=False):
        axes.plot(measured, values[held], marker, color=shade, ms=3, alpha=0.8)
    dress(axes, "measured [ms]", "predicted [ms]", "held-out tokens", xlim=(0, top), ylim=(0, top))
