"""The paper's findings as computed statements: what was tested, what was measured, what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lrcsim.experiments.paper.intervals import around_zero, baselines, correlated, difference, within_seeds
from lrcsim.experiments.paper.knee import CRITERIA
from lrcsim.experiments.paper.measure import AT, POOLED, MeasuredTrace, PaperOptions
from lrcsim.experiments.paper.report import PaperSection
from lrcsim.experiments.paper.tradeoff import groups_of_variants, mostly_local, tradeoff, tradeoff_over_layers
from lrcsim.experiments.paper.two_x import knees_of

SURE = 0.975  # of the draws, one-sided
SMALL = 0.01  # of SRP: what post-training may change and still be called hardly

Finding = tuple[str, bool | None]
"""The answer of one trace (or pair): the numbers in words, and true, false or None: undecided."""

Judge = Callable[[Sequence[MeasuredTrace], PaperOptions], Iterator[Finding]]


def claims_section(
    found: Sequence[MeasuredTrace],
    pairs: Sequence[tuple[MeasuredTrace, MeasuredTrace]],
    series: Sequence[Sequence[MeasuredTrace]],
    options: PaperOptions,
) -> PaperSection:
    """Make the section at the top: one row for each finding.

    Args:
        found: all traces; the teacher-forced ones are judged, or all where there are none.
        pairs: traces before and after post-training.
        series: traces over a training, the least trained first.
        options: of the run.
    """
    able = [one for one in found if AT in one.srp]
    forced = [one for one in able if one.source.kind == "teacher-forced"] or able
    rows, section = [], PaperSection("claims")
    for claim in section.words["findings"]:
        apart = {"post": lambda: _post(pairs), "rises": lambda: _rises(series)}.get(claim["judge"])
        answers = list(apart() if apart is not None else JUDGES[claim["judge"]](forced, options))
        told = "<br>".join(numbers for numbers, _ in answers) or f"it takes {claim['needs']}"
        test = claim["test"].format(criteria=len(CRITERIA), small=SMALL)
        outcome = outcome_of([holds for _, holds in answers], claim.get("open", "undecided"))
        rows.append({"the paper": claim["text"], "test": test, "these traces": told, "outcome": outcome})
    section.table("claims", rows)
    return section


def outcome_of(holds: Sequence[bool | None], neither: str = "undecided") -> str:
    """Sum up the answers of several traces."""
    words = {True: "found", False: "not found", None: neither}
    if not holds:
        return "not testable"
    if len(set(holds)) > 1:
        return ", ".join(f"{word} in {holds.count(value)}" for value, word in words.items() if value in holds)
    return words[holds[0]]


def _locality(forced: Sequence[MeasuredTrace], options: PaperOptions) -> Iterator[Finding]:
    """Whether tokens in a row use the same experts at all."""
    twice = np.array([2.0])
    for one in forced:
        curve = one.curves.get(POOLED)
        if curve is not None and one.control is not None:
            mine, random = float(curve.rate(twice)[0]), float(one.control.rate(twice)[0])
            drawn = curve.drawn(twice, options.draws, options.seed)[:, 0]
            yield f"{one.label}: {mine:.3f}, in random order {random:.3f}", _sure(drawn > random)


def _falls(forced: Sequence[MeasuredTrace], _: PaperOptions) -> Iterator[Finding]:
    """Whether every longer segment has a lower SRP, in the same draws."""
    for one in forced:
        results = list(one.srp.values())
        draws = [result.draws for result in results if result.draws is not None]
        if len(results) > 1:
            whole = len(draws) == len(results)
            falling = np.all(np.diff(np.array(draws), axis=0) < 0, axis=0) if whole else np.zeros(0, bool)
            yield f"{one.label}: {' > '.join(f'{result.value:.3f}' for result in results)}", _sure(falling)


def _together(forced: Sequence[MeasuredTrace], _: PaperOptions) -> Iterator[Finding]:
    """Whether layers of high SRP have a high SCH."""
    for one in forced:
        layers, groups = one.curves[POOLED[0], "layer"].layers_at(2.0), one.srp[AT].groups
        if layers is not None and groups is not None:
            value, ends = correlated(groups.value, layers)[1:]
            if value is not None:
                holds = None if ends is None or around_zero(ends) else value > 0
                yield f"{one.label}: {value:+.3f} over {len(layers)} layers", holds


def _domains(forced: Sequence[MeasuredTrace], _: PaperOptions) -> Iterator[Finding]:
    """Whether SRP goes with specialisation in domains more than with any of the three in vocabulary."""
    for one in forced:
        values, ends = {}, {}
        if one.experts is None:
            continue
        for name, measure in one.experts.present().items():
            value, interval = correlated(one.experts.srp, measure)[1:]
            if name != "activation" and value is not None and interval is not None:
                values[name], ends[name] = value, interval
        if "domain" not in ends or len(ends) < 2:
            continue
        low, high = ends.pop("domain")
        above, below = (all(low > end for _, end in ends.values()), any(high < end for end, _ in ends.values()))
        told = ", ".join(f"{name.replace('_', ' ')} {value:+.2f}" for name, value in values.items())
        yield f"{one.label}: {told}", True if above else False if below else None


def _against_baseline(names: Sequence[str], sign: int, *, net: bool = False) -> Judge:
    """Make the test that variants differ from the baseline in SRP in a direction, by more than seeds do.

    Args:
        names: of the variants.
        sign: of the difference.
        net: of the floor, which depends on k / E alone.
    """

    def judge(forced: Sequence[MeasuredTrace], _: PaperOptions) -> Iterator[Finding]:
        if not (bases := baselines(forced)):
            return
        base, *others = bases
        seeds = max((abs(one.srp[AT].value - base.srp[AT].value) for one in others), default=None)
        for one in forced:
            if one.source.paper not in [f"toy.{name}" for name in names]:
                continue
            value, ends = difference(one, base)
            if net:
                floor = one.srp[AT].floor - base.srp[AT].floor
                value, ends = value - floor, None if ends is None else (ends[0] - floor, ends[1] - floor)
            told = f"{one.label}: {value:+.4f}" + ("" if ends is None else f" ({ends[0]:+.4f} to {ends[1]:+.4f})")
            told += ", no other seed of the baseline is given" if seeds is None else ""
            told += "" if seeds is None else f", another seed of the baseline is {seeds:.4f} off"
            undecided = ends is None or around_zero(ends) or within_seeds(value, seeds)
            yield told, None if undecided else value * sign > 0

    return judge


def _twice(forced: Sequence[MeasuredTrace], options: PaperOptions) -> Iterator[Finding]:
    """Whether the knee is at about twice by every criterion, or by none."""
    for one in forced:
        knees = knees_of(one.curves[POOLED], options) if POOLED in one.curves else []
        verdicts = [knee.verdict for knee in knees]
        if knees:
            holds, does_not = verdicts.count("holds"), verdicts.count("does not hold")
            every = True if holds == len(knees) else False if does_not == len(knees) else None
            first = f"{knees[0].size:.2f}x by *{knees[0].criterion}*"
            told = f"holds by {holds}, undecided by {verdicts.count('undecided')}, does not by {does_not}"
            yield f"{one.label}: {first}; {told} of {len(knees)} criteria", every


def _post(pairs: Sequence[tuple[MeasuredTrace, MeasuredTrace]]) -> Iterator[Finding]:
    for base, post in pairs:
        if AT in base.srp and AT in post.srp:
            value, ends = difference(post, base)
            holds: bool | None = None
            if ends is not None:
                small, large = ends[0] > -SMALL and ends[1] < SMALL, ends[0] > SMALL or ends[1] < -SMALL
                holds = True if small else False if large else None
            yield f"{base.label} to {post.label}: {value:+.4f}", holds


def _rises(series: Sequence[Sequence[MeasuredTrace]]) -> Iterator[Finding]:
    """Whether the last trace of a training has a higher SRP above its floor than the first."""
    for first, *_, last in series:
        if AT in first.srp and AT in last.srp:
            value, ends = difference(last, first)
            told = f"{first.label} to {last.label}: {value:+.4f}"
            if ends is not None:
                told += f" ({ends[0]:+.4f} to {ends[1]:+.4f})"
            yield told, None if ends is None or around_zero(ends) else value > 0


def _local_balance(forced: Sequence[MeasuredTrace], _: PaperOptions) -> Iterator[Finding]:
    """Whether what is more consistent is less balanced locally: over variants, and over the layers of each."""
    having = [one for one in forced if AT in one.balance]
    over = [(name, tradeoff(some)) for name, some in groups_of_variants(having).items()]
    over += [(f"layers of {one.label}", tradeoff_over_layers(one)) for one in having]
    for label, (points, value, ends) in over:
        if value is not None:
            told = f"{label} ({points}): {value:+.3f}" + (
                "" if ends is None else f" ({ends[0]:+.3f} to {ends[1]:+.3f})"
            )
            yield told, None if ends is None or around_zero(ends) else value > 0


def _global_balance(forced: Sequence[MeasuredTrace], _: PaperOptions) -> Iterator[Finding]:
    """Whether most of the local imbalance is there although all tokens together are balanced."""
    for one in forced:
        if AT in one.balance and np.isfinite(one.balance[AT].above_global):
            result = one.balance[AT]
            told = f"{one.label}: local {result.local_imbalance:.3f}, global {result.global_imbalance:.3f}"
            yield told, _sure(mostly_local(one))


def _sure(draws: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> bool | None:
    """Judge by the share of draws in which something is so."""
    if len(draws) == 0:
        return None
    share = float(draws.mean())
    return True if share >= SURE else False if share <= 1 - SURE else None


JUDGES: dict[str, Judge] = {
    "locality": _locality,
    "falls": _falls,
    "together": _together,
    "twice": _twice,
    "domains": _domains,
    "shared": _against_baseline(("share1", "share2"), -1),
    "shared_net": _against_baseline(("share1", "share2"), -1, net=True),
    "unbalanced": _against_baseline(("nolb",), +1),
    "balanced": _against_baseline(("overlb",), -1),
    "local_balance": _local_balance,
    "global_balance": _global_balance,
    "dense": _against_baseline(("skip1", "sparse2"), +1),
}
"""By the name in report.toml: a finding for each trace that can be tested."""
