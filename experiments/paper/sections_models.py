"""What experts specialise in, what the design of a model does to SRP, and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_experts, figures_models
from lrcsim.experiments.paper.intervals import (
    Interval,
    around_zero,
    baselines,
    correlated,
    correlation_row,
    difference,
    srp_floor,
    within_seeds,
)
from lrcsim.experiments.paper.measure import AT, SCH, MeasuredTrace, lacks, teacher_forced
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.report import PaperSection
from lrcsim.experiments.paper.sections_pictures import specialisation_pictures

MEASURES = {
    "domain": "domains",
    "vocabulary_in": "routed tokens",
    "vocabulary_predicted": "predicted tokens",
    "vocabulary_out": "next tokens",
}


def model_sections(found: Sequence[MeasuredTrace]) -> list[PaperSection]:
    """Make the sections that compare experts and models."""
    specialisation = [_specialisation(found), *specialisation_pictures(found)]
    return [*specialisation, _designs(found), _loss(found)]


def _specialisation(found: Sequence[MeasuredTrace]) -> PaperSection:
    having = [one for one in found if one.experts is not None]
    section = PaperSection("specialisation", lacks(having, *MEASURES), text=[_in_the_papers_toys()])
    if any(one.experts is not None and one.experts.domain is not None for one in having):
        section.draw = lambda path: figures_experts.specialisation(path, having, "domain")
    rows: list[dict[str, Any]] = []
    for one in having:
        assert one.experts is not None
        present = one.experts.present()
        for name in [name for name in MEASURES if name in present]:
            points, value, ends = correlated(one.experts.srp, present[name])
            row = {"trace": one.label, "specialisation in": MEASURES[name], "experts": points}
            row |= {"mean": one.experts.mean(name), "correlation with SRP": value, "95 %": ends}
            mean, correlation = one.theirs.get(name, (None, None))
            rows.append(row | {"paper: mean": mean, "paper: correlation": correlation})
    section.table("specialisation", rows)
    columns = {name: f"{what}: mean, correlation" for name, what in MEASURES.items()}
    models = {f"toy {key}": toy for key, toy in published().toy.items()} | published().real
    rows = [
        {"paper's model": key}
        | {column: tuple(model[name]) if name in model else None for name, column in columns.items()}
        for key, model in models.items()
    ]
    section.table("specialisation_published", rows)
    return section


def _in_the_papers_toys() -> str:
    """Say for how many of the paper's toy models the finding on domains holds on its own correlations."""
    toys = published().toy.values()
    names = ("vocabulary_in", "vocabulary_predicted", "vocabulary_out")
    above = sum(toy["domain"][1] > max(toy[name][1] for name in names) for toy in toys)
    return (
        "By the paper's own correlations, SRP goes with specialisation in domains more than with any in vocabulary "
        f"(routed, predicted and next token) in {above} of its {len(toys)} toy models."
    )


def _designs(found: Sequence[MeasuredTrace]) -> PaperSection:
    toys = [one for one in teacher_forced(found) if (one.source.paper or "").startswith("toy.")]
    bases = baselines(found)
    section = PaperSection("designs", text=[_above_floor()])
    if not bases or len(toys) < 2:
        section.missing.append(
            "it takes a baseline and another variant of the toy study, teacher-forced, under their names"
        )
        return section
    rows = [_design(one, bases) for one in toys]
    section.table("designs", rows)
    rows = []
    for one in toys:
        row = {"trace": one.label, "SCH 2x": one.at(SCH, "model", 2.0), "paper: SCH 2x": one.theirs["sch16"][7]}
        row |= {"LRU 2x": one.at("lru", "model", 2.0), "paper: LRU 2x": one.theirs["lru"][1]}
        row |= {"load imbalance": one.experts.load_imbalance if one.experts else None}
        rows.append(row | {"loss": one.loss, "paper: loss": one.theirs["log_ppl"]})
    section.table("designs_more", rows)
    distinct = list({one.source.paper: one for one in reversed(toys)}.values())
    if len(distinct) >= 4:
        points = np.array([(one.srp[AT].value, one.theirs["srp16"]) for one in distinct])
        row = correlation_row("variants", "", "SRP here", "SRP in the paper", *points.T)
        section.table("designs_agreement", [row])
    keys = {one.source.paper for one in toys}
    section.draw = lambda path: figures_models.designs(path, [one for one in found if one.source.paper in keys])
    left = sorted(set(published().toy) - {(one.source.paper or "")[4:] for one in toys})
    if left:
        section.missing.append(f"variants without a teacher-forced trace: {', '.join(left)}")
    return section


def _design(one: MeasuredTrace, bases: Sequence[MeasuredTrace]) -> dict[str, Any]:
    """Compare a toy model with the first of the baselines, here and in the paper."""
    base, theirs, result = bases[0], one.theirs, one.srp[AT]
    delta, ends = (None, None) if one is base else difference(one, base)
    their = theirs["srp16"] - base.theirs["srp16"]
    row = {"trace": one.label, "change": theirs["change"], "floor": result.floor, "SRP": result.value}
    row |= {"against baseline": delta, "95 %": ends, "paper: SRP": theirs["srp16"]}
    row["paper: against baseline"] = None if one in bases else their
    row["above floor"] = result.value - result.floor
    row["paper: above floor"] = theirs["srp16"] - srp_floor(theirs["top_k"], theirs["experts"])
    row["sign"] = "another seed" if one in bases[1:] else None
    if one not in bases and delta is not None:
        seeds = max((abs(other.srp[AT].value - base.srp[AT].value) for other in bases[1:]), default=None)
        row["sign"] = _sign(delta, ends, their, seeds)
    return row


def _sign(value: float, ends: Interval | None, paper: float, seeds: float | None) -> str:
    """Compare the sign of a difference with the paper's, where it is beyond its interval and other seeds."""
    if around_zero(ends) or within_seeds(value, seeds):
        return "undecided"
    return "same" if value * paper > 0 else "opposite"


def _above_floor() -> str:
    """Say how much of the paper's differences is the floor's: sharing experts changes k / E."""
    base, told = published().toy["baseline"], []
    for key in ("share1", "share2", "32expert"):
        toy = published().toy[key]
        whole = toy["srp16"] - base["srp16"]
        floor = srp_floor(toy["top_k"], toy["experts"]) - srp_floor(base["top_k"], base["experts"])
        told.append(f"{key} {whole:+.4f}, its floor {floor:+.4f}")
    return (
        "Part of a difference may be the floor's alone: an expert that is shared leaves a smaller k / E to route. The "
        f"paper's differences and those of the floor: {'; '.join(told)}. So columns *above floor* stand beside."
    )


def _loss(found: Sequence[MeasuredTrace]) -> PaperSection:
    forced = teacher_forced(found)
    section = PaperSection("loss", lacks(forced, "loss"), draw=lambda path: figures_models.loss(path, forced))
    rows, points = [], []
    for one in forced:
        if one.loss is not None:
            row = {"trace": one.label, "SRP": one.srp[AT].value, "loss": one.loss}
            rows.append(row | {"paper: SRP": one.published_srp(AT), "paper: loss": one.theirs.get("log_ppl")})
            points.append((one.srp[AT].value, one.loss))
    section.table("loss", rows)
    toys = [(toy["srp16"], toy["log_ppl"]) for toy in published().toy.values()]
    real = [(model["srp"][1], model["log_ppl"]) for model in published().real.values() if "log_ppl" in model]
    over = {"the paper's 10 toy models": toys, "the paper's 18 decoders": real}
    if len(points) >= 4:
        over = {"these traces": points} | over
    else:
        section.missing.append(f"correlation over traces: it takes 4 with a loss, there are {len(points)}")
    rows = [correlation_row(what, "", "SRP", "loss", *np.array(pairs).T) for what, pairs in over.items()]
    section.table("loss_correlation", rows)
    return section
