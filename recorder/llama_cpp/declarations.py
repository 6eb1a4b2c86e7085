"""llama.cpp's functions and structs as declared here, for one version of its library, and where that is installed.

Its structs are passed by value and change between versions, so one version is pinned, and what the library itself gives
as defaults is compared with what the declarations here read at their places. Written from the documentation of
``include/llama.h`` and ``include/ggml.h`` (ggml-org/llama.cpp, MIT) for build 11549.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.installing import from_checkout

VERSION = "2026.10.11549"
"""Of the wheel; its last part is llama.cpp's build number."""
HOW = f"{from_checkout('llamacpp')}, that is xllamacpp=={VERSION}, gguf and cffi"

DECLARATIONS = """
struct model_params {
    void *devices, *buffer_types;
    int32_t gpu_layers, split_mode, load_mode, lazy_mode, main_gpu;
    const float *tensor_split;
    void *progress, *progress_data, *overrides;
    bool vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc, load_mtp;
    uint8_t room[64];
};
struct context_params {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, n_outputs_max_per_seq;
    int32_t n_threads, n_threads_batch, context_type, rope_scaling, pooling, attention, flash_attention;
    float rope_base, rope_scale, yarn_extrapolation, yarn_attention, yarn_fast, yarn_slow;
    uint32_t yarn_context;
    float defragment;
    void *eval, *eval_data;
    int32_t type_k, type_v;
    size_t moe_cache;
    void *abort, *abort_data;
    bool embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified;
    void *samplers;
    size_t n_samplers;
    void *other;
    uint8_t room[64];
};
struct batch {
    int32_t tokens;
    int32_t *token;
    float *embedding;
    int32_t *position, *sequences, **sequence;
    int8_t *output;
};

struct tensor {
    int32_t type;
    void *buffer;
    int64_t ne[4];
    size_t nb[4];
    uint8_t rest[512];
};

void llama_backend_init(void);
void llama_log_set(void (*log)(int32_t level, const char *text, void *data), void *data);
const char *llama_print_system_info(void);
struct model_params llama_model_default_params(void);
struct context_params llama_context_default_params(void);
void *llama_model_load_from_file(const char *path, struct model_params params);
void llama_model_free(void *model);
uint64_t llama_model_size(const void *model);
uint64_t llama_model_n_params(const void *model);
int32_t llama_model_n_layer(const void *model);
int32_t llama_model_n_embd(const void *model);
int32_t llama_model_n_ctx_train(const void *model);
bool llama_model_has_encoder(const void *model);
bool llama_model_has_decoder(const void *model);
bool llama_model_is_diffusion(const void *model);
int32_t llama_model_meta_val_str(const void *model, const char *key, char *target, size_t size);
const char *llama_model_chat_template(const void *model, const char *name);
const void *llama_model_get_vocab(const void *model);
int32_t llama_tokenize(
    const void *vocab, const char *text, int32_t length, int32_t *tokens, int32_t most, bool special, bool parse);
bool llama_vocab_is_eog(const void *vocab, int32_t token);
int32_t llama_vocab_eos(const void *vocab);
int32_t llama_vocab_type(const void *vocab);
struct message { const char *role, *content; };
int32_t llama_chat_apply_template(
    const char *template, const struct message *messages, size_t count, bool answer, char *target, int32_t size);
int32_t llama_vocab_n_tokens(const void *vocab);
void *llama_init_from_model(void *model, struct context_params params);
void llama_free(void *context);
uint32_t llama_n_ctx(const void *context);
uint32_t llama_n_batch(const void *context);
uint32_t llama_n_ubatch(const void *context);
int32_t llama_n_threads(void *context);
int32_t llama_n_threads_batch(void *context);
void *llama_get_memory(const void *context);
void llama_memory_clear(void *memory, bool data);
struct batch llama_batch_get_one(int32_t *tokens, int32_t count);
struct batch llama_batch_init(int32_t tokens, int32_t embeddings, int32_t sequences);
void llama_batch_free(struct batch batch);
int32_t llama_decode(void *context, struct batch batch);
void llama_synchronize(void *context);
float *llama_get_logits_ith(void *context, int32_t which);
float *llama_get_logits(void *context);
const char *ggml_get_name(const struct tensor *tensor);
size_t ggml_nbytes(const struct tensor *tensor);
void ggml_backend_tensor_get(const struct tensor *tensor, void *target, size_t offset, size_t size);
size_t ggml_row_size(int32_t type, int64_t values);
size_t ggml_quantize_chunk(
    int32_t type, const float *values, void *target, int64_t start, int64_t rows, int64_t length, const float *weights);
"""

MODEL_DEFAULTS = {"gpu_layers": -1, "split_mode": 1, "load_mode": -1, "main_gpu": 0, "vocab_only": False} | {
    "lazy_mode": 1, "check_tensors": False, "use_extra_bufts": True, "no_host": False, "no_alloc": False,
    "load_mtp": False
}  # fmt: skip
CONTEXT_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_threads": 4} | {
    "n_threads_batch": 4, "rope_scaling": -1, "pooling": -1, "attention": -1, "flash_attention": -1, "rope_base": 0.0,
    "yarn_extrapolation": -1.0, "defragment": -1.0, "type_k": 1, "type_v": 1, "moe_cache": 0, "embeddings": False,
    "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True, "kv_unified": False
}  # fmt: skip
"""What build 11549 gives: -1 is "as the model says" or "automatic", type 1 is float16."""


def check_defaults(struct: str, given: Any, known: Mapping[str, object]) -> None:
    """Check that a struct of defaults has, at the places declared here, what this build's defaults are.

    Raises:
        ConfigError: it has not, so that the declarations are not those of the library.
    """
    for name, value in known.items():
        if getattr(given, name) != value:
            raise ConfigError(
                f"{struct} of the installed xllamacpp gives {name} {getattr(given, name)!r}, not {value!r}: "
                f"its layout is another than declared here for {VERSION}: install that"
            )


def library_path() -> Path:
    """Find the shared library of the pinned version.

    Raises:
        ConfigError: a package is not installed or of another version, or the library is not where it should be.
    """
    for package in ("cffi", "xllamacpp"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: {HOW}")
    found = importlib.metadata.version("xllamacpp")
    if found != VERSION:
        raise ConfigError(f"xllamacpp {found} is installed, and its structs are not known here: {HOW}")
    spec = importlib.util.find_spec("xllamacpp")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [path for place in places for path in sorted(Path(place).glob("xllamacpp*.so"))]
    if not files:
        raise ConfigError(f"xllamacpp has no shared library where it is installed: {HOW}")
    return files[0]
