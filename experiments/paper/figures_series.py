"""Figures of one model at several times: before and after post-training, and over its training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrcsim.experiments.paper.compared import routing_kept
from lrcsim.experiments.paper.figures import lengths_axis, tidy
from lrcsim.experiments.paper.inputs import trained
from lrcsim.experiments.paper.measure import AT, SCH, MeasuredTrace
from lrcsim.experiments.paper.names import short_name
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, legend_below, look_of
from lrcsim.plots.settings import width


def pairs(path: str, every: Sequence[tuple[MeasuredTrace, MeasuredTrace]]) -> None:
    """Draw SRP after post-training less before, by segment length; the paper's pairs in grey."""
    models = published().post
    with open_figure(path, figsize=(width(), 3.0 if width() > 5 else 2.2)) as (figure, axes):
        label: str | None = "paper, six pairs"
        for model in models.values():
            if "base" in model:
                change = np.array(model["srp"]) - np.array(models[model["base"]]["srp"])
                axes.plot(SEGMENTS, change, color="0.75", lw=0.8, marker="x", ms=3, zorder=0, label=label)
                label = None
        for i, (base, post) in enumerate(every):
            lengths = [m for m in base.srp if m in post.srp]
            change = np.array([post.srp[m].value - base.srp[m].value for m in lengths])
            axes.plot(lengths, change, label=f"{short_name(base.source)} to {short_name(post.source)}", **look_of(i))
        axes.axhline(0, color="0.4", lw=0.7)
        lengths_axis(axes, SEGMENTS)
        tidy(axes, "segment length m [tokens]", "change of SRP", legend="none")
        legend_below(figure, [axes])


def series(path: str, every: Sequence[Sequence[MeasuredTrace]]) -> None:
    """Draw SRP, hit rates and how much of the last one's routing is there already, over the tokens trained."""
    with open_figure(path, 1, 2, figsize=(7, 2.7)) as (figure, (left, right)):
        for i, one_series in enumerate(every):
            known = [trained(one.source.trace) for one in one_series]
            x = [float(tokens) / 1e6 if tokens is not None else float(n) for n, tokens in enumerate(known)]
            name = short_name(one_series[-1].source) if len(every) > 1 else ""
            look = look_of(i)
            values = [one.srp[AT].value if AT in one.srp else np.nan for one in one_series]
            left.plot(x, values, label=f"SRP, m = {AT} {name}".strip(), **look)
            ends = [one.srp[AT].interval if AT in one.srp else None for one in one_series]
            if all(end is not None for end in ends):
                left.fill_between(x, *np.array(ends, float).T, color=look["color"], alpha=0.2, lw=0)
            for j, policy in enumerate((SCH, "lru")):
                rates = [one.at(policy, "model", 2.0) for one in one_series]
                label = f"{'SCH' if policy == SCH else 'LRU'} at 2x {name}".strip()
                left.plot(x, np.array(rates, float), "--" if j else ":", color=COLOURS[i % len(COLOURS)], label=label)
            kept = [routing_kept(one, one_series[-1]) for one in one_series]
            for field, style in (("experts", "-"), ("sets", "--")):
                label = f"{'experts' if field == 'experts' else 'whole sets'} of the last {name}".strip()
                shares = [np.nan if one is None else getattr(one, field) for one in kept]
                right.plot(x, shares, style, color=COLOURS[(i + len(every)) % len(COLOURS)], marker="o", label=label)
        stages = all(trained(one.source.trace) is not None for one_series in every for one in one_series)
        unit = "tokens trained [million]" if stages else "trace, in the order given"
        tidy(left, unit, "SRP, hit rate", legend="none", ylim=(0, 1))
        tidy(right, unit, "share of routing", legend="none", ylim=(0, 1.02))
        legend_below(figure, [left, right])
