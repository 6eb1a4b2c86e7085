"""The figure of hit rate against cache size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import LETTER, MARKERS, STYLES, dress, grey, ink, legend_below, sparse
from lrcsim.plots.settings import width

if TYPE_CHECKING:
    from lrcsim.simulator import Curve


class AskedSizes(NamedTuple):
    """Cache sizes that are marked on the curves of a trace.

    Attributes:
        names: as they were asked for, ``2x``, ``25%``, ``1GiB``.
        curves: for each of the trace's curves, the same at these sizes only, in this order.
    """

    names: Sequence[str]
    curves: Sequence[Curve]


def plot_curves(
    path: str | None,
    traces: Mapping[str, Sequence[Curve]],
    title: str,
    sizes: Mapping[str, AskedSizes] | None = None,
) -> Any:
    """Draw hit rate against relative cache size, the knees as ringed dots, the paper's 2x as a line.

    One trace: a colour for each policy, a proven optimum in black as the ceiling. Several: a colour for each trace, a
    style for each policy.

    Args:
        path: the picture, .png, .svg or .pdf.
        traces: the curves of each trace, by its label.
        title: above the figure.
        sizes: of each trace what is marked, in place of 2x: each size as a line with its name, the hit rates there as
            squares. Where experts differ in bytes and sizes are given in bytes, squares need not lie on the curves,
            which count experts.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    with open_figure(path, figsize=(7, 4.2)) as (figure, axes):
        shades: list[Any] = []  # of the curves, in their order
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
                shades.append(look["color"])
                knee = curve.relative[curve.knee], 100 * curve.hit_rate[curve.knee]
                axes.plot(*knee, "o", color=look["color"], mec=ink(), mew=0.8, ms=5.5, zorder=4)
        axes.plot([], [], "o", color=grey(0.7), mec=ink(), mew=0.8, ms=5.5, label="knee")
        named = {2.0: "2x"}
        if sizes is not None:
            named = _asked(axes, [sizes[label] for label in traces], shades)
            axes.plot([], [], "s", mfc=grey(1), mec=grey(0.3), mew=1.1, ms=4.5, label="size asked for")
        heading = title if len(traces) > 1 else ", ".join(filter(None, (next(iter(traces)), title)))
        dress(axes, "cache size / experts active per token", "hit rate [%]", heading, xlim=(0, None), ylim=(0, 100))
        _mark(axes, named)
        legend_below(figure, [axes])
    return figure


def _asked(axes: Any, sizes: Sequence[AskedSizes], shades: Sequence[Any]) -> dict[float, str]:
    """Draw the hit rates at the sizes that were asked for; return the sizes' names by relative size."""
    curves = [curve for asked in sizes for curve in asked.curves]
    for curve, shade in zip(curves, shades, strict=True):
        look = {"mfc": grey(1), "mec": shade, "mew": 1.1, "ms": 4.5, "linestyle": ""}
        axes.plot(curve.relative, 100 * curve.hit_rate, marker="s", zorder=5, **look)
    found: dict[float, dict[str, None]] = {}
    for asked in sizes:
        for x, name in zip(asked.curves[0].relative.tolist(), asked.names, strict=True):
            found.setdefault(round(x, 6), {})[name] = None
    return {x: ", ".join(names) for x, names in sorted(found.items())}


def _mark(axes: Any, named: Mapping[float, str]) -> None:
    """Draw a line at each size, its name at the foot, one above the other where they would overlap."""
    left, right = axes.get_xlim()
    ends: list[float] = []  # of the names of each row, in inches from the left
    for x, name in named.items():
        axes.axvline(x, color=grey(0.6), linewidth=0.8, zorder=0)
        at = (width() - 0.6) * (x - left) / (right - left)
        flipped = at + LETTER * len(name) + 0.1 > width() - 0.6
        begin = at - (LETTER * len(name) + 0.05) * flipped
        row = next((row for row, end in enumerate(ends) if end < begin), len(ends))
        ends[row : row + 1] = [max(begin, at) + LETTER * len(name) * (not flipped) + 0.08]
        where = {"xytext": (-3 if flipped else 3, 3 + 8 * row), "ha": "right" if flipped else "left"}
        axes.annotate(name, (x, 0), textcoords="offset points", color=grey(0.4), fontsize=7, **where)
