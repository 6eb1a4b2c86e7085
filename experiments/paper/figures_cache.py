"""Caches: SCH against size (msch) and by layer (lsch), policies beside it (mchr)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrcsim.experiments.paper.figures import RELATIVE, dash, model_panels, say_kinds, shown_models, tidy
from lrcsim.experiments.paper.measure import AT, SCH, MeasuredTrace
from lrcsim.experiments.paper.published import GRID
from lrcsim.plots.looks import COLOURS

SIZES = (1.0, 2.0)


def sch_by_size(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SCH (look-ahead) against cache size, the paper's values as crosses; dotted: static, of the first trace."""
    models = shown_models(found)
    for axes, model in model_panels(path, models):
        for one in model.traces:
            for i, m in enumerate(one.srp):
                look = {
                    "color": COLOURS[i % 6],
                    "linestyle": dash(one),
                    "label": f"m = {m}" if one is model.first else None,
                }
                axes.plot(GRID, 100 * one.curves[f"sch-lookahead:{m}", "model"].rate(GRID), **look)
                if one is model.first:
                    rates = one.curves[f"sch-static:{m}", "model"].rate(GRID)
                    axes.plot(GRID, 100 * rates, color=COLOURS[i % 6], linestyle=":", lw=0.9)
        axes.plot([], [], color="0.3", linestyle=":", label="static")
        if "sch16" in model.first.theirs:
            theirs = 100 * np.array(model.first.theirs["sch16"])
            axes.plot(GRID, theirs, "x", color="black", ms=3, label=f"paper, m = {AT}")
        if model is models[0]:
            say_kinds(axes, models)
        axes.set_xticks(range(5))
        tidy(axes, RELATIVE, "SCH [%]", legend="none", xlim=(0, 4.1), ylim=(0, 100))


def sch_layers(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SCH of every layer with a cache of its own, at 1x and 2x."""
    models = shown_models([one for one in found if (SCH, "layer") in one.curves])
    for axes, model in model_panels(path, models):
        for one in model.traces:
            for i, size in enumerate(SIZES):
                values = one.curves[SCH, "layer"].layers_at(size)
                if values is not None:
                    label = f"{size:g}x" if one is model.first else None
                    marker = {"marker": "os"[i], "ms": 2.5, "mfc": COLOURS[i] if dash(one) == "-" else "white"}
                    axes.plot(100 * values, color=COLOURS[i], linestyle=dash(one), label=label, **marker)
        if model is models[0]:
            say_kinds(axes, models)
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes, "MoE layer", f"SCH [%], m = {AT}", legend="none", ylim=(0, 100))


def policies(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw hit rates of policies and SCH in one pool, the paper's LRU as crosses."""
    models = shown_models(found)
    colours = {"belady": "black", SCH: COLOURS[0], "lru": COLOURS[1], "lfu": COLOURS[2]}
    for axes, model in model_panels(path, models):
        for one in model.traces:
            for policy, colour in colours.items():
                curve = one.curves.get((policy, "model"))
                if curve is not None:
                    name = f"SCH, m = {AT}" if policy == SCH else {"belady": "Belady"}.get(policy, policy.upper())
                    name = name if one is model.first else None  # type: ignore[assignment]
                    axes.plot(GRID, 100 * curve.rate(GRID), color=colour, linestyle=dash(one), label=name)
        theirs = model.first.theirs
        lru = theirs.get("lru") or theirs.get("policies", {}).get("lru")
        if lru:
            axes.plot(range(1, len(lru) + 1), 100 * np.array(lru), "x", color=COLOURS[1], ms=5, label="paper's LRU")
        if model is models[0]:
            say_kinds(axes, models)
        axes.set_xticks(range(5))
        tidy(axes, RELATIVE, "hit rate [%]", legend="none", xlim=(0, 4.1), ylim=(0, 100))
