"""The section on the 2x finding: measured, controlled, by price, and computed on the paper's own curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper import figures_cache
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA, chord_height, prices_of
from lrcsim.experiments.paper.measure import AT, Measured, Options
from lrcsim.experiments.paper.published import GRID, published
from lrcsim.experiments.paper.section import Section, Table
from lrcsim.experiments.paper.two_x import Knee, knees_of, knees_of_published, sizes_of, wilson

__all__ = ["CURVE", "two_x_section"]

CURVE = (f"sch-lookahead:{AT}", "model")
"""The curve that the statement is made of: the paper's SCH, one pool of all layers."""

TEXT = (
    f"Computed on SCH (look-ahead, m = {AT}, one pool: the paper's curve) from 0 to 4x, the range of its figures; "
    "measured curves in steps of 1/16x, published ones in their steps of 1/4x. The paper's finding names no "
    'criterion for the balance of effect and cost, so several stand side by side. "About twice" is 1.5x to 2.5x. The '
    "statement **holds** where at least 95 % of the draws of requests have the knee there, **does not hold** at 5 "
    '% or less, else it is **undecided**. "Beyond" is no knee below the end of the range.'
)


def two_x_section(found: Sequence[Measured], options: Options) -> Section:
    """Make the section."""
    section = Section(
        "two_x",
        "Is twice the active experts the knee?",
        "the finding that for most models a cache of about twice the active experts balances effect and cost",
        [TEXT, "Criteria: " + "; ".join(f"*{one.name}*: {one.meaning}" for one in CRITERIA) + "."],
        draw=lambda path: figures_cache.two_x(path, found),
    )
    rows: list[dict[str, Any]] = []
    for one in found:
        for (policy, scope), curve in one.curves.items():
            knees = knees_of(curve, options)
            if not knees and (policy, scope) == CURVE:
                why = f"all experts are {curve.everything:g}x, and a knee at 2x takes sizes to 3x"
                section.missing.append(f"{one.label}: {why}")
            rows += [{"trace": one.label, "policy": policy, "scope": scope} | _cells(knee) for knee in knees]
    chosen = [row for row in rows if (row["policy"], row["scope"]) == CURVE]
    control = _control(found, options)
    counts, each = _published(options)
    section.text.append(_statement(chosen, control.rows, counts.rows))
    section.add(_wide(chosen))
    long = [{k: v for k, v in row.items() if k not in ("policy", "scope")} for row in chosen]
    section.add(Table("two_x", "The same, a row for each criterion.", long, shown=False))
    section.add(control)
    section.add(counts)
    section.add(each)
    section.add(_sensitivity(rows))
    section.add(Table("two_x_all", "All curves: other policies, segment lengths, scopes.", rows, shown=False))
    prices = _prices(found)
    section.add(_price_summary(prices))
    section.add(Table("two_x_prices_all", "Prices for every curve.", prices, published().source("sch16"), shown=False))
    return section


def _cells(knee: Knee) -> dict[str, Any]:
    return {
        "criterion": knee.criterion,
        "knee": knee.size,
        "95 %": knee.interval,
        "draws in 1.5x to 2.5x": knee.share,
        "in 1.75x to 2.25x": knee.close,
        "about twice": knee.verdict,
    }


def _wide(rows: Sequence[dict[str, Any]]) -> Table:
    """Show a row for each trace: by every criterion the knee, its interval, the verdict."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        ends = "" if row["95 %"] is None else f" ({_size(row['95 %'][0])} to {_size(row['95 %'][1])})"
        cell = f"{_size(row['knee'])}{ends}, {row['about twice']}"
        table.setdefault(row["trace"], {"trace": row["trace"]})[row["criterion"]] = cell
    caption = "Knee by criterion, its 95 % interval over draws of requests, and whether the statement holds."
    return Table("two_x_by_trace", caption, list(table.values()))


def _control(found: Sequence[Measured], options: Options) -> Table:
    """Compare with the same tokens in random order: what of the knee is the routing's, what the metric's."""
    rows = []
    for one in found:
        curve = one.curves.get(CURVE)
        if one.control is None or curve is None:
            continue
        for name, which in (("as recorded", curve), ("random", one.control)):
            sizes = sizes_of(which)
            row: dict[str, Any] = {"trace": one.label, "order of tokens": name}
            row["SCH 2x"] = float(which.rate(np.array([2.0]))[0])
            row["above the chord"] = chord_height(sizes, which.rate(sizes))
            rows.append(row | {knee.criterion: knee.size for knee in knees_of(which, options)})
    caption = (
        "Control: the same tokens in random order have no local consistency. Where a criterion puts their knee at "
        "the same size, it sees the metric and the range, not the routing. A curve that hardly rises above its "
        "chord has no knee."
    )
    return Table("two_x_control", caption, rows, digits=2)


def _published(options: Options) -> tuple[Table, Table]:
    """Compute the statement on the paper's curves: how many models have the knee at about twice, and each."""
    data = published()
    models = {f"toy {key}": toy for key, toy in data.toy.items()} | data.real
    draws = max(options.draws, 200)
    knees = {
        key: knees_of_published(model["sch16"], model["experts"] / model["top_k"], draws, options.seed)
        for key, model in models.items()
    }
    counts = []
    for i, criterion in enumerate(CRITERIA):
        for what, toy in (("real (22 rows)", False), ("toy (10)", True)):
            mine = [found[i] for key, found in knees.items() if key.startswith("toy ") == toy]
            verdicts = [knee.verdict for knee in mine]
            low, high = wilson(verdicts.count("holds"), len(mine))
            sizes = np.quantile([knee.size for knee in mine], (0.5, 0.25, 0.75), method="nearest")
            row: dict[str, Any] = {"models": what, "criterion": criterion.name, "median knee": float(sizes[0])}
            row["quartiles"] = (float(sizes[1]), float(sizes[2]))
            row |= {word: verdicts.count(word) for word in ("holds", "undecided", "does not hold")}
            row["share that holds, 95 %"] = (low, high)
            counts.append(row | {"most models": "yes" if low > 0.5 else "no" if high < 0.5 else "undecided"})
    caption = (
        "The paper's own curves. Draws add the error of reading them from the figure. The interval of the share is "
        "Wilson's and takes the models as drawn from many."
    )
    rows = [{"model": key} | _cells(knee) for key, found in knees.items() for knee in found]
    return (
        Table("two_x_published", caption, counts, data.source("sch16"), digits=2),
        Table("two_x_published_models", "The same, model by model.", rows, shown=False),
    )


def _sensitivity(rows: Sequence[dict[str, Any]]) -> Table:
    """Give the knees of all curves, as a range over traces."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        of_curve = cells.setdefault((row["policy"], row["scope"]), {})
        of_curve.setdefault(row["criterion"], []).append(row["knee"])
    table = [
        {"curve": policy, "scope": {"model": "one pool", "layer": "by layer"}[scope]}
        | {name: _span(knees) for name, knees in by_criterion.items()}
        for (policy, scope), by_criterion in cells.items()
    ]
    return Table("two_x_sensitivity", "Knees of all curves, as a range over the traces.", table, digits=2)


def _span(knees: Sequence[float]) -> Any:
    return knees[0] if min(knees) == max(knees) else (min(knees), max(knees))


def _prices(found: Sequence[Measured]) -> list[dict[str, Any]]:
    rows = []
    for one in found:
        if (curve := one.curves.get(CURVE)) is not None:
            sizes = sizes_of(curve)
            rows.append(_price(one.label, sizes, curve.rate(sizes)))
    data = published()
    rows += [_price(f"paper: toy {key}", GRID, np.array(toy["sch16"])) for key, toy in data.toy.items()]
    return rows + [_price(f"paper: {key}", GRID, np.array(model["sch16"])) for key, model in data.real.items()]


def _price(label: str, sizes: npt.NDArray[np.float64], rates: npt.NDArray[np.float64]) -> dict[str, Any]:
    prices = prices_of(sizes, rates, *ABOUT_TWICE)
    low, high = (math.nan, math.nan) if prices is None else (100 * prices[0], 100 * prices[1])
    return {"curve": label, "from": low, "to": high}


def _price_summary(rows: Sequence[dict[str, Any]]) -> Table:
    """Show the traces, and the medians of the paper's models."""
    shown = [row for row in rows if not row["curve"].startswith("paper: ")]
    for what, toy in (("paper: toy models, medians", True), ("paper: real models, medians", False)):
        of = [
            row for row in rows if row["curve"].startswith("paper: ") and row["curve"].startswith("paper: toy ") == toy
        ]
        shown.append({"curve": what} | {end: float(np.nanmedian([row[end] for row in of])) for end in ("from", "to")})
    caption = (
        "Hit rate net of cost, without a criterion. If 1x of cache costs c points of hit rate, the best size is "
        "that of the largest h(x) - c x. It lies within 1.5x to 2.5x exactly for c in this range, points per 1x:"
    )
    return Table("two_x_prices", caption, shown, published().source("sch16"), digits=1)


def _statement(rows: Sequence[dict[str, Any]], control: Sequence[Any], published_counts: Sequence[Any]) -> str:
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
        span = "" if knee["95 %"] is None else f" (95 %: {_size(knee['95 %'][0])} to {_size(knee['95 %'][1])})"
        words = [f"{word} by {n}" for word in ("holds", "undecided", "does not hold")
                 if (n := sum(row["about twice"] == word for row in mine))]  # fmt: skip
        parts.append(
            f"* {trace}: knee by *{first}* at {_size(knee['knee'])}{span}: {knee['about twice']}."
            + (f" Of the {len(mine)} criteria the statement {', '.join(words)}." if words else "")
            + random.get(trace, "")
        )
    told = [
        f"{row['holds']} of {row['holds'] + row['undecided'] + row['does not hold']} by *{row['criterion']}*"
        for row in published_counts
        if str(row["models"]).startswith("real")
    ]
    parts.append(f"* The paper's own curves of real models: it holds for {', '.join(told)}.")
    return "**The statement, computed.**\n\n" + "\n".join(parts)


def _size(size: float) -> str:
    return "beyond" if math.isinf(size) else f"{size:.2f}x"
