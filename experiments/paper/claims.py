"""The paper's findings as computed statements: what was measured, what was found, what was not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lrcsim.experiments.paper.correlation import fisher_interval
from lrcsim.experiments.paper.measure import AT, Measured
from lrcsim.experiments.paper.section import Section, Table
from lrcsim.experiments.paper.sections_models import difference

__all__ = ["claims_section"]


@dataclass(frozen=True)
class Claim:
    """A finding of the paper and how it is tested.

    Attributes:
        text: the finding, in our words.
        test: what is computed.
        judge: of all that was measured: the numbers in words, and ``"found"``, ``"not found"``, ``"undecided"`` or
            ``"not testable"``.
    """

    text: str
    test: str
    judge: Callable[[Sequence[Measured]], tuple[str, str]]


def claims_section(found: Sequence[Measured], sections: Sequence[Section]) -> Section:
    """Make the section at the top: one row for each finding."""
    tables = {table.name: table for section in sections for table in section.tables}
    rows = []
    for claim in CLAIMS:
        numbers, outcome = claim.judge(found)
        rows.append({"the paper": claim.text, "test": claim.test, "these traces": numbers, "outcome": outcome})
    rows.append(_two_x(tables.get("two_x")))
    rows.append(_post(tables.get("post_training")))
    section = Section(
        "claims",
        "What was found",
        "its findings, in our words",
        [
            "Computed from the numbers below, on teacher-forced traces. *Found* and *not found* need an interval that decides; "
            "what needs a trace that is not here is *not testable*."
        ],
    )
    section.add(Table("claims", "", rows))
    return section


def _forced(found: Sequence[Measured]) -> list[Measured]:
    return [one for one in found if one.source.kind == "teacher-forced" and AT in one.srp]


def _all(outcomes: Sequence[bool | None]) -> str:
    """True is found, False refuted, None undecided, over all traces."""
    if not outcomes:
        return "not testable"
    if all(outcome is True for outcome in outcomes):
        return "found"
    if all(outcome is False for outcome in outcomes):
        return "not found"
    return "undecided" if None in outcomes else "found in some"


def _falls_with_length(found: Sequence[Measured]) -> tuple[str, str]:
    parts, outcomes = [], []
    for one in _forced(found):
        above = [result.value - result.floor for result in one.srp.values()]
        values = [result.value for result in one.srp.values()]
        outcomes.append(bool(all(np.diff(values) < 0)))
        parts.append(f"{one.label}: {' > '.join(f'{v:.3f}' for v in values)} ({above[-1]:.3f} above the floor)")
    return "; ".join(parts) or "no teacher-forced trace", _all(outcomes)


def _local(found: Sequence[Measured]) -> tuple[str, str]:
    """Whether SCH is above that of the same tokens in random order: local consistency at all."""
    parts, outcomes = [], []
    for one in _forced(found):
        curve = one.curves.get((f"sch-lookahead:{AT}", "model"))
        if curve is None or one.control is None:
            continue
        mine, random = (float(c.rate(np.array([2.0]))[0]) for c in (curve, one.control))
        drawn = curve.drawn(np.array([2.0]), 200, 0)
        outcomes.append(None if len(drawn) == 0 else bool((drawn[:, 0] > random).mean() > 0.975))
        parts.append(f"{one.label}: SCH at 2x {mine:.3f}, in random order {random:.3f}")
    return "; ".join(parts) or "no teacher-forced trace", _all(outcomes)


def _domain_over_vocabulary(found: Sequence[Measured]) -> tuple[str, str]:
    parts, outcomes = [], []
    for one in _forced(found):
        if one.experts is None or one.experts.domain is None or one.experts.vocabulary_in is None:
            continue
        ends, values = {}, {}
        for name in ("domain", "vocabulary_in", "vocabulary_out"):
            if name in one.experts.present() and (value := one.experts.correlation(name)) is not None:
                points = int((np.isfinite(one.experts.srp) & np.isfinite(one.experts.present()[name])).sum())
                values[name], ends[name] = value, fisher_interval(value, points)
        mine, others = ends.get("domain"), [ends[name] for name in values if name != "domain"]
        if mine is None or not others or None in others:
            continue
        lower = all(mine[0] > other[1] for other in others if other is not None)
        higher = any(mine[1] < other[0] for other in others if other is not None)
        outcomes.append(True if lower else False if higher else None)
        parts.append(f"{one.label}: " + ", ".join(f"{name} {value:+.2f}" for name, value in values.items()))
    return "; ".join(parts) or "it takes domains and token ids", _all(outcomes)


def _variants(names: Sequence[str], expected: int) -> Callable[[Sequence[Measured]], tuple[str, str]]:
    """Make the test that variants differ from the baseline in SRP, in the direction expected."""

    def judge(found: Sequence[Measured]) -> tuple[str, str]:
        forced = _forced(found)
        bases = [one for one in forced if one.source.paper == "toy.baseline"]
        others = [one for one in forced if one.source.paper in [f"toy.{name}" for name in names]]
        if not bases or not others:
            return f"it takes baseline and {' or '.join(names)}", "not testable"
        parts, outcomes = [], []
        seeds = max((abs(one.srp[AT].value - bases[0].srp[AT].value) for one in bases), default=0.0)
        for one in others:
            value, ends = difference(one, bases[0])
            decided = ends is not None and not ends[0] <= 0 <= ends[1] and abs(value) > seeds
            outcomes.append((value * expected > 0) if decided else None)
            parts.append(f"{one.label}: {value:+.4f}" + (f" ({ends[0]:+.4f} to {ends[1]:+.4f})" if ends else ""))
        if len(bases) > 1:
            parts.append(f"another seed of the baseline: {seeds:.4f} off")
        return "; ".join(parts), _all(outcomes)

    return judge


def _stands_for(found: Sequence[Measured]) -> tuple[str, str]:
    from lrcsim.simulator.specialisation import pearson

    parts, outcomes = [], []
    for one in _forced(found):
        layers, groups = one.curves[f"sch-lookahead:{AT}", "layer"].layers_at(2.0), one.srp[AT].groups
        if layers is None or groups is None or (value := pearson(groups.value, layers)) is None:
            continue
        ends = fisher_interval(value, len(layers))
        outcomes.append(None if ends is None or ends[0] <= 0 <= ends[1] else value > 0)
        parts.append(f"{one.label}: r = {value:+.2f} over {len(layers)} layers")
    return "; ".join(parts) or "no teacher-forced trace", _all(outcomes)


def _two_x(table: Table | None) -> dict[str, str]:
    from lrcsim.experiments.paper.knee import CRITERIA

    rows = [row for row in (table.rows if table else []) if row["criterion"] == CRITERIA[0].name]
    others = [row for row in (table.rows if table else []) if row["criterion"] != CRITERIA[0].name]
    verdicts = [{"holds": True, "does not hold": False}.get(row["about twice"]) for row in rows]
    numbers = "; ".join(f"{row['trace']}: {row['knee']:.2f}x, {row['about twice']}" for row in rows)
    if others:
        holds = sum(row["about twice"] == "holds" for row in others)
        numbers += f"; by the other criteria {holds} of {len(others)}"
    return {
        "the paper": "a cache of about twice the active experts balances effect and cost",
        "test": f"knee of SCH within 1.5x to 2.5x by *{CRITERIA[0].name}* in 95 % of draws (see the next section)",
        "these traces": numbers or "no model with enough experts",
        "outcome": _all(verdicts) + (" by this criterion" if rows else ""),
    }


def _post(table: Table | None) -> dict[str, str]:
    rows = [row for row in (table.rows if table else []) if row["m"] == AT]
    outcomes: list[bool | None] = []
    for row in rows:
        ends = row["95 %"]
        inside = None if ends is None else -0.01 < ends[0] and ends[1] < 0.01
        outcomes.append(inside if inside else None if ends is None or (ends[0] < 0.01 and ends[1] > -0.01) else False)
    numbers = "; ".join(f"{row['base']} to {row['post']}: {row['difference']:+.4f}" for row in rows)
    return {
        "the paper": "post-training hardly changes SRP (at most 0.006 at m = 16)",
        "test": "the interval of the difference lies within 0.01 of 0",
        "these traces": numbers or "no pair was given (--pair)",
        "outcome": _all(outcomes),
    }


CLAIMS = (
    Claim(
        "routing is locally consistent",
        "SCH at 2x above that of the same tokens in random order in 97.5 % of draws",
        _local,
    ),
    Claim("SRP falls with segment length", "every longer segment has a lower SRP", _falls_with_length),
    Claim("SRP and SCH go together", "correlation over layers above 0, Fisher's interval", _stands_for),
    Claim(
        "experts specialised in domains contribute more to consistency than those specialised in vocabulary",
        "correlation of SRP with the first above those with the others, Fisher's intervals apart",
        _domain_over_vocabulary,
    ),
    Claim(
        "shared experts lower local consistency",
        "SRP below the baseline's, interval without 0, by more than another seed",
        _variants(("share1", "share2"), -1),
    ),
    Claim(
        "less balancing of load raises it, more lowers it: no load-balancing loss",
        "SRP above the baseline's",
        _variants(("nolb",), +1),
    ),
    Claim("the same: a stronger load-balancing loss", "SRP below the baseline's", _variants(("overlb",), -1)),
    Claim("dense layers between hardly matter or raise it a little", "SRP above the baseline's",
          _variants(("skip1", "sparse2"), +1)),
)
