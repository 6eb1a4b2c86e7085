"""Maps of what was resident: layers by steps, experts by steps."""

from __future__ import annotations

import numpy as np

from lrcsim.base.text import percent
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import COLOURS
from lrcsim.reports.marks import Axis, FigureView, Heat
from lrcsim.reports.residents import STEPS, Rates, Residents

KINDS = ("not there, not used", "there, not used", "hit", "miss, loaded")
KINDS_AHEAD = (*KINDS[:3], "miss", "hit, brought ahead", "brought ahead, waiting")
"""What may become of an expert where all misses are loaded and nothing else is, and where not; by their numbers."""

KIND_COLOURS = ("clear", "grey", *COLOURS[:3], COLOURS[5])


def map_section(seen: Residents, name: str) -> Section:
    """Return the maps of a run.

    Args:
        seen: what was in the cache when.
        name: unique on the page.
    """
    blocks: list[Figure | TableBlock] = [_layers(seen, f"{name}-map")]
    if seen.experts:
        blocks.append(_experts(seen, f"{name}-experts"))
    return Section(f"{name}-residency", "Residency", [], blocks)


def _layers(seen: Residents, name: str) -> Figure:
    views, texts = [], []
    if seen.own is not None:
        views.append(_rates(seen.own, f"request {seen.request}", "step of the request"))
        prompt = f", the first {seen.prompt_steps:,} of its steps prefill" if seen.prompt_steps else ""
        texts.append(f"Request {seen.request} (of middling length, unless chosen){prompt}{_grouped(seen.own)}.")
    if seen.own is None or seen.own.accesses.sum() < seen.whole.accesses.sum():  # else it is the only request
        views.append(_rates(seen.whole, "the whole trace", "step"))
        texts.append(f"The whole trace{_grouped(seen.whole)}.")
    whole = zip(seen.whole.hits.sum(axis=1).tolist(), seen.whole.accesses.sum(axis=1).tolist(), strict=True)
    rows = [
        (str(layer), f"{hits:,}", f"{used:,}", percent(hits / used if used else None))
        for layer, (hits, used) in enumerate(whole)
    ]
    text = "How many of the experts that a layer needed in a step were resident. " + " ".join(texts)
    table = TableBlock("hits by layer, over the whole trace", ("layer", "hits", "accesses", "hit rate"), rows)
    return Figure(name, "Hits by layer and step", text, views, table)


def _grouped(rates: Rates) -> str:
    return f" (a column of the map is the mean of {rates.per_column:,} steps)" if rates.per_column > 1 else ""


def _rates(rates: Rates, label: str, x_title: str) -> FigureView:
    rows = [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in rates.rate]
    heat = Heat(rates.first.tolist(), rows, row="layer", column="step")
    height = min(max(90 + 9 * len(rows), 160), 560)
    return FigureView(label, x=Axis(x_title), y=Axis("MoE layer"), marks=[heat], height=height)


def _experts(seen: Residents, name: str) -> Figure:
    views, rows = [], []
    names = KINDS if seen.on_demand else KINDS_AHEAD
    layers = list(seen.experts)
    if not seen.on_demand:  # before the first layer there is little time to bring anything
        middle = layers[len(layers) // 2]
        layers.sort(key=lambda layer: layer != middle)
    for layer in layers:
        kinds = seen.experts[layer]
        digits = ["".join(map(str, row)) for row in kinds.tolist()]
        colours = KIND_COLOURS[: len(names)]
        heat = Heat(range(kinds.shape[1]), digits, row="expert", column="step", kinds=names, colours=colours)
        height = min(max(110 + 4 * len(kinds), 210), 640)
        x, y = Axis("step of the request"), Axis("expert")
        views.append(FigureView(f"layer {layer}", x=x, y=y, marks=[heat], height=height))
        counts = np.bincount(kinds.ravel(), minlength=len(names))
        rows.append((f"layer {layer}", *(f"{count:,}" for count in counts.tolist())))
    steps = next(iter(seen.experts.values())).shape[1]
    cut = f", its first {STEPS}" if steps == STEPS else ""
    ahead = "" if seen.on_demand else " What was brought ahead is told apart until its first use."
    text = (
        f"Every expert of a layer, over the steps of request {seen.request}{cut}, when the layer was done. What was "
        f"there and not used lay in the cache for nothing in that step.{ahead}"
    )
    table = TableBlock("expert-steps of each kind", ("", *names), rows)
    return Figure(name, "Experts of a layer", text, views, table)
