"""docs/prediction.md: the tables of gpt-oss-20b, worked out again; `test_tutorial` runs the page's command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.cli.predict import fitted
from lrcsim.prediction.ceilings import Ceiling, ceilings
from lrcsim.prediction.held_out import held_out_trace
from lrcsim.traces import RoutingTrace

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/prediction.md").read_text(encoding="utf-8")
SHARED = Path(os.environ.get("LRCSIM_SHARED") or ROOT.parent / "shared") / "traces/gpt-oss-20b.decode.npz"
MIB = 2**20


def shown() -> dict[str, list[float | None]]:
    """Tokens/s, hits in percent, MiB a token and stall in percent of each row of the page."""
    block = PAGE.split("\n```\n")[2]
    rows = [re.split(r"\s{2,}", line) for line in block.splitlines()[1:]]
    numbers = {row[0].rstrip("*"): row[1:5] for row in rows}
    return {name: [None if cell == "–" else float(cell.split()[0]) for cell in row] for name, row in numbers.items()}


def rounded(row: Ceiling) -> list[float | None]:
    values = (row.tokens_per_s, row.hit_rate, row.bytes_per_token, row.stall)
    return [
        None if value is None else float(f"{value * factor:.1f}")
        for value, factor in zip(values, (1, 100, 1 / MIB, 100), strict=True)
    ]


def test_what_is_said_of_gpt_oss(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    if not SHARED.exists():
        pytest.skip(f"the shared trace {SHARED.name} is not there (LRCSIM_SHARED names the folder that has traces/)")
    imported = lrcsim("trace", "import", SHARED, "-o", tmp_path / "gpt.h5", "--model", "gpt-oss-20b")
    assert imported.code == 0, imported.err
    with RoutingTrace.open(tmp_path / "gpt.h5") as trace:
        found = fitted(trace, "experts,previous", 1, 4, 0.1, 0)
        own, foretold = (held_out_trace(trace, found.parts, ids) for ids in ({}, {1: found.ids}))
        rows = ceilings(
            own, learned=(foretold, "next-gate:distance=1,width=4"), hardware="rtx-3060-12gb", cache="2x"
        )  # fmt: skip
    assert {row.name: rounded(row) for row in rows} == shown()
    named = {row["predictor"]: row for row in found.rows(1000, 0.95, 0)}
    learned = named["learned"]
    low, high = 100 * learned["low"], 100 * learned["high"]
    said = f"| {100 * learned['recall']:.1f} ({low:.1f}–{high:.1f}) | " + " | ".join(
        f"{100 * named[name]['recall']:.1f}" for name in ("popularity", "previous token", "transition")
    )
    assert said in PAGE
