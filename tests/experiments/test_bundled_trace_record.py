"""The recorder of the bundled trace, on a tiny random model: what it writes down is what the experts were given."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments/bundled_trace/record.py"
REASON = "torch and transformers are not installed (pip install 'lrcsim[record]')"

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs


@pytest.fixture(scope="module")
def record() -> ModuleType:
    pytest.importorskip("torch", reason=REASON)
    pytest.importorskip("transformers", reason=REASON)
    found = importlib.util.spec_from_file_location("bundled_trace_record", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    import sys

    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(record: ModuleType) -> Any:
    import torch

    torch.manual_seed(0)
    config = record.OlmoeConfig(
        vocab_size=50, hidden_size=32, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, num_experts=8, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    return record.OlmoeForCausalLM(config).eval()


def test_ids_weights_and_predictions_are_the_routers(record: ModuleType, model: Any) -> None:
    import torch

    states: list[Any] = []
    hooks = [
        layer.mlp.gate.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].reshape(-1, 32)))
        for layer in model.model.layers
    ]
    recorder = record.Recorder(model)
    with torch.no_grad():
        model(input_ids=torch.arange(12)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    taken = recorder.take()
    assert taken["experts"].shape == taken["weights"].shape == taken["next_gate"].shape == (12, 3, 2)
    gates = [layer.mlp.gate.weight for layer in model.model.layers]
    for layer, state in enumerate(states):
        probabilities = torch.nn.functional.linear(state, gates[layer]).softmax(-1)
        best = probabilities.topk(2, dim=-1)
        assert (taken["experts"][:, layer] == best.indices.numpy()).all()
        assert np.allclose(taken["weights"][:, layer], best.values.detach().numpy(), atol=2e-3)
        if layer:
            ahead = torch.nn.functional.linear(states[layer - 1], gates[layer]).topk(2, dim=-1)
            assert (taken["next_gate"][:, layer] == ahead.indices.numpy()).all()
    assert (taken["next_gate"][:, 0] == -1).all()
    assert (np.diff(taken["weights"].astype(float), axis=2) <= 0).all()


def test_generation_is_repeatable_and_agrees_with_one_pass(record: ModuleType, model: Any) -> None:
    import torch

    recorder = record.Recorder(model)
    prompt = np.arange(5, dtype=np.int64)
    tokens = record.generate(model, prompt, 7, 0.8, seed=3)
    one = recorder.take()["experts"]
    assert len(tokens) == 12
    assert len(one) == 11  # the last sampled token is never routed
    assert (record.generate(model, prompt, 7, 0.8, seed=3) == tokens).all()
    assert (recorder.take()["experts"] == one).all()
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens[:-1])[None], use_cache=False)
    assert (recorder.take()["experts"] == one).mean() > 0.95  # the same up to rounding


def test_token_ids_of_texts_with_conditions_are_left_out(record: ModuleType) -> None:
    ids = np.array([3, 4])
    assert record.shown("prose", ids).tolist() == [3, 4]
    assert record.shown("python", ids).tolist() == [-1, -1]
