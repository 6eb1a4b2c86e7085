"""What llama.cpp's own quantiser would make of a model: the format of every tensor, from its dry run.

``LRCSIM_LIBLLAMA=path/to/libllama.so python tests/models/llama_quantise.py`` writes `RECORDED` anew. Any build of
llama.cpp as a shared library will do whose struct of options has the fields below (its release v0.5.0 was used); the
one inside the wheel xllamacpp has no quantiser. No weights are needed: a sparse file of the right length does.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrcsim.models import Geometry, load_geometry
from lrcsim.models.tensors import SMALL, Tensor, tensors

RECORDED = Path(__file__).parent / "file_types_of_llamacpp.json"

MODELS = {
    "qwen3-30b-a3b": "qwen3moe",
    "olmoe-1b-7b": "olmoe",
    "mixtral-8x7b": "llama",
    "deepseek-v2-lite": "deepseek2",
    "glm-4.5-air": "glm4moe",
    "gemma-4-26b-a4b": "gemma4",
}
"""Models and llama.cpp's names of their architectures: many query heads to a value head, one to one, eight experts,
MLA, shared experts with rows that are no multiple of 256, a tied embedding and layers without a matrix for values."""

FILE_TYPES = {
    "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13,
    "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20, "q2_k_s": 21,
    "iq3_xs": 22, "iq3_xxs": 23, "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26, "iq3_m": 27, "iq2_s": 28, "iq2_m": 29,
    "iq4_xs": 30, "iq1_m": 31, "tq1_0": 36, "tq2_0": 37, "mxfp4_moe": 38,
}  # fmt: skip
"""The numbers of ``enum llama_ftype`` in include/llama.h."""

DECLARATIONS = """
struct quantise_params {
    int32_t threads, file_type, output, embedding;
    bool again, output_too, copy, pure, keep_split, dry;
    const void *importance, *keys, *types, *prune;
    uint8_t room[64];
};
struct importance { const char *name; const float *data; size_t size; };
struct quantise_params llama_model_quantize_default_params(void);
uint32_t llama_model_quantize(const char *source, const char *target, const struct quantise_params *params);
void llama_log_set(void (*log)(int32_t level, const char *text, void *data), void *data);
void llama_backend_init(void);
"""


class Quantiser:
    """llama.cpp as a shared library at a path."""

    def __init__(self, path: str) -> None:
        import cffi

        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        self.c: Any = self.ffi.dlopen(path)
        self.log: list[str] = []
        self._callback = self.ffi.callback(
            "void(int32_t, const char *, void *)",
            lambda level, text, data: self.log.append(self.ffi.string(text).decode("utf-8", "replace")),
        )
        self.c.llama_log_set(self._callback, self.ffi.NULL)
        self.c.llama_backend_init()
        defaults = self.c.llama_model_quantize_default_params()
        found = (defaults.file_type, defaults.output_too, defaults.pure, defaults.dry, defaults.importance)
        assert found == (FILE_TYPES["q8_0"], True, False, False, self.ffi.NULL), "another layout of the options"

    def formats(self, source: Path, file_type: str, *, importance: bool) -> dict[str, str]:
        """Return the format of every matrix by its name in the file, from a dry run.

        Args:
            source: a GGUF file, in f16.
            file_type: one of `FILE_TYPES`.
            importance: as with an importance matrix.
        """
        params = self.ffi.new("struct quantise_params *", self.c.llama_model_quantize_default_params())
        params.file_type, params.dry, params.threads = FILE_TYPES[file_type], True, 1
        values, name = self.ffi.new("float[]", [1.0]), self.ffi.new("char[]", b"none")
        entries = self.ffi.new("struct importance[2]", [(name, values, 1), (self.ffi.NULL, self.ffi.NULL, 0)])
        if importance:
            params.importance = entries
        self.log.clear()
        status = self.c.llama_model_quantize(str(source).encode(), b"/dev/null", params)
        said = "".join(self.log)
        assert status == 0, said[-500:]
        found = {}
        for match in re.finditer(r"\[ *\d+/ *\d+\] (\S+)\s+- \[.*?\], type = +(\w+), ?(.*)", said):
            changed = re.findall(r"\((\w+)\)\s*$", match[3])
            found[match[1]] = (changed[-1] if changed else match[2]).lower()
        return found


def in_file(geometry: Geometry) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrices of a GGUF file with their names there, those left out that a recipe does not touch.

    ``attn_kv_b`` of MLA is two there, for keys and for values (llama.cpp since April 2025, its PR 12801).
    """
    for tensor in tensors(geometry):
        if tensor.name in SMALL or (tensor.name == "output" and geometry.tied):
            continue
        block = f"blk.{tensor.layer}." if tensor.layer >= 0 else ""
        if tensor.name == "attn_kv_b":
            keys = Tensor("attn_k_b", tensor.layer, geometry.heads * geometry.kv_rank, geometry.head_dim)
            values = geometry.heads * geometry.attention_shape(tensor.layer).value_dim
            yield f"{block}attn_k_b.weight", keys
            yield f"{block}attn_v_b.weight", Tensor("attn_v_b", tensor.layer, values, geometry.kv_rank)
        else:
            yield f"{block}{tensor.name}.weight", tensor


def write_header(path: Path, geometry: Geometry, architecture: str) -> None:
    """Write a GGUF file of a model in f16 without its weights, as long as if they were there."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(4096)
    writer.add_embedding_length(geometry.hidden)
    writer.add_block_count(geometry.layers)
    writer.add_feed_forward_length(geometry.dense_width or geometry.shared_width or geometry.expert_width)
    writer.add_expert_feed_forward_length(geometry.expert_width)
    writer.add_expert_count(geometry.experts)
    writer.add_expert_used_count(geometry.top_k)
    writer.add_head_count(geometry.heads)
    writer.add_head_count_kv(1 if geometry.mla else geometry.kv_heads)
    writer.add_key_length(geometry.kv_rank + geometry.rope_dim if geometry.mla else geometry.head_dim)
    writer.add_value_length(geometry.kv_rank or geometry.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(geometry.rope_dim or geometry.head_dim)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(geometry.vocab)
    writer.add_leading_dense_block_count(geometry.layers - len(geometry.moe_layers))
    writer.add_expert_shared_count(geometry.shared_experts)
    if geometry.mla:
        writer.add_kv_lora_rank(geometry.kv_rank)
        writer.add_key_length_mla(geometry.head_dim + geometry.rope_dim)
        writer.add_value_length_mla(geometry.value_dim or geometry.head_dim)
    if geometry.window:
        writer.add_sliding_window(geometry.window)
        writer.add_embedding_length_per_layer_input(0)
        writer.add_sliding_window_pattern([layer in geometry.window_layers for layer in range(geometry.layers)])
        writer.add_key_length_swa(geometry.head_dim)
        writer.add_value_length_swa(geometry.head_dim)
    if architecture == "glm4moe":
        writer.add_expert_group_count(1)
    size = 0
    for name, tensor in in_file(geometry):
        stacked = {"_exps": geometry.experts, "_k_b": geometry.heads, "_v_b": geometry.heads}
        count = next((count for end, count in stacked.items() if tensor.name.endswith(end)), 1)
        rows = tensor.rows if tensor.name.endswith("_exps") else tensor.rows // count
        shape = (count, rows, tensor.length) if count > 1 else (rows, tensor.length)
        length = 2 * int(np.prod(shape, dtype=np.int64))
        writer.add_tensor_info(name, shape, np.dtype(np.float16), length)
        size += -(-length // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size + 4096)


def shortened(formats: dict[int, str]) -> str:
    """Write formats by layer as the most common one and the layers of the others: ``"q4_k; q6_k 0-5 8 11"``."""
    most, *others = sorted(Counter(formats.values()).items(), key=lambda item: (-item[1], item[0]))
    parts = [most[0]]
    for other, _ in others:
        runs: list[list[int]] = []
        for layer in sorted(layer for layer, name in formats.items() if name == other):
            if runs and layer == runs[-1][1] + 1:
                runs[-1][1] = layer
            else:
                runs.append([layer, layer])
        parts.append(" ".join([other, *(f"{a}-{b}" if a < b else str(a) for a, b in runs)]))
    return "; ".join(parts)


def by_kind(formats: dict[str, str]) -> dict[str, str]:
    """Gather formats by the kind of tensor, as `shortened` writes them."""
    kinds: dict[str, dict[int, str]] = {}
    for name, format in formats.items():
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
        assert match, name
        kinds.setdefault(match[2], {})[int(match[1] or -1)] = format
    return {kind: shortened(by_layer) for kind, by_layer in sorted(kinds.items())}


def record(library: str) -> dict[str, dict[str, dict[str, str]]]:
    """Ask llama.cpp about each model and file type; types ``iq`` as with an importance matrix."""
    quantiser = Quantiser(library)
    found: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, architecture in MODELS.items():
            path = Path(folder) / f"{model}.gguf"
            write_header(path, load_geometry(model), architecture)
            found[model] = {
                name: by_kind(quantiser.formats(path, name, importance=name.startswith("iq"))) for name in FILE_TYPES
            }
    return found


if __name__ == "__main__":
    path = os.environ.get("LRCSIM_LIBLLAMA")
    if not path:
        sys.exit("say where llama.cpp's shared library is: LRCSIM_LIBLLAMA=path/to/libllama.so")
    RECORDED.write_text(json.dumps(record(path), indent=1) + "\n", encoding="utf-8")
