"""Every rule of `check_tokens`, `check_shapes` and `check_offsets`: the least bad example, the good one beside it."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pytest

from lrcsim.traces import LayerTable, RoutingTrace, check_file, repeats
from lrcsim.traces.check import Problem, check_offsets, check_shapes, check_tokens

LAYERS = LayerTable.build(2, [4, 3], [2, 1])
"""Layer 0: 4 experts, top-2; layer 1: 3 experts, top-1, so that its second rank is never used."""

STACKS = LayerTable.build(2, 4, 1, stack=[0, 1], stack_names=("encoder", "decoder"))

GOOD = [[[3, 0], [2, -1]], [[-1, -1], [0, -1]], [[1, -1], [-1, -1]]]
"""The largest ids that there are, the least, and -1 wherever it may stand."""

NAN, INF = float("nan"), float("inf")


def changed(place: tuple[int, ...], value: float, data: Any = GOOD, dtype: Any = np.int64) -> np.ndarray:
    """Return an array with one of its values changed."""
    array = np.array(data, dtype)
    array[place] = value
    return array


def found(columns: dict[str, Any], layers: LayerTable = LAYERS, **options: Any) -> list[str]:
    arrays = {name: np.asarray(data) for name, data in columns.items()}
    return [str(problem) for problem in check_tokens(arrays, layers, 10, **options)]


def test_a_good_run_has_no_problems() -> None:
    assert found({"experts": GOOD}) == []
    assert found({"experts": np.array(GOOD, np.int16)}) == []
    assert found({"experts": np.zeros((0, 2, 2), int), "phase": np.zeros(0, int)}) == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((0, 0, 0), 4, "token 10, layer 0: expert id 4, allowed 0..3 or -1 for not recorded"),
        ((2, 1, 0), 3, "token 12, layer 1: expert id 3, allowed 0..3 or -1 for not recorded"),  # layer 1 has three
        ((1, 0, 0), -2, "token 11, layer 0: expert id -2, allowed 0..3 or -1 for not recorded"),
        ((1, 1, 1), 1, "token 11, layer 1: expert id 1 at a rank beyond the layer's top-k"),
        ((0, 0, 1), 3, "token 10, layer 0: expert 3 stands twice in one token's top-k"),
    ],
)
def test_ids_of_experts(place: tuple[int, ...], value: int, said: str) -> None:
    assert found({"experts": changed(place, value)}) == [said]


def test_ids_below_where_none_is_too_large() -> None:
    layers = LayerTable.build(1, 4, 1)
    assert found({"experts": [[[-1]]], "predictions/1": [[[-1]]]}, layers) == []
    assert found({"experts": [[[-2]]]}, layers) == [
        "token 10, layer 0: expert id -2, allowed 0..3 or -1 for not recorded"
    ]
    assert found({"predictions/1": [[[-2]]]}, layers) == ["token 10, layer 0: predicted expert id -2 out of range"]


def test_repeats_are_looked_for_unless_not_wanted_and_counted_by_token_and_layer() -> None:
    layers = LayerTable.build(1, 4, 3)
    twice = {"experts": [[[1, 1, 1]], [[0, 1, 2]], [[2, 0, 2]], [[-1, -1, 0]]]}
    assert found(twice, layers) == [
        "token 10, layer 0: expert 1 stands twice in one token's top-k (and 1 more like it)"
    ]
    assert found(twice, layers, repeats=False) == []


def test_repeats_are_found_in_every_part_of_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four rows at a time: the tenth stands in the last part, which is not full.
    monkeypatch.setattr(repeats, "ROWS_AT_ONCE", 4)
    for row in range(10):
        ids = np.tile([0, 1], (10, 1, 1))
        ids[row] = 1
        assert found({"experts": ids}, LayerTable.build(1, 4, 2)) == [
            f"token {10 + row}, layer 0: expert 1 stands twice in one token's top-k"
        ]


def test_an_id_is_shown_as_a_file_stores_it() -> None:
    # uint16 65,000 is -536 as int16.
    (said,) = found({"experts": changed((0, 0, 0), -536, dtype=np.int16)})
    assert said.startswith("token 10, layer 0: expert id 65000, allowed")


def test_the_first_place_is_named_and_all_are_counted() -> None:
    bad = changed((2, 0, 0), 9)
    bad[1, 0, 1], bad[1, 1, 0] = 8, 7
    said = "token 11, layer 5: expert id 8, allowed 0..3 or -1 for not recorded (and 2 more like it)"
    assert found({"experts": bad}, first_layer=5) == [said]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_router_weights(value: float) -> None:
    weights = np.full((3, 2, 2), 0.5)
    assert found({"experts": GOOD, "weights": weights}) == []
    # Where nothing is recorded a weight says nothing: token 1 has no expert in layer 0, layer 1 no second rank.
    weights[1, 0, :] = weights[0, 1, 1] = value
    assert found({"experts": GOOD, "weights": weights}) == []
    weights[2, 0, 0] = value
    assert found({"experts": GOOD, "weights": weights}) == [
        f"token 12, layer 0: router weight {value}, must be a finite number"
    ]
    # A column by itself is to be good everywhere.
    assert found({"weights": weights}) == [
        f"token 10, layer 1: router weight {value}, must be a finite number (and 3 more like it)"
    ]


def test_router_logits() -> None:
    # Minus infinity is an expert that is masked out; NaN is none, except where a token was not routed.
    logits = np.zeros((3, 2, 4))
    logits[0, 0, 0] = -INF
    logits[1, 0] = logits[2, 1] = NAN
    assert found({"experts": GOOD, "logits": logits}) == []
    logits[1, 1, 3] = NAN
    assert found({"experts": GOOD, "logits": logits}) == ["token 11, layer 1: router logit nan, must be a number"]
    (alone,) = found({"logits": logits})
    assert alone == "token 11, layer 0: router logit nan, must be a number (and 8 more like it)"


def test_router_inputs() -> None:
    inputs = np.zeros((3, 2, 5), np.float16)
    assert found({"experts": GOOD, "router_inputs": inputs}) == []
    inputs[1, 1, 4] = INF  # what float16 makes of 65,520 and more
    assert found({"experts": GOOD, "router_inputs": inputs}) == [
        "token 11, layer 1: router input inf, must be a finite number"
    ]


LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    ("name", "good", "bad", "said"),
    [
        ("phase", [0, 1, 1], 2, "phase 2, allowed 0 (prefill) and 1 (decode)"),
        ("phase", [0, 1, 1], -1, "phase -1, allowed 0 (prefill) and 1 (decode)"),
        ("token_ids", [0, -1, LARGEST], -2, f"token id -2, allowed 0..{LARGEST} or -1 for unknown"),
        ("token_ids", [0, -1, LARGEST], 2**31, f"token id {2**31}, allowed 0..{LARGEST} or -1 for unknown"),
        ("predicted_ids", [0, -1, LARGEST], -2, f"predicted token id -2, allowed 0..{LARGEST} or -1 for unknown"),
        ("kept", [0, 1, 0], 2, "kept 2, allowed 0 and 1"),
        ("kept", [0, 1, 0], -1, "kept -1, allowed 0 and 1"),
        ("step", [0, 1, 2**63 - 1], -1, "step -1, must not be negative"),
        ("sequence", [0, 1, 2**63 - 1], -1, "sequence -1, must not be negative"),
        ("position", [0, 1, 2**63 - 1], -1, "position -1, must not be negative"),
    ],
)
def test_a_number_per_token(name: str, good: list[int], bad: int, said: str) -> None:
    assert found({name: good}) == []
    assert found({name: changed((1,), bad, good)}) == [f"token 11: {said}"]


@pytest.mark.parametrize("bad", [-1, 3, 254])
def test_residency(bad: int) -> None:
    good = [[[0, 1], [2, 255]]]
    said = f"token 10, layer 1: residency {bad}, allowed 0 (miss), 1 (hit), 2 (prefetched), 255 (unknown)"
    assert found({"residency": good}) == []
    assert found({"residency": changed((0, 1, 0), bad, good)}) == [said]


@pytest.mark.parametrize(("layer", "bad"), [(0, 4), (0, -2), (1, 3), (1, -2)])
def test_predictions(layer: int, bad: int) -> None:
    good = [[[3, 0], [2, -1]]]
    assert found({"predictions/1": good}) == []
    said = f"token 10, layer {layer}: predicted expert id {bad} out of range"
    assert found({"predictions/1": changed((0, layer, 1), bad, good)}) == [said]


def test_stacks() -> None:
    # Layer 0 is the encoder's, layer 1 the decoder's.
    experts = [[[3], [-1]], [[-1], [3]]]
    assert found({"experts": experts, "stack": [0, 1]}, STACKS) == []
    assert found({"stack": [0, 1]}, STACKS) == []
    assert found({"stack": [0, 2]}, STACKS) == ["token 11: stack 2, allowed 0..1"]
    assert found({"stack": [-1, 0]}, STACKS) == ["token 10: stack -1, allowed 0..1"]
    foreign = "expert id 3 in a layer of another stack than the token's"
    assert found({"experts": experts, "stack": [0, 0]}, STACKS) == [f"token 11, layer 1: {foreign}"]
    assert found({"experts": experts}, STACKS) == [
        "token 10: has no stack, the model has several (encoder, decoder) (and 1 more like it)"
    ]
    assert found({"experts": GOOD, "stack": [0, 0, 0]}) == []  # of one stack it may be said, or not


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("experts", np.zeros((3, 2, 2)), "experts: is of type float64, must be integers (and 2 more like it)"),
        ("weights", np.zeros((3, 2, 2), int), "weights: is of type int64, must be floating-point numbers"),
        ("logits", np.zeros((3, 2, 4), int), "logits: is of type int64, must be floating-point numbers"),
        ("predictions/1", np.zeros((3, 2, 1)), "predictions/1: is of type float64, must be integers"),
        ("phase", np.zeros(3), "phase: is of type float64, must be integers"),
        ("other", np.array(["a", "b", "c"]), "other: is of type <U1, must be integers"),
    ],
)
def test_kinds_of_numbers(name: str, data: np.ndarray, said: str) -> None:
    (problem,) = found({name: data})
    assert problem.startswith(said)


def test_phases_may_be_booleans_and_unknown_columns_any_numbers() -> None:
    assert found({"phase": [True, False], "other": [0.5, NAN]}) == []


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, "the trace: has no column 'experts'"),
        ({"experts": (3, 2)}, "experts: has shape [3, 2], the table has 2 layers of up to top-2"),
        ({"experts": (3, 1, 2)}, "experts: has shape [3, 1, 2], the table has 2 layers of up to top-2"),
        ({"experts": (3, 2, 1)}, "experts: has shape [3, 2, 1], the table has 2 layers of up to top-2"),
        ({"weights": (3, 2, 3)}, "weights: has shape [3, 2, 3], must be [3, 2, 2]"),
        ({"residency": (2, 2, 2)}, "residency: has shape [2, 2, 2], must be [3, 2, 2]"),
        ({"logits": (3, 2, 3)}, "logits: has shape [3, 2, 3], must be [3, 2, 4]"),
        ({"phase": (2,)}, "phase: has shape [2], must be [3]"),
        ({"phase": (3, 1)}, "phase: has shape [3, 1], must be [3]"),
        ({"predictions/1": (3, 2)}, "predictions/1: has shape [3, 2], must be [3, 2]"),
        ({"router_inputs": (3, 2)}, "router_inputs: has shape [3, 2], must be [3, 2]"),
        ({"router_inputs": (3, 1, 9)}, "router_inputs: has shape [3, 1, 9], must be [3, 2, 9]"),
        ({"predictions/1": (3, 1, 5)}, "predictions/1: has shape [3, 1, 5], must be [3, 2, 5]"),
    ],
)
def test_bad_shapes(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    given = {"experts": (3, 2, 2), **shapes} if shapes else {}
    assert [str(problem) for problem in check_shapes(given, LAYERS, np.array([0, 3]))] == [said]


def test_good_shapes() -> None:
    # The array may have more ranks than any layer uses, predictions as many as they like.
    given = {"experts": (3, 2, 3), "weights": (3, 2, 3), "logits": (3, 2, 4), "phase": (3,), "predictions/2": (3, 2, 7)}
    assert check_shapes(given, LAYERS, np.array([0, 3])) == []
    (problem,) = check_shapes(given, LAYERS, np.array([0, 4]))  # the offsets are looked at too
    assert problem.where == "offsets[-1]"


@pytest.mark.parametrize("offsets", [[0, 3], [0, 1, 3], [0, 0, 3, 3], np.array([0, 3], np.uint8)])
def test_good_offsets(offsets: Any) -> None:
    assert check_offsets(np.asarray(offsets), 3) == []  # a request may be empty


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        ([0.0, 3.0], "offsets: is of type float64, must be integers"),
        ([0], "offsets: needs requests + 1 entries in one dimension, given shape (1,)"),
        ([[0, 3]], "offsets: needs requests + 1 entries in one dimension, given shape (1, 2)"),
        ([1, 3], "offsets[0]: is 1, must be 0"),
        ([0, 2], "offsets[-1]: is 2, must be the number of tokens, 3"),
        ([0, 4], "offsets[-1]: is 4, must be the number of tokens, 3"),
        ([0, 2, 1, 3, 2, 3], "offsets[2]: falls from 2 to 1 (and 1 more like it)"),
    ],
)
def test_bad_offsets(offsets: Any, said: str) -> None:
    assert [str(problem) for problem in check_offsets(np.asarray(offsets), 3)] == [said]


def test_a_problem_in_words() -> None:
    assert str(Problem("here", "is wrong")) == "here: is wrong"
    assert str(Problem("here", "is wrong", 2)) == "here: is wrong (and 1 more like it)"


def test_a_file_is_checked_in_parts_and_like_faults_are_counted_together(tmp_path: Any) -> None:
    # Seven tokens in reads of three. Ids 4 and 9 are one kind of fault, in three places; each kind is told once.
    ids = np.tile([[[0, 1]]], (7, 1, 1))
    trace = RoutingTrace.from_arrays(ids, num_experts=4, phase=[1] * 7)
    trace.save(tmp_path / "good.h5", version=1)
    read: list[tuple[int, int]] = []
    assert check_file(tmp_path / "good.h5", 3, lambda done, all_: read.append((done, all_))) == []
    assert read == [(3, 7), (6, 7), (7, 7)]
    with h5py.File(tmp_path / "good.h5", "r+") as file:
        file["routing/experts"][1, 0, 0] = 4
        file["routing/experts"][4, 0, 0] = file["routing/experts"][5, 0, 1] = 9
        file["routing/experts"][2, 0, 0] = 1
        file["tokens/phase"][6] = 3
    assert [str(problem) for problem in check_file(tmp_path / "good.h5", 3)] == [
        "token 1, layer 0: expert id 4, allowed 0..3 or -1 for not recorded (and 2 more like it)",
        "token 2, layer 0: expert 1 stands twice in one token's top-k",
        "token 6: phase 3, allowed 0 (prefill) and 1 (decode)",
    ]
