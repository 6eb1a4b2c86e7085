"""Each architecture that llama.cpp and transformers both have: the same experts, ranks, weights and layers.

The models are the tiny random ones of the other recorder's tests, written as GGUF files; the table stands in
docs/recorder.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

import tiny  # noqa: E402
from as_gguf import write_gguf  # noqa: E402
from both import by_llama_cpp, by_transformers  # noqa: E402

from lrcsim.models.gguf_header import read_header  # noqa: E402
from lrcsim.recorder.llama_cpp.blocks import table  # noqa: E402
from lrcsim.recorder.llama_cpp.library import Library  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

BIAS = {"lm_head_bias": True, "attention_bias": True}
KINDS: dict[str, dict[str, Any]] = {
    "afmoe": {"mup_enabled": True},  # llama.cpp scales the embeddings always
    "dbrx": {},
    "deepseek_v3": {},  # chooses two of eight experts in one of two groups
    "dots1": {},
    "exaone_moe": {},
    "gemma4_text": {},  # experts beside a dense network
    "glm4_moe": {},
    "glm4_moe_lite": {"rms_norm_eps": 1e-6},  # transformers has this in two norms, whatever the config says
    "granitemoe": {},
    "granitemoehybrid": {},
    "granitemoeshared": {},
    "hunyuan_v1_moe": {},
    "jamba": {},  # experts in the second of three blocks
    "lfm2_moe": {},
    "llama4_text": {"num_hidden_layers": 4},  # llama.cpp aborts without a block of full attention, every fourth
    "mimo_v2_flash": {},
    "minimax_m2": {},
    "nemotron_h": {},  # experts in the second and fourth of four blocks
    "qwen2_moe": {},
    "qwen3_5_moe_text": {"linear_num_key_heads": 4},  # as many as of values, else a file has these in another order
    "qwen3_next": {},
}
"""Types, and what their configs have besides that of the tiny models."""


CLOSE = {"gemma4_text": 5e-4, "nemotron_h": 5e-4}
"""How far weights may differ; 3e-5 for others. llama.cpp looks GELU up in a table of 16 bits."""


def ids() -> list[int]:
    return np.random.default_rng(0).integers(3, tiny.VOCABULARY, 40).tolist()


def written(kind: str, own: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    """Write a tiny model and return it."""
    monkeypatch.setitem(tiny.SPECIAL, kind, tiny.SPECIAL.get(kind, {}) | own)
    model = tiny.tiny_model(kind).float()
    write_gguf(model, path, **more)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_as_transformers(kind: str, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = written(kind, KINDS[kind], tmp_path / "x.gguf", monkeypatch)
    expected, layers = by_transformers(model, ids())
    found, routing = by_llama_cpp(library, tmp_path / "x.gguf", ids(), exact=True)
    assert len(np.unique(expected["experts"])) == tiny.EXPERTS
    assert (found["experts"] == expected["experts"]).all()
    assert np.abs(found["weights"] - expected["weights"]).max() < CLOSE.get(kind, 3e-5)
    ours = table(read_header(tmp_path / "x.gguf"), routing.layers, routing.top_k)
    assert ours.block.tolist() == layers.block.tolist()
    assert ours.num_experts.tolist() == layers.num_experts.tolist()
    assert ours.top_k.tolist() == layers.top_k.tolist()
    shared = [1] * 3 if kind == "hunyuan_v1_moe" else layers.num_shared.tolist()  # its config does not count them
    assert ours.num_shared.tolist() == shared
    assert ours.expert_bytes is not None
    assert layers.expert_bytes is not None
    scale = 4 if kind == "gemma4_text" else 0  # of each expert; transformers has it in the router
    assert (ours.expert_bytes - scale).tolist() == layers.expert_bytes.tolist()


def test_gemma4_scales_experts_later(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's weights are those before the scale of each expert; transformers' are the products."""
    model = tiny.tiny_model("gemma4_text").float()
    scales = np.random.default_rng(1).uniform(0.5, 2, (3, tiny.EXPERTS)).astype(np.float32)
    for block, scale in zip(model.model.layers, scales, strict=True):
        block.router.per_expert_scale.data = torch.tensor(scale)
    write_gguf(model, tmp_path / "x.gguf")
    expected, _ = by_transformers(model, ids())
    found, _ = by_llama_cpp(library, tmp_path / "x.gguf", ids(), exact=True)
    assert (np.sort(found["experts"]) == np.sort(expected["experts"])).all()
    scaled = found["weights"] * np.take_along_axis(scales[None], found["experts"], axis=2)
    assert np.abs(np.sort(scaled) - np.sort(expected["weights"])).max() < 1e-3


def test_phimoe_is_computed_otherwise(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp weighs the two experts by softmax and not by sparsemixer, and its norms do not take the mean away.

    What llama.cpp ran is recorded. With states whose mean is 0 (embeddings and all that is added to them) its norms are
    the model's, so the first layer chooses the same experts; their weights and all later layers are others.
    """
    monkeypatch.setitem(tiny.SPECIAL, "phimoe", BIAS)
    model = tiny.tiny_model("phimoe").float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("embed_tokens.weight", "o_proj.weight")):
                parameter -= parameter.mean(dim=1 if "embed" in name else 0, keepdim=True)
    write_gguf(model, tmp_path / "x.gguf")
    expected, _ = by_transformers(model, ids())
    found, _ = by_llama_cpp(library, tmp_path / "x.gguf", ids(), exact=True)
    assert (np.sort(found["experts"][:, 0]) == np.sort(expected["experts"][:, 0])).all()
    assert np.abs(found["weights"].sum(axis=2) - 1).max() < 1e-6
    assert (expected["weights"].sum(axis=2) > 1).all()
