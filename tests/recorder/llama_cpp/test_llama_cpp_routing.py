"""What llama.cpp routes is what transformers routes, on tiny models written as GGUF files by the test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from as_gguf import write_gguf  # noqa: E402
from both import by_llama_cpp, by_transformers  # noqa: E402

from lrcsim.base.errors import ConfigError  # noqa: E402
from lrcsim.recorder.llama_cpp.library import Library  # noqa: E402
from lrcsim.recorder.llama_cpp.routing import Routing  # noqa: E402
from lrcsim.traces import RoutingTrace  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

FAMILY = Path(__file__).resolve().parents[3] / "experiments/model_family"
SIZES: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "num_experts_per_tok": 2,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "olmoe": {"num_key_value_heads": 4, "intermediate_size": 32, "num_experts": 8},
    "qwen3_moe": {
        "head_dim": 16, "intermediate_size": 128, "moe_intermediate_size": 32, "num_experts": 8, "norm_topk_prob": True
    },
    "mixtral": {"head_dim": 16, "intermediate_size": 32, "num_local_experts": 8},
    "gpt_oss": {
        "head_dim": 16, "intermediate_size": 32, "num_local_experts": 8, "sliding_window": 128, "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "deepseek_v2": {
        "num_key_value_heads": 4, "intermediate_size": 128, "moe_intermediate_size": 32, "n_routed_experts": 8,
        "n_shared_experts": 1, "kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
        "v_head_dim": 16, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
    },
}  # fmt: skip


def tiny(kind: str) -> Any:
    """A random model whose routers make up their minds: weights four times as large as they are drawn."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **(SIZES | MODELS[kind]))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model.float().train(False)


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_experts_ranks_and_weights(kind: str, library: Library, tmp_path: Path) -> None:
    model = tiny(kind)
    write_gguf(model, tmp_path / "x.gguf")
    ids = np.random.default_rng(0).integers(0, 128, 40).tolist()
    expected, _ = by_transformers(model, ids)
    found, routing = by_llama_cpp(library, tmp_path / "x.gguf", ids, exact=True)
    assert routing.layers == ([1, 2] if kind == "deepseek_v2" else [0, 1, 2])
    assert len(np.unique(expected["experts"])) == 8
    assert (found["experts"] == expected["experts"]).all()
    assert np.abs(found["weights"] - expected["weights"]).max() < 2e-5
    assert found["logits"].shape == (40, len(routing.layers), 8)
    first = np.take_along_axis(found["logits"], found["experts"][..., :1], axis=2)
    assert (first[..., 0] == found["logits"].max(axis=2)).all()  # the greatest score is that of the first choice


def test_the_familys_checkpoint(library: Library, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(FAMILY / "checkpoint", dtype=torch.float32)
    write_gguf(model, tmp_path / "x.gguf")
    with RoutingTrace.open(FAMILY / "checkpoint_traces/teacher_forced.h5") as trace:
        end = int(trace.offsets[1])
        assert trace.token_ids is not None
        ids, experts = trace.token_ids[:end].tolist(), trace.experts[:end]
    found, _ = by_llama_cpp(library, tmp_path / "x.gguf", ids, exact=True)
    assert (np.sort(found["experts"]) == np.sort(experts)).all(axis=2).mean() >= 0.999
    usual, _ = by_llama_cpp(library, tmp_path / "x.gguf", ids)  # keys and values in 16 bits, flash attention
    assert (np.sort(usual["experts"]) == np.sort(experts)).all(axis=2).mean() > 0.99


def test_every_token_must_ask_for_an_output(library: Library, tmp_path: Path) -> None:
    """Else the last layer runs the last token alone; that is said, and the next step is whole again."""
    write_gguf(tiny("olmoe"), tmp_path / "x.gguf")
    routing = Routing(library)
    with library.model(tmp_path / "x.gguf") as model, model.context(64, watch=routing.callback) as context:
        context.run([1, 2, 3])
        with pytest.raises(ConfigError, match=r"gave \{'topk': 1, 'weights': 1\} of layer 2 for 3 tokens"):
            routing.take(3)
        context.run([4, 5], every=True)
        assert routing.take(2)["experts"].shape == (2, 3, 2)
        assert context.logits(0).shape == (128,)
        assert (context.logits(1) == context.logits()).all()


def test_nothing_is_raised_into_the_library(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tiny("olmoe"), tmp_path / "x.gguf")
    routing = Routing(library)

    def broken(tensor: Any) -> Any:
        raise ZeroDivisionError("a reason")

    monkeypatch.setattr(routing, "_rows", broken)
    with library.model(tmp_path / "x.gguf") as model, model.context(64, watch=routing.callback) as context:
        context.run([1, 2, 3], every=True)
    with pytest.raises(ConfigError, match=r"llama\.cpp's graph cannot be read: a reason"):
        routing.take(3)
    with pytest.raises(ConfigError, match="routes nothing in this model"):
        routing.take(3)


@pytest.mark.parametrize(("kind", "size"), [(0, 99), (1, 24)])
def test_a_node_that_is_laid_out_otherwise_is_not_read(kind: int, size: int) -> None:
    """Two rows of three numbers of 4 bytes are 24 bytes, as float32 (0) or int32 (26), not as float16 (1)."""
    library: Any = SimpleNamespace(c=SimpleNamespace(ggml_nbytes=lambda _: size))
    routing = object.__new__(Routing)
    routing.library = library
    tensor = SimpleNamespace(type=kind, ne=[3, 2, 1, 1], nb=[4, 12, 24, 24])
    with pytest.raises(ValueError, match=rf"type {kind}, shape \[1, 1, 2, 3\], .* has {size} bytes, not 24"):
        routing._rows(tensor)
