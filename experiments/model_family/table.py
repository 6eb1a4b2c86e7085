"""The table of the variants, beside the paper's, and what it says of the findings: results.md and results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.base.tables import Table
from lrcsim.cli.output import write_json
from lrcsim.experiments.model_family.measure import DRAWS, MEASURES, MeasuredVariant, difference, measure
from lrcsim.experiments.model_family.variants import VARIANTS
from lrcsim.experiments.paper.intervals import around_zero, srp_floor, within_seeds
from lrcsim.experiments.paper.published import published
from lrcsim.traces import RoutingTrace

SUFFIX = ".teacher_forced.h5"
BASELINE = ("baseline", 0)
STATED = ("srp", "sch", "lru")
"""Measures that the findings on shared experts and dense layers are stated by."""
LESS_CONSISTENT = {
    "share1": "Shared experts make routing less consistent",
    "share2": "Shared experts make routing less consistent (two)",
    "sparse2": "Dense layers between the MoE layers make routing less consistent",
    "skip1": "A dense first layer makes routing less consistent",
}


@dataclass(frozen=True)
class VariantRow:
    """One trained model: its variant and seed, its training as the trace's provenance has it, its measures."""

    variant: str
    seed: int
    training: dict[str, Any]
    measured: MeasuredVariant

    @property
    def label(self) -> str:
        """Name it in a table."""
        return self.variant + (f", seed {self.seed}" if self.seed else "")

    @property
    def loss(self) -> float:
        """Mean validation loss over the domains, nats per token."""
        losses: list[float] = list(self.training["validation_loss"].values())
        return sum(losses) / len(losses)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found = self.measured
        measures = {name: {"value": value, "interval": found.interval(name)} for name, value in found.value.items()}
        about = {"variant": self.variant, "seed": self.seed, "final_loss": round(self.loss, 4), "measures": measures}
        about |= {"correlation_with_srp": found.correlation, "lru_knee": found.knee, "curve": found.curve}
        return about | {"training": self.training}


def read_rows(traces: Path, progress: Callable[[int, int], None] | None = None) -> list[VariantRow]:
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

            rows.append(VariantRow(training["variant"]["name"], training["seed"], training, measure(trace, part)))
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
    value, *ends = found
    if around_zero((ends[0], ends[1])):
        return "undecided: the interval holds 0"
    if noise is not None and within_seeds(value, noise):
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
    write_json(str(out / "results.json"), [row.to_dict() for row in rows], "model-family")
    with replacing(out / "results.md") as partial:
        partial.write_text(markdown(rows), encoding="utf-8")


def markdown(rows: list[VariantRow]) -> str:
    """Say it all as Markdown."""
    first = next(row for row in rows if (row.variant, row.seed) == BASELINE)
    training, scale = first.training, first.training["scale"]
    absent = [name for name in VARIANTS if name not in {row.variant for row in rows}]
    text = resources.files("lrcsim.experiments.model_family").joinpath("report.txt").read_text("utf-8")
    return text.format(
        device=training["device"],
        dtype=scale["dtype"],
        steps=scale["steps"],
        tokens=training["training_tokens"] / 1e6,
        parameters=training["parameters"] / 1e6,
        absent=f"Not trained this time: {', '.join(absent)}." if absent else "All variants.",
        draws=DRAWS,
        table="\n".join(Table("family", "", [_cells(row) for row in rows]).lines()),
        beside_paper="\n".join(Table("beside_paper", "", list(_beside_paper(rows, first))).lines()),
        findings="\n".join(_findings(rows, first)),
    )


def _with_ends(found: tuple[float, float, float], form: str = ".3f") -> str:
    value, low, high = found
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _cells(row: VariantRow) -> dict[str, str]:
    cells = {"variant": row.label, "final loss": f"{row.loss:.3f}"}
    for name, title in MEASURES.items():
        value, interval = row.measured.value[name], row.measured.interval(name)
        cells[title] = "-" if value is None or interval is None else _with_ends((value, *interval))
    return cells


def _beside_paper(rows: list[VariantRow], first: VariantRow) -> Iterable[dict[str, str]]:
    """Each measure that the paper has for its toy models: value here, there, and the differences to the baselines."""
    for row in rows:
        theirs, base = _of_paper(row.variant), _of_paper(first.variant)
        for name, value in theirs.items():
            mine, found = row.measured.value[name], difference(row.measured, first.measured, name)
            yield {
                "variant": row.label,
                "measure": MEASURES[name],
                "here": "-" if mine is None else f"{mine:.3f}",
                "paper": f"{value:.3f}",
                "here, less baseline": "-" if found is None or row is first else _with_ends(found, "+.3f"),
                "paper, less baseline": "-" if row.variant == first.variant else f"{value - base[name]:+.3f}",
            }


def _of_paper(variant: str) -> dict[str, float]:
    """Return the measures that the paper has of a variant; none of the slim ones."""
    toy = published().toy.get(variant)
    if toy is None:
        return {}
    rates = {"srp": toy["srp16"], "sch": toy["sch16"][7], "lru_paper": toy["lru"][1]}
    return rates | {"domain": toy["domain"][0], "vocabulary": toy["vocabulary_in"][0]}


def _findings(rows: list[VariantRow], first: VariantRow) -> list[str]:
    by_name = {(row.variant, row.seed): row for row in rows}
    second, lines = by_name.get(("baseline", 1)), []
    noise = {} if second is None else _differences(second, first)
    if noise:
        told = ", ".join(f"{MEASURES[name]} {found[0]:+.3f}" for name, found in noise.items())
        lines.append(f"Two seeds of the baseline differ by: {told}. One pair of seeds is a hint of the noise, no more.")
        lines.append("")
    toy = published().toy
    for variant, what in LESS_CONSISTENT.items():
        if (row := by_name.get((variant, 0))) is None:
            continue
        parts = "; ".join(
            f"{MEASURES[name]} {_with_ends(found, '+.3f')}: "
            + verdict(found, -1, abs(noise[name][0]) if noise else None)
            for name, found in _differences(row, first).items()
        )
        lines.append(
            f"* **{what}** ({variant}; the paper's toy models: SRP(16) "
            f"{toy[variant]['srp16'] - toy['baseline']['srp16']:+.3f}). Here: {parts}. "
            "Keeping every expert already gives SRP 2r/(1+r), r = k/E; that floor differs by "
            f"{floor(variant) - floor(first.variant):+.3f}."
        )
    return [*lines, _domain_finding(rows), _balance_finding(rows)]


def _differences(row: VariantRow, first: VariantRow) -> dict[str, tuple[float, float, float]]:
    """Return what two models differ by in the measures of `STATED`, which every trace has."""
    found = {name: difference(row.measured, first.measured, name) for name in STATED}
    return {name: parts for name, parts in found.items() if parts is not None}


def _domain_finding(rows: list[VariantRow]) -> str:
    said = "* **Domain specialisation matters more than vocabulary specialisation.** "
    found = {row.label: row.measured.correlation for row in rows}
    both = {name: list(of.values()) for name, of in found.items() if len(of) == 2 and None not in of.values()}
    if not both:
        return said + "The traces lack what this needs."
    greater = sum((domain or 0) > (vocabulary or 0) for domain, vocabulary in both.values())
    listed = ", ".join(f"{name} {domain:+.2f} against {vocabulary:+.2f}" for name, (domain, vocabulary) in both.items())
    return (
        f"{said}Correlation of the experts' SRP with the one and with the other: {listed}. "
        f"The first is greater in {greater} of {len(both)} models."
    )


def _balance_finding(rows: list[VariantRow]) -> str:
    parts = []
    for row in rows:
        rates = dict(zip(row.measured.curve["relative"], row.measured.curve["lru"], strict=True))
        listed = ", ".join(f"{rates[size]:.2f}" for size in (1, 2, 3, 4))
        parts.append(f"{row.label} {listed} (knee {row.measured.knee:.1f}x)")
    return (
        "* **About twice the active experts is where effect and cost balance.** LRU, a cache per layer, at 1x, 2x, 3x "
        f"and 4x: {'; '.join(parts)}. Where the knee is (here Kneedle, from no cache to all experts) depends on "
        "the criterion: [experiments/paper](../paper/results.md) computes it by several, with uncertainty."
    )
