"""The bundled trace in a model's shape, and files of the earlier engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.offload.engine.cells import COUNTS, expected, most_used, table_of
from lrcsim.experiments.validation.offload.engine.folder import MODELS, read_folder
from lrcsim.experiments.validation.offload.engine.routing import TOPIC, decoded, routing_of, shaped
from lrcsim.models import load_geometry
from lrcsim.traces import RoutingTrace

SHARED = Path(__file__).parents[6] / "shared"


@pytest.mark.parametrize("name", MODELS)
def test_the_bundled_trace_in_a_models_shape(name: str) -> None:
    geometry = load_geometry(name)
    trace = shaped(geometry, 150)
    assert (trace.num_tokens, trace.num_layers, trace.num_experts) == (150, len(geometry.moe_layers), geometry.experts)
    rows = np.sort(np.asarray(trace.read("experts", 0, 150)), axis=2)
    assert trace.top_k == geometry.top_k
    assert (np.diff(rows, axis=2) > 0).all()  # all different
    assert rows.min() == 0
    assert rows.max() == geometry.experts - 1
    assert "synthetic" in trace.model
    again = np.asarray(shaped(geometry, 150).read("experts", 0, 150))
    assert (np.sort(again, axis=2) == rows).all()


def test_locality_is_the_bundled_traces() -> None:
    # Within a topic only the names differ: as many experts of a token come back in the next as in the source.
    geometry = load_geometry("qwen3-30b-a3b")
    made = np.asarray(shaped(geometry, TOPIC).read("experts", 0, TOPIC))
    with RoutingTrace.open() as opened:
        source = np.asarray(decoded(opened).read("experts", 0, 1 << 20))

    def back(rows: np.ndarray) -> int:
        return sum(len(set(a) & set(b)) for a, b in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True))

    for layer in (0, 5, 47):
        begin = layer * len(source) // 48
        own = source[(begin + np.arange(TOPIC)) % len(source), layer % 8]
        assert back(made[:, layer]) == back(own)


def test_a_model_that_uses_too_many_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match="uses 8 of 16 experts"):
        shaped(_with(experts=16, top_k=8), 4)


def _with(**changes: int):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(load_geometry("qwen3-30b-a3b"), **changes)


def test_a_trace_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(np.zeros((2, 1, 1), int), num_experts=2).save(path)
    with pytest.raises(ConfigError, match=r"has 1 MoE layers x 2 experts, the model gpt-oss-20b 24 x 32"):
        routing_of(path, load_geometry("gpt-oss-20b"))


def test_most_used_by_hand() -> None:
    # Layer 0 uses 1 three times, 0 and 2 once each: 1, then 0 of the tie; -1 is nothing
    table = np.array([[[1, 0]], [[1, 2]], [[1, -1]]])
    assert most_used(table, 3, 2) == [[1, 0]]


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_runs_counts_are_lrcsims_in_every_step(name: str) -> None:
    import lrcsim.experiments.validation.offload as package

    [model] = [one for one in read_folder(Path(package.__path__[0]) / "h200") if one.name == name]
    assert model.trace is not None
    assert len(model.runs) == {"qwen3-30b-a3b": 7, "gpt-oss-20b": 2}[name]
    for cell, runs in model.runs.items():
        counts = expected(cell, cell.trace_of(model.trace, int(model.info["tokens"])))
        for columns in runs:
            for column in COUNTS:
                assert (counts[column] == columns[column]).all()


@pytest.mark.skipif(not (SHARED / "measured" / "h200").is_dir(), reason="the measured runs are not at hand")
def test_the_earlier_engines_counts_are_lrcsims_in_every_step(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    models = {model.name: model for model in read_folder(SHARED / "measured" / "h200")}
    assert {name: len(model.runs) for name, model in models.items()} == {"qwen": 6, "gptoss": 1}
    files = {"qwen": "qwen3-30b-a3b.route.csv", "gptoss": "gpt-oss-20b.decode.npz"}
    for name, model in models.items():
        assert lrcsim("trace", "import", SHARED / "traces" / files[name], "-o", tmp_path / f"{name}.h5").code == 0
        with RoutingTrace.open(tmp_path / f"{name}.h5") as opened:
            trace = decoded(opened)
        for cell, [columns] in model.runs.items():
            own = cell.trace_of(trace, int(model.info["tokens"]))
            counts = expected(cell, own)
            for column in COUNTS:
                assert (counts[column] == columns[column]).all(), (name, cell.name, column)
            brought = counts["loads"] + counts["prefetched"]
            assert (brought * model.info["expert_bytes"] == columns["read_bytes"]).all()
            assert table_of(cell, own).shape == (128, trace.num_layers, trace.top_k)
