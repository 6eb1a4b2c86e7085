"""Figures of SRP, experts and variants. The paper's values are black, or grey where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrcsim.experiments.paper.figure_style import flat_axes, look_of, panel_grid, paper_of, shown_in, tidy
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.plots.curves import COLOURS, open_figure

if TYPE_CHECKING:
    from lrcsim.experiments.paper.measure import Measured

__all__ = ["case", "designs", "domains", "experts", "heat_by_layer", "positions", "specialisation", "srp_by_length"]

AT = 16
SCH = f"sch-lookahead:{AT}"


def srp_by_length(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP against segment length: traces in colour, the floor dotted, the paper's real models grey."""
    with open_figure(path, figsize=(7.5, 4.6)) as (_, axes):
        for model in published().real.values():
            axes.plot(SEGMENTS, model["srp"], color="0.82", lw=0.8, zorder=0)
        axes.plot([], [], color="0.82", lw=0.8, label="the paper's real models")
        for i, one in enumerate(shown_in(found)):
            look = look_of(i)
            lengths = list(one.srp)
            axes.plot(lengths, [one.srp[m].value for m in lengths], label=one.label, **look)
            ends = [one.srp[m].interval for m in lengths]
            if all(end is not None for end in ends):
                low, high = np.array(ends, float).T
                axes.fill_between(lengths, low, high, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(lengths, [one.srp[m].floor for m in lengths], color=look["color"], linestyle=":", lw=1)
            if "srp16" in paper_of(one):
                marker = {"marker": look["marker"], "markerfacecolor": "none", "markeredgecolor": "black"}
                axes.plot(AT, paper_of(one)["srp16"], linestyle="", ms=7, **marker)
        axes.plot([], [], color="0.3", linestyle=":", lw=1, label="floor (all experts kept)")
        if any("srp16" in paper_of(one) for one in shown_in(found)):
            axes.plot([], [], color="black", linestyle="", marker="o", markerfacecolor="none", label="the paper's toy")
        axes.set_xscale("log", base=2)
        axes.set_xticks(SEGMENTS, [str(m) for m in SEGMENTS])
        axes.minorticks_off()
        tidy(axes, "segment length m [tokens]", "SRP", ylim=(0, 1), legend=False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def heat_by_layer(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP by layer and segment length as heat maps."""
    from lrcsim.plots.metrics import plot_srp

    plot_srp(path, {one.label: list(one.srp.values()) for one in shown_in(found) if one.srp})


def domains(path: str, found: Sequence[Measured]) -> None:
    """Draw the difference of each domain's SRP from that of all, as the paper does, a panel for each trace."""
    shown = shown_in(found)
    names = list(dict.fromkeys(name for one in shown if one.domains for name in one.domains.domains or ()))
    rows, columns, size = panel_grid(len(shown), height=1.4 + 0.28 * len(names))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(flat_axes(grid, len(shown)), shown, strict=True):
            assert one.domains is not None
            assert one.domains.groups is not None
            mine = dict(zip(one.domains.domains or (), one.domains.groups.value / one.domains.value - 1, strict=True))
            values = [mine.get(name, np.nan) for name in names]
            axes.barh(
                range(len(names)), values, color=[COLOURS[0] if v > 0 else COLOURS[1] for v in values], height=0.6
            )
            axes.axvline(0, color="0.3", lw=0.8)
            for end in paper_of(one).get("domain_range", ()):
                axes.axvline(end, color="black", lw=1, linestyle=":")
            axes.set_yticks(range(len(names)), names)
            tidy(axes, "SRP of the domain / SRP of all - 1", "", one.label)
            axes.grid(axis="y", visible=False)
            if "domain_range" in paper_of(one):
                axes.plot([], [], color="black", lw=1, linestyle=":", label="paper: lowest and highest")
                axes.legend(frameon=False, fontsize=7)


def positions(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP against the position of the segment, a panel for each trace."""
    shown = shown_in(found)
    rows, columns, size = panel_grid(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(flat_axes(grid, len(shown)), shown, strict=True):
            for i, (m, result) in enumerate(one.positions.items()):
                assert result.groups is not None
                assert result.positions is not None
                axes.plot(result.positions, result.groups.value, color=COLOURS[i % 6], lw=0.8, label=f"m = {m}")
            tidy(axes, "middle of the segment [tokens]", "SRP", one.label, ylim=(0, 1))


def experts(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of every expert against its activation rate, with the floor."""
    shown = shown_in(found)
    rows, columns, size = panel_grid(len(shown))
    with open_figure(path, rows, columns, figsize=size) as (_, grid):
        for axes, one in zip(flat_axes(grid, len(shown)), shown, strict=True):
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


def case(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of every expert in one text as heat maps of layers and experts."""
    shown = [one for one in shown_in(found) if one.case is not None]
    with open_figure(path, len(shown), 1, figsize=(9, 2.4 * len(shown))) as (figure, grid):
        for axes, one in zip(flat_axes(grid, len(shown)), shown, strict=True):
            assert one.case is not None
            axes.set_facecolor("0.85")
            image = axes.imshow(one.case, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set(title=one.label, xlabel="expert", ylabel="MoE layer")
        figure.colorbar(image, ax=grid, label="SRP (grey: not used)")


def specialisation(path: str, found: Sequence[Measured]) -> None:
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
                found_here, theirs = one.experts.correlation(name), paper_of(one).get(name)
                title = "" if found_here is None else f"r = {found_here:+.2f}"
                title += f" (paper {theirs[1]:+.2f})" if theirs else ""
                tidy(axes, f"specialisation {what}", f"{one.label}\nSRP of the expert", title)
                axes.yaxis.label.set_fontsize(8)


def designs(path: str, found: Sequence[Measured]) -> None:
    """Draw SRP of the variants, the paper's beside it."""
    with open_figure(path, figsize=(7.5, 1.6 + 0.42 * len(found))) as (_, axes):
        for i, one in enumerate(found):
            result = one.srp[AT]
            if result.interval is not None:
                axes.hlines(i, *result.interval, color=COLOURS[0], lw=4, alpha=0.4)
            axes.plot(result.value, i, "o", color=COLOURS[0], label="here, 95 %" if i == 0 else None)
            axes.plot(paper_of(one)["srp16"], i, "x", color="black", label="paper" if i == 0 else None)
            axes.plot(result.floor, i, "|", color="0.5", ms=11, label="floor" if i == 0 else None)
        axes.set_yticks(range(len(found)), [one.label for one in found])
        axes.invert_yaxis()
        tidy(axes, f"SRP, m = {AT}", "")
