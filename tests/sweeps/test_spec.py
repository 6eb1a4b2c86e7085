"""What a specification says: which runs, in which order, and what is said about a wrong one."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.simulator import simulate
from lrcsim.sweeps import divide, make_plan, read_spec
from lrcsim.sweeps.checks import check_values
from lrcsim.sweeps.columns import MEASURED, schema
from lrcsim.sweeps.options import options


def test_a_grid_is_every_combination_the_last_key_changing_fastest() -> None:
    spec = read_spec({"grid": {"policy": ["lru", "lfu"], "cache": ["1x", 16]}})
    assert spec.runs == [
        {"cache": "1x"},  # lru is the default: a run is told nothing that it does not have to be
        {"cache": "16"},
        {"policy": "lfu", "cache": "1x"},
        {"policy": "lfu", "cache": "16"},
    ]


def test_defaults_grids_and_runs_together() -> None:
    spec = read_spec(
        {
            "defaults": {"scope": "model", "cache": "4x"},
            "grid": [{"policy": ["lfu", "slru"]}, {"policy": "arc", "scope": ["layer", "default"]}],
            "runs": [{"policy": "belady", "cache": [8, 16]}],
        }
    )
    assert spec.runs == [
        {"scope": "model", "cache": "4x", "policy": "lfu"},
        {"scope": "model", "cache": "4x", "policy": "slru"},
        {"cache": "4x", "policy": "arc"},
        {"cache": "4x", "policy": "arc"},
        {"scope": "model", "cache": "8,16", "policy": "belady"},  # in [[runs]] a list is one value
    ]
    assert len(divide(spec).runs) == 4  # the same run twice is done once


def test_single_hardware_values_quoted_or_not(tmp_path: Path) -> None:
    for text in ('pcie.bandwidth = ["12GB/s", "25GB/s"]', '"pcie.bandwidth" = ["12GB/s", "25GB/s"]'):
        (tmp_path / "s.toml").write_text(f'[grid]\nhardware = "rtx-4090"\n{text}\ndram = "8GiB"\nnvme = "nvme-gen4"\n')
        spec = read_spec(tmp_path / "s.toml")
        assert spec.runs == [
            {"hardware": "rtx-4090", "pcie.bandwidth": speed, "dram": "8GiB", "nvme": "nvme-gen4"}
            for speed in ("12GB/s", "25GB/s")
        ]
        assert spec.hardware_keys == ["pcie.bandwidth", "nvme"]


def test_values_of_a_link_of_any_name(tmp_path: Path) -> None:
    numbers = 'bandwidth = "30 GB/s"\nlatency = 0\noverhead = 0\nlanes = 1\n'
    path = f'base = "rtx-4090"\n[[links]]\nname = "cxl"\n{numbers}[[links]]\nname = "pcie"\n'
    (tmp_path / "cxl.toml").write_text(path, encoding="utf-8")
    for text in ('cxl.bandwidth = ["12GB/s"]', '"cxl.bandwidth" = ["12GB/s"]'):
        (tmp_path / "s.toml").write_text(f'[grid]\nhardware = "cxl.toml"\n{text}\n', encoding="utf-8")
        spec = read_spec(tmp_path / "s.toml")
        assert spec.hardware_keys == ["cxl.bandwidth"]
        check_values(spec)
        (tmp_path / "s.toml").write_text(f'[grid]\nhardware = "rtx-4090"\n{text}\n', encoding="utf-8")
        with pytest.raises(ConfigError, match=r"cxl\.bandwidth is no key of a profile"):
            check_values(read_spec(tmp_path / "s.toml"))


def test_every_option_of_simulate_can_be_swept() -> None:
    left_out = {"progress", "record", "log", "samples", "overrides"}
    assert set(options()) == set(inspect.signature(simulate).parameters) - left_out
    assert {name: options()[name].kind for name in ("warm", "batch", "cache", "overlap", "speculative")} == {
        "warm": "flag", "batch": "count", "cache": "text", "overlap": "flag", "speculative": "text",
    }  # fmt: skip


def test_no_column_stands_twice() -> None:
    names = schema(["pcie.bandwidth"]).names
    assert len(names) == len(set(names))
    assert {column.name for column in MEASURED} <= set(names)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "there is nothing to run: give a [grid] or [[runs]]"),
        ({"gird": {}}, "there is no table 'gird'; did you mean 'grid'?"),
        ({"policy": ["lru"]}, "write it under [grid] or [defaults]"),
        ({"grid": {"polcy": ["lru"]}}, "[grid]: 'polcy' is nothing that a sweep can set; did you mean 'policy'?"),
        ({"grid": {"policy": []}}, "[grid]: policy has no values"),
        ({"grid": {"policy": ["lruu"]}}, "policy: there is no policy 'lruu'; did you mean 'lru'?"),
        ({"grid": {"policy": ["sch-lookahead:0"]}}, "policy: sch-lookahead: m must be at least 1"),
        ({"grid": {"cache": ["2y"]}}, "cache: cache size '2y' is not understood"),
        (
            {"grid": {"scope": ["layers"]}},
            "scope: scope 'layers' is not known, use layer, model; did you mean 'layer'?",
        ),
        ({"grid": {"access": ["papr"]}}, "did you mean 'paper'?"),
        ({"grid": {"prefill": ["chunk:0"]}}, "prefill"),
        ({"grid": {"warm": ["yes"]}}, "[grid]: warm is true or false, given 'yes'"),
        ({"grid": {"batch": ["2"]}}, "[grid]: batch is a whole number, given '2'"),
        ({"grid": {"batch": [True]}}, "[grid]: batch is a whole number, given True"),
        ({"grid": {"policy": [{"name": "lru"}]}}, "[grid]: policy is text, given {'name': 'lru'}"),
        ({"grid": {"trace": ["none.h5"]}}, "none.h5"),
        ({"grid": {"trace": ["bundled:genrated"]}}, "did you mean 'bundled:generated'?"),
        ({"grid": {"expert_bytes": ["2.5MeB"]}}, "expert_bytes: '2.5MeB' is no size"),
        ({"grid": {"hardware": ["rtx-4091"]}}, "hardware: there is no hardware profile 'rtx-4091'"),
        ({"grid": {"dtype": ["q4_k_m"]}}, "dtype is about time: name a machine with it"),
        ({"grid": {"pcie.bandwidth": ["1GB/s"]}}, "pcie.bandwidth is about time: name a machine with it"),
        ({"grid": {"hardware": "rtx-4090", "pcie.bandwith": ["1GB/s"]}}, "did you mean 'pcie.bandwidth'?"),
        ({"grid": {"hardware": "rtx-4090", "pcie": {"bandwith": 1}}}, "did you mean 'pcie.bandwidth'?"),
        ({"grid": {"hardware": "rtx-4090", "pcie.bandwidth": ["1GB"]}}, "'1GB' is in bytes: expected bytes/s"),
        ({"grid": {"hardware": "rtx-4090", "nvme": ["nvme-gen9"]}}, "is no component for nvme"),
        ({"grid": {"hardware": "rtx-4090", "miss": ["lod"]}}, "miss: miss action 'lod' is not known"),
        ({"grid": {"hardware": "rtx-4090", "prefetch": ["temporl"]}}, "did you mean 'temporal'?"),
        ({"grid": {"hardware": "rtx-4090", "dtype": ["q4_k_n"]}}, "did you mean 'q4_k_m'?"),
        ({"grid": {"hardware": "rtx-4090", "model": ["olmo"]}}, "model: there is no model 'olmo'"),
        ({"grid": {"hardware": "rtx-4090", "engine": ["evnts"]}}, "did you mean 'events'?"),
        ({"runs": {"policy": "lru"}}, "write each run under [[runs]]"),
        ({"grid": 3}, "[grid]"),
        ({"runs": [3]}, "[[runs]] 1: is a table of KEY = VALUE, given 3"),
    ],
    ids=str,
)
def test_one_line_each_before_anything_runs(table: dict[str, Any], said: str) -> None:
    with pytest.raises(LrcsimError) as error:
        divide(read_spec(table))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_spec(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[grid\n")
    with pytest.raises(LrcsimError, match=r"s\.toml is no TOML"):
        read_spec(tmp_path / "s.toml")
    with pytest.raises(LrcsimError, match="cannot be read: No such file"):
        read_spec(tmp_path / "none.toml")


def test_a_run_is_known_by_all_that_its_result_depends_on(folder: Path) -> None:
    table = {"runs": [{"trace": "round.h5", "policy": "mine.py:Watched"}, {"trace": "round.h5", "policy": "lfu"}]}

    def keys() -> list[str]:
        return [run.key for run in divide(read_spec(table, folder)).runs]

    before = keys()
    assert keys() == before
    (folder / "mine.py").write_text((folder / "mine.py").read_text() + "\n# another rule\n")
    after = keys()
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)
    (folder / "round.h5").write_bytes((folder / "round.h5").read_bytes() + b"\0")
    assert set(keys()).isdisjoint(after)


def test_the_specifications_of_the_docs_can_be_run() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "sweeps.md"
    specs = re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert [len(divide(read_spec(tomllib.loads(spec))).runs) for spec in specs] == [27]


def test_the_name_of_0_1_is_the_same_function() -> None:
    assert make_plan is divide
