"""Figures of caches: SCH, policies, the 2x finding, throughput; the paper's values black or grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.experiments.paper.figure_style import flat_axes, look_of, panel_grid, paper_of, shown_in, tidy
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA
from lrcsim.experiments.paper.published import GRID, published
from lrcsim.plots.curves import COLOURS, STYLES, open_figure

if TYPE_CHECKING:
    from lrcsim.experiments.paper.measure import Measured

__all__ = ["policies", "scatter", "sch_by_size", "sch_layers", "throughput", "two_x"]

AT = 16
SCH = f"sch-lookahead:{AT}"


def sch_by_size(path: str, found: Sequence[Measured]) -> None:
    """Draw SCH against cache size: look-ahead in lines, static dotted, the paper's values as crosses."""
    shown = shown_in(found)
    rows, columns, size = panel_grid(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(flat_axes(grid, len(shown)), shown, strict=True):
            for i, m in enumerate(one.srp):
                for kind, style in (("lookahead", "-"), ("static", ":")):
                    rates = one.curves[f"sch-{kind}:{m}", "model"].rate(GRID)
                    label = f"m = {m}" if kind == "lookahead" else None
                    axes.plot(GRID, 100 * rates, color=COLOURS[i % 6], linestyle=style, lw=1.3, label=label)
            axes.plot([], [], color="0.3", linestyle=":", label="static")
            if "sch16" in paper_of(one):
                values = 100 * np.array(paper_of(one)["sch16"])
                axes.plot(GRID, values, "x", color="black", ms=4, label=f"paper, m = {AT}")
            tidy(axes, "cache size / active experts", "SCH [%]", one.label, xlim=(0, 4.1), ylim=(0, 100))


def sch_layers(path: str, found: Sequence[Measured]) -> None:
    """Draw SCH of every layer at 1x and 2x."""
    shown = shown_in(found)
    with open_figure(path, figsize=(7.5, 4.2)) as (_, axes):
        for i, one in enumerate(shown):
            curve = one.curves.get((SCH, "layer"))
            if curve is None:
                continue
            for size in (1.0, 2.0):
                look = look_of(i) | {"linestyle": "-" if size == 1 else "--"}
                values = curve.layers_at(size)
                assert values is not None
                axes.plot(range(len(values)), 100 * values, label=f"{one.label}, {size:g}x", **look)
        axes.xaxis.get_major_locator().set_params(integer=True)
        title = f"SCH (look-ahead, m = {AT}), a cache for each layer"
        tidy(axes, "MoE layer", "SCH [%]", title, ylim=(0, 100), legend=False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def policies(path: str, found: Sequence[Measured]) -> None:
    """Draw hit rates of policies and SCH in one pool, the paper's LRU as crosses."""
    shown = shown_in(found)
    rows, columns, size = panel_grid(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(flat_axes(grid, len(shown)), shown, strict=True):
            for i, policy in enumerate(("belady", SCH, "lru", "lfu")):
                curve = one.curves.get((policy, "model"))
                if curve is not None:
                    colour = "black" if policy == "belady" else COLOURS[i - 1]
                    name = "SCH, m = 16" if policy == SCH else policy
                    axes.plot(GRID, 100 * curve.rate(GRID), color=colour, linestyle=STYLES[i], lw=1.4, label=name)
            theirs = paper_of(one)
            lru = theirs.get("lru") or theirs.get("policies", {}).get("lru")
            if lru:
                axes.plot(range(1, len(lru) + 1), 100 * np.array(lru), "x", color=COLOURS[1], ms=6, label="paper's lru")
            tidy(axes, "cache size / active experts", "hit rate [%]", one.label, xlim=(0, 4.1), ylim=(0, 100))


def scatter(path: str, found: Sequence[Measured]) -> None:
    """Draw SCH and LRU at 2x against SRP: the paper's models hollow, traces filled."""
    with open_figure(path, 1, 2, figsize=(10, 4.3)) as (_, (left, right)):
        real, toys = list(published().real.values()), list(published().toy.values())
        for axes, name in ((left, "SCH"), (right, "lru")):
            y = [m["sch16"][7] if name == "SCH" else m["policies"]["lru"][1] for m in real]
            axes.scatter([m["srp"][1] for m in real], y, s=22, facecolors="none", edgecolors="0.5", label="paper, real")
            y = [m["sch16"][7] if name == "SCH" else m["lru"][1] for m in toys]
            axes.scatter(
                [m["srp16"] for m in toys], y, s=22, marker="s", facecolors="none", edgecolors="0.5", label="paper, toy"
            )
            for i, one in enumerate(shown_in(found)):
                if AT in one.srp:
                    y_value = one.at(SCH if name == "SCH" else "lru", "model", 2.0)
                    look = look_of(i)
                    axes.plot(one.srp[AT].value, y_value, look["marker"], color=look["color"], ms=7, label=one.label)
            tidy(axes, f"SRP, m = {AT}", f"{name} at 2x, one pool", xlim=(0, 1), ylim=(0, 1), legend=axes is left)


def throughput(path: str, rows: Sequence[dict[str, Any]], found: Sequence[Measured]) -> None:
    """Draw the overhead per token against cache size, a panel for each machine, the paper's in grey."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    shown = [one.label for one in shown_in(found)]
    with open_figure(path, 1, len(machines), figsize=(5.2 * len(machines) + 1.5, 4)) as (_, grid):
        panels = flat_axes(grid, len(machines))
        for axes, machine in zip(panels, machines, strict=True):
            for key, toy in published().toy.items():
                theirs = [1e3 * (1 / rate - 1 / toy["decode"][-1]) for rate in toy["decode"][:-1]]
                label = "the paper's toy models" if key == "baseline" else None
                axes.plot((1, 2, 3), theirs, color="0.75", lw=1, marker="x", ms=4, zorder=0, label=label)
            for i, trace in enumerate(shown):
                mine = [row for row in rows if (row["trace"], row["machine"]) == (trace, machine)]
                points = [
                    (float(row["cache"][:-1]), row["overhead [ms/token]"]) for row in mine if row["cache"] != "all"
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), label=trace, **look_of(i))
            last = axes is panels[-1]
            tidy(axes, "cache size / active experts", "overhead [ms/token]", machine, ylim=(0, None), legend=False)
            axes.set_xticks((1, 2, 3))
            if last:
                axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def two_x(path: str, found: Sequence[Measured]) -> None:
    """Draw the curves with their knees, and the knees of all criteria here and in the paper's own curves."""
    from lrcsim.experiments.paper.two_x import sizes_of

    shown = [one for one in shown_in(found) if (SCH, "model") in one.curves]
    with open_figure(path, 1, 2, figsize=(14, 4.8)) as (_, (left, right)):
        for axes in (left, right):
            axes.axvspan(*ABOUT_TWICE, color="0.93", zorder=0)
        for i, one in enumerate(shown):
            curve, look = one.curves[SCH, "model"], look_of(i)
            sizes = sizes_of(curve)
            left.plot(sizes, curve.rate(sizes), label=one.label, **(look | {"marker": None}))
            if one.control is not None:
                left.plot(sizes, one.control.rate(sizes), color=look["color"], linestyle=(0, (1, 2)), lw=1)
            for which in (curve, one.control):
                knee = _knee(which, 0)
                if which is not None and np.isfinite(knee):
                    hollow = {} if which is curve else {"mfc": "white"}
                    left.plot(knee, which.rate(np.array([knee])), "o", color=look["color"], ms=6, **hollow)
        left.plot([], [], color="0.4", linestyle=(0, (1, 2)), label="tokens in random order")
        left.plot([], [], "o", color="0.4", label=f"knee ({CRITERIA[0].name})")
        tidy(left, "cache size / active experts", f"SCH, m = {AT}, one pool", xlim=(0, 4.1), ylim=(0, 1))
        for row, criterion in enumerate(CRITERIA):
            for j, models in enumerate((published().real, published().toy)):
                knees = [
                    float(criterion.find(GRID, np.array([m["sch16"]]), m["experts"] / m["top_k"])[0])
                    for m in models.values()
                ]
                _dots(right, knees, row + 0.24 * j, ("0.55", "0.3")[j], ("o", "s")[j])
            for i, one in enumerate(shown):
                look = look_of(i)
                knee = min(_knee(one.curves[SCH, "model"], row), 4.4)
                right.plot(
                    knee, row - 0.27, look["marker"], color=look["color"], ms=5.5, label=one.label if not row else None
                )
                right.plot(
                    min(_knee(one.control, row), 4.4),
                    row - 0.27,
                    look["marker"],
                    color=look["color"],
                    ms=5.5,
                    mfc="none",
                )
        right.plot([], [], "D", color="0.4", mfc="none", label="the same, random order")
        right.plot([], [], "o", color="0.55", mfc="none", label="paper, real (by number)")
        right.plot([], [], "s", color="0.3", mfc="none", label="paper, toy (by number)")
        right.set_yticks(range(len(CRITERIA)), [criterion.name for criterion in CRITERIA])
        right.invert_yaxis()
        right.set_xticks([0, 1, 2, 3, 4, 4.4], ["0", "1", "2", "3", "", "beyond"])
        tidy(right, "knee / active experts", "", "knee by criterion; shaded: about twice", xlim=(0, 4.6), legend=False)
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _knee(curve: Any, criterion: int) -> float:
    """Return the knee of a measured curve by a criterion; infinity for none."""
    from lrcsim.experiments.paper.two_x import sizes_of

    if curve is None:
        return float("inf")
    sizes = sizes_of(curve)
    return float(CRITERIA[criterion].find(sizes, curve.rate(sizes)[None], curve.everything)[0])


def _dots(axes: Any, knees: Sequence[float], height: float, colour: str, marker: str) -> None:
    """Draw a dot at each size, as large as models have their knee there."""
    sizes, counts = np.unique(np.minimum(knees, 4.4), return_counts=True)
    axes.scatter(
        sizes, np.full(len(sizes), height), s=10 + 8 * counts, facecolors="none", edgecolors=colour, marker=marker
    )
