"""Other policies in the run's place."""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.base.text import percent
from lrcsim.reports.blocks import Figure, FigureView, Section, TableBlock
from lrcsim.reports.drawing import COLOURS, INK, MUTED, axis, bars, layout, rate_axis, safe
from lrcsim.reports.from_trace import Compared


def compare_section(compared: Sequence[Compared], name: str) -> Section:
    """Return policies at the run's cache size, best first.

    Args:
        compared: the run's own policy among others.
        name: unique on the page.
    """
    ranked = sorted(compared, key=lambda one: -one.hit_rate)
    own = next(one for one in ranked if one.own)
    real = [one for one in ranked if not one.clairvoyant]
    best = real[0] if real else own
    text = f"{own.policy} has {percent(own.hit_rate)}."
    if best is not own:
        gain = 100 * (best.hit_rate - own.hit_rate)
        text += f" Of these the best that does not know the future is {best.policy}, with {gain:.1f} points more."
    else:
        text += " None of the others that do not know the future has more."
    colours = [COLOURS[0] if one.own else INK if one.clairvoyant else MUTED for one in ranked]
    names, rates = [safe(one.policy) for one in ranked], [one.hit_rate for one in ranked]
    data = [bars(rates, names, colours, "%{x:.2%}<extra>%{y}</extra>", orientation="h")]
    drawing = layout(
        height=90 + 26 * len(ranked),
        x=rate_axis("hit rate", rangemode="tozero"),
        y=axis("", autorange="reversed", type="category"),
        showlegend=False,
    )
    rows = [
        (
            one.policy + (" (knows the future)" if one.clairvoyant else ""),
            percent(one.hit_rate),
            *(percent(hits / total if total else None) for hits, total in zip(one.hits, one.accesses, strict=True)),
            f"{sum(one.accesses) - sum(one.hits):,}",
        )
        for one in ranked
    ]
    head = ("policy", "overall", "prefill", "decode", "misses")
    table = TableBlock("policies at this size", head, rows, marked=ranked.index(own))
    text += " Blue: this run. Black (white on dark): knows the future. Loads on demand, the rules of this run."
    figure = Figure(f"{name}-compared", "Policies at this cache size", text, [FigureView("", data, drawing)], table)
    return Section(f"{name}-policies", "Other policies", [], [figure])
