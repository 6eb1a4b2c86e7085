"""Other policies in the run's place."""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.base.text import percent
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import COLOURS, INK, MUTED
from lrcsim.reports.marks import Axis, Bars, FigureView
from lrcsim.reports.policies_again import Compared
from lrcsim.reports.verdict import speed

LOADING = {
    False: "Loads on demand, the rules of this run.",
    True: "Hit rates are of loading on demand, by the rules of this run; speeds are of this run's machine and options.",
}
"""What the numbers are of, by whether there are speeds."""


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
    kinds = {"this run": COLOURS[0], "knows the future": INK, "others": MUTED}
    of = ["this run" if one.own else "knows the future" if one.clairvoyant else "others" for one in ranked]
    timed = [one for one in ranked if one.tokens_per_s is not None]
    drawn: list[tuple[str, Axis, dict[str, float | None]]] = []
    if timed:
        speeds = {one.policy: one.tokens_per_s for one in sorted(timed, key=lambda one: -(one.tokens_per_s or 0.0))}
        drawn.append(("tokens/s", Axis("tokens/s in decode", low=0), speeds))
    drawn.append(("hit rate", Axis("hit rate", "percent", low=0), {one.policy: one.hit_rate for one in ranked}))
    kind_of = {one.policy: kind for one, kind in zip(ranked, of, strict=True)}
    views = [
        FigureView(
            label,
            x=x,
            y=Axis(names=list(values)),
            marks=[
                Bars(kind, mine, [values[policy] for policy in mine], colour)
                for kind, colour in kinds.items()
                if (mine := [policy for policy in values if kind_of[policy] == kind])
            ],
            height=60 + 26 * len(values),
        )
        for label, x, values in drawn
    ]
    rows = [
        (
            one.policy + (" (knows the future)" if one.clairvoyant else ""),
            percent(one.hit_rate),
            *(percent(hits / total if total else None) for hits, total in zip(one.hits, one.accesses, strict=True)),
            f"{sum(one.accesses) - sum(one.hits):,}",
            *(("–" if one.tokens_per_s is None else speed(one.tokens_per_s),) if timed else ()),
        )
        for one in ranked
    ]
    head = ("policy", "overall", "prefill", "decode", "misses", *(("in decode",) if timed else ()))
    table = TableBlock("policies at this size", head, rows, marked=ranked.index(own))
    if own.tokens_per_s is not None:
        text += _speeds(own, [one for one in timed if not one.clairvoyant])
    text += f" {LOADING[bool(timed)]}"
    figure = Figure(f"{name}-compared", "Policies at this cache size", text, views, table)
    return Section(f"{name}-policies", "Other policies", [], [figure])


def _speeds(own: Compared, real: Sequence[Compared]) -> str:
    """Say which policy is the fastest, and by how much."""
    mine = own.tokens_per_s or 0.0
    best = max(real, key=lambda one: one.tokens_per_s or 0.0, default=own)
    most = best.tokens_per_s or 0.0
    text = f" {own.policy} makes {speed(mine)} in decode"
    if best is own or most <= mine or not mine:
        return f"{text}; none of the others that do not know the future is faster."
    more = percent(most / mine - 1)
    return f"{text}; the fastest that does not know the future is {best.policy} with {speed(most)}, {more} more."
