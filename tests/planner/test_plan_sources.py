"""Which trace a plan rests on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned import geometry, local_trace

from lrcsim.base.errors import ConfigError
from lrcsim.models import load_geometry
from lrcsim.planner.locality_transfer import halves
from lrcsim.planner.traces import MOST_TOKENS, Shape, find_sources, same_model, sample, shape_distance
from lrcsim.traces import RoutingTrace


def test_distance_by_hand() -> None:
    # twice the experts: 1; half the top-k: 1; four times the layers: 0.25 x 2
    assert shape_distance(Shape(48, 128, 8), Shape(48, 64, 8)) == 1
    assert shape_distance(Shape(48, 128, 8), Shape(12, 64, 16)) == 1 + 1 + 0.5


shapes = st.builds(Shape, st.integers(1, 100), st.integers(1, 512), st.integers(1, 64))


@given(shapes, shapes, shapes)
def test_distance_is_a_metric(one: Shape, other: Shape, third: Shape) -> None:
    assert shape_distance(one, other) == shape_distance(other, one) >= 0
    assert (shape_distance(one, other) == 0) == (one == other)
    assert shape_distance(one, third) <= shape_distance(one, other) + shape_distance(other, third) + 1e-9


def test_nearest_first_and_own_before_all() -> None:
    near, far = local_trace(3, 16, 2, model="near"), local_trace(3, 64, 8, model="far")
    own = local_trace(3, 8, 2, model="whatever it says")  # given by hand: its shape is enough
    found, notes = find_sources(geometry(), [("far", far), ("near", near)])
    assert [(source.name, source.own) for source in found] == [("near", False), ("far", False)]
    assert found[0].distance == 1
    found, notes = find_sources(geometry(), [("far", far), ("own", own)])
    assert (found[0].name, found[0].own, notes) == ("own", True, [])


def test_ties_go_to_the_longer_trace() -> None:
    short, long = local_trace(3, 16, 2, tokens=40), local_trace(3, 16, 2, tokens=80)
    assert [source.name for source in find_sources(geometry(), [("short", short), ("long", long)])[0]] == [
        "long",
        "short",
    ]


def test_folders_need_the_name_too(tmp_path: Path) -> None:
    local_trace(model="another").save(tmp_path / "a.h5")
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    found, notes = find_sources(geometry(), [], [tmp_path])
    assert [(Path(source.name).name, source.own, source.distance) for source in found] == [("a.h5", False, 0.0)]
    assert len(notes) == 1
    assert "broken.h5 is left out" in notes[0]
    local_trace(model="Toy-Q4_K_M.gguf").save(tmp_path / "b.h5")
    assert [Path(source.name).name for source in find_sources(geometry(), [], [tmp_path])[0]] == ["b.h5", "a.h5"]
    with pytest.raises(ConfigError, match="there is no folder"):
        find_sources(geometry(), [], [tmp_path / "nowhere"])


def test_bundled_where_nothing_is_given() -> None:
    found, _ = find_sources(load_geometry("qwen3-30b-a3b"), [])
    assert [(source.name, source.own) for source in found] == [("bundled:generated", False)]
    tiny, _ = find_sources(load_geometry("lrcsim-toy-baseline"), [])
    assert tiny[0].own


@pytest.mark.parametrize(
    ("name", "model", "same"),
    [
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b", True),
        ("Qwen3-30B-A3B-Q4_K_M.gguf", "qwen3-30b-a3b", True),
        ("gpt-oss-20b", "gpt-oss-120b", False),
        ("unknown", "gpt-oss-20b", False),
    ],
)
def test_same_model(name: str, model: str, same: bool) -> None:
    assert same_model(name, load_geometry(model)) is same


def test_layers_of_unlike_shapes_are_refused() -> None:
    trace = RoutingTrace.from_arrays(np.zeros((2, 2, 1), int), num_experts=[4, 8])
    with pytest.raises(ConfigError, match="--trace odd: its layers differ"):
        find_sources(geometry(), [("odd", trace)])


def test_a_sample_is_whole_requests() -> None:
    trace = local_trace(tokens=200, requests=20)
    part = sample(trace, 50)
    assert part.num_tokens <= 50
    assert set(np.diff(part.offsets)) == {10}
    first = {row.tobytes() for row in trace.experts[::10]}
    assert all(part.experts[low].tobytes() in first for low in part.offsets[:-1])
    assert sample(local_trace(tokens=60, requests=1), 50).num_tokens == 50  # one long request is cut
    assert sample(trace, MOST_TOKENS).num_tokens == 200


def test_halves() -> None:
    one, other = halves(local_trace(tokens=40, requests=4))
    assert (one.num_requests, other.num_requests, one.num_tokens, other.num_tokens) == (2, 2, 20, 20)
    whole = local_trace(tokens=41, requests=1)
    one, other = halves(whole)
    assert np.array_equal(np.concatenate([one.experts, other.experts]), whole.experts)
