"""What recorders write by mistake is told by `lrcsim trace check`; what models do is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trace_files import random_experts

from lrcsim.traces import RoutingTrace
from lrcsim.traces.artefacts import Artefacts
from lrcsim.traces.check import check_tokens
from lrcsim.traces.examine import examine_file
from lrcsim.traces.importers import import_trace

RNG = np.random.default_rng(0)


def warnings(experts: np.ndarray, *, num_experts: int = 16, block: int = 16_384, **given: Any) -> list[str]:
    """Stream a trace by in blocks and return what is said."""
    trace = RoutingTrace.from_arrays(experts, num_experts=num_experts, **given)
    seen = Artefacts(trace.layers, trace.offsets)
    for low in range(0, trace.num_tokens, block):
        columns = {name: trace.read(name, low, min(low + block, trace.num_tokens)) for name in trace.columns}
        assert check_tokens(columns, trace.layers, low) == []
        seen.see(columns, low)
    return [str(problem) for problem in seen.warnings()]


def strided(tokens: int, layers: int, experts: int, k: int) -> np.ndarray:
    """``argsort(logits)[:, :k]`` whose memory is read as if it were [tokens, k], layer by layer.

    By hand for 2 tokens of 4 experts, top-2: rankings 2 0 3 1 and 1 3 0 2 stand one after the other in memory; the
    first 4 numbers are read as 2 0 (token 0) and 3 1 (token 1): a permutation of all experts.
    """
    ranking = random_experts(RNG, tokens, layers, experts, experts)
    return np.stack([ranking[:, layer].ravel()[: tokens * k].reshape(tokens, k) for layer in range(layers)], axis=1)


@pytest.mark.parametrize(("experts", "k"), [(16, 2), (64, 8), (128, 8), (60, 4), (8, 2)])
def test_a_strided_view_read_as_contiguous(experts: int, k: int) -> None:
    found = warnings(strided(200, 4, experts, k), num_experts=experts)
    assert len(found) == 1
    assert "strided" in found[0]
    assert found[0].startswith("token 0, all layers: no expert comes twice in")


def test_a_strided_view_in_some_layers_of_each_prompt() -> None:
    good = random_experts(RNG, 120, 4, 16, 2)
    for start in (0, 60):
        good[start : start + 40, 2] = strided(40, 1, 16, 2)[:, 0]
    phase = np.tile(np.arange(60) >= 40, 2).astype(np.uint8)
    (found,) = warnings(good, offsets=[0, 60, 120], phase=phase)
    assert "layer 2:" in found


def rows(change: Callable[[np.ndarray], None]) -> np.ndarray:
    made = random_experts(RNG, 100, 4, 16, 2)
    change(made)
    return made


def repeat(made: np.ndarray) -> None:
    made[60:] = made[60]


def double(made: np.ndarray) -> None:
    made[21:81:2] = made[20:80:2]


def fill(made: np.ndarray) -> None:
    made[90:] = [0, 1]


def constant(made: np.ndarray) -> None:
    made[:, 1] = np.where(RNG.random((100, 1)) < 0.5, [[3, 7]], [[7, 3]])


def copy(made: np.ndarray) -> None:
    made[:, 3] = made[:, 1]


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (repeat, "token 60", "40 tokens have the routing of the token before them in all layers, up to 40 in a row"),
        (double, "token 20", "30 of 100 tokens have the routing of the token before them in all layers: rows written"),
        (fill, "token 90", "10 tokens use experts 0, 1, 2 ..."),
        (constant, "layer 1", "routes all 100 tokens to the same 2 experts"),
        (copy, "layer 3", "exactly the routing of layer 1"),
    ],
)
def test_rows_and_layers(change: Callable[[np.ndarray], None], place: str, message: str) -> None:
    made = rows(change)
    for block in (1, 7, 16_384):
        found = warnings(made, block=block)
        assert any(line.startswith(f"{place}: ") and message in line for line in found), found
        assert found == warnings(made)


def test_numbers_that_do_not_fit() -> None:
    good = random_experts(RNG, 1_000, 4, 16, 2)
    assert "no id above 15 occurs" in warnings(good, num_experts=64)[0]
    assert "ids count from 1" in warnings(good + 1, num_experts=17)[0]
    assert "are the axes [layers, tokens, k]" in warnings(good[:3].transpose(0, 1, 2).repeat(1, 0)[:, :4])[0]
    assert "take turns" in warnings(good, phase=np.arange(1_000) % 2)[0]
    assert "they were not recorded" in warnings(good, weights=np.full(good.shape, 0.5))[0]
    rising = np.sort(RNG.random(good.shape), axis=2)
    assert "worst first" in warnings(good, weights=rising)[0]
    assert warnings(good, weights=rising[:, :, ::-1]) == []


@settings(max_examples=50)
@given(
    tokens=st.integers(8, 300),
    layers=st.integers(1, 8),
    experts=st.sampled_from([4, 8, 16, 60, 64]),
    k=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    skew=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_random_routing_shows_no_sign(tokens: int, layers: int, experts: int, k: int, seed: int, skew: float) -> None:
    """Even where a few experts are far more popular than others."""
    rng = np.random.default_rng(seed)
    scores = rng.gumbel(size=(tokens, layers, experts)) + skew * rng.normal(size=(layers, experts))
    made = np.argsort(-scores, axis=2)[:, :, : min(k, experts - 1)]
    sets = np.sort(made, axis=2)
    assume(not (sets == sets[0]).all(axis=(0, 2)).any())  # a constant layer is one, by chance too
    assert warnings(made, num_experts=experts) == []


def test_real_traces_show_no_sign(tmp_path: Path) -> None:
    for name in (None, "bundled:teacher-forced"):
        with RoutingTrace.open(name) as trace:
            assert trace.path is not None
            assert examine_file(trace.path) == ([], [])


def test_shared_traces_show_no_sign(shared_traces: Path, tmp_path: Path) -> None:
    for name in ("gpt-oss-20b.decode.npz", "qwen3-30b-a3b.route.csv"):
        import_trace(shared_traces / name, tmp_path / "t.h5")
        assert examine_file(tmp_path / "t.h5") == ([], [])
    for path in sorted(shared_traces.parent.glob("family-h200/*/*.h5")):
        assert examine_file(path) == ([], []), path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("artefact_topk_view_contiguous.npz", "strided"),
        ("artefact_decode_all_equal.npz", "routing of the token before them"),
        ("artefact_padding_rows.npz", "experts 0, 1, 2 ..."),
        ("layer_first.npz", "axes"),
    ],
)
def test_recorded_artefacts(name: str, message: str, reliability: Path, tmp_path: Path, lrcsim: Any) -> None:
    import_trace(reliability.parent / name, tmp_path / "t.h5")
    outcome = lrcsim("trace", "check", tmp_path / "t.h5")
    assert outcome.code == 0
    assert "good, " in outcome.out
    assert message in outcome.out


def test_the_command_line_lists_them(tmp_path: Path, lrcsim: Any) -> None:
    RoutingTrace.from_arrays(rows(repeat), num_experts=16).save(tmp_path / "t.h5")
    outcome = lrcsim("trace", "check", tmp_path / "t.h5")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].endswith("good, 100 tokens in 1 request, with 1 warning:")
    assert outcome.out.splitlines()[1].startswith("Warning: token 60: ")
    report = json.loads(lrcsim("trace", "check", tmp_path / "t.h5", "--json", "-").out)
    assert report["good"] is True
    assert report["problems"] == []
    assert [warning["where"] for warning in report["warnings"]] == ["token 60"]
