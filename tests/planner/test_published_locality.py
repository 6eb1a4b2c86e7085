"""The published hit rates: what the file may hold, and how they are made comparable."""

from __future__ import annotations

import csv
import os
import tomllib
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.models import load_geometry, model_names
from lrcsim.planner import published_locality
from lrcsim.planner.locality_transfer import _uses, curve_of
from lrcsim.planner.published_locality import (
    first_use_hits,
    is_early,
    model_called,
    popularity,
    published,
    warm_rates,
)
from lrcsim.planner.traces import sample, take
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace

DATA = tomllib.loads(Path(published_locality.__file__).with_name("locality.toml").read_text("utf-8"))
SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))


def test_first_uses_by_hand() -> None:
    # 4 experts, none used: one slot has a quarter of the first use, 2 slots a half. One used: the others are at places
    # 2, 3, 4: one slot has none of them, 2 slots a third. Together 1/4, 1/2 + 1/3, and with all four both.
    found = first_use_hits(np.array([1.0, 2.0, 4.0]), np.array([0, 1]), 4)
    assert found == pytest.approx([1 / 4, 1 / 2 + 1 / 3, 2])
    assert first_use_hits(np.array([1.0]), np.array([], int), 4) == [0.0]


def test_warm_rates_by_hand() -> None:
    # 2 tokens of top-1 of 4 experts, 1 slot: cold 50 % is one miss, one first use, of which 1/4 hits: 1/8 more.
    rate, slot = np.array([0.5]), np.array([1.0])
    assert warm_rates(rate, slot, 4, 1, 2, first_free=False) == pytest.approx(0.625)
    assert warm_rates(rate, slot, 4, 1, 0, first_free=False) == pytest.approx(0.5)  # was warm
    # with the first one free, 50 % is no hit at all: both miss, at most two first uses: 1/4 and nothing of 2
    assert warm_rates(rate, slot, 4, 1, 2, first_free=True) == pytest.approx(0.125)


@settings(max_examples=20)
@given(st.integers(0, 1_000))
def test_warm_rates_against_every_order_before(seed: int) -> None:
    """A cold run of LRU made warm, and the mean over all orders in which experts may have been used before."""
    tokens = np.random.default_rng(seed).zipf(1.5, 12) % 4
    for slots in (1, 2, 3):
        cold = _hits([], tokens.tolist(), slots) / 12
        wanted = np.mean([_hits(list(order), tokens.tolist(), slots) for order in permutations(range(4))]) / 12
        found = warm_rates(np.array([cold]), np.array([float(slots)]), 4, 1, 12, first_free=False)[0]
        # the number of distinct experts is not known to it: as many as misses, four at most
        assert wanted - 1e-12 <= found <= wanted + 1 / 12


def _hits(stack: list[int], tokens: list[int], slots: int) -> int:
    hits = 0
    for expert in tokens:
        hits += expert in stack[:slots]
        stack = [expert, *(other for other in stack if other != expert)]
    return hits


def test_the_data_says_what_it_must() -> None:
    shapes = DATA["models"]
    for entry in [*DATA["lru"], *DATA["popularity"]]:
        rates = entry.get("hit_rate") or entry["covered"]
        assert len(entry["slots"]) == len(rates)
        assert sorted(entry["slots"]) == entry["slots"]
        assert sorted(rates) == rates
        assert 0 < rates[0] < rates[-1] + 1e-9 < 1
        assert entry["slots"][-1] < shapes[entry["model"]]["experts"]
        assert len(entry["source"]) > 10
        assert 0 < entry["error"] <= 0.03
    assert {entry["model"] for entry in [*DATA["lru"], *DATA["popularity"]]} == set(shapes)


def test_the_shapes_are_those_of_the_built_in_models() -> None:
    for name in set(DATA["models"]) & set(model_names()):
        model = load_geometry(name)
        assert DATA["models"][name] == {"experts": model.experts, "top_k": model.top_k}
    assert set(DATA["models"]) - set(model_names()) == {"qwen3.8-flash-next"}
    assert set(DATA["early"]["models"]) <= {*model_names(), "lrcsim-toy"}


@pytest.mark.parametrize(
    ("name", "model", "early"),
    [
        ("qwen3-30b-a3b", "qwen3-30b-a3b", False),
        ("Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", False),
        ("Qwen3-Coder-30B-A3B", "Qwen3-Coder-30B-A3B", False),
        ("mixtral-8x7b-instruct", "mixtral-8x7b", True),
        ("mixtral-8x22b", "mixtral-8x22b", True),
        ("lrcsim-toy-share2", "lrcsim-toy-share2", True),
        ("deepseek-v3", "deepseek-v3", False),
        ("DeepSeek-V2-Lite", "deepseek-v2-lite", True),
        ("", "", False),
    ],
)
def test_names(name: str, model: str, early: bool) -> None:
    assert (model_called(name), is_early(name)) == (model, early)


def test_every_rate_is_better_than_chance_or_near_it() -> None:
    for one in published():
        assert (one.exponents > 0.9).all(), one
    for one in popularity():
        assert (one.exponents > 1).all(), one


def test_the_curves_of_the_paper_are_those_of_its_figure() -> None:
    folder = SHARED / "reference" / "paper"
    if not folder.is_dir():
        pytest.skip(f"the published curves are not here ({folder})")
    figure = {
        (row["model"], float(row["rho"])): float(row["hit_rate"])
        for row in _rows(folder / "chr_global.csv")
        if row["policy"] == "LRU"
    }
    keys = {row["model"]: (int(row["N"]), int(row["k"])) for row in _rows(folder / "summary_models.csv")}
    shipped = [entry for entry in DATA["lru"] if entry["source"] == "arXiv 2505.16056"]
    found = set()
    for entry in shipped:
        shape = DATA["models"][entry["model"]]
        same = [key for key, value in keys.items() if value == (shape["experts"], shape["top_k"])]
        sizes = [slots / shape["top_k"] for slots in entry["slots"]]
        found |= {key for key in same if [figure[key, size] for size in sizes] == entry["hit_rate"]}
    assert found == set(keys)
    assert len(shipped) == 20


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from (row for row in csv.DictReader(file) if row["is_decoder"] == "True")


def _shared_trace(name: str) -> Path:
    path = SHARED / "traces" / name
    if not path.is_file():
        pytest.skip(f"the recorded trace is not here ({path})")
    return path


def _entry(table: str, source: str) -> dict[str, object]:
    return next(entry for entry in DATA[table] if source in entry["source"])


def test_the_curve_of_gpt_oss_is_that_of_its_trace() -> None:
    file = np.load(_shared_trace("gpt-oss-20b.decode.npz"))
    trace = RoutingTrace.from_arrays(file["experts"], num_experts=32, offsets=file["offsets"])
    entry = _entry("lru", "ExpertFingerprinting")
    assert curve_of(trace, "lru")[entry["slots"]] == pytest.approx(entry["hit_rate"], abs=1e-4)
    # popular experts: each question set ranked by the others
    requests = list(zip(trace.offsets[:-1].tolist(), trace.offsets[1:].tolist(), strict=True))
    hits = np.zeros(32)
    for domain in np.unique(file["domains"]):
        inside = file["domains"] == domain
        used, ranked = (
            _uses(take(trace, [span for span, kept in zip(requests, which, strict=True) if kept]))
            for which in (inside, ~inside)
        )
        order = np.argsort(-ranked, axis=1, kind="stable")
        hits += np.cumsum(np.take_along_axis(used, order, axis=1), axis=1).sum(axis=0)
    entry = _entry("popularity", "ExpertFingerprinting")
    assert (hits / hits[-1])[np.array(entry["slots"]) - 1] == pytest.approx(entry["covered"], abs=1e-4)


def test_the_curve_of_qwen_is_that_of_its_trace(tmp_path: Path) -> None:
    import_trace(_shared_trace("qwen3-30b-a3b.route.csv"), tmp_path / "qwen.h5")
    with RoutingTrace.open(tmp_path / "qwen.h5") as trace:
        entry = _entry("lru", "qwen.route.csv")
        assert curve_of(trace, "lru")[entry["slots"]] == pytest.approx(entry["hit_rate"], abs=1e-4)


@pytest.mark.parametrize("model", ["baseline", "32expert", "share1", "share2", "sparse2"])
def test_generated_texts_are_more_local_than_fed_ones(model: str) -> None:
    """Of this project's own models by 1 to 4 points, at 1 to 3 times the active experts (docs/plan.md)."""
    rates = []
    for kind in ("generated", "teacher_forced"):
        path = SHARED / "family-h200" / "traces" / f"{model}.{kind}.h5"
        if not path.is_file():
            pytest.skip(f"the recorded trace is not here ({path})")
        with RoutingTrace.open(path) as trace:
            sizes = trace.top_k * np.array([1, 2, 3])
            rates.append(curve_of(sample(trace, 4096), "lru")[sizes])
    more = 100 * (rates[0] - rates[1])
    assert more.min() >= 0.75
    assert more.max() <= 4.25
