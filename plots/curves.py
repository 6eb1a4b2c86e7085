"""The figure of hit rate against cache size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import MARKERS, STYLES, dress, grey, ink, legend_below, sparse

if TYPE_CHECKING:
    from lrcsim.simulator import Curve


def plot_curves(path: str | None, traces: Mapping[str, Sequence[Curve]], title: str) -> Any:
    """Draw hit rate against relative cache size, the knees as ringed dots, the paper's 2x as a line.

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
    with open_figure(path, figsize=(7, 4.2)) as (figure, axes):
        for number, (label, curves) in enumerate(traces.items()):
            others = 0
            for place, curve in enumerate(curves):
                optimum = curve.proven
                if len(traces) > 1:
                    look = sparse(number) | {"linestyle": STYLES[place % len(STYLES)]}
                    look["marker"] = MARKERS[(number + place * len(traces)) % len(MARKERS)]
                elif optimum:
                    look = {"color": ink(), "linestyle": STYLES[0] if curve.policy == "belady" else STYLES[3]}
                else:
                    look = sparse(others)
                    others += 1
                if not curve.exact_at_all:
                    look["markevery"] = 1  # a marker at every size that was counted; between them the line is straight
                name = f"{label}: {curve.policy}" if len(traces) > 1 else curve.policy
                axes.plot(curve.relative, 100 * curve.hit_rate, label=name, **look)
                knee = curve.relative[curve.knee], 100 * curve.hit_rate[curve.knee]
                axes.plot(*knee, "o", color=look["color"], mec=ink(), mew=0.8, ms=5.5, zorder=4)
        axes.plot([], [], "o", color=grey(0.7), mec=ink(), mew=0.8, ms=5.5, label="knee")
        axes.axvline(2, color=grey(0.6), linewidth=0.8, zorder=0)
        axes.annotate("2x", (2, 0), xytext=(3, 3), textcoords="offset points", color=grey(0.4), fontsize=7)
        heading = title if len(traces) > 1 else ", ".join(filter(None, (next(iter(traces)), title)))
        dress(axes, "cache size / experts active per token", "hit rate [%]", heading, xlim=(0, None), ylim=(0, 100))
        legend_below(figure, [axes])
    return figure
