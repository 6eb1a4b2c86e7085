"""The tables of the worked examples, access by access, against the simulator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

PAGE = (Path(__file__).resolve().parents[2] / "docs/accounting.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its two first lines."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def told(cells: list[str]) -> list[bool]:
    """What the words hit and miss say, in order."""
    return [word == "hit" for word in re.findall(r"\b(hit|miss)\b", " ".join(cells))]


@pytest.mark.parametrize(("column", "access"), [(1, "coresident"), (2, "sequential")])
def test_one_layer(column: int, access: Any) -> None:
    rows = table("Worked example")
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 0]], [[1, 2]]], num_experts=3)
    result = simulate(trace, "lru", 2, access=access, bounds=False, record=True)
    assert result.counts.hit is not None
    found = result.counts.hit.tolist()
    assert told([row[column] for row in rows[:-1]]) == found
    assert rows[-1][column] == f"{sum(found)} of {len(found)}"


def test_steps_layers_and_the_pool() -> None:
    rows = table("Worked example: steps, layers and the pool")
    assert len(rows) == 5
    trace = RoutingTrace.from_arrays([[[0], [1]], [[2], [1]], [[0], [1]]], num_experts=3, phase=[0, 0, 1])
    for (options, *cells, hits), cache in zip(rows, (1, 1, 2, 2, 1), strict=True):
        scope = "model" if "model" in options or "pool" in options else "layer"
        prefill = "step" if "--prefill step" in options else "token"
        result = simulate(trace, "lru", cache, scope=scope, prefill=prefill, bounds=False, record=True)
        assert result.counts.hit is not None
        found = result.counts.hit.tolist()
        assert told(cells) == found, options
        assert hits == f"{sum(found)} of {len(found)}", options
    phases = simulate(trace, "lru", 1, prefill="step", bounds=False).to_dict()["cache"]
    assert [phases[phase][count] for phase in ("prefill", "decode") for count in ("hits", "accesses")] == [0, 3, 1, 2]
