"""The results that are shipped: measured medians beside what lrcsim says today of the profile stored with them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import lrcsim.experiments
from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.llama_cpp.__main__ import MODELS, main
from lrcsim.experiments.validation.llama_cpp.measure import Work
from lrcsim.experiments.validation.llama_cpp.predictions import add_by_format, add_predictions
from lrcsim.experiments.validation.llama_cpp.software import VARIANTS, runtime_of
from lrcsim.experiments.validation.llama_cpp.weights import wide
from lrcsim.hardware.load import read_toml

FOLDER = Path(lrcsim.experiments.__file__).parent.joinpath("validation", "llama_cpp")
RESULTS: dict[str, Any] = json.loads((FOLDER / "results.json").read_text("utf-8"))
CELLS = [(model, variant) for model in ("olmoe-1b-7b", "narrow") for variant in VARIANTS]


@pytest.fixture(scope="module")
def today() -> dict[tuple[str, str], dict[str, Any]]:
    """Each cell with predictions of this lrcsim and none of those stored."""
    measured = deepcopy(RESULTS["measured"])
    for model in measured["models"]:
        for cell in model["variants"].values():
            for name in ("plan", "run", "by_format", "runtime"):
                del cell[name]
    add_predictions(measured, MODELS, Work(**RESULTS["work"]))
    add_by_format(measured, MODELS, RESULTS["formats"], wide(), Work(**RESULTS["work"]))
    return {(model["model"], name): cell for model in measured["models"] for name, cell in model["variants"].items()}


@pytest.mark.parametrize(("model", "variant"), CELLS)
@pytest.mark.parametrize("part", ["decode", "prompt"])
def test_within_twenty_percent(
    today: dict[tuple[str, str], dict[str, Any]], model: str, variant: str, part: str
) -> None:
    """The predicted speed, as the plan has it and as a run has it, beside the median that was measured."""
    cell = today[model, variant]
    assert cell["repetitions"] >= 9
    seconds = {"decode": "token_s", "prompt": "prompt_s"}[part]
    for name in ("plan", "run"):
        assert cell[name][seconds] == pytest.approx(cell[seconds]["median"] / (1 + cell[name][f"{part}_error"]))
        assert abs(cell[name][f"{part}_error"]) < 0.2


def test_stored_predictions_are_todays(today: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Else results.json and results.md are to be written anew: ``--again results.json``."""
    for model in RESULTS["measured"]["models"]:
        for variant, cell in model["variants"].items():
            for name in ("plan", "run", "by_format"):
                assert cell[name] == pytest.approx(today[model["model"], variant][name], rel=1e-9)


def test_the_profile_is_one_core_with_the_librarys_instructions() -> None:
    profile = read_toml("one-core", RESULTS["measured"]["profile"])
    assert (profile.cpu.cores, profile.cpu.isa) == (1, "avx2")
    assert profile.cpu.bandwidth == pytest.approx(RESULTS["measured"]["machine"]["cpu.bandwidth"]["median"], rel=1e-3)
    assert "AVX512" not in RESULTS["library"]["instructions"]


def test_one_thread_computed() -> None:
    for model in RESULTS["measured"]["models"]:
        assert all(cell["helped"] < 0.01 for cell in model["variants"].values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_rates_of_cores_are_the_measured_ones(variant: str) -> None:
    """What the runtimes say a core gets through is what the formats table has, to the digits that they give."""
    rates = runtime_of(variant).cores["avx2"]
    for row in RESULTS["formats"]:
        if row["variant"] == variant and (variant == "default" or row["format"] in ("q4_0", "q4_k")):
            assert rates[row["format"]].decode == pytest.approx(row["decode_bytes_per_s"]["median"], rel=0.005)
            assert rates[row["format"]].prompt == pytest.approx(row["prompt_operations_per_s"]["median"], rel=0.01)


def test_again_writes_what_is_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "again.md"
    main(["--again", str(FOLDER / "results.json"), "--markdown", str(written), "--json", str(tmp_path / "again.json")])
    tables = written.read_text("utf-8")
    assert tables.strip() == capsys.readouterr().out.strip()
    assert (FOLDER / "results.md").read_text("utf-8").endswith(tables)
    again = json.loads((tmp_path / "again.json").read_text("utf-8"))
    assert again["measured"]["machine"] == RESULTS["measured"]["machine"]


def test_again_takes_another_runtime_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ideal.json"
    main(["--again", str(FOLDER / "results.json"), "--runtime", "ideal", "--json", str(path)])
    models = json.loads(path.read_text("utf-8"))["measured"]["models"]
    assert {cell["runtime"] for model in models for cell in model["variants"].values()} == {"ideal"}
    # without the limit of the core it is memory that a token waits for, and all variants alike
    default, plain = models[0]["variants"].values()
    assert default["plan"]["token_s"] == plain["plan"]["token_s"] < default["token_s"]["median"]
    path.write_text('{"kind": "curve"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="they are not of this command: give a file that its --json wrote"):
        main(["--again", str(path)])
