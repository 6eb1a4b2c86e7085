"""A transformers model written as a GGUF file in float32, by package ``gguf`` and its table of tensor names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf_keys import ARCHITECTURES, keys_of, write_keys
from gguf_tensors import tensors


def write_gguf(
    model: Any,
    path: Path,
    folder: Path | None = None,
    template: str = "",
    end: int | None = None,
    *,
    architecture: str | None = None,
    more: Mapping[str, npt.NDArray[np.float32]] | None = None,
    keys: Mapping[str, int] | None = None,
    dtype: str = "F32",
    each: int = 0,
) -> None:
    """Write a model.

    Args:
        model: of one of `gguf_keys.ARCHITECTURES`, in float32.
        path: of the file.
        folder: with a tokenizer.json, byte-level BPE as GPT-2's; None: the file has no tokenizer.
        template: of conversations.
        end: token that ends a text.
        architecture: llama.cpp's name of another one, with the same tensors; None: the model's own.
        more: tensors besides, by llama.cpp's names.
        keys: besides or instead, without the architecture's name before them.
        dtype: ggml's name of the format of matrices but routers and embeddings.
        each: tensors of each file of a split model; 0: all in one.
    """
    import gguf

    config = model.config
    name = architecture or ARCHITECTURES[config.model_type]
    kind = next(kind for kind, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    writer = gguf.GGUFWriter(path, name, split_max_tensors=each)
    writer.add_name("written by a test")
    write_keys(writer, name, keys_of(config) | dict(keys or {}))
    _add_tokenizer(writer, config, folder, template, end)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    form = gguf.GGMLQuantizationType[dtype]
    for key, data in (*tensors(model), *(more or {}).items()):
        given = key.startswith(("blk.", "rope_freqs."))
        found = key if given else names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, key
        if data.ndim < 2 or "ffn_gate_inp" in found or not found.startswith("blk."):
            writer.add_tensor(found, data)
        else:
            writer.add_tensor(found, gguf.quants.quantize(data, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, config: Any, folder: Path | None, template: str, end: int | None) -> None:
    if folder is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        return
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(found["vocab"], key=found["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(pair) for pair in found["merges"]])
    writer.add_add_bos_token(False)
    if end is not None:
        writer.add_eos_token_id(end)
    if template:
        writer.add_chat_template(template)
