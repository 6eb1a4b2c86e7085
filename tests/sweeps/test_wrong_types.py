"""Wrong types anywhere in a sweep's specification, and tables that no sweep has written: one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.sweeps import read_spec, read_table
from lrcsim.sweeps.checks import check_values
from lrcsim.sweeps.columns import schema
from lrcsim.sweeps.options import options


def test_a_list_where_one_value_is_wanted(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    """``[defaults] trace = [...]`` is no grid."""
    (tmp_path / "s.toml").write_text('[defaults]\ntrace = ["t.h5", "t.h5"]\n[grid]\npolicy = ["lru"]\n')
    code, out, err = lrcsim("sweep", tmp_path / "s.toml")
    assert (code, out) == (1, "")
    assert err == (
        "Error: s.toml: [defaults]: trace is one value, given a list: only under [grid] are lists several runs\n"
    )


NUMBERS = (None, True, 3, -1, 1.5, float("nan"), float("inf"), 10**20)
OTHERS = ("x", "", "/", "a\0b", [], [[1]], ["a"], [1, "a"], [None], {}, {"a": 1}, object())


@given(
    st.sampled_from([*options(), "pcie.bandwidth", "nvme"]),
    st.sampled_from([*NUMBERS, *OTHERS]),
    st.sampled_from(["defaults", "grid", "runs"]),
)
def test_any_value_anywhere(key: str, value: object, where: str) -> None:
    table = {"hardware": "rtx-3090", key: value}
    spec: dict[str, Any] = {where: [table] if where == "runs" else table}
    if where == "defaults":
        spec["grid"] = {"seed": [0]}
    said = ""
    try:
        check_values(read_spec(spec))
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", 10**20, "is a whole number of 64 bits"),
        ("policy", ["lru"], "is one value, given a list"),
        ("trace", "a\0b", "has a character in it that no name has"),
        ("cache", [2, [3]], "is a list of numbers"),
    ],
)
def test_values_that_no_run_could_use(key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_spec({"runs": [{key: value}]})


def test_a_specification_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("a = " + "[" * 10_000)
    with pytest.raises(ConfigError, match="is nested too deep"):
        read_spec(tmp_path / "s.toml")


def results(**columns: pa.Array) -> pa.Table:
    """Return a table of results of one run, some of its columns otherwise."""
    plain = {field.name: pa.nulls(1, field.type) for field in schema(())}
    plain |= {"run": pa.array(["a"]), "policy": pa.array(["lru"]), "hit_rate": pa.array([0.5])}
    return pa.table(plain | columns)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"a": [1]}), "it has no column 'run'"),
        (pa.table({"run": ["a"]}), "it has no column 'error', 'hit_rate'"),
        (results(run=pa.array([1])), "its column 'run' is int64"),
        (results(run=pa.nulls(1, pa.string())), "rows without a value in column 'run'"),
        (results(error=pa.array([0.5])), "its column 'error' is double"),
        (results(hit_rate=pa.array(["x"])), "its column 'hit_rate' is string"),
        (results(policy=pa.array([["lru"]])), "its column 'policy' is list"),
        (results(x=pa.array([{"a": 1}])), "its column 'x' is struct"),
        (results(x=pa.array([b"x"])), "its column 'x' is binary"),
    ],
)
def test_tables_that_are_no_results(table: pa.Table, said: str, tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    pq.write_table(table, tmp_path / "x.parquet")
    for command in ("results", "report"):
        code, out, err = lrcsim(command, tmp_path / "x.parquet")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert f"x.parquet is no table of results: {said}" in err


def test_a_table_of_results(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    hostile = results(policy=pa.array(["[/b]\x1b[31m"]))
    folder = tmp_path / "policy=x"  # no partition
    folder.mkdir()
    pq.write_table(hostile, folder / "x.parquet")
    assert read_table(folder / "x.parquet")["policy"].to_pylist() == ["[/b]\x1b[31m"]
    code, out, _ = lrcsim("results", folder / "x.parquet")
    assert code == 0
    assert r"policy [/b]\x1b[31m" in out


def test_damaged_tables(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    pq.write_table(results(), tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    for cut in range(4, len(good), 97):
        (tmp_path / "x.parquet").write_bytes(good[:cut])
        code, out, err = lrcsim("results", tmp_path / "x.parquet")
        assert (code, out, err.count("\n")) == (1, "", 1)
