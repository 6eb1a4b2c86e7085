"""NumPy arrays as other programs write them, and what must not come in."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_files import imported, make_trace, random_experts

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces import RoutingTrace, check_file
from lrcsim.traces.exporters import export_trace
from lrcsim.traces.importers import Options, import_trace

anywhere = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def experts(seed: int = 1, tokens: int = 6, layers: int = 2, top_k: int = 2) -> np.ndarray:
    return random_experts(np.random.default_rng(seed), tokens, layers, 8, top_k)


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 9), layers=st.integers(1, 4), requests=st.integers(1, 3))
@anywhere
def test_every_layout_is_the_same_trace(seed: int, tokens: int, layers: int, requests: int, tmp_path: Path) -> None:
    whole = [experts(seed + r, tokens, layers) for r in range(requests)]
    joined, offsets = np.concatenate(whole), np.arange(requests + 1) * tokens
    np.save(tmp_path / "a.npy", np.stack(whole).astype(np.int16))
    save(tmp_path / "b.npz", topk_ids=joined.astype(np.float32), offsets=offsets)
    save(tmp_path / "c.npz", routed_experts=np.stack(whole).astype(np.uint8))
    save(tmp_path / "d.npz", **{f"request_{r}": request for r, request in enumerate(whole)})
    save(tmp_path / "e.npz", *[], **{f"layer_{at:02}": joined[:, at] for at in range(layers)}, offsets=offsets)
    save(tmp_path / "f.npz", indices=joined.swapaxes(0, 1), offsets=offsets)
    for name in ("a.npy", "b.npz", "c.npz", "d.npz", "e.npz", "f.npz"):
        if (name == "d.npz" and requests == 1) or (name == "e.npz" and layers == 1):
            continue
        turned = {"layer_first": True} if name == "f.npz" else {}
        back, _ = imported(tmp_path / name, tmp_path, num_experts=8, **turned)
        with back:
            np.testing.assert_array_equal(back.experts, joined, err_msg=name)
            np.testing.assert_array_equal(back.offsets, offsets, err_msg=name)


def test_logits_and_their_largest(tmp_path: Path) -> None:
    # Equal logits go to the lower id.
    logits = np.array([[[0.1, 0.9, 0.9, 0.2]], [[1.0, -1.0, 0.0, 0.5]]], np.float32)
    source = save(tmp_path / "t.npz", router_logits=logits)
    back, report = imported(source, tmp_path, top_k=2)
    with back:
        assert back.experts.tolist() == [[[1, 2]], [[0, 3]]]
        assert back.num_experts == 4
        np.testing.assert_array_equal(back.column("logits"), logits)
    assert not any("num-experts" in notice for notice in report.notices)
    for options, message in [
        ({}, "give --top-k"),
        ({"top_k": 5}, "logits of 4 experts"),
        ({"top_k": 2, "num_experts": 9}, "logits are of 4 experts"),
    ]:
        with pytest.raises(TraceError, match=message):
            import_trace(source, tmp_path / "o.h5", options=Options(**options))
    save(tmp_path / "t.npz", router_logits=np.where(logits > 0.8, np.nan, logits))
    with pytest.raises(TraceError, match="token 0: logits must be finite"):
        import_trace(source, tmp_path / "o.h5", options=Options(top_k=2))


def test_logits_with_the_layers_first(tmp_path: Path) -> None:
    # Two layers of three tokens: the largest of each token in each layer.
    logits = np.array([[[1, 0], [0, 1], [1, 0]], [[0, 1], [0, 1], [1, 0]]], np.float32)
    back, _ = imported(save(tmp_path / "t.npz", router_logits=logits), tmp_path, top_k=1, layer_first=True)
    with back:
        assert back.experts[:, :, 0].tolist() == [[0, 1], [1, 1], [0, 0]]
        np.testing.assert_array_equal(back.column("logits"), logits.swapaxes(0, 1))


def test_arrays_by_layer_keep_the_layers_own_numbers(tmp_path: Path) -> None:
    whole = experts(layers=3)
    source = save(tmp_path / "t.npz", layer_2=whole[:, 0], layer_5=whole[:, 1], layer_10=whole[:, 2])
    back, _ = imported(source, tmp_path)
    with back:
        assert back.layers.block.tolist() == [2, 5, 10]
        np.testing.assert_array_equal(back.experts, whole)


def test_more_layers_than_tokens_is_said(tmp_path: Path) -> None:
    back, report = imported(save(tmp_path / "t.npz", experts=experts(tokens=3, layers=5)), tmp_path)
    back.close()
    assert any("3 tokens of 5 layers" in notice and "--layer-first" in notice for notice in report.notices)
    back, report = imported(tmp_path / "t.npz", tmp_path, layer_first=True)
    with back:
        assert (back.num_tokens, back.num_layers) == (5, 3)
    assert not any("--layer-first" in notice for notice in report.notices)


def test_usage_beside_says_what_ran(tmp_path: Path) -> None:
    # Prompt 4 of which 2 cached, 3 generated: 6 rows, the first two did not run.
    source = save(tmp_path / "t.npz", routed_experts=experts(tokens=6))
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    (tmp_path / "t.json").write_text(json.dumps({"usage": usage}))
    back, report = imported(source, tmp_path)
    with back:
        assert back.phase is not None
        assert back.phase.tolist() == [0, 0, 0, 0, 1, 1]
        assert (back.experts[:2] == -1).all()
        assert (back.experts[2:] >= 0).all()
    assert (report.not_run, report.prefill, report.decode) == (2, 2, 2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
@pytest.mark.parametrize("bad", [2**32 + 1, 2**31, 65_535, -2])
def test_ids_out_of_range_never_wrap(dtype: type, bad: int, tmp_path: Path) -> None:
    if dtype is np.uint64 and bad < 0:
        return
    ids = experts().astype(dtype)
    ids[3, 1, 0] = bad
    with pytest.raises(TraceError, match=f"token 3, layer 1: experts .*has {bad}"):
        import_trace(save(tmp_path / "t.npz", experts=ids), tmp_path / "o.h5", options=Options(num_experts=8))


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
def test_ids_that_are_no_whole_numbers(bad: float, tmp_path: Path) -> None:
    ids = experts().astype(np.float32)
    ids[3, 1, 0] = bad
    with pytest.raises(TraceError, match="token 3, layer 1"):
        import_trace(save(tmp_path / "t.npz", experts=ids), tmp_path / "o.h5", options=Options(num_experts=8))


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ({"token_ids": np.full(6, 2**32 + 5)}, {}, TraceError, "token 0: token_ids .*4294967301"),
        ({"top_k": 3}, {}, TraceError, "top_k says 3, the array of experts holds 2"),
        ({"logits": np.zeros((6, 2, 8), np.float32)}, {"num_experts": 64}, TraceError, "logits are of 8 experts"),
        ({"weights": np.zeros((6, 2, 3), np.float32)}, {}, TraceError, "weights has shape"),
        ({"weights": np.zeros((6, 3, 2), np.float32)}, {}, TraceError, "weights has shape"),
        ({"prompt_len": np.array([1, 2])}, {}, TraceError, "2 prompt lengths for 1 requests"),
        ({"prompt_len": 40}, {}, TraceError, "request 0 .*prompt of 40"),
        ({}, {"top_k": 2}, ConfigError, "no use for top-k"),
        ({"phase": np.zeros(6, np.uint8)}, {"prompt_tokens": "2"}, ConfigError, "phases of its own"),
    ],
)
def test_what_does_not_fit(arrays, options, error, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = save(tmp_path / "t.npz", experts=experts(), **arrays)
    with pytest.raises(error, match=message):
        import_trace(source, tmp_path / "o.h5", options=Options(**({"num_experts": 8} | options)))
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize("name", ["counts", "expert_counts", "logical_count", "freq", "x"])
def test_counts_are_no_trace(name: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="has no array 'experts'" if name == "x" else "not a trace"):
        import_trace(save(tmp_path / "t.npz", **{name: np.ones((2, 8), int)}), tmp_path / "o.h5")
    np.save(tmp_path / "c.npy", np.ones((2, 8), int))
    with pytest.raises(TraceError, match="not a trace"):
        import_trace(tmp_path / "c.npy", tmp_path / "o.h5")


@given(seed=st.integers(0, 10**6), options=st.fixed_dictionaries({}, optional={"num_experts": st.integers(1, 12)}))
@anywhere
def test_what_comes_in_can_be_read(seed: int, options: dict[str, int], tmp_path: Path) -> None:
    """Writer and reader have one opinion: an import that ends well gives a file that `check` calls good."""
    trace = make_trace(seed, logits=True, predictions=True, ragged=True)
    export_trace(trace, tmp_path / "t.npz")
    try:
        import_trace(tmp_path / "t.npz", tmp_path / "o.h5", options=Options(**options))  # type: ignore[arg-type]
    except TraceError:
        return
    assert check_file(tmp_path / "o.h5") == []
    with RoutingTrace.open(tmp_path / "o.h5") as back:
        assert back.num_tokens == trace.num_tokens
