"""The published values: consistent in themselves, and equal to the tables they are from, where these are here."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from lrcsim.experiments.paper.published import GRID, SEGMENTS, key_of, published
from lrcsim.experiments.paper.throughput import toy_geometry
from lrcsim.models import load_geometry

DATA = published()


def rows(name: str) -> list[dict[str, str]]:
    folder = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[4] / "shared")) / "reference" / "paper"
    if not folder.is_dir():
        pytest.skip(f"the tables of the paper are not here ({folder})")
    with (folder / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def key(row: dict[str, str]) -> str:
    return row["model"] + ("-encoder" if row.get("is_decoder") == "False" else "")


def test_curves_never_fall_and_end_where_they_must() -> None:
    for model in (*DATA.real.values(), *DATA.toy.values()):
        assert len(model["sch16"]) == len(GRID)
        assert (np.diff(model["sch16"]) >= 0).all()
        assert 0 < model["sch16"][0] < model["sch16"][-1] <= 1
        if model["experts"] <= 4 * model["top_k"]:
            assert model["sch16"][-1] == 1
    for model in DATA.real.values():
        for policy in ("lru", "lfu"):
            assert model["policies"]["belady"][1] > model["policies"][policy][1]


def test_srp_falls_and_lies_above_its_floor() -> None:
    for model in DATA.real.values():
        srp = [value for value in model["srp"] if value == value]
        assert (np.diff(srp) < 0).all()
        rate = model["top_k"] / model["experts"]
        assert srp[-1] > 2 * rate / (1 + rate)
        low, high = model["layers"]
        assert low < model["srp"][SEGMENTS.index(16)] < high
    for model in DATA.toy.values():
        assert model["lru"] == sorted(model["lru"])
        assert model["decode"] == sorted(model["decode"])


def test_shapes_are_those_of_the_models() -> None:
    for name, model in DATA.real.items():
        if not name.endswith("-encoder"):
            geometry = load_geometry(name)
            assert (geometry.experts, geometry.top_k) == (model["experts"], model["top_k"])
            assert len(geometry.moe_layers) == model["moe_layers"]
    # 8 layers x 64 experts x 3 x 1280 x 640, embeddings 2 x 50304 x 1280, attention 8 x 1280 x 128 x (10 + 5 + 5 + 10),
    # routers: 1.43 B parameters, as published
    toy = toy_geometry("baseline")
    assert (toy.expert_params, len(toy.moe_layers) * toy.experts) == (3 * 1280 * 640, 512)
    for name in DATA.toy:
        toy = toy_geometry(name)
        active = toy.top_k * toy.expert_width + toy.shared_width
        changed = {"top16": 2.0, "top2": 0.25}
        assert active == 8 * 640 * changed.get(name, 1.0)
        assert toy.experts * toy.expert_width + toy.shared_width == 40960


def test_traces_find_their_model() -> None:
    assert key_of("share1", "whatever") == "toy.share1"
    assert key_of("baseline-seed1", "whatever") == key_of("baseline_s2", "x") == "toy.baseline"
    assert key_of("mine", "allenai/OLMoE-1B-7B-0924") == "real.olmoe"
    assert key_of("olmoe", "mine") == "real.olmoe"
    assert key_of("mine", "lrcsim-tiny-olmoe") is None


def test_every_quantity_says_where_it_is_from() -> None:
    for quantity in DATA.quantity.values():
        assert quantity["what"]
        assert quantity["source"]
        assert quantity["precision"]
    assert DATA.quantity["srp"]["source"] in DATA.source("srp", "lru")


def test_real_models_equal_the_tables() -> None:
    summary = {key(row): row for row in rows("summary_models.csv")}
    assert set(summary) == set(DATA.real)
    for name, model in DATA.real.items():
        row = summary[name]
        assert [model["experts"], model["top_k"], model["moe_layers"]] == [
            int(row["N"]),
            int(row["k"]),
            int(row["moe_layers"]),
        ]
        assert model["srp"][1] == pytest.approx(float(row["srp_m16"]), abs=6e-5)
        for i in (0, 1):
            assert model["sch16"][4 * i + 3] == float(row[f"sch_m16_rho{i + 1}"])
            for policy in ("lru", "lfu", "belady"):
                assert model["policies"][policy][i] == float(row[f"{policy}_rho{i + 1}"])
    for row in rows("sch_global.csv"):
        place, model = float(row["rho"]), DATA.real[key(row)]
        if row["m"] == "16":
            assert model["sch16"][GRID.tolist().index(place)] == float(row["sch"])
        elif place in (1.0, 2.0):
            assert model["sch"][f"m{row['m']}"][int(place) - 1] == float(row["sch"])
    for row in rows("srp_global.csv"):
        found = DATA.real[key(row)]["srp"][SEGMENTS.index(int(row["m"]))]
        assert found == pytest.approx(float(row["srp"]), abs=3e-5)
    for row in rows("srp_m16_exact.csv"):
        model = DATA.real[key(row)]
        assert model["domain"] == pytest.approx(
            [float(row["domain_spec"]), float(row["corr_srp_domain_spec"])], abs=5e-5
        )


def test_toy_models_equal_the_tables() -> None:
    for row in rows("toy_summary.csv"):
        toy = DATA.toy[row["model"]]
        assert [toy["experts"], toy["top_k"]] == [int(row["N"]), int(row["k"])]
        assert [toy["srp16"], toy["log_ppl"]] == pytest.approx([float(row["srp_m16"]), float(row["log_ppl"])], abs=6e-5)
        assert toy["lru"] == pytest.approx([float(row[f"lru_rho{i}"]) for i in (1, 2, 3)], abs=6e-5)
        decode = [float(row[f"decode_tok_s_{size}"]) for size in ("1.0", "2.0", "3.0", "inf")]
        assert toy["decode"] == pytest.approx(decode, abs=6e-4)
    for row in rows("toy_sch.csv"):
        assert DATA.toy[row["model"]]["sch16"][GRID.tolist().index(float(row["rho"]))] == float(row["sch"])
    names = {
        "domain": "domain",
        "vocab_in": "vocabulary_in",
        "vocab_pred": "vocabulary_predicted",
        "vocab_gt": "vocabulary_out",
    }
    for row in rows("specialization_corr.csv"):
        if row["set"] == "toy":
            found = DATA.toy[row["model"]][names[row["spec_type"]]]
            assert found == [float(row["spec"]), float(row["corr_with_srp"])]


def test_post_training_equals_the_table() -> None:
    for row in rows("base_vs_post_srp.csv"):
        found = DATA.post[row["model"]]["srp"][SEGMENTS.index(int(row["m"]))]
        assert found == float(row["srp"])
    largest = max(
        abs(model["srp"][1] - DATA.post[model["base"]]["srp"][1]) for model in DATA.post.values() if "base" in model
    )
    assert largest == pytest.approx(0.0056, abs=5e-5)
