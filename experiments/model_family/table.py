"""The table of the variants, beside the paper's, and what it says of the findings: results.md and results.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.experiments.model_family.measure import DRAWS, MEASURES, Measured, difference, measure
from lrcsim.experiments.model_family.variants import VARIANTS
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.sections_models import SEED_MARGIN, srp_floor
from lrcsim.traces import RoutingTrace

__all__ = ["Row", "verdict", "write_table"]

SUFFIX = ".teacher_forced.h5"
BASELINE = ("baseline", 0)


@dataclass(frozen=True)
class Row:
    """One trained model: its variant and seed, its training as the trace's provenance has it, its measures."""

    variant: str
    seed: int
    training: dict[str, Any]
    measured: Measured

    @property
    def label(self) -> str:
        """Name it in a table."""
        return self.variant + (f", seed {self.seed}" if self.seed else "")

    @property
    def loss(self) -> float:
        """Mean validation loss over the domains, nats per token."""
        losses: list[float] = list(self.training["validation_loss"].values())
        return sum(losses) / len(losses)


def read_rows(traces: Path, progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """Measure all teacher-forced traces of a folder, in the order of `VARIANTS`, seeds after each other.

    Raises:
        ConfigError: the folder has none, or the baseline's is not among them.
    """
    rows = []
    paths = sorted(traces.glob("*" + SUFFIX))
    for number, path in enumerate(paths):
        with RoutingTrace.open(path) as trace:
            training = trace.provenance["training"]

            def part(done: int, total: int, number: int = number) -> None:
                if progress is not None:
                    progress(number * total + done, len(paths) * total)

            rows.append(Row(training["variant"]["name"], training["seed"], training, measure(trace, part)))
    order = list(VARIANTS)
    rows.sort(key=lambda row: (order.index(row.variant), row.seed))
    if not any((row.variant, row.seed) == BASELINE for row in rows):
        raise ConfigError(f"{traces} has no baseline{SUFFIX}; record the baseline first")
    return rows


def verdict(found: tuple[float, float, float], sign: int, noise: float | None) -> str:
    """Say whether a difference is seen.

    Args:
        found: the difference and the ends of its interval.
        sign: which sign the paper's finding has.
        noise: what two seeds of the baseline differ by; None: not known.

    Returns:
        ``"seen"`` or ``"the opposite is seen"``: the interval leaves 0 out and the difference is more than twice the
        noise; ``"within the noise of seeds"``, ``"undecided"`` (the interval holds 0).
    """
    value, low, high = found
    if low <= 0 <= high:
        return "undecided: the interval holds 0"
    if noise is not None and abs(value) <= SEED_MARGIN * noise:
        return "undecided: no more than twice what two seeds differ by"
    certain = "" if noise is not None else " (in one seed each)"
    return ("seen" if value * sign > 0 else "the opposite is seen") + certain


def floor(variant: str) -> float:
    """Return the floor of SRP of a variant."""
    return srp_floor(VARIANTS[variant].top_k, VARIANTS[variant].experts)


def write_table(traces: Path, out: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write results.md and results.json.

    Args:
        traces: folder of the recorded traces.
        out: folder to write to.
        progress: told what is done, and all.

    Raises:
        ConfigError: the folder has no trace of the baseline.
    """
    rows = read_rows(traces, progress)
    with replacing(out / "results.json") as partial:
        partial.write_text(json.dumps([_as_json(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    with replacing(out / "results.md") as partial:
        partial.write_text(markdown(rows), encoding="utf-8")


def markdown(rows: list[Row]) -> str:
    """Say it all as Markdown."""
    first = next(row for row in rows if (row.variant, row.seed) == BASELINE)
    scale = first.training["scale"]
    absent = [name for name in VARIANTS if name not in {row.variant for row in rows}]
    parts = [
        "# The family, measured",
        "",
        "Written by `python -m lrcsim.experiments.model_family --only table`; do not edit.",
        "",
        f"Trained on {first.training['device']} in {scale['dtype']}: "
        f"{first.training['training_tokens'] / 1e6:.1f} million tokens each, {scale['steps']} steps, "
        f"{first.training['parameters'] / 1e6:.1f} million parameters (baseline). "
        + (f"Not trained this time: {', '.join(absent)}." if absent else "All variants."),
        "",
        "Teacher-forced samples of held-out text, the same for all. In brackets 95 % intervals (basic bootstrap over "
        f"requests, {DRAWS} draws; they say nothing of how another seed would come out; vocabulary "
        "specialisation grows when requests are repeated, so its interval lies low). SCH (look-ahead) and the first "
        "LRU: the paper's rule, one pool for all layers. The second LRU and the optimum: one cache per layer, "
        "co-resident batches, every request cold.",
        "",
        *_table(rows),
        "",
        "## Beside the paper's toy models",
        "",
        "1.43 billion parameters, 42 billion tokens (arXiv 2505.16056; where each number is from stands in "
        "[experiments/paper](../paper/README.md)). Differences are to the baseline of the same study.",
        "",
        *_beside_paper(rows, first),
        "",
        "## The paper's findings",
        "",
        *_findings(rows, first),
    ]
    return "\n".join(parts) + "\n"


def _number(measured: Measured, name: str) -> str:
    value, interval = measured.value[name], measured.interval(name)
    if value is None or interval is None:
        return "-"
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _table(rows: list[Row]) -> list[str]:
    heads = ["variant", "final loss", *MEASURES.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row.label, f"{row.loss:.3f}", *(_number(row.measured, name) for name in MEASURES)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _beside_paper(rows: list[Row], first: Row) -> list[str]:
    """Each measure that the paper has for its toy models: value here, there, and the differences to the baselines."""
    toy = published().toy

    def of_paper(name: str) -> dict[str, float]:
        entry = toy[name]
        return {
            "srp": entry["srp16"],
            "sch": entry["sch16"][7],
            "lru_paper": entry["lru"][1],
            "domain": entry["domain"][0],
            "vocabulary": entry["vocabulary_in"][0],
        }

    lines = [
        "| variant | measure | here | paper | here, less baseline | paper, less baseline |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.variant not in toy:
            continue
        theirs, base = of_paper(row.variant), of_paper("baseline")
        for name, value in theirs.items():
            mine = row.measured.value[name]
            found = difference(row.measured, first.measured, name)
            own = "-" if found is None or row is first else f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]"
            other = "-" if row.variant == "baseline" else f"{value - base[name]:+.3f}"
            here = "-" if mine is None else f"{mine:.3f}"
            lines.append(f"| {row.label} | {MEASURES[name]} | {here} | {value:.3f} | {own} | {other} |")
    return lines


def _findings(rows: list[Row], first: Row) -> list[str]:
    by_name = {(row.variant, row.seed): row for row in rows}
    second = by_name.get(("baseline", 1))
    lines = []
    if second is not None:
        parts = []
        for name in ("srp", "sch", "lru"):
            found = difference(second.measured, first.measured, name)
            assert found is not None
            parts.append(f"{MEASURES[name]} {found[0]:+.3f}")
        lines += [
            f"Two seeds of the baseline differ by: {', '.join(parts)}. "
            "One pair of seeds is a hint of the noise, no more.",
            "",
        ]
    for variant, what in (
        ("share1", "Shared experts make routing less consistent"),
        ("share2", "Shared experts make routing less consistent (two)"),
        ("sparse2", "Dense layers between the MoE layers make routing less consistent"),
        ("skip1", "A dense first layer makes routing less consistent"),
    ):
        row = by_name.get((variant, 0))
        if row is None:
            continue
        parts = []
        for name in ("srp", "sch", "lru"):
            found, noise = difference(row.measured, first.measured, name), None
            assert found is not None
            if second is not None:
                of_seeds = difference(second.measured, first.measured, name)
                assert of_seeds is not None
                noise = abs(of_seeds[0])
            parts.append(
                f"{MEASURES[name]} {found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]: {verdict(found, -1, noise)}"
            )
        toy = published().toy
        theirs = toy[variant]["srp16"] - toy["baseline"]["srp16"]
        lines.append(
            f"* **{what}** ({variant}; the paper's toy models: SRP(16) {theirs:+.3f}). Here: {'; '.join(parts)}. "
            "Keeping every expert already gives SRP 2r/(1+r), r = k/E; that floor differs by "
            f"{floor(row.variant) - floor(first.variant):+.3f}."
        )
    lines.append(_domain_finding(rows))
    lines.append(_balance_finding(rows))
    return lines


def _domain_finding(rows: list[Row]) -> str:
    both = [row for row in rows if len(row.measured.correlation) == 2 and None not in row.measured.correlation.values()]
    if not both:
        return (
            "* **Domain specialisation matters more than vocabulary specialisation.** The traces lack what this needs."
        )
    pairs = [(row, row.measured.correlation["domain"], row.measured.correlation["vocabulary"]) for row in both]
    greater = sum(1 for _, domain, vocabulary in pairs if (domain or 0) > (vocabulary or 0))
    listed = ", ".join(f"{row.label} {domain:+.2f} against {vocabulary:+.2f}" for row, domain, vocabulary in pairs)
    return (
        "* **Domain specialisation matters more than vocabulary specialisation.** Correlation of the experts' SRP with "
        f"the one and with the other: {listed}. The first is greater in {greater} of {len(pairs)} models."
    )


def _balance_finding(rows: list[Row]) -> str:
    parts = [
        f"{row.label} {row.measured.curve['lru'][1]:.2f}, {row.measured.curve['lru'][3]:.2f}, "
        f"{row.measured.curve['lru'][4]:.2f}, {row.measured.curve['lru'][5]:.2f} (knee {row.measured.knee:.1f}x)"
        for row in rows
    ]
    return (
        "* **About twice the active experts is where effect and cost balance.** LRU, a cache per layer, at 1x, 2x, 3x "
        f"and 4x: {'; '.join(parts)}. Where the knee is (here Kneedle, from no cache to all experts) depends on "
        "the criterion: [experiments/paper](../paper/results.md) computes it by several, with uncertainty."
    )


def _as_json(row: Row) -> dict[str, Any]:
    found = row.measured
    measures = {name: {"value": value, "interval": found.interval(name)} for name, value in found.value.items()}
    return {
        "variant": row.variant,
        "seed": row.seed,
        "final_loss": round(row.loss, 4),
        "measures": measures,
        "correlation_with_srp": found.correlation,
        "lru_knee": found.knee,
        "curve": found.curve,
        "training": row.training,
    }
