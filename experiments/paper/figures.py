"""The figures, in the style of lrcsim's others. The paper's values are black, or grey where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.cli.plot import COLOURS, STYLES, open_figure
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA
from lrcsim.experiments.paper.published import GRID, SEGMENTS, published

if TYPE_CHECKING:
    from lrcsim.experiments.paper.measure import Measured

AT = 16
SCH = f"sch-lookahead:{AT}"
MARKERS = "os^Dv<>Ph*"
MOST = 12


def _shown(found: Sequence[Measured]) -> list[Measured]:
    """Return the traces that a figure shows: those of the paper's setting, where there are any, and not too many."""
    forced = [one for one in found if one.source.kind == "teacher-forced"]
    return (forced or list(found))[:MOST]


def _paper(one: Measured) -> dict[str, Any]:
    group, _, key = (one.source.paper or "").partition(".")
    return dict(getattr(published(), group)[key]) if group else {}


def _look(i: int) -> dict[str, Any]:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": STYLES[(i + i // len(COLOURS)) % len(STYLES)],
        "marker": MARKERS[i % len(MARKERS)],
        "ms": 4.5,
        "lw": 1.3,
    }


def _tidy(axes: Any, x: str, y: str, title: str = "", *, legend: bool = True, **limits: Any) -> None:
    axes.set(xlabel=x, ylabel=y, title=title, **limits)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _panels(count: int, width: float = 4.6, height: float = 3.6) -> tuple[int, int, tuple[float, float]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    return rows, columns, (width * columns, height * rows)


def _flat(axes: Any, count: int) -> list[Any]:
    every = list(np.atleast_1d(axes).flat)
    for unused in every[count:]:
        unused.set_axis_off()
    return every[:count]


def srp_by_length(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP against segment length: traces in colour, the floor dotted, the paper's real models grey."""
    with open_figure(path, figsize=(7.5, 4.6)) as (_, axes):
        for model in published().real.values():
            axes.plot(SEGMENTS, model["srp"], color="0.82", lw=0.8, zorder=0)
        axes.plot([], [], color="0.82", lw=0.8, label="the paper's real models")
        for i, one in enumerate(_shown(found)):
            look = _look(i)
            lengths = list(one.srp)
            axes.plot(lengths, [one.srp[m].value for m in lengths], label=one.label, **look)
            ends = [one.srp[m].interval for m in lengths]
            if all(end is not None for end in ends):
                low, high = np.array(ends, float).T
                axes.fill_between(lengths, low, high, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(lengths, [one.srp[m].floor for m in lengths], color=look["color"], linestyle=":", lw=1)
            if "srp16" in _paper(one):
                marker = {"marker": look["marker"], "markerfacecolor": "none", "markeredgecolor": "black"}
                axes.plot(AT, _paper(one)["srp16"], linestyle="", ms=7, **marker)
        axes.plot([], [], color="0.3", linestyle=":", lw=1, label="floor (all experts kept)")
        if any("srp16" in _paper(one) for one in _shown(found)):
            axes.plot([], [], color="black", linestyle="", marker="o", markerfacecolor="none", label="the paper's toy")
        axes.set_xscale("log", base=2)
        axes.set_xticks(SEGMENTS, [str(m) for m in SEGMENTS])
        axes.minorticks_off()
        _tidy(axes, "segment length m [tokens]", "SRP", ylim=(0, 1), legend=False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def heat_by_layer(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP by layer and segment length as heat maps."""
    from lrcsim.cli.plot_metrics import plot_srp

    plot_srp(path, {one.label: list(one.srp.values()) for one in _shown(found) if one.srp})


def domains(path: str, found: Sequence[Measured]) -> None:
    """Draw the difference of each domain's SRP from that of all, as the paper does, a panel for each trace."""
    shown = _shown(found)
    names = list(dict.fromkeys(name for one in shown if one.domains for name in one.domains.domains or ()))
    rows, columns, size = _panels(len(shown), height=1.4 + 0.28 * len(names))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(_flat(grid, len(shown)), shown, strict=True):
            assert one.domains is not None
            assert one.domains.groups is not None
            mine = dict(zip(one.domains.domains or (), one.domains.groups.value / one.domains.value - 1, strict=True))
            values = [mine.get(name, np.nan) for name in names]
            axes.barh(
                range(len(names)), values, color=[COLOURS[0] if v > 0 else COLOURS[1] for v in values], height=0.6
            )
            axes.axvline(0, color="0.3", lw=0.8)
            for end in _paper(one).get("domain_range", ()):
                axes.axvline(end, color="black", lw=1, linestyle=":")
            axes.set_yticks(range(len(names)), names)
            _tidy(axes, "SRP of the domain / SRP of all - 1", "", one.label)
            axes.grid(axis="y", visible=False)
            if "domain_range" in _paper(one):
                axes.plot([], [], color="black", lw=1, linestyle=":", label="paper: lowest and highest")
                axes.legend(frameon=False, fontsize=7)


def positions(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP against the position of the segment, a panel for each trace."""
    shown = _shown(found)
    rows, columns, size = _panels(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(_flat(grid, len(shown)), shown, strict=True):
            for i, (m, result) in enumerate(one.positions.items()):
                assert result.groups is not None
                assert result.positions is not None
                axes.plot(result.positions, result.groups.value, color=COLOURS[i % 6], lw=0.8, label=f"m = {m}")
            _tidy(axes, "middle of the segment [tokens]", "SRP", one.label, ylim=(0, 1))


def experts(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of every expert against its activation rate, with the floor."""
    shown = _shown(found)
    rows, columns, size = _panels(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(_flat(grid, len(shown)), shown, strict=True):
            assert one.experts is not None
            x, y = one.experts.activation, one.experts.srp
            layers = np.broadcast_to(np.arange(len(x))[:, None], x.shape)
            points = axes.scatter(x, y, c=layers, s=7, cmap="viridis", linewidths=0)
            rates = np.linspace(0, np.nanmax(x), 200)
            axes.plot(rates, 2 * rates / (1 + rates), color="black", linestyle=":", lw=1.2, label="floor")
            _tidy(axes, "activation rate", "SRP of the expert", one.label, ylim=(0, None))
            axes.figure.colorbar(points, ax=axes, label="MoE layer")


def case(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of every expert in one text as heat maps of layers and experts."""
    shown = [one for one in _shown(found) if one.case is not None]
    with open_figure(path, len(shown), 1, figsize=(9, 2.4 * len(shown))) as (figure, grid):
        for axes, one in zip(_flat(grid, len(shown)), shown, strict=True):
            assert one.case is not None
            image = axes.imshow(one.case, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            axes.set(title=one.label, xlabel="expert", ylabel="MoE layer")
        figure.colorbar(image, ax=grid, label="SRP (grey: not used)")


def sch_by_size(path: str, found: Sequence[Measured]) -> None:
    """Draw SCH against cache size: look-ahead in lines, static dotted, the paper's values as crosses."""
    shown = _shown(found)
    rows, columns, size = _panels(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(_flat(grid, len(shown)), shown, strict=True):
            for i, m in enumerate(one.srp):
                for kind, style in (("lookahead", "-"), ("static", ":")):
                    rates = one.curves[f"sch-{kind}:{m}", "model"].rate(GRID)
                    label = f"m = {m}" if kind == "lookahead" else None
                    axes.plot(GRID, 100 * rates, color=COLOURS[i % 6], linestyle=style, lw=1.3, label=label)
            axes.plot([], [], color="0.3", linestyle=":", label="static")
            if "sch16" in _paper(one):
                values = 100 * np.array(_paper(one)["sch16"])
                axes.plot(GRID, values, "x", color="black", ms=4, label=f"paper, m = {AT}")
            _tidy(axes, "cache size / active experts", "SCH [%]", one.label, xlim=(0, 4.1), ylim=(0, 100))


def sch_layers(path: str, found: Sequence[Measured]) -> None:
    """Draw SCH of every layer at 1x and 2x."""
    shown = _shown(found)
    with open_figure(path, figsize=(7.5, 4.2)) as (_, axes):
        for i, one in enumerate(shown):
            curve = one.curves.get((SCH, "layer"))
            if curve is None:
                continue
            for size in (1.0, 2.0):
                look = _look(i) | {"linestyle": "-" if size == 1 else "--"}
                values = curve.layers_at(size)
                assert values is not None
                axes.plot(range(len(values)), 100 * values, label=f"{one.label}, {size:g}x", **look)
        axes.xaxis.get_major_locator().set_params(integer=True)
        title = f"SCH (look-ahead, m = {AT}), a cache for each layer"
        _tidy(axes, "MoE layer", "SCH [%]", title, ylim=(0, 100), legend=False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def policies(path: str, found: Sequence[Measured]) -> None:
    """Draw hit rates of policies and SCH in one pool, the paper's LRU as crosses."""
    shown = _shown(found)
    rows, columns, size = _panels(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(_flat(grid, len(shown)), shown, strict=True):
            for i, policy in enumerate(("belady", SCH, "lru", "lfu")):
                curve = one.curves.get((policy, "model"))
                if curve is not None:
                    colour = "black" if policy == "belady" else COLOURS[i - 1]
                    name = "SCH, m = 16" if policy == SCH else policy
                    axes.plot(GRID, 100 * curve.rate(GRID), color=colour, linestyle=STYLES[i], lw=1.4, label=name)
            theirs = _paper(one)
            lru = theirs.get("lru") or theirs.get("policies", {}).get("lru")
            if lru:
                axes.plot(range(1, len(lru) + 1), 100 * np.array(lru), "x", color=COLOURS[1], ms=6, label="paper's lru")
            _tidy(axes, "cache size / active experts", "hit rate [%]", one.label, xlim=(0, 4.1), ylim=(0, 100))


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
            for i, one in enumerate(_shown(found)):
                if AT in one.srp:
                    y_value = one.at(SCH if name == "SCH" else "lru", "model", 2.0)
                    look = _look(i)
                    axes.plot(one.srp[AT].value, y_value, look["marker"], color=look["color"], ms=7, label=one.label)
            _tidy(axes, f"SRP, m = {AT}", f"{name} at 2x, one pool", xlim=(0, 1), ylim=(0, 1), legend=axes is left)


def specialisation(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of every expert against its specialisation, a row for each trace."""
    shown = _shown(found)
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
                found_here, theirs = one.experts.correlation(name), _paper(one).get(name)
                title = "" if found_here is None else f"r = {found_here:+.2f}"
                title += f" (paper {theirs[1]:+.2f})" if theirs else ""
                _tidy(axes, f"specialisation {what}", "SRP of the expert", f"{one.label}: {title}")


def designs(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of the variants, the paper's beside it."""
    with open_figure(path, figsize=(7.5, 1.6 + 0.42 * len(found))) as (_, axes):
        for i, one in enumerate(found):
            result = one.srp[AT]
            if result.interval is not None:
                axes.hlines(i, *result.interval, color=COLOURS[0], lw=4, alpha=0.4)
            axes.plot(result.value, i, "o", color=COLOURS[0], label="here, 95 %" if i == 0 else None)
            axes.plot(_paper(one)["srp16"], i, "x", color="black", label="paper" if i == 0 else None)
            axes.plot(result.floor, i, "|", color="0.5", ms=11, label="floor" if i == 0 else None)
        axes.set_yticks(range(len(found)), [one.label for one in found])
        axes.invert_yaxis()
        _tidy(axes, f"SRP, m = {AT}", "")


def throughput(path: str, rows: Sequence[dict[str, Any]], found: Sequence[Measured]) -> None:
    """Draw the overhead per token against cache size, a panel for each machine, the paper's in grey."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    shown = [one.label for one in _shown(found)]
    with open_figure(path, 1, len(machines), figsize=(5.2 * len(machines) + 1.5, 4)) as (_, grid):
        panels = _flat(grid, len(machines))
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
                    axes.plot(*zip(*points, strict=True), label=trace, **_look(i))
            last = axes is panels[-1]
            _tidy(axes, "cache size / active experts", "overhead [ms/token]", machine, ylim=(0, None), legend=False)
            axes.set_xticks((1, 2, 3))
            if last:
                axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def two_x(path: str, found: Sequence[Measured]) -> None:
    """Draw the curves with their knees, and the knees of all criteria here and in the paper's own curves."""
    from lrcsim.experiments.paper.two_x import sizes_of

    shown = [one for one in _shown(found) if (SCH, "model") in one.curves]
    with open_figure(path, 1, 2, figsize=(14, 4.8)) as (_, (left, right)):
        for axes in (left, right):
            axes.axvspan(*ABOUT_TWICE, color="0.93", zorder=0)
        for i, one in enumerate(shown):
            curve, look = one.curves[SCH, "model"], _look(i)
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
        _tidy(left, "cache size / active experts", f"SCH, m = {AT}, one pool", xlim=(0, 4.1), ylim=(0, 1))
        for row, criterion in enumerate(CRITERIA):
            for j, models in enumerate((published().real, published().toy)):
                knees = [
                    float(criterion.find(GRID, np.array([m["sch16"]]), m["experts"] / m["top_k"])[0])
                    for m in models.values()
                ]
                _dots(right, knees, row + 0.24 * j, ("0.55", "0.3")[j], ("o", "s")[j])
            for i, one in enumerate(shown):
                look = _look(i)
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
        _tidy(right, "knee / active experts", "", "knee by criterion; shaded: about twice", xlim=(0, 4.6), legend=False)
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
