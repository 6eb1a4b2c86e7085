"""Files of other kinds: quantised, split, with layers that predict further tokens, and those that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

import tiny  # noqa: E402
from as_gguf import write_gguf  # noqa: E402
from both import by_transformers  # noqa: E402

from lrcsim.base.errors import ConfigError  # noqa: E402
from lrcsim.models.gguf_header import GgufHeader, GgufTensor  # noqa: E402
from lrcsim.recorder import Prompt, Settings  # noqa: E402
from lrcsim.recorder.llama_cpp.blocks import routing_blocks  # noqa: E402
from lrcsim.recorder.llama_cpp.library import Library  # noqa: E402
from lrcsim.recorder.llama_cpp.runner import record_gguf  # noqa: E402
from lrcsim.traces import RoutingTrace, check_file  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

IDS = np.random.default_rng(0).integers(3, tiny.VOCABULARY, 40).tolist()
PROMPTS = [Prompt(token_ids=tuple(IDS))]
FORCED = Settings(teacher_forced=True, sample_tokens=40)


def trace_of(path: Path) -> RoutingTrace:
    assert check_file(path) == []
    return RoutingTrace.open(path)


@pytest.fixture
def olmoe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose matrices have rows of whole blocks of 32."""
    monkeypatch.setitem(tiny.SPECIAL, "olmoe", {"hidden_size": 64, "intermediate_size": 32})
    return tiny.tiny_model("olmoe").float()


@pytest.mark.parametrize(("dtype", "block"), [("Q8_0", 34), ("Q4_0", 18)])
def test_quantised(dtype: str, block: int, olmoe: Any, library: Library, tmp_path: Path) -> None:
    """The routing is that of the file's weights, nearly: llama.cpp rounds what it multiplies them with to 8 bits."""
    import gguf

    form = gguf.GGMLQuantizationType[dtype]
    write_gguf(olmoe, tmp_path / "x.gguf", dtype=dtype)
    with torch.no_grad():
        for name, parameter in olmoe.named_parameters():
            if parameter.ndim >= 2 and ".layers." in name and not name.endswith("mlp.gate.weight"):
                rows = gguf.quants.dequantize(gguf.quants.quantize(parameter.numpy(), form), form)
                parameter.copy_(torch.tensor(rows.reshape(parameter.shape)))
    expected, _ = by_transformers(olmoe, IDS)
    record_gguf(tmp_path / "x.gguf", PROMPTS, tmp_path / "x.h5", FORCED, exact=True)
    with trace_of(tmp_path / "x.h5") as trace:
        assert (np.sort(trace.experts) == np.sort(expected["experts"])).all(axis=2).mean() > 0.9
        assert trace.provenance["dtype"] == dtype.lower()
        assert trace.layers.expert_bytes is not None
        assert set(trace.layers.expert_bytes.tolist()) == {3 * 64 * 32 // 32 * block}


def test_split(olmoe: Any, library: Library, tmp_path: Path) -> None:
    write_gguf(olmoe, tmp_path / "x.gguf")
    write_gguf(olmoe, tmp_path / "s.gguf", each=15)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert len(parts) == 3
    settings = Settings(max_new_tokens=5, chat=False, temperature=0)
    record_gguf(tmp_path / "x.gguf", PROMPTS, tmp_path / "x.h5", settings)
    record_gguf(parts[1], PROMPTS, tmp_path / "s.h5", settings)
    with trace_of(tmp_path / "x.h5") as whole, trace_of(tmp_path / "s.h5") as split:
        assert whole.num_tokens == 44
        assert (whole.experts == split.experts).all()
        assert whole.layers.expert_bytes is not None
        assert split.layers.expert_bytes is not None
        assert whole.layers.expert_bytes.tolist() == split.layers.expert_bytes.tolist()
        assert len(split.provenance["file"]["sha256"]) == 3
        assert split.provenance["file"]["size"] == sum(part.stat().st_size for part in parts)


def test_layers_that_predict_further_tokens_are_not_run(library: Library, tmp_path: Path) -> None:
    """Four blocks, of which the last would predict the token after the next; it is neither in this file nor run."""
    model = tiny.tiny_model("glm4_moe").float()
    write_gguf(model, tmp_path / "x.gguf", keys={"block_count": 4, "nextn_predict_layers": 1})
    record_gguf(tmp_path / "x.gguf", PROMPTS, tmp_path / "x.h5", FORCED, exact=True)
    with trace_of(tmp_path / "x.h5") as trace:
        assert trace.layers.block.tolist() == [1, 2]
        assert (trace.experts == by_transformers(model, IDS)[0]["experts"]).all()


def test_each_layer_has_its_own_top_k(library: Library, tmp_path: Path) -> None:
    model = tiny.tiny_model("nemotron_h").float()
    write_gguf(model, tmp_path / "x.gguf", keys={"expert_used_count": [2, 2, 2, 1]})
    record_gguf(tmp_path / "x.gguf", PROMPTS, tmp_path / "x.h5", FORCED)
    with trace_of(tmp_path / "x.h5") as trace:
        assert trace.layers.top_k.tolist() == [2, 1]
        assert (trace.experts[:, 0] >= 0).all()
        assert ((trace.experts[:, 1] >= 0) == [True, False]).all()


@pytest.mark.parametrize("kind", ["qwen3_next", "lfm2_moe"])
def test_a_request_leaves_no_state_behind(kind: str, library: Library, tmp_path: Path) -> None:
    """Layers that carry a state from token to token start anew with each request, like the others."""
    write_gguf(tiny.tiny_model(kind).float(), tmp_path / "x.gguf")
    settings = Settings(max_new_tokens=4, temperature=0)
    record_gguf(tmp_path / "x.gguf", PROMPTS * 2, tmp_path / "x.h5", settings)
    with trace_of(tmp_path / "x.h5") as trace:
        assert trace.offsets.tolist() == [0, 43, 86]
        assert (trace.experts[:43] == trace.experts[43:]).all()


@pytest.mark.parametrize(
    ("architecture", "keys", "said"),
    [
        ("rnd1", {}, "x.gguf: rnd1 is not recorded: it denoises a whole text, and its passes are neither"),
        ("qwen3moe", {"attention.causal": False}, "x.gguf: qwen3moe is not recorded: it encodes texts and predicts no"),
        ("grovemoe", {}, "x.gguf: grovemoe is not recorded: it chooses among other experts too (blk.0.ffn_"),
    ],
)
def test_refused(
    architecture: str, keys: dict[str, Any], said: str, library: Library, tmp_path: Path, monkeypatch: Any
) -> None:
    """All of them have the tensors of qwen3_moe; grovemoe has further ones, for pairs of experts."""
    monkeypatch.setitem(tiny.SPECIAL, "qwen3_moe", {"decoder_sparse_step": 1, "mlp_only_layers": []})
    more: dict[str, Any] = {}
    if architecture == "grovemoe":
        keys = {"experts_per_group": 2, "expert_group_scale": 0.05, "expert_chunk_feed_forward_length": 16}
        for block in range(3):
            for name, shape in (("gate", (4, 16, 32)), ("up", (4, 16, 32)), ("down", (4, 32, 16))):
                more[f"blk.{block}.ffn_{name}_chexps.weight"] = np.ones(shape, np.float32)
    model = tiny.tiny_model("qwen3_moe").float()
    write_gguf(model, tmp_path / "x.gguf", architecture=architecture, keys=keys, more=more)
    with pytest.raises(ConfigError) as error:
        record_gguf(tmp_path / "x.gguf", PROMPTS, tmp_path / "x.h5", FORCED)
    assert said in str(error.value)
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    ("architecture", "tensor", "model", "said"),
    [
        ("dflash", "", {}, "dflash is not recorded: it guesses tokens for another model"),
        ("k2-horizon", "blk.0.attn_v_exps.weight", {}, r"among other experts too \(blk\.0\.attn_v_exps\.weight\)"),
        ("nomic-bert-moe", "", {"is_encoder": True}, "nomic-bert-moe is not recorded: it encodes texts"),
    ],
)
def test_refused_by_header(architecture: str, tensor: str, model: dict[str, bool], said: str) -> None:
    router = "blk.0.ffn_gate_inp.weight"
    tensors = {name: GgufTensor(name, (2, 2), "f32", 16) for name in (router, tensor) if name}
    header = GgufHeader(Path("x.gguf"), (), {"general.architecture": architecture}, {}, tensors)
    loaded: Any = SimpleNamespace(**({"layers": 1, "is_diffusion": False, "is_encoder": False} | model))
    with pytest.raises(ConfigError, match=said):
        routing_blocks(header, loaded)
    plain = replace(header, values={"general.architecture": "olmoe"}, tensors={router: tensors[router]})
    loaded.is_encoder = False
    assert routing_blocks(plain, loaded) == [0]
