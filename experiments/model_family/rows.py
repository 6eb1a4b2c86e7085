"""The trained models of the family with their measures: read from the traces of a folder, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.model_family.kept import measured
from lrcsim.experiments.model_family.measure import MeasuredVariant, difference
from lrcsim.experiments.model_family.variants import BASELINE, VARIANTS
from lrcsim.experiments.paper.intervals import srp_floor
from lrcsim.traces import RoutingTrace

SUFFIX = ".teacher_forced.h5"
ABOVE_FLOOR = "above_floor"
"""SRP less what keeping every expert gives: a measure beside those of `measure.MEASURES`."""

Difference = tuple[float, float, float]
"""A difference and the ends of its paired 95 % interval."""


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

    @property
    def floor(self) -> float:
        """SRP that keeping every expert gives, ``2 r / (1 + r)`` at r = k / E (`paper.intervals.srp_floor`)."""
        return srp_floor(VARIANTS[self.variant].top_k, VARIANTS[self.variant].experts)

    def value(self, name: str) -> float | None:
        """Return a measure, or SRP above its floor."""
        if name != ABOVE_FLOOR:
            return self.measured.value[name]
        srp = self.measured.value["srp"]
        return None if srp is None else srp - self.floor

    def less(self, other: VariantRow, name: str) -> Difference | None:
        """Return the difference to another model in a measure, or None where one of them lacks it."""
        if name != ABOVE_FLOOR:
            return difference(self.measured, other.measured, name)
        found = difference(self.measured, other.measured, "srp")
        if found is None:
            return None
        value, low, high = (part - (self.floor - other.floor) for part in found)
        return value, low, high

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found = self.measured
        measures = {name: {"value": value, "interval": found.interval(name)} for name, value in found.value.items()}
        about = {"variant": self.variant, "seed": self.seed, "final_loss": round(self.loss, 4), "measures": measures}
        about |= {"srp_floor": self.floor, "correlation_with_srp": found.correlation, "lru_knee": found.knee}
        return about | {"curve": found.curve, "busy_experts": found.busy, "training": self.training}


def read_rows(traces: Path, kept: Path, progress: Callable[[int, int], None] | None = None) -> list[VariantRow]:
    """Measure all teacher-forced traces of a folder, in the order of `VARIANTS`, seeds after each other.

    Args:
        traces: the folder.
        kept: folder where the measures of each trace are kept as they are found, and looked for.
        progress: told what is done, and all.

    Raises:
        ConfigError: the folder has none, the baseline's is not among them, or they are not of one scale and length of
            training.
    """
    rows = []
    paths = sorted(traces.glob("*" + SUFFIX))
    for number, path in enumerate(paths):
        with RoutingTrace.open(path) as trace:
            training = trace.provenance["training"]

            def part(done: int, total: int, number: int = number) -> None:
                if progress is not None:
                    progress(number * total + done, len(paths) * total)

            found = measured(trace, kept / f"{path.name.removesuffix(SUFFIX)}.json", part)
            rows.append(VariantRow(training["variant"]["name"], training["seed"], training, found))
    order = list(VARIANTS)
    rows.sort(key=lambda row: (order.index(row.variant), row.seed))
    if not any((row.variant, row.seed) == (BASELINE, 0) for row in rows):
        raise ConfigError(f"{traces} has no baseline{SUFFIX}; record the baseline first")
    _check_alike(rows, traces)
    return rows


def _check_alike(rows: list[VariantRow], traces: Path) -> None:
    """Refuse models that differ in more than the variant: the table is of one scale."""
    for name in ("scale", "training_tokens", "device"):
        for row in rows:
            if row.training[name] != rows[0].training[name]:
                raise ConfigError(
                    f"{traces}: {row.label} and {rows[0].label} differ in the training's {name}; "
                    "a table is of one scale, length and device: give their traces folders of their own"
                )


def base_of(row: VariantRow, rows: list[VariantRow]) -> VariantRow:
    """Return what a model is compared with: the baseline of its seed, of seed 0 where there is none or it is it."""
    bases = {other.seed: other for other in rows if other.variant == BASELINE}
    return bases[0] if row.variant == BASELINE else bases.get(row.seed, bases[0])


def seed_differences(rows: list[VariantRow], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return by label of a further seed, then by measure, what it differs by from its variant's first seed."""
    first = {row.variant: row for row in reversed(rows)}
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row is not first[row.variant]:
            parts = {name: row.less(first[row.variant], name) for name in names}
            found[row.label] = {name: part[0] for name, part in parts.items() if part is not None}
    return found
