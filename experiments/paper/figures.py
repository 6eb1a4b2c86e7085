"""The figures. The paper's values are black, or grey where there are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA
from lrcsim.experiments.paper.measure import AT, POOLED, SCH, MeasuredTrace
from lrcsim.experiments.paper.published import GRID, SEGMENTS, published
from lrcsim.experiments.paper.two_x import sizes_of
from lrcsim.plots.curves import COLOURS, STYLES, open_figure

MARKERS = "os^Dv<>Ph*"
MOST = 12
"""Traces that a figure shows."""
BEYOND = 4.4
"""Where a knee beyond the range is drawn."""
RELATIVE = "cache size / active experts"


def shown_in(found: Sequence[MeasuredTrace]) -> list[MeasuredTrace]:
    """Return the traces that a figure shows: those of the paper's setting, where there are any, and not too many."""
    forced = [one for one in found if one.source.kind == "teacher-forced"]
    return (forced or list(found))[:MOST]


def look_of(i: int) -> dict[str, Any]:
    style, marker = STYLES[(i + i // len(COLOURS)) % len(STYLES)], MARKERS[i % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": style, "marker": marker, "ms": 4.5, "lw": 1.3}


def tidy(axes: Any, x: str, y: str, title: str = "", *, legend: str = "inside", **limits: Any) -> None:
    """Label the axes; the legend stands inside, beside, or not at all (``"none"``)."""
    axes.set(xlabel=x, ylabel=y, title=title, **limits)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend == "beside":
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    elif legend == "inside" and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def panels(path: str, found: Sequence[MeasuredTrace], height: float = 3.6) -> Iterator[tuple[Any, MeasuredTrace]]:
    """Give axes for each trace that is shown, three in a row; the figure is written when all are drawn."""
    shown = shown_in(found)
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    with open_figure(path, rows, columns, figsize=(4.6 * columns, height * rows)) as (_, grid):
        every = list(np.atleast_1d(grid).flat)
        for unused in every[len(shown) :]:
            unused.set_axis_off()
        yield from zip(every, shown, strict=False)


def srp_by_length(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP against segment length: traces in colour, the floor dotted, the paper's real models grey."""
    with open_figure(path, figsize=(7.5, 4.6)) as (_, axes):
        for model in published().real.values():
            axes.plot(SEGMENTS, model["srp"], color="0.82", lw=0.8, zorder=0)
        axes.plot([], [], color="0.82", lw=0.8, label="the paper's real models")
        for i, one in enumerate(shown_in(found)):
            look, lengths = look_of(i), list(one.srp)
            axes.plot(lengths, [one.srp[m].value for m in lengths], label=one.label, **look)
            ends = [one.srp[m].interval for m in lengths]
            if all(end is not None for end in ends):
                axes.fill_between(lengths, *np.array(ends, float).T, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(lengths, [one.srp[m].floor for m in lengths], color=look["color"], linestyle=":", lw=1)
            if "srp16" in one.theirs:
                marker = {"marker": look["marker"], "markerfacecolor": "none", "markeredgecolor": "black"}
                axes.plot(AT, one.theirs["srp16"], linestyle="", ms=7, **marker)
        axes.plot([], [], color="0.3", linestyle=":", lw=1, label="floor (all experts kept)")
        if any("srp16" in one.theirs for one in shown_in(found)):
            axes.plot([], [], color="black", linestyle="", marker="o", markerfacecolor="none", label="the paper's toy")
        axes.set_xscale("log", base=2)
        axes.set_xticks(SEGMENTS, [str(m) for m in SEGMENTS])
        axes.minorticks_off()
        tidy(axes, "segment length m [tokens]", "SRP", ylim=(0, 1), legend="beside")


def heat_by_layer(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP by layer and segment length as heat maps."""
    from lrcsim.plots.metrics import plot_srp

    plot_srp(path, {one.label: list(one.srp.values()) for one in shown_in(found) if one.srp})


def domains(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw the difference of each domain's SRP from that of all, as the paper does, a panel for each trace."""
    names = list(dict.fromkeys(name for one in shown_in(found) if one.domains for name in one.domains.domains or ()))
    for axes, one in panels(path, found, height=1.4 + 0.28 * len(names)):
        assert one.domains is not None
        assert one.domains.groups is not None
        mine = dict(zip(one.domains.domains or (), one.domains.groups.value / one.domains.value - 1, strict=True))
        values = [mine.get(name, np.nan) for name in names]
        axes.barh(range(len(names)), values, color=[COLOURS[0] if v > 0 else COLOURS[1] for v in values], height=0.6)
        axes.axvline(0, color="0.3", lw=0.8)
        for end in one.theirs.get("domain_range", ()):
            axes.axvline(end, color="black", lw=1, linestyle=":")
        axes.set_yticks(range(len(names)), names)
        tidy(axes, "SRP of the domain / SRP of all - 1", "", one.label)
        axes.grid(axis="y", visible=False)
        if "domain_range" in one.theirs:
            axes.plot([], [], color="black", lw=1, linestyle=":", label="paper: lowest and highest")
            axes.legend(frameon=False, fontsize=7)


def positions(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP against the position of the segment, a panel for each trace."""
    for axes, one in panels(path, found):
        for i, (m, result) in enumerate(one.positions.items()):
            assert result.groups is not None
            assert result.positions is not None
            axes.plot(result.positions, result.groups.value, color=COLOURS[i % 6], lw=0.8, label=f"m = {m}")
        tidy(axes, "middle of the segment [tokens]", "SRP", one.label, ylim=(0, 1))


def experts(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of every expert against its activation rate, with the floor."""
    for axes, one in panels(path, found):
        assert one.experts is not None
        x, y = one.experts.activation, one.experts.srp
        layers = np.broadcast_to(np.arange(len(x))[:, None], x.shape)
        points = axes.scatter(x, y, c=layers, s=7, cmap="viridis", linewidths=0)
        rates = np.linspace(0, np.nanmax(x), 200)
        axes.plot(rates, 2 * rates / (1 + rates), color="black", linestyle=":", lw=1.2, label="floor")
        tidy(axes, "activation rate", "SRP of the expert", one.label, ylim=(0, None))
        bar = axes.figure.colorbar(points, ax=axes, label="MoE layer")
        bar.locator.set_params(integer=True)
        bar.update_ticks()


def case(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of every expert in one text as heat maps of layers and experts."""
    shown = [one for one in shown_in(found) if one.case is not None]
    with open_figure(path, len(shown), 1, figsize=(9, 2.4 * len(shown))) as (figure, grid):
        for axes, one in zip(np.atleast_1d(grid).flat, shown, strict=True):
            assert one.case is not None
            axes.set_facecolor("0.85")
            image = axes.imshow(one.case, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set(title=one.label, xlabel="expert", ylabel="MoE layer")
        figure.colorbar(image, ax=grid, label="SRP (grey: not used)")


def specialisation(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of every expert against its specialisation, a row for each trace."""
    shown = shown_in(found)
    names = {"domain": "in domains", "vocabulary_in": "in routed tokens", "vocabulary_out": "in next tokens"}
    with open_figure(path, len(shown), 3, figsize=(12, 3.3 * len(shown))) as (_, grid):
        for row, one in zip(np.atleast_2d(grid), shown, strict=True):
            assert one.experts is not None
            for axes, (name, what) in zip(row, names.items(), strict=True):
                values = one.experts.present().get(name)
                if values is None:
                    axes.text(0.5, 0.5, "not in this trace", ha="center", color="0.5", transform=axes.transAxes)
                    axes.set_axis_off()
                    continue
                axes.scatter(values, one.experts.srp, s=6, color=COLOURS[0], alpha=0.6, linewidths=0)
                found_here, theirs = one.experts.correlation(name), one.theirs.get(name)
                title = "" if found_here is None else f"r = {found_here:+.2f}"
                title += f" (paper {theirs[1]:+.2f})" if theirs else ""
                tidy(axes, f"specialisation {what}", f"{one.label}\nSRP of the expert", title)
                axes.yaxis.label.set_fontsize(8)


def designs(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of the variants, the paper's beside it."""
    with open_figure(path, figsize=(7.5, 1.6 + 0.42 * len(found))) as (_, axes):
        for i, one in enumerate(found):
            result = one.srp[AT]
            if result.interval is not None:
                axes.hlines(i, *result.interval, color=COLOURS[0], lw=4, alpha=0.4)
            axes.plot(result.value, i, "o", color=COLOURS[0], label="here, 95 %" if i == 0 else None)
            axes.plot(one.theirs["srp16"], i, "x", color="black", label="paper" if i == 0 else None)
            axes.plot(result.floor, i, "|", color="0.5", ms=11, label="floor" if i == 0 else None)
        axes.set_yticks(range(len(found)), [one.label for one in found])
        axes.invert_yaxis()
        tidy(axes, f"SRP, m = {AT}", "")


def sch_by_size(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SCH against cache size: look-ahead in lines, static dotted, the paper's values as crosses."""
    for axes, one in panels(path, found):
        for i, m in enumerate(one.srp):
            for kind, style, label in (("lookahead", "-", f"m = {m}"), ("static", ":", None)):
                rates = one.curves[f"sch-{kind}:{m}", "model"].rate(GRID)
                axes.plot(GRID, 100 * rates, color=COLOURS[i % 6], linestyle=style, lw=1.3, label=label)
        axes.plot([], [], color="0.3", linestyle=":", label="static")
        if "sch16" in one.theirs:
            axes.plot(GRID, 100 * np.array(one.theirs["sch16"]), "x", color="black", ms=4, label=f"paper, m = {AT}")
        tidy(axes, RELATIVE, "SCH [%]", one.label, xlim=(0, 4.1), ylim=(0, 100))


def sch_layers(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SCH of every layer at 1x and 2x."""
    with open_figure(path, figsize=(7.5, 4.2)) as (_, axes):
        for i, one in enumerate(shown_in(found)):
            curve = one.curves.get((SCH, "layer"))
            for size, style in ((1.0, "-"), (2.0, "--")):
                values = None if curve is None else curve.layers_at(size)
                if values is None:
                    continue
                axes.plot(100 * values, label=f"{one.label}, {size:g}x", **(look_of(i) | {"linestyle": style}))
        axes.xaxis.get_major_locator().set_params(integer=True)
        title = f"SCH (look-ahead, m = {AT}), a cache for each layer"
        tidy(axes, "MoE layer", "SCH [%]", title, ylim=(0, 100), legend="beside")


def policies(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw hit rates of policies and SCH in one pool, the paper's LRU as crosses."""
    for axes, one in panels(path, found):
        for i, policy in enumerate(("belady", SCH, "lru", "lfu")):
            curve = one.curves.get((policy, "model"))
            if curve is not None:
                colour = "black" if policy == "belady" else COLOURS[i - 1]
                name = "SCH, m = 16" if policy == SCH else policy
                axes.plot(GRID, 100 * curve.rate(GRID), color=colour, linestyle=STYLES[i], lw=1.4, label=name)
        lru = one.theirs.get("lru") or one.theirs.get("policies", {}).get("lru")
        if lru:
            axes.plot(range(1, len(lru) + 1), 100 * np.array(lru), "x", color=COLOURS[1], ms=6, label="paper's lru")
        tidy(axes, RELATIVE, "hit rate [%]", one.label, xlim=(0, 4.1), ylim=(0, 100))


def scatter(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SCH and LRU at 2x against SRP: the paper's models hollow, traces filled."""
    real, toys = list(published().real.values()), list(published().toy.values())
    hollow = {"s": 22, "facecolors": "none", "edgecolors": "0.5"}
    with open_figure(path, 1, 2, figsize=(10, 4.3)) as (_, (left, right)):
        for axes, name in ((left, "SCH"), (right, "lru")):
            y = [m["sch16"][7] if name == "SCH" else m["policies"]["lru"][1] for m in real]
            axes.scatter([m["srp"][1] for m in real], y, label="paper, real", **hollow)
            y = [m["sch16"][7] if name == "SCH" else m["lru"][1] for m in toys]
            axes.scatter([m["srp16"] for m in toys], y, marker="s", label="paper, toy", **hollow)
            for i, one in enumerate(shown_in(found)):
                if AT in one.srp:
                    y_value, look = one.at(SCH if name == "SCH" else "lru", "model", 2.0), look_of(i)
                    axes.plot(one.srp[AT].value, y_value, look["marker"], color=look["color"], ms=7, label=one.label)
            legend = "inside" if axes is left else "none"
            tidy(axes, f"SRP, m = {AT}", f"{name} at 2x, one pool", xlim=(0, 1), ylim=(0, 1), legend=legend)


def throughput(path: str, rows: Sequence[dict[str, Any]], found: Sequence[MeasuredTrace]) -> None:
    """Draw the overhead per token against cache size, a panel for each machine, the paper's in grey."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    with open_figure(path, 1, len(machines), figsize=(5.2 * len(machines) + 1.5, 4)) as (_, grid):
        for axes, machine in zip(np.atleast_1d(grid), machines, strict=True):
            for key, toy in published().toy.items():
                theirs = [1e3 * (1 / rate - 1 / toy["decode"][-1]) for rate in toy["decode"][:-1]]
                label = "the paper's toy models" if key == "baseline" else None
                axes.plot((1, 2, 3), theirs, color="0.75", lw=1, marker="x", ms=4, zorder=0, label=label)
            for i, one in enumerate(shown_in(found)):
                mine = [row for row in rows if (row["trace"], row["machine"]) == (one.label, machine)]
                mine = [row for row in mine if row["cache"] != "all"]
                if mine:
                    overhead = [row["overhead [ms/token]"] for row in mine]
                    axes.plot([float(row["cache"][:-1]) for row in mine], overhead, label=one.label, **look_of(i))
            legend = "beside" if machine == machines[-1] else "none"
            tidy(axes, RELATIVE, "overhead [ms/token]", machine, ylim=(0, None), legend=legend)
            axes.set_xticks((1, 2, 3))


def two_x(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw the curves with their knees, and the knees of all criteria here and in the paper's own curves."""
    shown = [one for one in shown_in(found) if POOLED in one.curves]
    with open_figure(path, 1, 2, figsize=(14, 4.8)) as (_, (left, right)):
        for axes in (left, right):
            axes.axvspan(*ABOUT_TWICE, color="0.93", zorder=0)
        _two_x_curves(left, shown)
        for row, criterion in enumerate(CRITERIA):
            for j, models in enumerate((published().real, published().toy)):
                knees = [
                    float(criterion.find(GRID, np.array([m["sch16"]]), m["experts"] / m["top_k"])[0])
                    for m in models.values()
                ]
                _dots(right, knees, row + 0.24 * j, ("0.55", "0.3")[j], ("o", "s")[j])
            for i, one in enumerate(shown):
                look = {"marker": look_of(i)["marker"], "color": look_of(i)["color"], "ms": 5.5, "linestyle": ""}
                knee, random = (min(_knee(curve, row), BEYOND) for curve in (one.curves[POOLED], one.control))
                right.plot(knee, row - 0.27, label=one.label if not row else None, **look)
                right.plot(random, row - 0.27, mfc="none", **look)
        right.plot([], [], "D", color="0.4", mfc="none", label="the same, random order")
        right.plot([], [], "o", color="0.55", mfc="none", label="paper, real (by number)")
        right.plot([], [], "s", color="0.3", mfc="none", label="paper, toy (by number)")
        right.set_yticks(range(len(CRITERIA)), [criterion.name for criterion in CRITERIA])
        right.invert_yaxis()
        right.set_xticks([0, 1, 2, 3, 4, BEYOND], ["0", "1", "2", "3", "", "beyond"])
        title = "knee by criterion; shaded: about twice"
        tidy(right, "knee / active experts", "", title, xlim=(0, 4.6), legend="beside")


def _two_x_curves(axes: Any, shown: Sequence[MeasuredTrace]) -> None:
    for i, one in enumerate(shown):
        curve, look = one.curves[POOLED], look_of(i)
        sizes = sizes_of(curve)
        axes.plot(sizes, curve.rate(sizes), label=one.label, **(look | {"marker": None}))
        if one.control is not None:
            axes.plot(sizes, one.control.rate(sizes), color=look["color"], linestyle=(0, (1, 2)), lw=1)
        for which in (curve, one.control):
            knee = _knee(which, 0)
            if which is not None and np.isfinite(knee):
                hollow = {} if which is curve else {"mfc": "white"}
                axes.plot(knee, which.rate(np.array([knee])), "o", color=look["color"], ms=6, **hollow)
    axes.plot([], [], color="0.4", linestyle=(0, (1, 2)), label="tokens in random order")
    axes.plot([], [], "o", color="0.4", label=f"knee ({CRITERIA[0].name})")
    tidy(axes, RELATIVE, f"SCH, m = {AT}, one pool", xlim=(0, 4.1), ylim=(0, 1))


def _knee(curve: Any, criterion: int) -> float:
    """Return the knee of a measured curve by a criterion; infinity for none."""
    if curve is None:
        return float("inf")
    sizes = sizes_of(curve)
    return float(CRITERIA[criterion].find(sizes, curve.rate(sizes)[None], curve.everything)[0])


def _dots(axes: Any, knees: Sequence[float], height: float, colour: str, marker: str) -> None:
    """Draw a dot at each size, as large as models have their knee there."""
    sizes, counts = np.unique(np.minimum(knees, BEYOND), return_counts=True)
    look = {"facecolors": "none", "edgecolors": colour, "marker": marker}
    axes.scatter(sizes, np.full(len(sizes), height), s=10 + 8 * counts, **look)
