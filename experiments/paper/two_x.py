"""Is a cache of about twice the active experts where effect and cost balance? A computed statement, not a picture.

The statement "the knee of the curve is at about twice the active experts" is made of a curve of hit rate over relative
cache size, on the paper's grid of sizes (0.25 to 4 times the active experts), by each criterion of `knee`:

* **holds**: at least 95 % of the draws have their knee within 1.5x to 2.5x;
* **does not hold**: at most 5 % have;
* **undecided**: anything between.

Draws resample requests with replacement. For published curves there are no requests to resample; their draws add the
error of reading the figure (normal, of the published median size), which is all the uncertainty that can be known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper import figures
from lrcsim.experiments.paper.curves import RequestCurves
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA, Criterion, chord_height, prices_of
from lrcsim.experiments.paper.measure import AT, Measured, Options
from lrcsim.experiments.paper.published import GRID, published
from lrcsim.experiments.paper.section import Section, Table

__all__ = ["STRAIGHT", "Knee", "knee_of", "knee_of_published", "two_x_section", "verdict"]

Floats = npt.NDArray[np.float64]

STRAIGHT = 0.02
"""A curve that nowhere rises this far above its chord has no knee worth the name."""

LEVEL = 0.95
MEDIAN_TO_SIGMA = 1 / 0.6744897501960817  # the median of |normal| is 0.6745 sigma


@dataclass(frozen=True)
class Knee:
    """The knee of a curve by one criterion.

    Attributes:
        criterion: its name.
        size: relative cache size; infinity: none in the range.
        interval: 2.5 % and 97.5 % quantiles over the draws (order statistics), or None without draws.
        share: share of draws within `ABOUT_TWICE`; without draws 0 or 1.
        verdict: ``"holds"``, ``"does not hold"``, ``"undecided"``.
    """

    criterion: str
    size: float
    interval: tuple[float, float] | None
    share: float
    verdict: str


def knee_of(curve: RequestCurves, criterion: Criterion, options: Options) -> Knee | None:
    """Find the knee of a measured curve; None where the model has too few experts for the grid to have sizes past 2x."""
    sizes = GRID[curve.everything >= GRID - 1e-9]
    if len(sizes) == 0 or sizes[-1] <= ABOUT_TWICE[1]:
        return None
    return _judge(criterion, sizes, curve.rate(sizes), curve.drawn(sizes, options.draws, options.seed), curve.everything)


def knee_of_published(rates: Sequence[float], everything: float, criterion: Criterion, draws: int, seed: int) -> Knee:
    """Find the knee of a published curve on `GRID`."""
    values = np.array(rates, float)
    sigma = published().quantity["sch16"]["error"] * MEDIAN_TO_SIGMA
    noise = np.random.default_rng(seed).normal(0, sigma, (draws, len(values)))
    return _judge(criterion, GRID, values, (values + noise).clip(0, 1), everything)


def verdict(share: float) -> str:
    """Judge by the share of draws with the knee at about twice."""
    return "holds" if share >= LEVEL else "does not hold" if share <= 1 - LEVEL else "undecided"


def _judge(criterion: Criterion, sizes: Floats, rates: Floats, drawn: Floats, everything: float) -> Knee:
    size = float(criterion.find(sizes, rates[None], everything)[0])
    if len(drawn) == 0:
        share = float(ABOUT_TWICE[0] <= size <= ABOUT_TWICE[1])
        return Knee(criterion.name, size, None, share, "no requests to resample")
    knees = np.sort(criterion.find(sizes, drawn, everything))
    low = round(len(knees) * (1 - LEVEL) / 2)
    share = float(((knees >= ABOUT_TWICE[0]) & (knees <= ABOUT_TWICE[1])).mean())
    return Knee(criterion.name, size, (float(knees[low]), float(knees[-1 - low])), share, verdict(share))


def two_x_section(found: Sequence[Measured], options: Options) -> Section:
    """Make the section: measured curves, the control, the published curves, and prices."""
    section = Section(
        "two_x",
        "Is twice the active experts the knee?",
        "the finding that for most models a cache of about twice the active experts balances effect and cost",
        [
            f"Computed on SCH (look-ahead, m = {AT}, one pool, the paper's curve) at the paper's sizes 0.25x to 4x in steps "
            "of 0.25x, which is the resolution of every knee here. \"About twice\" is 1.5x to 2.5x. It **holds** where at "
            "least 95 % of the draws have the knee there, **does not hold** at 5 % or less, else it is **undecided**. The "
            'paper does not define "balance", so several criteria stand side by side; "beyond" is no knee in the range.',
            "Criteria: " + "; ".join(f"*{one.name}*: {one.meaning}" for one in CRITERIA) + ".",
        ],
        draw=lambda path: figures.two_x(path, found),
    )
    rows, more = [], []
    for one in found:
        for (policy, scope), curve in one.curves.items():
            chosen = policy == f"sch-lookahead:{AT}" and scope == "model"
            for criterion in CRITERIA:
                knee = knee_of(curve, criterion, options)
                if knee is None:
                    section.missing.append(f"{one.label}: {curve.everything:g}x are all experts, too few for a knee at 2x")
                    break
                row = {"trace": one.label, "policy": policy, "scope": scope} | _cells(knee)
                more.append(row)
                if chosen:
                    del (shown := dict(row))["policy"], shown["scope"]
                    rows.append(shown)
    section.add(Table("two_x", "Measured, requests resampled.", rows, digits=2))
    section.add(Table("two_x_all", "All curves: other policies, segment lengths, scopes.", more, shown=False))
    section.add(_sensitivity(more))
    section.add(_control(found, options))
    section.add(_prices(found))
    for table in _published(options):
        section.add(table)
    section.text.append(_statement(rows, section.tables))
    return section


def _cells(knee: Knee) -> dict[str, Any]:
    return {
        "criterion": knee.criterion,
        "knee": knee.size,
        "95 %": knee.interval,
        "draws at about 2x": knee.share,
        "about twice": knee.verdict,
    }


def _sensitivity(rows: Sequence[dict[str, Any]]) -> Table:
    """Count, over traces, by curve and criterion, where the statement holds."""
    counted: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["policy"], "one pool" if row["scope"] == "model" else "by layer")
        cell = counted.setdefault(key, {}).setdefault(row["criterion"], [])
        cell.append(row["knee"])
    table = [
        {"curve": policy, "scope": scope} | {name: _span(knees) for name, knees in by_criterion.items()}
        for (policy, scope), by_criterion in counted.items()
    ]
    return Table("two_x_sensitivity", "Knees of all curves: lowest and highest over the traces.", table, digits=2)


def _span(knees: Sequence[float]) -> Any:
    return knees[0] if min(knees) == max(knees) else (min(knees), max(knees))


def _control(found: Sequence[Measured], options: Options) -> Table:
    """Compare with the same tokens in random order: what of the knee is the routing's, what the metric's."""
    rows = []
    for one in found:
        curve = one.curves.get((f"sch-lookahead:{AT}", "model"))
        if one.control is None or curve is None:
            continue
        for name, which in (("as recorded", curve), ("tokens in random order", one.control)):
            knees = {criterion.name: knee_of(which, criterion, options) for criterion in CRITERIA}
            sizes = GRID[which.everything >= GRID - 1e-9]
            row: dict[str, Any] = {"trace": one.label, "order": name, "SCH 2x": float(which.rate(np.array([2.0]))[0])}
            row["above the chord"] = chord_height(sizes, which.rate(sizes))
            rows.append(row | {name: knee.size if knee else None for name, knee in knees.items()})
    caption = (
        "Control: the same tokens in random order have no local consistency. Where their knee is the same, it comes from "
        f"the metric, not from the routing. A curve less than {STRAIGHT} above its chord has no knee worth the name."
    )
    return Table("two_x_control", caption, rows, digits=2)


def _prices(found: Sequence[Measured]) -> Table:
    """Say without a criterion at which price of memory twice is best."""
    data = published()
    rows = []
    for one in found:
        curve = one.curves.get((f"sch-lookahead:{AT}", "model"))
        if curve is not None:
            sizes = GRID[curve.everything >= GRID - 1e-9]
            rows.append(_price(one.label, sizes, curve.rate(sizes)))
    rows += [_price(f"paper: toy {key}", GRID, np.array(toy["sch16"])) for key, toy in data.toy.items()]
    rows += [_price(f"paper: {key}", GRID, np.array(model["sch16"])) for key, model in data.real.items()]
    caption = (
        "Hit rate net of cost, without a criterion: the size of the largest h(x) - c x lies within 1.5x to 2.5x exactly "
        "for prices c (points of hit rate that 1x of cache must bring) in this range."
    )
    return Table("two_x_prices", caption, rows, data.source("sch16"), digits=1)


def _price(label: str, sizes: Floats, rates: Floats) -> dict[str, Any]:
    prices = prices_of(sizes, rates, *ABOUT_TWICE)
    low, high = (math.nan, math.nan) if prices is None else (100 * prices[0], 100 * prices[1])
    return {"curve": label, "price from": low, "to [points per 1x]": high}


def _published(options: Options) -> list[Table]:
    data = published()
    models = {f"toy {key}": toy for key, toy in data.toy.items()} | data.real
    rows, counts = [], []
    for criterion in CRITERIA:
        knees = {
            key: knee_of_published(
                model["sch16"], model["experts"] / model["top_k"], criterion, max(options.draws, 200), options.seed
            )
            for key, model in models.items()
        }
        rows += [{"model": key} | _cells(knee) for key, knee in knees.items()]
        for what, keys in (("real (22 rows)", list(data.real)), ("toy (10)", [k for k in knees if k.startswith("toy ")])):
            sizes = np.array([knees[key].size for key in keys])
            verdicts = [knees[key].verdict for key in keys]
            low, high = wilson(verdicts.count("holds"), len(keys))
            row = {"models": what, "criterion": criterion.name, "median knee": float(np.median(sizes))}
            row |= {"quartiles": tuple(float(q) for q in np.quantile(sizes, (0.25, 0.75), method="nearest"))}
            row |= {word: verdicts.count(word) for word in ("holds", "undecided", "does not hold")}
            counts.append(row | {"share that holds, 95 %": (low, high), "most models": _most(low, high)})
    caption = (
        "The paper's own curves: for how many models is the knee at about twice? Intervals of the share are Wilson's, and "
        "take the models as drawn from many."
    )
    return [
        Table("two_x_published", caption, counts, data.source("sch16"), digits=2),
        Table("two_x_published_models", "The same, model by model.", rows, shown=False),
    ]


def wilson(count: int, of: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a share (Wilson 1927)."""
    share = count / of
    centre, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (centre - half) / (1 + z * z / of), (centre + half) / (1 + z * z / of)


def _most(low: float, high: float) -> str:
    return "yes" if low > 0.5 else "no" if high < 0.5 else "undecided"


def _statement(rows: Sequence[dict[str, Any]], tables: Sequence[Table]) -> str:
    """Say it in words, by the first criterion and by all."""
    first = CRITERIA[0].name
    parts = []
    mine = [row for row in rows if row["criterion"] == first]
    for row in mine:
        span = "" if row["95 %"] is None else f" ({_size(row['95 %'][0])} to {_size(row['95 %'][1])})"
        parts.append(f"{row['trace']} {_size(row['knee'])}{span}: {row['about twice']}")
    text = f"**Statement.** Knee by *{first}*: " + "; ".join(parts) + ". " if parts else "**Statement.** "
    for criterion in CRITERIA[1:]:
        verdicts = [row["about twice"] for row in rows if row["criterion"] == criterion.name]
        if verdicts:
            text += f"By *{criterion.name}* it holds for {verdicts.count('holds')} of {len(verdicts)} traces. "
    counts = next((table.rows for table in tables if table.name == "two_x_published"), [])
    told = [
        f"{row['holds']} of {row['holds'] + row['undecided'] + row['does not hold']} by *{row['criterion']}*"
        for row in counts
        if str(row["models"]).startswith("real")
    ]
    return text + "Of the paper's real models it holds for " + ", ".join(told) + "."


def _size(size: float) -> str:
    return "beyond" if math.isinf(size) else f"{size:.2f}x"
