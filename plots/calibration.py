"""The figure of a calibration: every token's time, measured and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrcsim.plots.curves import COLOURS
from lrcsim.plots.figure import check_picture, write_figure

if TYPE_CHECKING:
    from lrcsim.calibration.from_run.calibrate import Calibration


def picture_ending(path: str) -> str:
    """Return the ending of a picture's name.

    Raises:
        ConfigError: it is none of those that can be drawn.
    """
    check_picture(path)
    return Path(path).suffix.lower()


def plot_calibration(path: str, found: Calibration, title: str) -> None:
    """Draw measured and predicted milliseconds of every token above, and predicted against measured below.

    Args:
        path: the picture, .png, .svg or .pdf.
        found: what was fitted.
        title: above the figure.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    picture_ending(path)
    from lrcsim.base.folders import for_fonts

    for_fonts()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured, predicted = 1e3 * found.measured["wall"], 1e3 * found.predicted.wall
    tokens = np.arange(1, len(measured) + 1)
    figure, (above, beside) = plt.subplots(
        1, 2, figsize=(11, 4), layout="constrained", gridspec_kw={"width_ratios": [2.2, 1]}
    )
    above.axvspan(0.5, found.fitted + 0.5, color="0.93", zorder=0, label="fitted")
    above.plot(tokens, measured, color="black", linewidth=1.4, label="measured")
    lines = [("predicted from the routing", predicted, COLOURS[0], "-")]
    if found.given_compute is not None:
        lines.append(("predicted, its compute given", 1e3 * found.given_compute.wall, COLOURS[1], "--"))
    for label, values, colour, style in lines:
        above.plot(tokens, values, color=colour, linestyle=style, linewidth=1.1, label=label)
    if found.disturbed is not None and found.disturbed.any():
        at = found.disturbed
        above.plot(tokens[at], measured[at], "o", color=COLOURS[3], markersize=4, label="machine disturbed")
    above.set(xlabel="decoded token", ylabel="time [ms]", title=title, xlim=(0.5, len(tokens) + 0.5), ylim=(0, None))
    above.legend(frameon=False, fontsize=8)
    held = slice(found.fitted, None)
    top = 1.05 * max(measured[held].max(initial=1), predicted[held].max(initial=1))
    beside.plot([0, top], [0, top], color="0.6", linewidth=0.8)
    for (_, values, colour, _), marker in zip(lines, ("o", "x"), strict=False):
        beside.plot(measured[held], values[held], marker, color=colour, markersize=4, alpha=0.8)
    beside.set(xlabel="measured [ms]", ylabel="predicted [ms]", title="held-out tokens", xlim=(0, top), ylim=(0, top))
    for axes in (above, beside):
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path, dpi=110)
    plt.close(figure)
