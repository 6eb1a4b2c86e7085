"""A machine, a runtime, a model has one name in a sweep, however it was typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.simulator import simulate
from lrcsim.sweeps import divide, read_spec
from lrcsim.sweeps.one_name import one_name
from lrcsim.traces import RoutingTrace


@pytest.mark.parametrize(
    ("option", "typed", "name"),
    [
        ("hardware", "4090", "rtx-4090"),
        ("hardware", "NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("hardware", "4090+ryzen-7950x", "rtx-4090+ryzen-7950x"),
        ("hardware", "auto", "auto"),
        ("runtime", "LLAMA.CPP", "llama.cpp"),
        ("model", "qwen3:30b-a3b", "qwen3-30b-a3b"),
        ("model", "Qwen3-30B-A3B:top_k=6", "qwen3-30b-a3b:top_k=6"),
        ("model", "qwen3-30b-a3b:top_k=8", "qwen3-30b-a3b"),  # its own
        ("model", "Qwen/Qwen3-30B-A3B-FP8", "Qwen/Qwen3-30B-A3B-FP8"),  # says more than the name: the weights
        ("policy", "4090", "4090"),
    ],
)
def test_by_hand(option: str, typed: str, name: str) -> None:
    assert one_name(option, typed, Path()) == name


def test_a_file_keeps_the_name_that_was_typed(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "rtx-4090"\n')
    assert one_name("hardware", "mine.toml", tmp_path) == "mine.toml"


def test_two_spellings_are_one_run(tmp_path: Path) -> None:
    plan = divide(read_spec({"grid": {"hardware": ["4090", "rtx-4090", "RTX 3090"]}}, tmp_path))
    assert [run.values["hardware"] for run in plan.runs] == ["rtx-4090", "rtx-3090"]


def test_a_run_says_how_many_experts_the_router_takes() -> None:
    """Where that is not the model's own number, as the table of a sweep does."""
    ids = np.tile(np.arange(6), (4, 48, 1))
    six = RoutingTrace.from_arrays(ids, num_experts=128)
    result = simulate(six, cache=12, hardware="4090", model="qwen3:30b-a3b:top_k=6", dtype="q4_k_m")
    assert (result.config["hardware"], result.config["model"]) == ("rtx-4090", "qwen3-30b-a3b:top_k=6")
