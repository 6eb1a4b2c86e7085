"""The section on the 2x finding: measured, controlled, by price, and computed on the paper's own curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_two_x
from lrcsim.experiments.paper.intervals import wilson
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA, Floats, chord_height, prices_of
from lrcsim.experiments.paper.measure import POOLED, MeasuredTrace, PaperOptions
from lrcsim.experiments.paper.published import GRID, published
from lrcsim.experiments.paper.report import PaperSection
from lrcsim.experiments.paper.two_x import Knee, knees_of, knees_of_published, sizes_of

Rows = list[dict[str, Any]]

VERDICTS = ("holds", "undecided", "does not hold")


def two_x_section(found: Sequence[MeasuredTrace], options: PaperOptions) -> PaperSection:
    """Make the section."""
    criteria = "Criteria: " + "; ".join(f"*{one.name}*: {one.meaning}" for one in CRITERIA) + "."
    section = PaperSection("two_x", draw=lambda path: figures_two_x.two_x(path, found), text=[criteria])
    rows: Rows = []
    for one in found:
        for (policy, scope), curve in one.curves.items():
            knees = knees_of(curve, options)
            if not knees and (policy, scope) == POOLED:
                why = f"all experts are {curve.everything:g}x, and a knee at 2x takes sizes to 3x"
                section.missing.append(f"{one.label}: {why}")
            rows += [{"trace": one.label, "policy": policy, "scope": scope} | _cells(knee) for knee in knees]
    chosen = [row for row in rows if (row["policy"], row["scope"]) == POOLED]
    control, models = _control(found, options), _published_knees(options)
    counts = _counts(models)
    section.text.append(_statement(chosen, control, counts))
    section.table("two_x_by_trace", _wide(chosen))
    long = [{k: v for k, v in row.items() if k not in ("policy", "scope")} for row in chosen]
    section.table("two_x", long)
    section.table("two_x_control", control)
    section.table("two_x_published", counts)
    each = [{"model": key} | _cells(knee) for key, knees in models.items() for knee in knees]
    section.table("two_x_published_models", each)
    section.table("two_x_sensitivity", _sensitivity(rows))
    section.table("two_x_all", rows)
    prices = _prices(found)
    section.table("two_x_prices", _price_medians(prices))
    section.table("two_x_prices_all", prices)
    return section


def _cells(knee: Knee) -> dict[str, Any]:
    cells = {"criterion": knee.criterion, "knee": knee.size, "95 %": knee.interval, "draws in 1.5x to 2.5x": knee.share}
    return cells | {"in 1.75x to 2.25x": knee.close, "about twice": knee.verdict}


def _wide(rows: Rows) -> Rows:
    """Make a row for each trace: by every criterion the knee, its interval, the verdict."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        cell = f"{_size(row['knee'])}{_ends(row, ' ({} to {})')}, {row['about twice']}"
        table.setdefault(row["trace"], {"trace": row["trace"]})[row["criterion"]] = cell
    return list(table.values())


def _control(found: Sequence[MeasuredTrace], options: PaperOptions) -> Rows:
    """Compare with the same tokens in random order: what of the knee is the routing's, what the metric's."""
    rows = []
    for one in found:
        curve = one.curves.get(POOLED)
        if one.control is None or curve is None:
            continue
        for name, which in (("as recorded", curve), ("random", one.control)):
            sizes = sizes_of(which)
            row: dict[str, Any] = {"trace": one.label, "order of tokens": name}
            row["SCH 2x"] = float(which.rate(np.array([2.0]))[0])
            row["above the chord"] = chord_height(sizes, which.rate(sizes))
            rows.append(row | {knee.criterion: knee.size for knee in knees_of(which, options)})
    return rows


def _published_knees(options: PaperOptions) -> dict[str, list[Knee]]:
    """Find the knees of the paper's curves by all criteria, by model; names of toy models begin with ``"toy "``."""
    draws = max(options.draws, 200)
    return {
        key: knees_of_published(model["sch16"], model["experts"] / model["top_k"], draws, options.seed)
        for key, model in _published_models().items()
    }


def _published_models() -> dict[str, dict[str, Any]]:
    return {f"toy {key}": toy for key, toy in published().toy.items()} | published().real


def _counts(models: dict[str, list[Knee]]) -> Rows:
    """Compute the statement on the paper's curves: how many models have the knee at about twice."""
    counts = []
    for i, criterion in enumerate(CRITERIA):
        for what, toy in (("real (22 rows)", False), ("toy (10)", True)):
            mine = [knees[i] for key, knees in models.items() if key.startswith("toy ") == toy]
            verdicts = [knee.verdict for knee in mine]
            low, high = wilson(verdicts.count("holds"), len(mine))
            sizes = np.quantile([knee.size for knee in mine], (0.5, 0.25, 0.75), method="nearest")
            row: dict[str, Any] = {"models": what, "criterion": criterion.name, "median knee": float(sizes[0])}
            row["quartiles"] = (float(sizes[1]), float(sizes[2]))
            row |= {word: verdicts.count(word) for word in VERDICTS} | {"share that holds, 95 %": (low, high)}
            counts.append(row | {"most models": "yes" if low > 0.5 else "no" if high < 0.5 else "undecided"})
    return counts


def _sensitivity(rows: Rows) -> Rows:
    """Give the knees of all curves, as a range over traces."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        cells.setdefault((row["policy"], row["scope"]), {}).setdefault(row["criterion"], []).append(row["knee"])
    return [
        {"curve": policy, "scope": {"model": "one pool", "layer": "by layer"}[scope]}
        | {name: min(k) if min(k) == max(k) else (min(k), max(k)) for name, k in by_criterion.items()}
        for (policy, scope), by_criterion in cells.items()
    ]


def _prices(found: Sequence[MeasuredTrace]) -> Rows:
    curves = [(one.label, one.curves[POOLED]) for one in found if POOLED in one.curves]
    rows = [_price(label, sizes_of(curve), curve.rate(sizes_of(curve))) for label, curve in curves]
    return rows + [_price(f"paper: {key}", GRID, np.array(of["sch16"])) for key, of in _published_models().items()]


def _price(label: str, sizes: Floats, rates: Floats) -> dict[str, Any]:
    low, high = prices_of(sizes, rates, *ABOUT_TWICE) or (math.nan, math.nan)
    return {"curve": label, "from": 100 * low, "to": 100 * high}


def _price_medians(rows: Rows) -> Rows:
    """Return the rows of the traces, and the medians of the paper's models."""
    shown = [row for row in rows if not row["curve"].startswith("paper: ")]
    toys = [row for row in rows if row["curve"].startswith("paper: toy ")]
    real = [row for row in rows if row not in shown and row not in toys]
    for what, of in (("toy", toys), ("real", real)):
        medians = {end: float(np.nanmedian([row[end] for row in of])) for end in ("from", "to")}
        shown.append({"curve": f"paper: {what} models, medians"} | medians)
    return shown


def _statement(rows: Rows, control: Rows, published_counts: Rows) -> str:
    """Say it in words: each trace by the first criterion and how many of all, the control, the paper's own curves."""
    first, parts = CRITERIA[0].name, []
    random = {
        row["trace"]: f" The same tokens in random order have the knee by *{first}* at {_size(row[first])}."
        for row in control
        if row["order of tokens"] == "random" and first in row
    }
    for trace in dict.fromkeys(row["trace"] for row in rows):
        mine = [row for row in rows if row["trace"] == trace]
        knee = next(row for row in mine if row["criterion"] == first)
        verdicts = [row["about twice"] for row in mine]
        words = ", ".join(f"{word} by {verdicts.count(word)}" for word in VERDICTS if word in verdicts)
        said = f"* {trace}: knee by *{first}* at {_size(knee['knee'])}{_ends(knee, ' (95 %: {} to {})')}"
        said += f": {knee['about twice']}." + (f" Of the {len(mine)} criteria the statement {words}." if words else "")
        parts.append(said + random.get(trace, ""))
    told = ", ".join(
        f"{row['holds']} of {sum(row[word] for word in VERDICTS)} by *{row['criterion']}*"
        for row in published_counts
        if row["models"].startswith("real")
    )
    parts.append(f"* The paper's own curves of real models: it holds for {told}.")
    return "**The statement, computed.**\n\n" + "\n".join(parts)


def _size(size: float) -> str:
    return "beyond" if math.isinf(size) else f"{size:.2f}x"


def _ends(row: dict[str, Any], words: str) -> str:
    return "" if row["95 %"] is None else words.format(*map(_size, row["95 %"]))
