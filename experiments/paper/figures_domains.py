"""Domains: SRP of each against that of all (msrpdd), experts' correlation between them (mactdr, msrpdr)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrcsim.experiments.paper.figures import model_panels, shown_models, tidy, with_each
from lrcsim.experiments.paper.measure import MeasuredTrace
from lrcsim.experiments.paper.names import generated
from lrcsim.plots.charts import heat_map
from lrcsim.plots.looks import COLOURS, shortened


def domains(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw the difference of each domain's SRP from that of all; dotted: the paper's lowest and highest domain."""
    found = [one for one in found if one.domains is not None]
    names, models = _names(found), shown_models(found)
    for axes, model in model_panels(path, models, 0.35 + 0.15 * len(names)):
        for i, one in enumerate(model.traces):
            assert one.domains is not None
            assert one.domains.groups is not None
            differences = one.domains.groups.value / one.domains.value - 1
            mine = dict(zip(one.domains.domains or (), 100 * differences, strict=True))
            values = np.array([mine.get(name, np.nan) for name in names])
            colours = np.where(values > 0, COLOURS[0], COLOURS[1])
            high = 0.7 / len(model.traces)
            places = np.arange(len(names)) + high * (i - 0.5 * (len(model.traces) - 1))
            faces = ["none"] * len(names) if generated(one) else colours
            axes.barh(places, values, color=faces, edgecolor=colours, linewidth=0.7, height=0.85 * high)
        axes.axvline(0, color="0.3", lw=0.8)
        for end in model.first.theirs.get("domain_range", ()):
            axes.axvline(100 * end, color="black", lw=1, linestyle=":", label="paper's range")
        axes.set_yticks(range(len(names)), [shortened(name, 16) for name in names])
        if model is models[0]:
            axes.invert_yaxis()
        if model is models[0] and {generated(one) for m in models for one in m.traces} == {False, True}:
            axes.plot([], [], "s", color="0.5", label="teacher-forced")
            axes.plot([], [], "s", color="0.5", mfc="none", label="generated")
        tidy(axes, "against SRP of all [%]", "", legend="none")
        axes.grid(axis="y", visible=False)


def domain_pairs(path: str, found: Sequence[MeasuredTrace], what: str) -> None:
    """Draw correlations over experts between domains, of their ``"activation"`` rates or their ``"srp"``."""
    found = [one for one in found if what in one.pairs]
    names, models = _names(found), with_each(found)
    figure, image = None, None
    every = []
    for axes, model in model_panels(path, models, 0.4 + 0.15 * len(names), below=0.8):
        assert model.first.domains is not None
        mine = [names.index(name) for name in model.first.domains.domains or ()]
        values = np.full((len(names), len(names)), np.nan)
        values[np.ix_(mine, mine)] = model.first.pairs[what]
        image, figure = heat_map(axes, values, -1, 1, colours="RdBu_r"), axes.figure
        short = [shortened(name, 14) for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90)
        axes.set_yticks(range(len(names)), short)
        every.append(axes)
        if len(every) == len(models):
            figure.colorbar(image, ax=every, label="correlation", aspect=25)


def _names(found: Sequence[MeasuredTrace]) -> list[str]:
    return list(dict.fromkeys(name for one in found if one.domains for name in one.domains.domains or ()))
