"""Filter, best, Pareto front and pivot of a table made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.sweeps import query

ROWS = [
    # policy, cache, hit_rate, tokens/s, GPU bytes
    ("lru", "1x", 0.2, 10.0, 100),
    ("lru", "2x", 0.4, 12.0, 200),
    ("lfu", "1x", 0.3, 9.0, 100),
    ("lfu", "2x", 0.4, 14.0, 200),
    ("arc", "2x", None, 13.0, 300),
]
NAMES = ("policy", "cache", "hit_rate", "decode_tokens_per_s", "gpu_bytes")
TABLE = pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) | {"run": str(i)} for i, row in enumerate(ROWS)])


def runs(table: pa.Table) -> list[int]:
    return [int(run) for run in table["run"].to_pylist()]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("policy = 'lru'", [0, 1]),
        ("hit_rate >= 0.4 and gpu_bytes = 200", [1, 3]),
        ("hit_rate is null or cache like '1%'", [0, 2, 4]),
        ("policy in ('arc', 'lfu') and not (cache = '1x')", [3, 4]),
        ("decode_tokens_per_s > (select avg(decode_tokens_per_s) from runs)", [1, 3, 4]),
        ("1 = 0", []),
    ],
)
def test_where(condition: str, expected: list[int]) -> None:
    assert runs(query.where(TABLE, condition)) == expected


def test_where_keeps_types() -> None:
    assert query.where(TABLE, "1 = 0").schema.equals(TABLE.schema)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("polcy = 'lru'", "no such column: polcy; did you mean 'policy'?"),
        ("policy = ", "syntax error"),
        ("1); drop table runs; --", "one statement at a time"),
        ("(select load_extension('x'))", "not"),
    ],
)
def test_a_condition_that_is_none(condition: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        query.where(TABLE, condition)
    assert said in str(error.value)


def test_best() -> None:
    assert runs(query.best(TABLE, "decode_tokens_per_s")) == [3]
    assert runs(query.best(TABLE, "decode_tokens_per_s", ["policy"])) == [1, 3, 4]
    assert runs(query.best(TABLE, "hit_rate", ["cache"])) == [2, 1]  # of equal ones the first; none without a value
    assert runs(query.best(TABLE, "gpu_bytes", ["policy"])) == [0, 2, 4]  # less is better
    assert runs(query.best(TABLE, "gpu_bytes:max")) == [4]


def test_pareto() -> None:
    """3 is best; 0 makes do with fewer bytes; 2 is slower than 0 in the same; 1 and 4 are beaten by 3."""
    assert runs(query.pareto(TABLE, ["decode_tokens_per_s", "gpu_bytes"])) == [3, 0]
    assert runs(query.pareto(TABLE, ["gpu_bytes", "decode_tokens_per_s"])) == [0, 3]
    assert runs(query.pareto(TABLE, ["hit_rate", "decode_tokens_per_s:min"])) == [1, 2]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=30))
def test_pareto_is_what_nothing_beats(points: list[tuple[int, int, int]]) -> None:
    schema = pa.schema([("run", pa.string()), ("a", pa.int64()), ("b", pa.int64()), ("c", pa.int64())])
    rows = [{"run": str(i), "a": a, "b": b, "c": c} for i, (a, b, c) in enumerate(points)]
    front = runs(query.pareto(pa.Table.from_pylist(rows, schema=schema), ["a:max", "b:max", "c:max"]))

    def beats(p: Any, q: Any) -> bool:
        return all(x >= y for x, y in zip(p, q, strict=True)) and p != q

    expected = {p for p in points if not any(beats(q, p) for q in points)}
    assert {points[i] for i in front} == expected
    assert len(front) == len(expected)  # of equal ones the first


def test_pivot() -> None:
    found = query.pivot(TABLE, "policy", "cache", "hit_rate")
    assert (found.rows, found.columns) == (["lru", "lfu", "arc"], ["1x", "2x"])
    assert found.cells == [[0.2, 0.4], [0.3, 0.4], [None, None]]
    with pytest.raises(
        ConfigError, match="several runs have cache '1x' and gpu_bytes 100; two of them differ in policy"
    ):
        query.pivot(TABLE, "cache", "gpu_bytes", "hit_rate")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: query.best(TABLE, "hit_rat"), "no column 'hit_rat'; did you mean 'hit_rate'?"),
        (lambda: query.best(TABLE, "hit_rate", ["polcy"]), "did you mean 'policy'?"),
        (lambda: query.best(TABLE, "policy:max"), "policy is text"),
        (lambda: query.best(TABLE, "run"), "is more or less of run better? write run:max or run:min"),
        (lambda: query.best(TABLE, "hit_rate:up"), "write hit_rate:max or hit_rate:min"),
        (lambda: query.pareto(TABLE, ["hit_rate"]), "weighs two columns or more"),
        (lambda: query.pivot(TABLE, "policy", "cach", "hit_rate"), "did you mean 'cache'?"),
    ],
)
def test_one_line_each(ask: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        ask()
    assert said in str(error.value)


def test_nothing_is_nan() -> None:
    assert not np.isnan(query.best(TABLE, "hit_rate")["hit_rate"].to_numpy()).any()
