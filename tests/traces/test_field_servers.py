"""Answers of real servers, and of those in ``shared/field``: what is right for each stands in its README."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import TraceError
from lrcsim.traces import RoutingTrace, check_file
from lrcsim.traces.importers import Options, guess_format, import_trace

SGLANG = Options(num_layers=4, top_k=4)


@pytest.fixture
def field() -> Path:
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared")) / "field"
    if not shared.is_dir():
        pytest.skip(f"the shared inputs are not here ({shared})")
    return shared


# name: [positions, prefill, not run or not sent (-1)] of each request, MoE layers
RIGHT = {
    "vllm_prompt_start.json": ([(25, 20, 16)], 4),
    "vllm_prompt_start_silent.json": ([(49, 20, 10)], 4),
    "vllm_cached_prefix.json": ([(25, 20, 16)], 4),
    "vllm_three_turns_prefix_cached.jsonl": ([(79, 60, 0), (139, 120, 64), (199, 180, 128)], 4),
    "vllm_one_aborted.jsonl": ([(25, 20, 0)], 4),
    "vllm_top1_dense_layers_zero.json": ([(69, 30, 0)], 3),
    "vllm_described_int8.json": ([(31, 20, 0)], 4),
    "vllm_minus_one_prefix.json": ([(31, 20, 6)], 4),
    "vllm_generate_tito.json": ([(25, 20, 0)], 4),
    "dynamo_nvext.json": ([(25, 20, 0)], 4),
    "vllm-0.32/chat_n2.json": ([(16, 11, 0), (16, 11, 0)], 3),
    "vllm-0.32/echo.json": ([(25, 20, 0)], 3),
    "vllm-0.32/gen_start5.json": ([(25, 20, 5)], 3),
    "vllm-0.32/generate_n2.json": ([(25, 20, 0), (25, 20, 0)], 3),
    "vllm-0.32/generate_stream.json": ([(25, 20, 0)], 3),
    "vllm-0.32/p150_n8_again_cachehit.json": ([(157, 150, 128)], 3),
    "vllm-0.32/p150_n8_first.json": ([(157, 150, 128)], 3),
    "vllm-0.32/p20_max1.json": ([(20, 20, 0)], 3),
    "vllm-0.32/p20_n8.json": ([(27, 20, 0)], 3),
    "vllm-0.32/start5.json": ([(31, 20, 5)], 3),
    "vllm-0.32/stop_string.json": ([(24, 20, 0)], 3),
    "vllm-0.32/two_prompts.json": ([(25, 20, 0), (35, 30, 0)], 3),
    "sglang_chat_sglext.json": ([(10, 6, 4)], 4),
    "sglang_generate_cached_prefix.json": ([(10, 6, 4)], 4),
    "sglang-0.5.23/chat.json": ([(10, 7, 0)], 3),
    "sglang-0.5.23/chat_n2.json": ([(10, 7, 0)], 3),
    "sglang-0.5.23/completion.json": ([(10, 7, 0)], 3),
}


@pytest.mark.parametrize("name", RIGHT)
def test_field_answers(field: Path, name: str, tmp_path: Path) -> None:
    requests, layers = RIGHT[name]
    served = name.startswith("sglang")
    options = (Options(num_layers=4, top_k=2) if "_" in name.split("/")[0] else SGLANG) if served else Options()
    report = import_trace(field / name, tmp_path / "out.h5", options=options)
    assert report.format == ("sglang" if served else "vllm")
    assert check_file(tmp_path / "out.h5") == []
    with RoutingTrace.open(tmp_path / "out.h5") as trace:
        assert trace.num_layers == layers
        assert trace.phase is not None
        idle = (trace.experts < 0).all(axis=(1, 2))
        found = [
            (int(high - low), int((trace.phase[low:high] == 0).sum()), int(idle[low:high].sum()))
            for low, high in zip(trace.offsets, trace.offsets[1:], strict=False)
        ]
        assert found == requests
        for (_, _, left), low in zip(requests, trace.offsets, strict=False):
            assert idle[low : low + left].all() or "minus_one" in name
        if trace.token_ids is not None and "minus_one" not in name:
            assert (trace.token_ids >= 0).all()


def test_both_answers_to_one_prompt_have_the_same_routing(field: Path, tmp_path: Path) -> None:
    """A start changes which rows are sent, not where they belong."""
    whole, later = tmp_path / "whole.h5", tmp_path / "later.h5"
    import_trace(field / "vllm-0.32/p20_n8.json", whole)
    import_trace(field / "vllm-0.32/gen_start5.json", later)
    with RoutingTrace.open(whole) as one, RoutingTrace.open(later) as two:
        np.testing.assert_array_equal(np.sort(one.experts[5:20]), np.sort(two.experts[5:20]))
        assert (two.experts[:5] == -1).all()


@pytest.mark.parametrize("name", ["vllm-0.32/chat_batch.json", "vllm-0.32/stream_completions.json"])
def test_field_answers_without_routing(field: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no routed experts; was the server run with"):
        import_trace(field / name, tmp_path / "out.h5")


def test_zero_rows_name_their_place(field: Path, tmp_path: Path) -> None:
    source = field / "vllm_zero_rows.json"
    with pytest.raises(TraceError, match=r"vllm_zero_rows.json: response 1: row 5 .*--drop-zero-rows"):
        import_trace(source, tmp_path / "out.h5")
    import_trace(source, tmp_path / "out.h5", options=Options(drop_zero_rows=True))
    with RoutingTrace.open(tmp_path / "out.h5") as trace:
        assert int((trace.experts < 0).all(axis=(1, 2)).sum()) >= 1


@pytest.mark.parametrize("name", ["start.json", "start11.json"])
def test_a_declared_start_allocates_nothing(field: Path, name: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match="response 1: has routing of 2 tokens from position"):
            import_trace(field / "reliability" / name, tmp_path / "out.h5")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_formats_are_guessed(field: Path) -> None:
    guessed = {path.name: guess_format(path) for path in sorted((field / "sglang-0.5.23").iterdir())}
    assert set(guessed.values()) == {"sglang"}
    assert guess_format(field / "dynamo_nvext.json") == "vllm"
