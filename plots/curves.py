"""Figures, drawn with matplotlib: colour-blind safe, told apart by line style in print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lrcsim.plots.figure import check_picture, write_figure

if TYPE_CHECKING:
    from lrcsim.simulator import Curve

# Okabe and Ito's palette, which people with every kind of colour blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


@contextmanager
def open_figure(
    path: str, rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], height_ratios: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes to draw on; written to ``path`` when all is drawn.

    Raises:
        ConfigError: the ending of the path is not one of a picture.
        TraceError: the file cannot be written.
    """
    check_picture(path)
    from lrcsim.base.folders import for_fonts

    for_fonts()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=figsize, layout="constrained", height_ratios=height_ratios)
    yield figure, axes
    write_figure(figure, path)
    plt.close(figure)


def plot_curves(path: str, traces: Mapping[str, Sequence[Curve]], title: str) -> None:
    """Draw hit rate against relative cache size, the knees as dots, the paper's 2x as a line.

    One trace: a colour for each policy, a proven optimum in black as the ceiling. Several: a colour for each trace, a
    style for each policy.

    Args:
        path: the picture, .png, .svg or .pdf.
        traces: the curves of each trace, by its label.
        title: above the figure.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    with open_figure(path, figsize=(7, 4.5)) as (_, axes):
        for number, (label, curves) in enumerate(traces.items()):
            others = 0
            for place, curve in enumerate(curves):
                optimum = curve.proven
                if len(traces) > 1:
                    colour, style = COLOURS[number % len(COLOURS)], STYLES[place % len(STYLES)]
                elif optimum:
                    colour, style = "black", STYLES[0] if curve.policy == "belady" else STYLES[3]
                else:
                    colour, style = COLOURS[others % len(COLOURS)], STYLES[others % len(STYLES)]
                    others += 1
                name = f"{label}: {curve.policy}" if len(traces) > 1 else curve.policy
                axes.plot(curve.relative, 100 * curve.hit_rate, color=colour, linestyle=style, label=name)
                if not curve.exact_at_all:
                    axes.plot(
                        curve.relative, 100 * curve.hit_rate, color=colour, linestyle="", marker="|", markersize=6
                    )
                axes.plot(
                    curve.relative[curve.knee], 100 * curve.hit_rate[curve.knee], color=colour, marker="o", markersize=5
                )
        axes.plot([], [], color="0.4", linestyle="", marker="o", markersize=5, label="knee")
        axes.axvline(2, color="0.6", linewidth=0.8, zorder=0)
        axes.annotate("2x", (2, 0), xytext=(3, 3), textcoords="offset points", color="0.4", fontsize=8)
        axes.set(
            xlabel="cache size / experts active per token",
            ylabel="hit rate [%]",
            title=title if len(traces) > 1 else f"{next(iter(traces))}, {title}",
            xlim=(0, None),
            ylim=(0, 100),
        )
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
