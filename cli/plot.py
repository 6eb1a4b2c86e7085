"""Figures, drawn with matplotlib: colour-blind safe, told apart by line style in print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.errors import ConfigError
from lrcsim.traces.atomic import replacing

if TYPE_CHECKING:
    from lrcsim.simulator import Curve

__all__ = ["plot_curves"]

# Okabe and Ito's palette, which people with every kind of colour blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
ENDINGS = (".png", ".svg", ".pdf")


def plot_curves(path: str, curves: Sequence[Curve], title: str) -> None:
    """Draw hit rate against relative cache size, the optimum in black as the ceiling, the paper's 2x marked.

    Args:
        path: the picture, .png, .svg or .pdf.
        curves: one line each.
        title: above the figure.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"--plot {path}: pictures are {', '.join(ENDINGS)}, name one of these")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    others = 0
    for curve in curves:
        if curve.policy in ("belady", "belady-bypass"):
            colour, style = "black", STYLES[0] if curve.policy == "belady" else STYLES[3]
        else:
            colour, style = COLOURS[others % len(COLOURS)], STYLES[others % len(STYLES)]
            others += 1
        marker = None if curve.exact_at_all else "o"
        axes.plot(
            curve.relative,
            100 * curve.hit_rate,
            color=colour,
            linestyle=style,
            marker=marker,
            ms=3.5,
            label=curve.policy,
        )
    axes.axvline(2, color="0.6", linewidth=0.8, zorder=0)
    axes.annotate("2x", (2, 0), xytext=(3, 3), textcoords="offset points", color="0.4", fontsize=8)
    axes.set(
        xlabel="cache size / experts active per token",
        ylabel="hit rate [%]",
        title=title,
        xlim=(0, None),
        ylim=(0, 100),
    )
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format=ending[1:])
    plt.close(figure)
