"""The rules that carry curves over, against published curves of 20 models, read from the figures of arXiv 2505.16056.

These are hit rates of one pool under that paper's accounting, at 1, 1.5, 2 and 3 times the active experts, for decoder
models. From each model to each other the exponent is predicted at equal relative size.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from itertools import permutations
from math import log
from pathlib import Path

import numpy as np
import pytest

from lrcsim.planner.locality_transfer import LOCALITY_RANGE, SPARSITY_SHARE

SIZES = (1.0, 1.5, 2.0, 3.0)


@pytest.fixture(scope="module")
def errors() -> dict[str, np.ndarray]:
    """For each rule the logarithms of true over predicted exponents."""
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared")) / "reference" / "paper"
    if not shared.is_dir():
        pytest.skip(f"the published curves are not here ({shared})")
    models = {row["model"]: int(row["N"]) / int(row["k"]) for row in _rows(shared / "summary_models.csv")}
    exponents = {}
    for row in _rows(shared / "chr_global.csv"):
        size, rate = float(row["rho"]), float(row["hit_rate"])
        share = size / models[row["model"]]
        if row["policy"] == "LRU" and size in SIZES and rate < 0.999 and share < 0.999:
            exponents[row["model"], size] = log(1 - rate) / log(1 - share)
    found: dict[str, list[float]] = {rule: [] for rule in SPARSITY_SHARE}
    for source, target in permutations(models, 2):
        sparser = log(models[target] / models[source])
        for size in SIZES:
            if (source, size) in exponents and (target, size) in exponents:
                change = log(exponents[target, size] / exponents[source, size])
                for rule, share in SPARSITY_SHARE.items():
                    found[rule].append(change - share * sparser)
    return {rule: np.array(values) for rule, values in found.items()}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from (row for row in csv.DictReader(file) if row["is_decoder"] == "True")


def test_the_middle_is_nearest(errors: dict[str, np.ndarray]) -> None:
    spread = {rule: float(np.sqrt((values**2).mean())) for rule, values in errors.items()}
    assert len(errors["middle"]) == 1_520
    assert spread["middle"] == pytest.approx(0.684, abs=0.001)
    assert min(spread["fraction"], spread["rho"]) == pytest.approx(0.938, abs=0.001)


def test_the_range_holds_four_in_five(errors: dict[str, np.ndarray]) -> None:
    inside = np.abs(errors["middle"]) <= log(LOCALITY_RANGE)
    assert 0.78 < inside.mean() < 0.82
