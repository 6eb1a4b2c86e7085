"""Real recorded traces, where they are at hand."""

import json
from pathlib import Path

import numpy as np

from lrcsim.traces import RoutingTrace, check_file


def test_qwen3_imports_with_one_command(lrcsim, shared_traces: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "q.h5"
    outcome = lrcsim("trace", "import", shared_traces / "qwen3-30b-a3b.route.csv", "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert check_file(out) == []
    with RoutingTrace.open(out) as trace:
        assert (trace.num_layers, trace.num_experts, trace.top_k, trace.num_requests) == (48, 128, 6, 1)
        assert trace.phase is not None
        assert np.bincount(trace.phase).tolist() == [28, 128]
        assert trace.expert_bytes is not None
        assert set(trace.expert_bytes.tolist()) == {3_059_712, 2_654_208}
        assert trace.layers.dense_bytes is not None  # the header's, layer by layer
        assert trace.layers.dense_bytes[:2].tolist() == [11_953_152, 11_953_152]
        assert trace.layers.dense_bytes.sum() == 567_263_232
        assert (trace.experts[0, 0] == [49, 19, 58, 29, 16, 70]).all()
        assert (trace.experts[:27, 47] == -1).all()  # the last layer ran on the last prompt token only
        assert (np.delete(trace.experts, np.s_[:27], axis=0) >= 0).all()
        assert trace.count_unrecorded() == 27 * 6
        assert trace.weights is not None
        assert (np.diff(trace.weights[28:]) <= 0).all()
    facts = json.loads(lrcsim("trace", "info", out, "--json", "-").out)
    assert round(facts["recorded_hit_rate"], 3) == 0.803  # as the engine itself reported
    assert sum(facts["dense_bytes"]) == 567_263_232
    assert "dense bytes per layer" in lrcsim("trace", "info", out).out


def test_gpt_oss_imports_with_one_command(lrcsim, shared_traces: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source, out = shared_traces / "gpt-oss-20b.decode.npz", tmp_path / "g.h5"
    outcome = lrcsim("trace", "import", source, "-o", out, "--phase", "decode")
    assert outcome.code == 0
    assert "largest id + 1 = 32" in outcome.err
    with RoutingTrace.open(out) as trace, np.load(source) as arrays:
        np.testing.assert_array_equal(trace.experts, arrays["experts"])
        np.testing.assert_array_equal(trace.offsets, arrays["offsets"])
        assert trace.domains == arrays["domains"].tolist()
        assert trace.phase is not None
        assert trace.phase.all()


def test_the_routing_of_gpt_oss(lrcsim, shared_traces: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Its requests share experts (fewer than even), and none comes twice; windows counted again in numpy."""
    source, out = shared_traces / "gpt-oss-20b.decode.npz", tmp_path / "g.h5"
    lrcsim("trace", "import", source, "-o", out, "--phase", "decode", "--num-experts", 32)
    routing = json.loads(lrcsim("trace", "info", out, "--json", "-").out)["routing"]
    for one in routing["batches"]:
        assert one["mean"] <= one["even"] + 1e-9
    assert routing["batches"][3]["batch"] == 8
    assert 0.75 < routing["batches"][3]["mean"] / routing["batches"][3]["even"] < 0.9
    assert (routing["repeats"]["compared"], routing["repeats"]["duplicates"]) == ("requests", 0)
    with RoutingTrace.open(out) as trace:
        sizes = []
        for low, high in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
            used = (trace.experts[low:high, :, :, None] == np.arange(32)).any(axis=2)  # [tokens, layers, E]
            if high - low >= 4:
                windows = np.lib.stride_tricks.sliding_window_view(used, 4, axis=0).any(axis=-1)
                sizes.append(windows.sum(axis=2).ravel())
    counted = np.concatenate(sizes)
    four = routing["working_sets"][0]
    assert (four["tokens"], four["sets"]) == ("4", len(counted))
    assert four["mean"] == counted.mean()
    assert four["share_above"]["2x"] == (counted > 8).mean()
