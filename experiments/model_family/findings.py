"""What the family's measures say of the paper's findings, in sentences with a verdict each."""

from __future__ import annotations

from dataclasses import dataclass

from lrcsim.experiments.model_family.measure import MEASURES
from lrcsim.experiments.model_family.rows import ABOVE_FLOOR, Difference, VariantRow, base_of, seed_differences
from lrcsim.experiments.model_family.variants import BASELINE
from lrcsim.experiments.paper.intervals import SEED_MARGIN, around_zero, within_seeds
from lrcsim.experiments.paper.published import published

STATED = ("srp", "sch", "lru")
"""Measures that the findings are stated by."""


@dataclass(frozen=True)
class Finding:
    """A statement about models, each against another.

    Attributes:
        title: what the paper says, or what is asked.
        pairs: variants with what they are compared with.
        sign: of the differences, where the title says one; 0: it says none.
    """

    title: str
    pairs: tuple[tuple[str, str], ...]
    sign: int


FINDINGS = (
    Finding("Shared experts make routing less consistent.", (("share1", BASELINE), ("share2", BASELINE)), -1),
    Finding(
        "Dense layers, as large as all 64 experts, make routing less consistent. (The paper's toys show no such drop.)",
        (("skip1", BASELINE), ("sparse2", BASELINE)),
        -1,
    ),
    Finding(
        "Do dense layers count by their size? Slim ones, as large as the 8 active experts, against the baseline, and "
        "the large ones against the slim.",
        (("skip1slim", BASELINE), ("sparse2slim", BASELINE), ("skip1", "skip1slim"), ("sparse2", "sparse2slim")),
        0,
    ),
    Finding("Without a load-balancing loss routing is more consistent.", (("nolb", BASELINE),), 1),
    Finding("With ten times the load-balancing loss it is less consistent.", (("overlb", BASELINE),), -1),
    Finding(
        "How many experts, and how many of them active.",
        (("32expert", BASELINE), ("top16", BASELINE), ("top2", BASELINE)),
        0,
    ),
)


def verdict(found: Difference, sign: int, noise: float | None) -> str:
    """Say whether a difference is seen.

    Args:
        found: the difference and the ends of its interval.
        sign: which sign the finding has; 0: none, any difference is called one.
        noise: what two seeds of a variant differ by at most; None: not known.

    Returns:
        ``"seen"`` or ``"the opposite is seen"``: the interval leaves 0 out and the difference is more than twice the
        noise; for a sign of 0 ``"differs"``; else ``"undecided: ..."``.
    """
    value, *ends = found
    if around_zero((ends[0], ends[1])):
        return "undecided: the interval holds 0"
    if noise is not None and within_seeds(value, noise):
        return "undecided: no more than twice what two seeds differ by"
    certain = "" if noise is not None else " (in one seed each)"
    if sign == 0:
        return "differs" + certain
    return ("seen" if value * sign > 0 else "the opposite is seen") + certain


def findings(rows: list[VariantRow]) -> list[str]:
    """Return the findings as lines of Markdown: what seeds differ by, then each for which there are models."""
    by_seed = seed_differences(rows, STATED)
    noise = {name: max(abs(of[name]) for of in by_seed.values()) for name in STATED} if by_seed else {}
    lines = _seeds(by_seed, noise)
    known = {(row.variant, row.seed): row for row in rows}
    for finding in FINDINGS:
        told = []
        for variant, against in finding.pairs:
            for (name, seed), row in known.items():
                other = base_of(row, rows) if against == BASELINE else known.get((against, seed))
                if name == variant and other is not None:
                    told += _comparison(row, other, finding.sign, noise)
        if told:
            lines += [f"* **{finding.title}**", *told]
    return [*lines, *_domain(rows), *_busy(rows), *_twice(rows)]


def _seeds(by_seed: dict[str, dict[str, float]], noise: dict[str, float]) -> list[str]:
    if not by_seed:
        return ["One seed of each variant: how far seeds differ is not known.", ""]
    lines = ["What a second seed differs by from the first:", ""]
    for label, of in by_seed.items():
        lines.append(f"* {label}: " + ", ".join(f"{MEASURES[name]} {value:+.3f}" for name, value in of.items()))
    most = ", ".join(f"{value:.3f}" for value in noise.values())
    return [
        *lines,
        "",
        f"A difference between variants counts where its interval leaves 0 out and it is more than {SEED_MARGIN} times",
        f"the greatest of these ({most}). {len(by_seed)} pairs of seeds are a hint of the noise, no more.",
        "",
    ]


def _comparison(row: VariantRow, other: VariantRow, sign: int, noise: dict[str, float]) -> list[str]:
    """Say what a model differs by from another: a measure a line, the floor's part, the paper's number."""
    lines = [f"  * {row.label} less {other.label}{_of_paper(row.variant, other.variant)}:"]
    for name in STATED:
        if (found := row.less(other, name)) is not None:
            ends = f"[{found[1]:+.3f}, {found[2]:+.3f}]"
            lines.append(f"    * {MEASURES[name]} {found[0]:+.3f} {ends}: {verdict(found, sign, noise.get(name))}")
    above = row.less(other, ABOVE_FLOOR)
    if above is not None and row.floor != other.floor:
        lines.append(
            f"    * of SRP's difference {row.floor - other.floor:+.3f} is the floor's, {above[0]:+.3f} "
            f"[{above[1]:+.3f}, {above[2]:+.3f}] is above it: {verdict(above, sign, noise.get('srp'))}"
        )
    return lines


def _of_paper(variant: str, against: str) -> str:
    toy = published().toy
    if variant not in toy or against not in toy:
        return " (not in the paper)"
    rates = toy[variant]["lru"][1] - toy[against]["lru"][1]
    return f" (the paper's toys: SRP(16) {toy[variant]['srp16'] - toy[against]['srp16']:+.3f}, its LRU 2x {rates:+.3f})"


def _domain(rows: list[VariantRow]) -> list[str]:
    """Say in how many models SRP goes with domain specialisation more than with vocabulary specialisation."""
    found = [row.measured.correlation for row in rows]
    both = [(of["domain"], of["vocabulary"]) for of in found if len(of) == 2 and None not in of.values()]
    title = "* **Domain specialisation matters more than vocabulary specialisation.**"
    if not both:
        return [title, "  The traces lack what this needs."]
    greater = sum((domain or 0) > (vocabulary or 0) for domain, vocabulary in both)
    return [
        title,
        "  The experts' SRP correlates with the one more than with the other (last two columns of the table of caches)",
        f"  in {greater} of {len(both)} models.",
    ]


def _busy(rows: list[VariantRow]) -> list[str]:
    """Say what becomes of the experts without load balancing."""
    known = {(row.variant, row.seed): row.measured.busy for row in rows}
    free, base = known.get(("nolb", 0)), known[(BASELINE, 0)]
    if free is None:
        return []
    return [
        "* **Without a load-balancing loss few experts do the work:**",
        f"  95 % of a layer's accesses go to {min(free)} to {max(free)} of its 64 experts, in the baseline to "
        f"{min(base)} to {max(base)}.",
    ]


def _twice(rows: list[VariantRow]) -> list[str]:
    knees = [row.measured.knee for row in rows]
    return [
        "* **About twice the active experts is where effect and cost balance.**",
        f"  LRU's knee lies at {min(knees):.1f} to {max(knees):.1f} times the active experts (Kneedle).",
        "  Where it is depends on the criterion: [experiments/paper](../paper/results.md) computes it by several,",
        "  with uncertainty.",
    ]
