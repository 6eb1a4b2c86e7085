"""Models before and after post-training: what changes of consistency, caches and the routing itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lrcsim.base.tables import Row
from lrcsim.experiments.paper import figures_series
from lrcsim.experiments.paper.compared import by_domain, differences, routing_kept
from lrcsim.experiments.paper.intervals import same_texts
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.experiments.paper.report import PaperSection

Pair = tuple[MeasuredTrace, MeasuredTrace]


def pairs_section(pairs: Sequence[Pair], options: PaperOptions) -> PaperSection:
    """Make the section; without pairs it has what the paper published."""
    section = PaperSection("post_training")
    if pairs:
        paired = [f"{a.label} and {b.label}" for a, b in pairs if same_texts(a.source, b.source)]
        section.text.append(
            f"Same texts, draws paired: {', '.join(paired) or 'none'}. Other pairs are taken as independent, and their "
            "routing cannot be compared token by token."
        )
        section.draw = lambda path: figures_series.pairs(path, pairs)
    else:
        section.missing.append("no pair of a model before and after post-training was given: --pair base.h5 post.h5")
    section.table("post_training", list(_compared(pairs, options)))
    section.table("post_training_domains", list(_domains(pairs)))
    section.table("post_training_routing", list(_routing(pairs)))
    models, rows = published().post, []
    for key, model in models.items():
        if "base" in model:
            changes = zip(SEGMENTS, models[model["base"]]["srp"], model["srp"], strict=True)
            rows.append({"base": model["base"], "post": key} | {f"m = {m}": b - a for m, a, b in changes})
    section.table("post_training_published", rows)
    return section


def _compared(pairs: Sequence[Pair], options: PaperOptions) -> Iterator[Row]:
    for base, post in pairs:
        for name, after, before, value, ends in differences(post, base, options):
            row: dict[str, Any] = {"base": base.label, "post": post.label, "measure": name, "before": before.value}
            yield row | {"after": after.value, "difference": value, "95 %": ends}


def _domains(pairs: Sequence[Pair]) -> Iterator[Row]:
    for base, post in pairs:
        for domain, value in by_domain(post, base).items():
            yield {"base": base.label, "post": post.label, "domain": domain, "difference": value}


def _routing(pairs: Sequence[Pair]) -> Iterator[Row]:
    for base, post in pairs:
        if (kept := routing_kept(post, base)) is not None:
            row: dict[str, Any] = {"base": base.label, "post": post.label, "same experts": kept.experts}
            yield row | {"same sets": kept.sets, "same first choice": kept.first}
