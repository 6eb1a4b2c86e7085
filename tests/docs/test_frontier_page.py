"""docs/frontier.md: what it says of the checkpoint, against the results that experiments/closed_loop has written."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from lrcsim.frontier.router_weights import WEIGHT_ERROR

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/frontier.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "experiments/closed_loop/results.json").read_text(encoding="utf-8"))
ROWS = {row["rule"].removesuffix(",1"): row for row in RESULTS["rows"]}
TABLE = re.findall(r"^\| (`.*`) \| (.*) % \| ([\d., ]+) \|$", PAGE, re.MULTILINE)


def off(rule: str) -> float:
    """Points by which the replay's hit rate is off."""
    return abs(100 * (ROWS[rule]["hit_rate"] - ROWS[rule]["open_loop"]["hit_rate"]))


@pytest.mark.parametrize(("named", "mass", "points"), TABLE, ids=[row[0] for row in TABLE])
def test_how_far_a_replay_is_off(named: str, mass: str, points: str) -> None:
    first, last = (named.split("`")[place] for place in (1, -2))
    listed = list(ROWS)
    rules = listed[listed.index(first) : listed.index(last) + 1]
    kept = [f"{100 * ROWS[rule]['mass_kept']:.1f}" for rule in rules]
    assert mass == (" to " if len(rules) > 2 else ", ").join(sorted({max(kept), min(kept)}, reverse=True))
    worst = [math.ceil(100 * off(rule)) / 100 for rule in rules]  # at most: rounded up
    assert [float(cell) for cell in points.split(", ")] == (worst if first.startswith("skip") else [max(worst)])


def test_the_table_is_found() -> None:
    assert len(TABLE) == 3
    assert f"{RESULTS['tokens']:,} tokens" in PAGE


def test_what_ranks_rules() -> None:
    prior, window, skip, strong = (ROWS[rule] for rule in ("prior:0.1", "window:2,12", "skip:0.1", "prior:0.4"))
    mass = [f"{100 * row['mass_kept']:.1f}" for row in (prior, window)]
    loss = [f"{row['loss_difference']:.3f}" for row in (prior, window)]
    assert f"keep {' and '.join(mass)} % of the mass, and cost {' and '.join(loss)} nats" in " ".join(PAGE.split())
    assert f"`skip:0.1` keeps {100 * skip['mass_kept']:.1f} %, as `prior:0.4` does, at a sixth of the loss" in PAGE
    assert skip["mass_kept"] == pytest.approx(strong["mass_kept"], abs=0.01)
    assert strong["loss_difference"] / skip["loss_difference"] == pytest.approx(6, abs=0.5)


def test_the_tolerance_of_weights() -> None:
    assert f"within {100 * WEIGHT_ERROR:.0f} %" in PAGE
