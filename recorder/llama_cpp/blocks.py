"""Which blocks of a GGUF file route, the bytes of each, and the files whose routing cannot be recorded.

Names of tensors and keys are those of llama.cpp, ``src/llama-arch.cpp``, build 11549 (ggml-org/llama.cpp); what its
graphs do with them stands in ``src/models``.
"""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.base.errors import ConfigError
from lrcsim.models.gguf_header import GgufHeader, GgufTensor
from lrcsim.recorder.llama_cpp.library import Model
from lrcsim.traces import LayerTable

EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps")
"""Tensors that hold all experts of a layer; biases and scales are called alike."""

SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
"""Tensors of the experts that every token uses, all of a layer in one."""

OTHERS = ("ffn_gate_chexps", "ffn_up_chexps", "ffn_down_chexps", "attn_v_exps")
"""Tensors of experts besides: of grovemoe for pairs of experts, of k2-horizon for the values of attention."""

DRAFTS = ("dflash", "eagle3", "gemma4-assistant")
"""Architectures that only guess tokens for another model, on its states."""


def routing_blocks(header: GgufHeader, model: Model) -> list[int]:
    """Return the blocks that have a router and are run, ascending.

    Blocks that predict further tokens (``nextn_predict_layers``, the last of a file) are not run.

    Raises:
        ConfigError: there are none, or they route otherwise than a trace can say.
    """
    blocks = [block for block in range(model.layers) if f"blk.{block}.ffn_gate_inp.weight" in header.tensors]
    if not blocks:
        raise ConfigError(f"{header.path} is no Mixture-of-Experts model: no layer has a router (ffn_gate_inp)")
    reason = _refused(header, model)
    if reason:
        raise ConfigError(f"{header.path}: {header.architecture or 'this model'} is not recorded: {reason}")
    return blocks


def table(header: GgufHeader, blocks: Sequence[int], top_k: Sequence[int]) -> LayerTable:
    """Describe the layers of these blocks, bytes as they are in the file.

    Args:
        header: of the file.
        blocks: each with a router.
        top_k: experts of a token, for each of the blocks.
    """
    experts, sizes, dense, shared = [], [], [], []
    for block in blocks:
        inside = [tensor for name, tensor in header.tensors.items() if name.startswith(f"blk.{block}.")]
        count = next(tensor.shape[-1] for tensor in inside if _kind(tensor) in EXPERTS and len(tensor.shape) == 3)
        routed = sum(tensor.bytes for tensor in inside if _kind(tensor) in EXPERTS)
        experts.append(count)
        sizes.append(routed // count)
        dense.append(sum(tensor.bytes for tensor in inside) - routed)
        has_shared = any(_kind(tensor) in SHARED for tensor in inside)
        shared.append(max(header.number("expert_shared_count", 0), 1) if has_shared else 0)
    return LayerTable.build(
        len(experts), experts, list(top_k), expert_bytes=sizes, dense_bytes=dense, block=list(blocks), num_shared=shared
    )


def _refused(header: GgufHeader, model: Model) -> str:
    """Say why a model's routing cannot be recorded; empty where it can."""
    if model.is_diffusion:
        return "it denoises a whole text, and its passes are neither prefill nor decode"
    if model.is_encoder or header.own("attention.causal") is False:
        return "it encodes texts and predicts no tokens"
    if header.architecture in DRAFTS:
        return "it guesses tokens for another model, on that one's states"
    other = next((tensor.name for tensor in header.tensors.values() if _kind(tensor) in OTHERS), None)
    if other is not None:
        return f"it chooses among other experts too ({other}), which a trace of its feed-forward experts would lack"
    return ""


def _kind(tensor: GgufTensor) -> str:
    """Return what a tensor of a block is: ``ffn_up_exps`` of ``blk.3.ffn_up_exps.weight``; empty for others."""
    parts = tensor.name.split(".")
    return parts[2] if len(parts) > 2 and parts[0] == "blk" else ""
