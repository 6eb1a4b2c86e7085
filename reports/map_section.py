"""Maps of what was resident: layers by steps, experts by steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrcsim.base.text import percent
from lrcsim.reports.blocks import Figure, FigureView, Section, TableBlock
from lrcsim.reports.drawing import COLOURS, axis, layout
from lrcsim.reports.residents import STEPS, Rates, Residents

KINDS = ("not there, not used", "there, not used", "hit", "miss, loaded")
KIND_COLOURS = ("rgba(0,0,0,0)", "@grey", COLOURS[0], COLOURS[1])


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
    heat = {
        "type": "heatmap",
        "x": rates.first.tolist(),
        "z": [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in rates.rate],
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Cividis",
        "colorbar": {"tickformat": ".0%", "thickness": 10, "title": {"text": ""}},
        "hovertemplate": "step %{x}, layer %{y}: %{z:.0%}<extra></extra>",
    }
    drawing = layout(height=min(160 + 9 * len(rates.rate), 560), x=axis(x_title), y=down("MoE layer"))
    return FigureView(label, [heat], drawing)


def down(title: str) -> dict[str, Any]:
    """Return an axis of rows, the first at the top."""
    return axis(title, autorange="reversed", showgrid=False)


def _experts(seen: Residents, name: str) -> Figure:
    views, rows = [], []
    for layer, kinds in seen.experts.items():
        height = min(max(160 + 4 * len(kinds), 260), 640)
        drawing = layout(height=height, x=axis("step of the request"), y=down("expert"))
        views.append(FigureView(f"layer {layer}", [_kinds(kinds)], drawing))
        counts = np.bincount(kinds.ravel(), minlength=4)
        rows.append((f"layer {layer}", *(f"{count:,}" for count in counts.tolist())))
    steps = next(iter(seen.experts.values())).shape[1]
    cut = f", its first {STEPS}" if steps == STEPS else ""
    text = (
        f"Every expert of a layer, over the steps of request {seen.request}{cut}: blue was used and there, orange was "
        "used and had to be loaded, grey lay in the cache unused when the layer was done."
    )
    table = TableBlock("expert-steps of each kind", ("", *KINDS), rows)
    return Figure(name, "Experts of a layer", text, views, table)


def _kinds(kinds: Any) -> dict[str, Any]:
    """Return a heat map of kinds; its rows are digits, which the page's script reads."""
    stops = [[edge / 4, colour] for number, colour in enumerate(KIND_COLOURS) for edge in (number, number + 1)]
    return {
        "type": "heatmap",
        "rows": ["".join(map(str, row)) for row in kinds.tolist()],
        "kinds": list(KINDS),
        "zmin": -0.5,
        "zmax": 3.5,
        "colorscale": stops,
        "showscale": False,
        "hovertemplate": "step %{x}, expert %{y}: %{customdata}<extra></extra>",
    }
