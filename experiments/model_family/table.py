"""The tables of the variants, beside the paper's, and the findings: results.md and results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from lrcsim.base.files import write_text
from lrcsim.base.tables import Table
from lrcsim.cli.output import write_json
from lrcsim.experiments.model_family.findings import findings
from lrcsim.experiments.model_family.measure import BUSY, DRAWS, MEASURES
from lrcsim.experiments.model_family.rows import ABOVE_FLOOR, Difference, VariantRow, base_of, read_rows
from lrcsim.experiments.model_family.variants import BASELINE, VARIANTS
from lrcsim.experiments.paper.published import published

SHORT = {
    "srp": "SRP(16)",
    ABOVE_FLOOR: "above floor",
    "sch": "SCH 2x",
    "lru_paper": "LRU 2x, pool",
    "lru": "LRU 2x",
    "optimum": "optimum 2x",
    "domain": "domain",
    "vocabulary": "vocabulary",
}
"""Heads of columns: `MEASURES` in few letters, explained in report.txt."""
COMPARED = ("srp", ABOVE_FLOOR, "lru", "optimum")
ROOM = {1.0: "1x", 2.0: "2x", 3.0: "3x", 4.0: "4x"}


def write_table(traces: Path, out: Path, kept: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write results.md and results.json.

    Args:
        traces: folder of the recorded traces.
        out: folder to write to.
        kept: folder of the measures of each trace, as they are found.
        progress: told what is done, and all.

    Raises:
        ConfigError: the folder has no trace of the baseline, or the traces are not of one scale.
    """
    rows = read_rows(traces, kept, progress)
    write_json(str(out / "results.json"), [as_json(row, rows) for row in rows], "model-family")
    write_text(out / "results.md", markdown(rows))


def as_json(row: VariantRow, rows: list[VariantRow]) -> dict[str, Any]:
    """Return a model with its differences to the baseline as JSON values."""
    base = base_of(row, rows)
    differences = {} if row is base else {name: row.less(base, name) for name in (*MEASURES, ABOVE_FLOOR)}
    told = {name: found and {"value": found[0], "interval": found[1:]} for name, found in differences.items()}
    return row.to_dict() | {"less": None if row is base else base.label, "differences": told}


def markdown(rows: list[VariantRow]) -> str:
    """Say it all as Markdown."""
    first = next(row for row in rows if (row.variant, row.seed) == (BASELINE, 0))
    training, scale = first.training, first.training["scale"]
    absent = [name for name in VARIANTS if name not in {row.variant for row in rows}]
    text = resources.files("lrcsim.experiments.model_family").joinpath("report.txt").read_text("utf-8")
    return text.format(
        device=training["device"],
        dtype=scale["dtype"],
        steps=scale["steps"],
        tokens=training["training_tokens"] / 1e6,
        parameters=training["parameters"] / 1e6,
        models=len(rows),
        absent=f"Not trained this time: {', '.join(absent)}." if absent else "All variants.",
        draws=DRAWS,
        busy=f"{100 * BUSY:.0f} %",
        values=_table(_values(row) for row in rows),
        differences=_table(_differences(row, rows) for row in rows if row is not base_of(row, rows)),
        caches=_table(_caches(row) for row in rows),
        beside_paper=_table(_beside_paper(row, rows) for row in rows if row.variant in published().toy),
        findings="\n".join(findings(rows)),
    )


def _table(rows: Iterable[dict[str, Any]]) -> str:
    listed = list(rows)
    return "\n".join(Table("family", "", listed).lines()) if listed else "There is one model."


def _values(row: VariantRow) -> dict[str, Any]:
    about = {"variant": row.label, "loss": row.loss, "SRP(16)": row.value("srp"), "floor": row.floor}
    return about | {title: row.value(name) for name, title in SHORT.items() if name != "srp"}


def _differences(row: VariantRow, rows: list[VariantRow]) -> dict[str, str]:
    base = base_of(row, rows)
    return {"variant": row.label} | {SHORT[name]: _with_ends(row.less(base, name)) for name in COMPARED}


def _with_ends(found: Difference | None) -> str:
    return "–" if found is None else f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]"


def _caches(row: VariantRow) -> dict[str, Any]:
    found = row.measured
    rates = dict(zip(found.curve["relative"], found.curve["lru"], strict=True))
    cells: dict[str, Any] = {"variant": row.label} | {f"LRU {name}": rates[size] for size, name in ROOM.items()}
    cells |= {"knee": f"{found.knee:.1f}x", "busy experts": f"{min(found.busy)} to {max(found.busy)}"}
    return cells | {f"SRP, {name}": found.correlation.get(name) for name in ("domain", "vocabulary")}


def _beside_paper(row: VariantRow, rows: list[VariantRow]) -> dict[str, str]:
    """Each measure that the paper has for its toy models, here and there: the baseline's values, then differences."""
    base, cells = base_of(row, rows), {"variant": row.label}
    first = row is base
    for name, theirs in _of_paper(row.variant).items():
        there = theirs if first else theirs - _of_paper(BASELINE)[name]
        found = row.less(base, name)
        here = row.value(name) if first else found and found[0]
        form = ".3f" if first else "+.3f"
        same = row.variant == BASELINE and not first
        cells[SHORT[name]] = f"{'–' if here is None else f'{here:{form}}'} / {'–' if same else f'{there:{form}}'}"
    return cells


def _of_paper(variant: str) -> dict[str, float]:
    """Return the measures that the paper has of a variant."""
    toy = published().toy[variant]
    rates = {"srp": toy["srp16"], "sch": toy["sch16"][7], "lru_paper": toy["lru"][1]}
    return rates | {"domain": toy["domain"][0], "vocabulary": toy["vocabulary_in"][0]}
