"""llama.cpp's file types against what llama.cpp itself chose for six models, tensor by tensor; and by hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from llama_quantise import FILE_TYPES, MODELS, RECORDED, by_kind, in_file, record

from lrcsim.models import Geometry, load_geometry
from lrcsim.models.mixes import LARGER, MIXES, UNSLOTH
from lrcsim.models.quantisation import format_of
from lrcsim.models.tensors import Tensor

TINY = Geometry(
    name="tiny", source="by hand", layers=16, moe_layers=tuple(range(1, 16)), experts=4, top_k=2, shared_experts=1,
    hidden=512, expert_width=256, shared_width=256, dense_width=1024, matrices=3, heads=4, kv_heads=1, head_dim=128,
    vocab=1000, tied=False,
)  # fmt: skip
CHOSEN = json.loads(RECORDED.read_text(encoding="utf-8"))


def ours(geometry: Geometry, dtype: str) -> dict[str, str]:
    """Our choice for the matrices of a file; of those of ``attn_kv_b`` the one for values alone."""
    formats = {}
    for name, tensor in in_file(geometry):
        if tensor.name == "attn_v_b":
            tensor = tensor._replace(name="attn_kv_b")
        if tensor.name != "attn_k_b":
            formats[name] = format_of(geometry, tensor, dtype)
    return by_kind(formats)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_every_tensor_has_the_format_that_llamacpp_chooses(model: str, dtype: str) -> None:
    chosen = dict(CHOSEN[model][dtype])
    chosen.pop("attn_k_b", None)
    if dtype == "mxfp4_moe":  # llama.cpp takes the stacked matrices of MLA for experts
        assert chosen.pop("attn_v_b", "mxfp4") == "mxfp4"
        expected = {kind: format for kind, format in ours(load_geometry(model), dtype).items() if kind != "attn_v_b"}
    else:
        expected = ours(load_geometry(model), dtype)
    assert expected == chosen


@pytest.mark.skipif("LRCSIM_LIBLLAMA" not in os.environ, reason="LRCSIM_LIBLLAMA does not say where libllama.so is")
def test_what_was_recorded_is_what_llamacpp_says() -> None:
    assert record(os.environ["LRCSIM_LIBLLAMA"]) == CHOSEN


def test_all_file_types_are_compared() -> None:
    assert set(FILE_TYPES) == set(MIXES) - set(UNSLOTH) - set(LARGER)
    assert set(CHOSEN) == set(MODELS)
    assert all(set(types) == set(FILE_TYPES) for types in CHOSEN.values())


def chosen_for(geometry: Geometry, dtype: str, name: str, layer: int = -1) -> str:
    return format_of(geometry, Tensor(name, layer, 512, 512), dtype)


def test_mixes_by_hand() -> None:
    # 16 layers: an eighth are 2, the last eighth begins at 14, a sixteenth is 1
    downs = {"q3_k_m": ["q5_k", "q4_k", "q4_k"], "q4_k_s": ["q5_k", "q5_k", "q4_k"], "q2_k_s": ["q4_k", "q4_k", "q2_k"]}
    for dtype, formats in downs.items():
        assert [chosen_for(TINY, dtype, "ffn_down_exps", layer) for layer in (0, 1, 2)] == formats
    ups = [chosen_for(TINY, "iq3_xs", "ffn_up_exps", layer) for layer in (1, 2, 13, 14)]
    assert ups == ["iq3_s", "iq3_xxs", "iq3_xxs", "iq3_s"]
    # the first two matrices: of the dense block of layer 0, of the experts of layer 1; not of its shared experts
    first = [("ffn_down", 0), ("ffn_down_exps", 1), ("ffn_down_shexp", 1), ("ffn_down_exps", 2)]
    assert [chosen_for(TINY, "iq2_m", *one) for one in first] == ["iq3_s", "iq3_s", "iq2_s", "iq2_s"]
    assert [chosen_for(TINY, "iq1_s", name, 3) for name in ("attn_v", "attn_output")] == ["q4_k", "iq2_xxs"]
    # four query heads share a value head, or two do
    assert chosen_for(TINY, "iq4_xs", "attn_v", 3) == "q5_k"
    assert chosen_for(replace(TINY, kv_heads=2), "iq4_xs", "attn_v", 3) == "iq4_xs"
    assert chosen_for(replace(TINY, experts=8), "q3_k_l", "attn_v", 3) == "q8_0"
    outputs = {"iq2_xs": ("q5_k", "q2_k"), "q3_k_s": ("q6_k", "q3_k"), "mxfp4_moe": ("q8_0", "q8_0")}
    for dtype, (output, embedding) in outputs.items():
        assert chosen_for(TINY, dtype, "output") == output
        assert chosen_for(TINY, dtype, "token_embd") == embedding
        assert chosen_for(replace(TINY, tied=True), dtype, "token_embd") == output
    assert [chosen_for(TINY, "mxfp4_moe", f"ffn_up{end}", 3) for end in ("_exps", "_shexp")] == ["mxfp4", "q8_0"]


def test_a_tensor_that_is_named_has_the_format_itself() -> None:
    # the file type Q2_K makes the down projections q3_k; what names a tensor says what it is
    assert chosen_for(TINY, "q2_k", "ffn_down_exps", 3) == "q3_k"
    assert chosen_for(TINY, "q8_0,ffn_down_exps=q2_k", "ffn_down_exps", 3) == "q2_k"
    assert chosen_for(TINY, "q8_0,3:attn_v=iq4_xs", "attn_v", 3) == "iq4_xs"
    assert chosen_for(TINY, "q8_0,3=q2_k", "ffn_down_exps", 3) == "q3_k"
    assert chosen_for(TINY, "q8_0,ffn_down_exps=q4_k_m", "ffn_down_exps", 15) == "q6_k"


def test_names_of_file_types_in_any_case() -> None:
    for name in ("Q4_K_S", "IQ4_XS", "MXFP4_MOE", " q3_k_L "):
        assert chosen_for(TINY, name, "ffn_up_exps", 3) == chosen_for(TINY, name.strip().lower(), "ffn_up_exps", 3)
