"""One model at several points of its training: when local routing consistency comes, and when routing settles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from lrcsim.base.tables import Row
from lrcsim.experiments.paper import figures_series
from lrcsim.experiments.paper.compared import differences, routing_kept, values_of
from lrcsim.experiments.paper.inputs import trained
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions
from lrcsim.experiments.paper.report import PaperSection

Series = Sequence[MeasuredTrace]


def series_section(every: Sequence[Series], options: PaperOptions) -> PaperSection:
    """Make the section, one table for the values and one for the steps between them."""
    section = PaperSection("series")
    if not every:
        section.missing.append("no traces over training were given: --series at10.h5 at30.h5 end.h5")
        return section
    section.table("series", [row for series in every for row in _values(series, options)])
    section.table("series_steps", [row for series in every for row in _steps(series, options)])
    section.draw = lambda path: figures_series.series(path, every)
    unknown = [one.label for series in every for one in series if trained(one.source.trace) is None]
    if unknown:
        section.missing.append(
            f"tokens trained, which the provenance does not say (training: training_tokens): {', '.join(unknown)}; "
            "drawn in the order given"
        )
    return section


def _values(series: Series, options: PaperOptions) -> Iterator[Row]:
    for one in series:
        tokens = trained(one.source.trace)
        row: dict[str, Any] = {
            "trace": one.label,
            "tokens trained": None if tokens is None else f"{tokens:,}",
            "loss": one.loss,
        }
        row |= {name: value.value for name, value in values_of(one, options).items()}
        kept = routing_kept(one, series[-1])
        yield row | {"experts of the last": None if kept is None else kept.experts}


def _steps(series: Series, options: PaperOptions) -> Iterator[Row]:
    for before, after in pairwise(series):
        for name, now, then, value, ends in differences(after, before, options):
            row: dict[str, Any] = {"from": before.label, "to": after.label, "measure": name, "before": then.value}
            yield row | {"after": now.value, "difference": value, "95 %": ends}
