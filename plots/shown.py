"""The figures of single results, as `plot()` and a notebook show them (`lrcsim.base.shown`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.plots.charts import LETTERS, heat_map
from lrcsim.plots.curves import plot_curves
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import HATCHES, colour, dress, grey, ink, legend_below, look_of, shortened
from lrcsim.plots.metrics import plot_srp
from lrcsim.plots.settings import high_as, width
from lrcsim.plots.time import plot_time
from lrcsim.traces import DECODE, PREFILL

if TYPE_CHECKING:
    from lrcsim.planner import Plan
    from lrcsim.simulator import Curve, Result, Sch, Srp
    from lrcsim.traces import RoutingTrace

MOST_TOKENS = 20_000
"""Of a trace that a notebook shows; `plot()` counts all."""


def draw_result(path: str | None, result: Result) -> Any:
    """Draw a run on a machine as `lrcsim.plots.time` does; one without, as hit rates by layer, with LRU and the bounds.

    Raises:
        ConfigError: nothing was accessed, or another ending.
        TraceError: the file cannot be written.
    """
    if result.timed is not None:
        return plot_time(result, path)
    if result.hit_rate is None:
        raise ConfigError("there is no hit rate to draw: no expert of this run was recorded")
    config, counts = result.config, result.counts
    with open_figure(path, figsize=(width(), high_as(3.2, 2.2))) as (figure, axes):
        for place, (phase, name) in enumerate(((DECODE, "decode"), (PREFILL, "prefill"))):
            accesses = counts.accesses[phase]
            if accesses.any():
                rate = 100 * np.where(accesses > 0, 1 - counts.misses[phase] / np.maximum(accesses, 1), np.nan)
                axes.plot(np.arange(len(rate)), rate, label=f"{config['policy']}, {name}", **look_of(place))
        bounds = [("lru", result.lru), *result.bounds.items()]
        for place, (name, bound) in enumerate(pair for pair in bounds if pair[1] is not None):
            if bound is not None and bound.hit_rate is not None and name != config["policy"]:
                shade = grey(0.5) if name == "lru" else ink()
                kind = "" if name == "lru" else f" ({bound.kind})"
                style = ("--", "-", ":", "-.")[place % 4]
                axes.axhline(100 * bound.hit_rate, color=shade, ls=style, lw=0.9, label=f"{name}{kind}, all layers")
        title = f"{shortened(result.trace.model)}: {config['policy']}, cache {config['cache']}, scope {config['scope']}"
        dress(axes, "MoE layer", "hit rate [%]", title, ylim=(0, 100))
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_below(figure, [axes])
    return figure


def draw_curve(path: str | None, curve: Curve) -> Any:
    """Draw the hit rate at every capacity."""
    return plot_curves(path, {"": [curve]}, "")


def draw_srp(path: str | None, found: Srp) -> Any:
    """Draw SRP as its level wants it (`lrcsim.plots.metrics.plot_srp`)."""
    return plot_srp(path, {"SRP" if found.level == "model" else "": [found]})


def draw_sch(path: str | None, found: Sch) -> Any:
    """Draw SCH at every capacity, that of the cache asked for as a dot."""
    active = float(np.median(found.capacities / found.relative))
    with open_figure(path, figsize=(width(), high_as(3.8, 2.2))) as (figure, axes):
        axes.plot(
            found.relative, found.hit_rate, color=colour(0), label=f"SCH ({found.definition}), m = {found.segment}"
        )
        mine = float(np.mean(found.slots)) / active
        axes.plot(mine, found.value, "o", color=colour(0), mec=ink(), mew=0.8, ms=5.5, label=f"cache {found.cache}")
        dress(axes, "cache size / experts active per token", "SCH", xlim=(0, None), ylim=(0, 1))
        legend_below(figure, [axes])
    return figure


def draw_plan(path: str | None, plan: Plan) -> Any:
    """Draw tokens/s of each way to run the model, with its range, coloured by whether it can be had.

    Raises:
        ConfigError: the model does not fit, or another ending.
        TraceError: the file cannot be written.
    """
    rows = [*plan.rows, *([] if plan.bound is None else [plan.bound])]
    if not rows:
        raise ConfigError(
            f"{plan.geometry.name} as {plan.dtype} does not fit {plan.profile.name}, so there is no speed to draw: "
            "plan.remedies says what would fit"
        )
    kinds = list(dict.fromkeys(row.kind for row in rows))
    with open_figure(path, figsize=(width(), 0.75 + 0.19 * len(rows))) as (figure, axes):
        for kind in kinds:
            mine = [(place, row) for place, row in enumerate(rows) if row.kind == kind]
            places, speeds = [place for place, _ in mine], [row.speed for _, row in mine]
            number = kinds.index(kind)
            look = {"color": colour(number), "alpha": 0.75, "label": kind, "hatch": HATCHES[number % len(HATCHES)]}
            axes.barh(places, speeds, height=0.65, edgecolor=grey(1), linewidth=0, **look)
        for place, row in enumerate(rows):
            axes.plot(row.range, (place, place), color=ink(), lw=0.9)
        axes.set_yticks(range(len(rows)), [shortened(f"{row.name}, {row.standing.runtime}", 32) for row in rows])
        axes.invert_yaxis()
        title = f"{plan.geometry.name} on {plan.profile.name}"
        dress(axes, "decode [tokens/s], and its range", "", shortened(title, int(LETTERS * width())), xlim=(0, None))
        axes.grid(axis="y", visible=False)
        legend_below(figure, [axes])
    return figure


def draw_trace(path: str | None, trace: RoutingTrace, most: int | None = None) -> Any:
    """Draw how often each expert of each layer is used, over the mean of the layer's experts.

    Args:
        path: the picture; None: it is not written.
        trace: the trace.
        most: only the first so many tokens; None: all.

    Raises:
        ConfigError: no expert was recorded, or another ending.
        TraceError: the file cannot be written.
    """
    layers, tokens = trace.layers, min(trace.num_tokens, most or trace.num_tokens)
    shape = (trace.num_layers, trace.num_experts)
    uses = np.zeros(shape[0] * shape[1], np.int64)
    for low in range(0, tokens, 16_384):
        experts = trace.read("experts", low, min(low + 16_384, tokens))
        keys = experts.astype(np.int64) + (np.arange(shape[0]) * shape[1])[None, :, None]
        uses += np.bincount(keys[experts >= 0], minlength=len(uses))
    if not uses.any():
        raise ConfigError("no expert of this trace was recorded, so there is nothing to draw")
    share = uses.reshape(shape) / np.maximum(uses.reshape(shape).sum(axis=1, keepdims=True), 1)
    load = share * layers.num_experts[:, None]
    load[np.arange(shape[1])[None, :] >= layers.num_experts[:, None]] = np.nan
    with open_figure(path, figsize=(width(), high_as(3.0, 2.2))) as (figure, axes):
        top = max(2.0, float(np.nanquantile(load, 0.99)))
        image = heat_map(axes, load, 0, top)
        first = "" if tokens == trace.num_tokens else f", first {tokens:,} tokens"
        axes.set(title=shortened(f"{trace.model}{first}", int(LETTERS * width())), xlabel="expert", ylabel="MoE layer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes, label="uses / mean uses", extend="max")
    return figure


def draw_trace_small(path: str | None, trace: RoutingTrace) -> Any:
    """Draw as `draw_trace`, of a long trace its first tokens."""
    return draw_trace(path, trace, MOST_TOKENS)
