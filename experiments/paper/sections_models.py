"""What experts specialise in, what the design of a model does to SRP, loss, and post-training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_srp
from lrcsim.experiments.paper.correlation import correlation_row, fisher_interval
from lrcsim.experiments.paper.inputs import Input
from lrcsim.experiments.paper.measure import AT, Measured
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.experiments.paper.section import Section, Table
from lrcsim.experiments.paper.sections_srp import lacks, published_srp, theirs
from lrcsim.simulator.metrics.bootstrap import basic_interval

__all__ = ["MEASURES", "SEED_MARGIN", "baselines", "difference", "model_sections", "same_texts", "srp_floor"]

SEED_MARGIN = 2
"""A difference between variants counts where it is more than so many times what other seeds of the baseline differ by:
one pair of seeds, of which there seldom are more, easily falls nearer together than the next would."""

MEASURES = {"domain": "domains", "vocabulary_in": "routed tokens", "vocabulary_out": "next tokens"}


def model_sections(found: Sequence[Measured], pairs: Sequence[tuple[Input, Input]]) -> list[Section]:
    """Make the sections that compare experts and models."""
    return [_specialisation(found), _designs(found), _loss(found), _post(found, pairs)]


def baselines(found: Sequence[Measured]) -> list[Measured]:
    """Return the teacher-forced traces of the toy baseline, the one without a seed in its name first."""
    forced = [one for one in found if one.source.kind == "teacher-forced" and AT in one.srp]
    bases = [one for one in forced if one.source.paper == "toy.baseline"]
    return sorted(bases, key=lambda one: one.source.variant)


def same_texts(a: Input, b: Input) -> bool:
    """Whether two traces are of the same requests: as long, of the same domains, of the same token ids where known."""
    one, other = a.trace, b.trace
    if a.kind != "teacher-forced" or b.kind != "teacher-forced":
        return False
    if not np.array_equal(one.offsets, other.offsets) or one.domains != other.domains:
        return False
    return one.token_ids is None or other.token_ids is None or bool((one.token_ids == other.token_ids).all())


def difference(one: Measured, base: Measured, m: int = AT) -> tuple[float, tuple[float, float] | None]:
    """Return SRP less that of another trace, with its basic 95 % interval.

    On the same texts the resamples are paired: both models see the same draws. Otherwise the two are taken as
    independent, and half widths add as squares.
    """
    a, b = one.srp[m], base.srp[m]
    value = a.value - b.value
    if a.interval is None or b.interval is None or a.draws is None or b.draws is None:
        return value, None
    if same_texts(one.source, base.source):
        return value, basic_interval(value, a.draws - b.draws, 0.95)
    half = math.hypot(a.interval[1] - a.interval[0], b.interval[1] - b.interval[0]) / 2
    return value, (value - half, value + half)


def _specialisation(found: Sequence[Measured]) -> Section:
    having = [one for one in found if one.experts is not None]
    section = Section(
        "specialisation",
        "Specialisation of experts, and how SRP goes with it",
        "msrpsc.pdf and toy_msrpsc.pdf",
        [
            "Means over experts that have a value, and Pearson's correlation with the experts' SRP. Fisher's "
            "intervals take experts as independent. A vocabulary differs in size between models, and rare tokens "
            "do not count: its level cannot be compared with the paper's, the sign of the correlation can.",
            _in_the_papers_toys(),
        ],
        missing=lacks(having, *MEASURES),
        draw=(lambda path: figures_srp.specialisation(path, having)) if having else None,
    )
    rows = []
    for one in having:
        assert one.experts is not None
        for name, what in MEASURES.items():
            if name not in one.experts.present():
                continue
            points = int((np.isfinite(one.experts.srp) & np.isfinite(one.experts.present()[name])).sum())
            value = one.experts.correlation(name)
            row = {"trace": one.label, "specialisation in": what, "experts": points, "mean": one.experts.mean(name)}
            row |= {"correlation with SRP": value}
            row |= {"95 %": None if value is None else fisher_interval(value, points)}
            mean, corr = theirs(one).get(name, (None, None))
            rows.append(row | {"paper: mean": mean, "paper: correlation": corr})
    section.add(Table("specialisation", f"m = {AT}.", rows, published().source("specialisation")))
    data = published()
    rows = [
        {"paper's model": f"toy {key}"}
        | {f"{what}: mean, correlation": tuple(toy[name]) for name, what in MEASURES.items()}
        for key, toy in data.toy.items()
    ]
    rows += [
        {"paper's model": key}
        | {f"{what}: mean, correlation": None for what in MEASURES.values()}
        | {"domains: mean, correlation": tuple(model["domain"])}
        for key, model in data.real.items()
    ]
    section.add(Table("specialisation_published", "Published.", rows, data.source("specialisation"), shown=False))
    section.missing.append("specialisation by the predicted token: a trace does not hold predictions of tokens")
    return section


def _in_the_papers_toys() -> str:
    """Say for how many of the paper's toy models the finding on domains holds on its own correlations."""
    toys = published().toy.values()
    names = ("vocabulary_in", "vocabulary_pred", "vocabulary_out")
    above = sum(toy["domain"][1] > max(toy[name][1] for name in names) for toy in toys)
    return (
        "By the paper's own correlations, SRP goes with specialisation in domains more than with any in vocabulary "
        f"(routed, predicted and next token) in {above} of its {len(toys)} toy models."
    )


def _designs(found: Sequence[Measured]) -> Section:
    forced = [one for one in found if one.source.kind == "teacher-forced" and AT in one.srp]
    toys = [one for one in forced if (one.source.paper or "").startswith("toy.")]
    bases = baselines(found)
    section = Section(
        "designs",
        "What the design of a model does to its routing",
        "the toy study (toy_msrpls.pdf, D3): variants of one model that differ in one thing",
        [
            "Every variant against the baseline (the one without a seed in its name): the paper's difference beside "
            "that of the traces, and whether both have the same sign. Other runs of the baseline show what another "
            "seed does: a difference no larger than theirs says nothing. The variants differ in k / E, and so in the "
            "floor of SRP. Intervals pair the draws where the traces are of the same texts; they know nothing of what "
            "another training run would give.",
            _above_floor(),
        ],
    )
    if not bases or len(toys) < 2:
        section.missing.append(
            "it takes a baseline and another variant of the toy study, teacher-forced, under their names"
        )
        return section
    base = bases[0]
    their_base = published().toy["baseline"]["srp16"]
    seeds = max(abs(one.srp[AT].value - base.srp[AT].value) for one in bases)
    rows = []
    for one in toys:
        value = one.srp[AT].value
        row: dict[str, Any] = {
            "trace": one.label,
            "change": theirs(one)["change"],
            "floor": one.srp[AT].floor,
            "SRP": value,
        }
        if one is not base:
            delta, ends = difference(one, base)
            row |= {"against baseline": delta, "95 %": ends}
        else:
            row |= {"against baseline": None, "95 %": None}
        row["paper: SRP"] = theirs(one)["srp16"]
        their = theirs(one)["srp16"] - their_base
        row["paper: against baseline"] = None if one in bases else their
        row["above floor"] = value - one.srp[AT].floor
        row["paper: above floor"] = theirs(one)["srp16"] - srp_floor(theirs(one)["top_k"], theirs(one)["experts"])
        row["sign"] = "another seed" if one in bases[1:] else None
        if one not in bases:
            row["sign"] = _sign(row["against baseline"], row["95 %"], their, seeds)
        rows.append(row)
    section.add(Table("designs", f"SRP at m = {AT}.", rows, published().source("srp16"), digits=4))
    rows = []
    for one in toys:
        row = {"trace": one.label, "SCH 2x": one.at(f"sch-lookahead:{AT}", "model", 2.0)}
        row |= {"paper: SCH 2x": theirs(one)["sch16"][7], "LRU 2x": one.at("lru", "model", 2.0)}
        row |= {"paper: LRU 2x": theirs(one)["lru"][1]}
        row |= {"load imbalance": one.experts.load_imbalance if one.experts else None}
        rows.append(row | {"loss": one.loss, "paper: loss": theirs(one)["log_ppl"]})
    section.add(Table("designs_more", "Other measures.", rows, published().source("sch16", "lru", "log_ppl"), digits=4))
    distinct = list({one.source.paper: one for one in reversed(toys)}.values())
    if len(distinct) >= 4:
        mine = np.array([one.srp[AT].value for one in distinct])
        paper = np.array([theirs(one)["srp16"] for one in distinct])
        row = correlation_row("variants", "", "SRP here", "SRP in the paper", mine, paper)
        section.add(Table("designs_agreement", "Do the variants stand in the paper's order?", [row]))
    section.draw = lambda path: figures_srp.designs(path, toys)
    left = sorted(set(published().toy) - {(one.source.paper or "")[4:] for one in toys})
    if left:
        section.missing.append(f"variants without a teacher-forced trace: {', '.join(left)}")
    section.missing.append(
        "balance of load within segments (the paper's later versions): its definition is not at hand"
    )
    return section


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


def srp_floor(top_k: int, experts: int) -> float:
    """Return the SRP that keeping every expert gives: 2 r / (1 + r) at r = k / E."""
    rate = top_k / experts
    return 2 * rate / (1 + rate)


def _sign(value: float, ends: tuple[float, float] | None, paper: float, seeds: float) -> str:
    """Compare the sign of a difference with the paper's, where it is beyond its interval and other seeds."""
    if (ends is not None and ends[0] <= 0 <= ends[1]) or abs(value) <= SEED_MARGIN * seeds:
        return "undecided"
    return "same" if value * paper > 0 else "opposite"


def _loss(found: Sequence[Measured]) -> Section:
    forced = [one for one in found if one.source.kind == "teacher-forced" and AT in one.srp]
    having = [one for one in forced if one.loss is not None]
    section = Section(
        "loss",
        "SRP and the model's loss",
        "msrpls.pdf and toy_msrpls.pdf",
        ["Losses of models with different tokenizers or texts must not be compared; those of one family can."],
        missing=lacks(forced, "loss"),
    )
    rows = [
        {
            "trace": one.label,
            "SRP": one.srp[AT].value,
            "loss": one.loss,
            "paper: SRP": published_srp(one, AT),
            "paper: loss": theirs(one).get("log_ppl"),
        }
        for one in having
    ]
    section.add(Table("loss", f"m = {AT}; loss in nats per token.", rows, published().source("log_ppl"), digits=4))
    data = published()
    toys, real = list(data.toy.values()), [model for model in data.real.values() if "log_ppl" in model]
    lines = [
        correlation_row(
            "the paper's 10 toy models", "", "SRP", "loss", *_columns([(t["srp16"], t["log_ppl"]) for t in toys])
        ),
        correlation_row(
            "the paper's 18 decoders", "", "SRP", "loss", *_columns([(r["srp"][1], r["log_ppl"]) for r in real])
        ),
    ]
    if len(having) >= 4:
        points = [(one.srp[AT].value, one.loss or 0.0) for one in having]
        lines.insert(0, correlation_row("these traces", "", "SRP", "loss", *_columns(points)))
    else:
        section.missing.append(f"correlation over traces: it takes 4 with a loss, there are {len(having)}")
    section.add(Table("loss_correlation", "", lines, data.source("log_ppl")))
    return section


def _columns(points: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    array = np.array(points, float)
    return array[:, 0], array[:, 1]


def _post(found: Sequence[Measured], pairs: Sequence[tuple[Input, Input]]) -> Section:
    section = Section(
        "post_training",
        "Before and after post-training",
        "the notebook B0_post: SRP of a model and of its fine-tuned descendants on the same text",
    )
    by_label = {one.label: one for one in found}
    rows = []
    for base, post in pairs:
        a, b = by_label[base.label], by_label[post.label]
        for m in a.srp:
            if m in b.srp:
                delta, ends = difference(b, a, m)
                row = {"base": a.label, "post": b.label, "m": m, "SRP before": a.srp[m].value}
                rows.append(row | {"after": b.srp[m].value, "difference": delta, "95 %": ends})
    if pairs:
        paired = [f"{a.label}:{b.label}" for a, b in pairs if same_texts(a, b)]
        told = f"Same texts, draws paired: {', '.join(paired) or 'none'}. Other pairs are taken as independent."
        section.text.append(told)
        section.add(Table("post_training", "", rows, digits=4))
    else:
        section.missing.append("no pair of a model before and after post-training was given: --pair base:post")
    data = published()
    rows = []
    for key, model in data.post.items():
        if "base" in model:
            before = data.post[model["base"]]["srp"]
            row = {"base": model["base"], "post": key}
            rows.append(row | {f"m = {m}": b - a for m, a, b in zip(SEGMENTS, before, model["srp"], strict=True)})
    section.add(Table("post_training_published", "The paper's differences.", rows, data.source("post"), digits=4))
    return section
