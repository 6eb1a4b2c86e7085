"""Which layers ``--layers`` means, and traces of some layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.simulator import simulate
from lrcsim.traces import LayerTable, RoutingTrace, check_file
from lrcsim.traces.choose_layers import choose_layers
from lrcsim.traces.select import select_layers

JETMOE = [f"model.layers.{block}.{part}" for block in range(2) for part in ("self_attention.experts", "mlp")]
"""Two blocks, each with experts inside attention and behind it."""


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("all", [0, 1, 2, 3]),
        ("ffn", [1, 3]),
        ("attention", [0, 2]),
        ("2", [2]),
        ("0-2", [0, 1, 2]),
        ("3, 0,1-1,0", [0, 1, 3]),
        ("*.1.*", [2, 3]),
        ("*mlp", [1, 3]),
        ("model.layers.1.mlp", [3]),
        ("ffn,0", [0, 1, 3]),
    ],
)
def test_by_hand(wanted: str, expected: list[int]) -> None:
    assert choose_layers(wanted, 4, JETMOE) == expected


@given(ranges=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=5))
def test_ranges_are_a_union(ranges: list[tuple[int, int]]) -> None:
    ordered = [(min(pair), max(pair)) for pair in ranges]
    text = ",".join(f"{low}-{high}" for low, high in ordered)
    assert choose_layers(text, 31, None) == [
        layer for layer in range(31) if any(low <= layer <= high for low, high in ordered)
    ]


@pytest.mark.parametrize(
    ("wanted", "names", "message"),
    [
        ("4", JETMOE, "layers '4': the MoE layers are 0-3, counted from 0"),
        ("2-1", JETMOE, "the lower one first"),
        ("fnn", JETMOE, "'fnn' is not known, use numbers .* did you mean 'ffn'"),
        ("", JETMOE, "'' is not known"),
        ("0,", JETMOE, "'' is not known"),
        ("-1", JETMOE, "'-1' is not known"),
        (
            "*.moe.*",
            JETMOE,
            r"none of the 4 MoE layers is meant; they are model.layers.0.self_attention.experts, .*\.\.\.",
        ),
        ("attention", ["h.0.mlp"], "'attention': none of the 1 MoE layers is meant; they are h.0.mlp$"),
        ("ffn", None, "does not name the modules of its layers; give numbers"),
        ("*mlp*", None, "does not name the modules of its layers; give numbers"),
    ],
)
def test_what_means_nothing(wanted: str, names: list[str] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_layers(wanted, 4 if names is None else len(names), names)


def example(provenance: dict[str, Any] | None = None) -> RoutingTrace:
    """Four layers of unlike sizes, three requests with labels, columns with and without an axis of layers."""
    rng = np.random.default_rng(0)
    layers = LayerTable.build(
        4, [8, 6, 8, 4], [3, 2, 3, 1], expert_bytes=[10, 20, 30, 40], dense_bytes=[1, 2, 3, 4], block=[0, 0, 1, 1]
    )
    experts = np.full((40, 4, 3), -1)
    for layer in range(4):
        k, many = int(layers.top_k[layer]), int(layers.num_experts[layer])
        experts[:, layer, :k] = rng.random((40, many)).argsort(axis=1)[:, :k]
    weights = np.where(experts >= 0, 0.25, 0).astype(np.float16)
    return RoutingTrace.from_arrays(
        experts, num_experts=8, layers=layers, offsets=[0, 9, 10, 40], domains=["a", "", "b"], model="toy",
        weights=weights, phase=[0] * 20 + [1] * 20, token_ids=range(40), predictions={2: experts},
        logits=rng.normal(size=(40, 4, 8)).astype(np.float16), router_inputs=rng.normal(size=(40, 4, 11)),
        provenance=provenance,
    )  # fmt: skip


def test_a_trace_of_some_layers(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    whole = example({"layers": JETMOE, "seed": 7})
    whole.save(tmp_path / "in.h5")
    done = lrcsim("trace", "select", tmp_path / "in.h5", "-o", tmp_path / "out.h5", "--layers", "ffn")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{tmp_path / 'out.h5'}: 40 tokens, 2 of 4 MoE layers\n"
    assert check_file(tmp_path / "out.h5") == []
    with RoutingTrace.open(tmp_path / "out.h5") as some:
        assert some.layers.num_experts.tolist() == [6, 4]
        assert some.layers.top_k.tolist() == [2, 1]
        assert (some.layers.expert_bytes is not None, some.layers.dense_bytes is not None) == (True, True)
        assert some.layers.expert_bytes.tolist() == [20, 40]  # type: ignore[union-attr]
        assert some.layers.dense_bytes.tolist() == [2, 4]  # type: ignore[union-attr]
        assert some.layers.block.tolist() == [0, 1]
        assert (some.model, some.domains, some.offsets.tolist()) == ("toy", ["a", "", "b"], [0, 9, 10, 40])
        assert some.provenance == {"layers": [JETMOE[1], JETMOE[3]], "seed": 7, "selected_layers": [1, 3]}
        assert set(some.columns) == set(whole.columns)
        for name, width in {"experts": 2, "weights": 2, "predictions/2": 2, "logits": 6, "router_inputs": 11}.items():
            np.testing.assert_array_equal(some.column(name), whole.column(name)[:, [1, 3], :width])
        for name in ("phase", "token_ids"):
            np.testing.assert_array_equal(some.column(name), whole.column(name))


def test_hits_are_those_of_the_same_layers(tmp_path: Path) -> None:
    whole = example()
    select_layers(whole, tmp_path / "out.h5", "0,2")
    expected = simulate(whole, "lru", 4, bounds=False).counts.misses[:, [0, 2]]
    with RoutingTrace.open(tmp_path / "out.h5") as some:
        np.testing.assert_array_equal(simulate(some, "lru", 4, bounds=False).counts.misses, expected)


def test_refusals(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "in.h5"
    example().save(file)
    with RoutingTrace.open(file) as opened, pytest.raises(TraceError, match="is the trace itself"):
        select_layers(opened, file, "0")
    assert check_file(file) == []
    done = lrcsim("trace", "select", file, "-o", tmp_path / "out.h5", "--layers", "ffn")
    assert done.code == 1
    assert "does not name the modules of its layers; give numbers (0-11)" in done.err
    assert not (tmp_path / "out.h5").exists()
