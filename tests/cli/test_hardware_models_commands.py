from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrcsim.hardware import component_names, load_profile, machine_names, profile_names
from lrcsim.models import model_names


def test_hardware_lists_every_profile(lrcsim) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("hardware")
    assert outcome.code == 0
    assert all(name in outcome.out for name in profile_names())
    assert "pcie3-x8" in outcome.out
    assert all(name in outcome.out for part in ("cpu", "dram", "nvme") for name in component_names(part))
    assert "rtx-4060-ti (-8gb)" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())


def test_one_profile_with_each_number_and_source(lrcsim) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("hardware", "rtx-4090+pcie3-x8", "--set", "gpu.memory=20GiB")
    assert outcome.code == 0
    assert "rtx-4090+pcie3-x8" in outcome.out
    assert "20 GiB" in outcome.out
    assert "set by the user" in outcome.out
    assert "6.3 GB/s" in outcome.out
    assert "80 % of the theoretical 7.88 GB/s" in outcome.out


def test_hardware_json(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(lrcsim("hardware", "--json", "-").out)
    assert [row["name"] for row in rows] == machine_names()
    path = tmp_path / "one.json"
    assert "unified memory" in lrcsim("hardware", "apple-m4-max", "--json", path).out
    one = json.loads(path.read_text(encoding="utf-8"))
    assert one["unified"] is True
    assert one["pcie"] is None
    assert one["gpu"]["bandwidth"] == 464e9
    assert one["sources"]["gpu.bandwidth"]


def test_hardware_toml_is_a_start_for_ones_own(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.toml"
    assert lrcsim("hardware", "rtx-3090", "--toml", path).code == 0
    assert load_profile(path).gpu == load_profile("rtx-3090").gpu
    assert lrcsim("hardware", path).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("hardware", "rtx-409"), "did you mean 'rtx-4090'?"),
        (("hardware", "rtx-4090", "--set", "pcie.bandwith=1GB/s"), "did you mean 'pcie.bandwidth'?"),
        (("hardware", "rtx-4090", "--set", "pcie.bandwidth=1GB"), "expected bytes/s"),
        (("hardware", "--set", "pcie.bandwidth=1GB/s"), "name it"),
        (("hardware", "missing.toml"), "cannot be read"),
        (("hardware", "h100"), "may mean several: write h100-sxm or"),
        (("models", "qwen3-30b"), "did you mean 'qwen3-30b-a3b'?"),
        (("models", "qwen3-30b-a3b", "--dtype", "q4_k_mm"), "did you mean 'q4_k_m'?"),
        (("models", "missing/config.json"), "there is no file"),
    ],
)
def test_errors_are_one_line(refused, arguments: tuple[str, ...], says: str) -> None:  # type: ignore[no-untyped-def]
    refused(says, *arguments)


def test_models_lists_every_model(lrcsim) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("models", "--dtype", "q4_k_m")
    assert outcome.code == 0
    assert all(name in outcome.out for name in model_names())
    row = next(line for line in outcome.out.splitlines() if line.startswith("qwen3-30b-a3b")).split()
    assert row[1:] == ["48", "8/128", "30.53", "3.35", "2.7", "MiB", "q4_k_m"]
    row = next(line for line in outcome.out.splitlines() if line.startswith("deepseek-v3 ")).split()
    assert row[1:3] == ["58/61", "8/256+1"]
    assert all(len(line) <= 80 for line in outcome.out.splitlines() if "MiB" in line)


def test_one_model(lrcsim) -> None:  # type: ignore[no-untyped-def]
    out = lrcsim("models", "deepseek-ai/DeepSeek-V3").out
    assert "61, 58 of them MoE with 256 experts, 8 per token, 1 shared" in out
    assert "compressed keys and values of 512 + 64" in out
    assert "expert 42.0 MiB" in out


def test_models_json(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert len(json.loads(lrcsim("models", "--json", "-").out)) == len(model_names())
    one = json.loads(lrcsim("models", "qwen3-30b-a3b", "--dtype", "q4_k_m", "--json", "-").out)
    assert one["bytes"]["expert"][5:7] == [3_059_712, 2_654_208]
    assert one["total_params"] == 30_531_911_680
    path = tmp_path / "Own"
    path.mkdir()
    config = {"model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512}
    config |= {"num_local_experts": 4, "num_experts_per_tok": 2, "num_attention_heads": 4, "vocab_size": 100}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    own = json.loads(lrcsim("models", path / "config.json", "--json", "-").out)
    assert own["name"] == "Own"
    assert own["bytes"]["expert"] == [2 * 3 * 256 * 512] * 2
