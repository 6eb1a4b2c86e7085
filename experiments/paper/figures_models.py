"""Models against each other: designs of the toy study, SRP against loss (msrpls) and hit rates, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.figures import FEW, RELATIVE, look_of_model, say_kinds, shown_models, tidy
from lrcsim.experiments.paper.measure import AT, SCH, MeasuredTrace
from lrcsim.experiments.paper.names import REAL, TOYS, Model, generated, models_in
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.plots.figure import open_figure
from lrcsim.plots.labels import place_names
from lrcsim.plots.looks import COLOURS, legend_below, shortened
from lrcsim.plots.settings import width
from lrcsim.simulator.metrics.specialisation import pearson

HOLLOW = {"s": 14, "facecolors": "none", "edgecolors": "0.5", "linewidths": 0.7}


def designs(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of the variants, seeds in one row each, the paper's beside it; hollow: of generated tokens."""
    models = models_in(found)
    with open_figure(path, figsize=(7, (0.7 + 0.17 * len(models)) * 7 / width())) as (figure, axes):
        for i, model in enumerate(models):
            for one in model.traces:
                if AT not in one.srp:
                    continue
                result, hollow = one.srp[AT], generated(one)
                if result.interval is not None:
                    axes.hlines(i, *result.interval, color=COLOURS[0], lw=3.5, alpha=0.2 if hollow else 0.4)
                face = {"mfc": "white" if hollow else COLOURS[0], "ms": 4.5}
                label = "here, generated" if hollow else "here, 95 %"
                axes.plot(result.value, i, "o", color=COLOURS[0], label=label, **face)
            axes.plot(model.first.srp[AT].floor, i, "|", color="0.5", ms=8, label="floor")
            if "srp16" in model.first.theirs:
                axes.plot(model.first.theirs["srp16"], i, "x", color="black", mew=1.1, ms=4.5, label="paper")
        axes.set_yticks(range(len(models)), [shortened(model.name, 24) for model in models])
        tidy(axes, f"SRP, m = {AT}", "", legend="none", ylim=(len(models) - 0.5, -0.5))
        legend_below(figure, [axes])


def hit_rates(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SCH and LRU at 2x against SRP: the paper's models hollow in grey, the traces in colour."""
    real, toys = list(published().real.values()), list(published().toy.values())
    models = models_in([one for one in found if AT in one.srp])
    with open_figure(path, 1, 2, figsize=(7, 3.1)) as (figure, both):
        for axes, name in zip(both, ("SCH", "LRU"), strict=True):
            y = [m["sch16"][7] if name == "SCH" else m["policies"]["lru"][1] for m in real]
            axes.scatter([m["srp"][1] for m in real], y, label="paper, real models", **HOLLOW)
            y = [m["sch16"][7] if name == "SCH" else m["lru"][1] for m in toys]
            axes.scatter([m["srp16"] for m in toys], y, marker="s", label="paper, toy models", **HOLLOW)
            for model in models:
                for one in model.traces:
                    value = one.at(SCH if name == "SCH" else "lru", "model", 2.0)
                    look = look_of_model(model, hollow=generated(one)) | {"linestyle": "", "ms": 5}
                    axes.plot(one.srp[AT].value, value, label=_named(model, one), **look)
            tidy(axes, f"SRP, m = {AT}", f"{name} at 2x, one pool", legend="none", xlim=(0, 1), ylim=(0, 1))
        legend_below(figure, both)


def _named(model: Model, one: MeasuredTrace) -> str | None:
    """Return the name of a point for the legend: of first seeds, which share colour and marker with the others."""
    return model.name if one is model.first and not model.seed else None


def loss(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw loss against SRP: these traces, the paper's toy models, its decoders at every segment length."""
    models = models_in([one for one in found if one.loss is not None and AT in one.srp])
    toys, decoders = published().toy, {k: m for k, m in published().real.items() if "log_ppl" in m}
    columns = 3 if width() > 5 else 2
    with open_figure(path, -(-6 // columns), columns, figsize=(width(), 2.1 * (6 // columns))) as (_, grid):
        here, theirs, *real = grid.flat
        named = {}
        for model in models:
            look = look_of_model(model) | {"linestyle": "", "ms": 4.5}
            here.plot(model.first.srp[AT].value, model.first.loss, label=None, **look)
        points = [(m.first.srp[AT].value, float(m.first.loss or 0), "" if m.seed else m.letters) for m in models]
        named[here] = points
        if not models:
            here.text(0.5, 0.5, "no loss is known", ha="center", va="center", color="0.5", transform=here.transAxes)
        _labelled(here, points, "these traces", f"SRP, m = {AT}")
        places = {m.first.source.paper: m.place for m in models}
        for key, toy in toys.items():
            place = places.get(f"toy.{key}")
            look = {"marker": "o", "color": "0.5", "mfc": "none"}
            if place is not None:
                look = look_of_model(Model("", "", place, 0, ()), hollow=True)
            theirs.plot(toy["srp16"], toy["log_ppl"], **(look | {"linestyle": "", "ms": 4.5}))
        named[theirs] = points = [(toy["srp16"], toy["log_ppl"], TOYS[key][1]) for key, toy in toys.items()]
        _labelled(theirs, points, "the paper's toy models", f"SRP, m = {AT}")
        for axes, m in zip(real, SEGMENTS, strict=False):
            i = SEGMENTS.index(m)
            points = [(model["srp"][i], model["log_ppl"], REAL[key][1]) for key, model in decoders.items()]
            axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], **HOLLOW)
            named[axes] = points
            _labelled(axes, points, "the paper's decoders", f"SRP, m = {m}")
        place_names(named)


def _labelled(axes: Any, points: Sequence[tuple[float, float, str]], title: str, x: str) -> None:
    """Label the axes of points, with their correlation."""
    r = pearson(*np.array([(a, b) for a, b, _ in points], float).T) if len(points) > 3 else None
    tidy(axes, x, "loss [nats/token]", title + ("" if r is None else f"\nr = {r:+.2f}"), legend="none")
    axes.margins(0.16)


def throughput(path: str, rows: Sequence[dict[str, Any]], found: Sequence[MeasuredTrace]) -> None:
    """Draw the overhead per token against cache size, a panel for each machine, the paper's in grey.

    Generated tokens are drawn among few models only; of many, one trace of each.
    """
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    models = shown_models(found)
    with open_figure(path, 1, len(machines), figsize=(7, 3.3 if len(machines) > 1 else 3.0)) as (figure, grid):
        every = list(np.atleast_1d(grid))
        for axes, machine in zip(every, machines, strict=True):
            for i, toy in enumerate(published().toy.values()):
                theirs = [1e3 * (1 / rate - 1 / toy["decode"][-1]) for rate in toy["decode"][:-1]]
                label = "paper, toy models" if i == 0 else None
                axes.plot((1, 2, 3), theirs, color="0.75", lw=0.8, marker="x", ms=3, zorder=0, label=label)
            for model in models:
                for one in model.traces if len(models) <= FEW else model.traces[:1]:
                    mine = [row for row in rows if (row["trace"], row["machine"]) == (one.label, machine)]
                    mine = [row for row in mine if row["cache"] != "all"]
                    sizes, overhead = (
                        [float(row["cache"][:-1]) for row in mine],
                        [row["overhead [ms/token]"] for row in mine],
                    )
                    label = model.name if one is model.first and mine else None
                    axes.plot(sizes, overhead, label=label, **look_of_model(model, hollow=generated(one)))
            if len(models) <= FEW:
                say_kinds(axes, models)
            tidy(axes, RELATIVE, "overhead [ms/token]", str(machine), legend="none", ylim=(0, None))
            axes.set_xticks((1, 2, 3))
        legend_below(figure, every)
