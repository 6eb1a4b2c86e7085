"""Cache sizes: every form, both scopes, and what is refused."""

from __future__ import annotations

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.simulator import resolve_capacity
from lrcsim.simulator.cache.capacity import CacheSize, Scope, bytes_of, parse_bytes
from lrcsim.traces import LayerTable

EQUAL = LayerTable.build(4, 64, 8, expert_bytes=1000)
UNEQUAL = LayerTable.build(3, [8, 16, 4], [2, 4, 1], expert_bytes=[100, 200, 300])
UNKNOWN = LayerTable.build(2, 10, 3)


@pytest.mark.parametrize(
    ("size", "scope", "layers", "expected"),
    [
        ("2x", "layer", EQUAL, [16] * 4),  # 2 * 8
        ("2x", "model", EQUAL, [64]),  # 2 * 4 * 8
        ("1.5x", "layer", UNKNOWN, [4, 4]),  # 4.5 rounded down
        ("2x", "layer", UNEQUAL, [4, 8, 2]),
        ("2x", "model", UNEQUAL, [14]),  # 2 * (2 + 4 + 1)
        (16, "layer", EQUAL, [16] * 4),
        ("16", "model", EQUAL, [16]),
        (16.0, "model", EQUAL, [16]),
        (0, "layer", EQUAL, [0] * 4),
        ("0x", "model", EQUAL, [0]),
        ("25%", "layer", EQUAL, [16] * 4),
        ("25%", "model", EQUAL, [64]),
        ("100%", "layer", UNEQUAL, [8, 16, 4]),
        ("29%", "model", LayerTable.build(1, 100, 1), [29]),  # 0.29 * 100 is 28.999999999999996
        ("8000B", "model", EQUAL, [8]),
        ("8kB", "layer", EQUAL, [2] * 4),  # 2,000 bytes each
        ("9.99 kB", "layer", EQUAL, [2] * 4),
        ("1KiB", "model", EQUAL, [1]),
        ("3000B", "layer", UNEQUAL, [10, 5, 3]),  # 1,000 bytes each
        ([1, 2, 3, 4], "layer", EQUAL, [1, 2, 3, 4]),
        (["1x", "25%", 3], "layer", UNEQUAL, [2, 4, 3]),
        ("1x,25%,3", "layer", UNEQUAL, [2, 4, 3]),
        (["500B", "500B", "500B"], "layer", UNEQUAL, [5, 2, 1]),  # in a list, bytes are the layer's own
    ],
)
def test_slots(size: CacheSize, scope: Scope, layers: LayerTable, expected: list[int]) -> None:
    pools = resolve_capacity(size, layers, scope)
    assert [pool.capacity for pool in pools] == expected
    assert all(pool.bytes_per_expert is None for pool in pools)
    assert [layer for pool in pools for layer in pool.layers] == list(range(len(layers)))


def test_bytes_of_unequal_experts_in_one_pool_stay_bytes() -> None:
    (pool,) = resolve_capacity("1MiB", UNEQUAL, "model")
    assert (pool.capacity, pool.bytes_per_expert, pool.layers) == (2**20, (100, 200, 300), (0, 1, 2))


@pytest.mark.parametrize(
    ("size", "scope", "layers", "message"),
    [
        ("2y", "layer", EQUAL, "not understood"),
        ("", "layer", EQUAL, "not understood"),
        ("-1", "layer", EQUAL, "not understood"),
        ("-2x", "layer", EQUAL, "not understood"),
        ("nan", "layer", EQUAL, "not understood"),
        ("1e3", "layer", EQUAL, "not understood"),
        ("x", "layer", EQUAL, "not understood"),
        ("1.2.3MiB", "layer", EQUAL, "not understood"),
        (True, "layer", EQUAL, "not understood"),
        (None, "layer", EQUAL, "not understood"),
        (1.5, "layer", EQUAL, "no whole number"),
        (float("inf"), "layer", EQUAL, "no whole number"),
        ("0%", "layer", EQUAL, "out of range"),
        ("101%", "layer", EQUAL, "out of range"),
        ("4GiB", "layer", UNKNOWN, "does not say how large an expert is"),
        ([1, 2], "layer", EQUAL, "has 2 entries, the model has 4"),
        ([], "layer", EQUAL, "has 0 entries"),
        ([1, 2, 3, 4], "model", EQUAL, "one pool"),
        ("16", "modle", EQUAL, "did you mean 'model'"),
    ],
)
def test_refused(size: CacheSize, scope: Scope, layers: LayerTable, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_capacity(size, layers, scope)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("4000 MiB", 4000 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("7b", 7),
        ("7", None),
        ("7 bits", None),
    ],
)
def test_parse_bytes(text: str, expected: int | None) -> None:
    assert parse_bytes(text) == expected


BY_EXPERT = LayerTable.build(2, [3, 2], [1, 1], expert_bytes=[[4, 2, 1], [3, 3, 0]])


def test_each_expert_takes_its_own_bytes() -> None:
    (pool,) = resolve_capacity("9B", BY_EXPERT, "model")
    assert (pool.capacity, pool.bytes_per_expert, pool.by_expert) == (9, (4, 2, 1, 3, 3, 0), True)
    assert pool.cost(3).tolist() == [4, 2, 1, 3, 3, 0]
    first, second = resolve_capacity("9B", BY_EXPERT, "layer")  # half each, rounded down
    assert (first.capacity, first.cost(3).tolist()) == (4, [4, 2, 1])
    assert (second.capacity, second.cost(3).tolist(), second.by_expert) == (4, [3, 3, 0], True)
    assert [pool.capacity for pool in resolve_capacity("5B,6B", BY_EXPERT, "layer")] == [5, 6]
    # slots are slots, each as large as the largest expert of its pool
    slots = resolve_capacity("1,2", BY_EXPERT, "layer")
    assert [(pool.capacity, pool.by_expert, pool.cost(3).tolist()) for pool in slots] == [
        (1, False, [1, 1, 1]),
        (2, False, [1, 1, 1]),
    ]
    assert bytes_of(slots, BY_EXPERT) == 4 + 6
    assert bytes_of(resolve_capacity("2x", BY_EXPERT, "model"), BY_EXPERT) == 13  # 4 slots of 4, of 13 bytes in all
    assert bytes_of([pool], BY_EXPERT) == 9
    assert bytes_of(resolve_capacity("99B", BY_EXPERT, "model"), BY_EXPERT) == 13
    (layers,) = resolve_capacity("900B", UNEQUAL, "model")
    assert (layers.by_expert, layers.cost(4).tolist()) == (False, [100] * 4 + [200] * 4 + [300] * 4)
    with pytest.raises(ConfigError, match="in bytes for some layers and in experts for others"):
        resolve_capacity("5B,1x", BY_EXPERT, "layer")
