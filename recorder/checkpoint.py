"""What a checkpoint must be before a model made of it is believed: without code of its own, all its weights used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, brief

SHOWN = 3
"""Names of keys that a message has."""

LARGEST = 2_048
"""Layers, and experts of one, that a model to be recorded may have."""

SIZES = re.compile(r"(num|n|encoder|decoder|num_(hidden|encoder|decoder)|n_routed|num_local|moe_num)_(layers|experts)")
"""Keys of such numbers."""

ROUTING = re.compile(r"expert|rout|moe|gate|gating|group|top_?k|scale_factor|scaling_factor|scor|capacity|bias_update")
"""Options whose names say that they may change which experts are chosen, or with what weight."""

_HARMLESS = """
    _name_or_path architectures auto_map model_type transformers_version torch_dtype dtype quantization_config
    quantization compression_config unsloth_version unsloth_fixed unsloth_version_fixed tie_encoder_decoder
    task_specific_params problem_type pretraining_tp use_cache use_return_dict output_router_logits
    router_aux_loss_coef router_z_loss_coef router_jitter_noise aux_loss_alpha seq_aux ep_size
    num_nextn_predict_layers mtp_num_layers num_mtp_modules mtp_loss_weight load_balance_coeff
    initializer_range init_std init_method dropout hidden_dropout attention_dropout resid_pdrop embd_pdrop attn_pdrop
    attention_probs_dropout_prob embedding_dropout classifier_dropout rope_theta rope_scaling rope_parameters
    partial_rotary_factor max_position_embeddings original_max_position_embeddings max_sequence_length model_max_length
    max_window_layers sliding_window use_sliding_window vision_config audio_config image_token_id video_token_id
    vision_start_token_id vision_end_token_id tokenizer_class processor_class language training_args base_model
    _attn_implementation attn_implementation flash_attn_2_enabled _flash_attn_2_enabled use_flash_attention
    pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    do_sample temperature top_p max_length min_length max_new_tokens repetition_penalty num_beams early_stopping
    length_penalty no_repeat_ngram_size bad_words_ids num_return_sequences torchscript use_bfloat16 pruned_heads
    is_decoder cross_attention_hidden_size add_cross_attention chunk_size_feed_forward output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty typical_p diversity_penalty num_beam_groups top_k
    encoder_no_repeat_ngram_size finetuning_task gradient_checkpointing id2label label2id num_labels prefix
    tf_legacy_loss torch_compile
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Keys of configs that change nothing in what is routed, though the class may not know them."""

WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "moe_layer_freq": (1,), "scale_factor": (1, 1.0), "routed_scaling_factor": (1, 1.0), "n_group": (1,),
    "topk_group": (1,), "num_expert_group": (1,), "expert_capacity_factor": (1, 1.0), "moe_router_topk_scaling": (1,),
}  # fmt: skip
"""Values of options that are those of a model without them; so is everything that is empty, zero or false."""

_SIGMOID = ("deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "dots1")
BUILT_IN: dict[str, dict[str, tuple[Any, ...]]] = {
    **{kind: {"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)} for kind in _SIGMOID},
    "deepseek_v2": {"scoring_func": ("softmax",)},
    "minimax_m2": {"scoring_func": ("sigmoid",), "use_routing_bias": (True,)},
}
"""Options that a class does not ask for, since it is built for that one value of them."""

UNUSED = re.compile(
    r"rotary_emb\.inv_freq$|(^|\.)position_ids$|\.masked_bias$|(^|\.)mtp(_|\.|$)|(^|\.)nextn\.|(^|\.)[kv]_scale$"
    r"|kv_scale$|num_batches_tracked$|embed_positions\.weights$"
)
"""Weights that no model of transformers needs to run: buffers that are computed, layers that predict further tokens."""


def refuse_name(name: str) -> None:
    """Raise for what is neither a folder nor can be the id of a model on a hub.

    Raises:
        ConfigError: with what it is instead.
    """
    if name and Path(name).is_dir():
        return
    if Path(name).is_file():
        raise ConfigError(f"model {name}: is a file: give the folder that holds config.json and the weights")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ConfigError(f"model {name!r}: there is no such folder, and it is no id of a hub, as Qwen/Qwen3-30B-A3B")


def read_config(name: str) -> dict[str, Any]:
    """Return what a model's config.json says, without running anything of it."""
    import transformers

    values, _ = transformers.PretrainedConfig.get_config_dict(name, trust_remote_code=False)
    return dict(values)


def refuse_code(name: str, raw: Mapping[str, Any]) -> None:
    """Raise for a model that cannot run without Python code of its own, or that names kernels of a hub.

    Raises:
        ConfigError: with what to do instead.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for part in (raw, *(value for _, value in _deep(raw) if isinstance(value, Mapping))):
        kind = part.get("model_type")
        if part.get("auto_map") and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
            raise ConfigError(
                f"model {name}: is of type {str(kind)[:40]!r} with code of its own (auto_map), which lrcsim does not "
                "run; record it by other means and import that: docs/recorder.md, 'Models with code of their own'"
            )
    for key, value in _deep(raw):
        plain = key.removeprefix("_").removesuffix("_internal")
        outside = any("/" in str(part) for part in (value.values() if isinstance(value, Mapping) else [value]))
        if plain in ("attn_implementation", "experts_implementation") and outside:
            raise ConfigError(
                f"model {name}: its config wants code of a hub for {plain} ({str(value)[:40]!r}), which lrcsim does "
                "not run: take that key out of a copy of the config"
            )


def refuse_sizes(name: str, raw: Mapping[str, Any]) -> None:
    """Raise for a config with more layers or experts than any model has: building it would take for ever.

    Raises:
        ConfigError: with the key.
    """
    for key, value in _deep(raw):
        if isinstance(value, int) and value > LARGEST and SIZES.fullmatch(key):
            raise ConfigError(f"model {name}: its config says {key} = {_shown(value)}: at most {LARGEST:,} are built")


def refuse_outside(name: str) -> None:
    """Raise where an index in a model's folder names a file of weights that is not below the folder.

    Raises:
        ConfigError: with the name; or the index cannot be read.
    """
    folder = Path(name)
    for index in sorted(folder.glob("*.index.json")) if folder.is_dir() else ():
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = {str(file) for file in named}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"model {name}: {index.name} is no index of weights ({brief(error)})") from None
        for file in sorted(files):
            if ".." in re.split(r"[/\\]", file) or file.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", file):
                raise ConfigError(
                    f"model {name}: {index.name} names the file {file[:80]!r}, which is not in that folder: weights "
                    "are read from below it only"
                )


def _deep(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a config and of its parts."""
    for key, value in values.items():
        yield str(key), value
        if isinstance(value, Mapping):
            yield from _deep(value)


def unknown_options(raw: Mapping[str, Any], config: Any) -> list[str]:
    """Say which options of a config.json the class of its type does not know, and so leaves out.

    Args:
        raw: what the config.json says.
        config: what was made of it.

    Returns:
        A line on those that by their names change the routing, and a line on the others; neither where there are none.
    """
    found = sorted(set(_unknown(raw, config)))
    routing = [name for name in found if ROUTING.search(name.partition(" = ")[0].rpartition(".")[2].lower())]
    others = [name for name in found if name not in routing]
    kind = config.model_type
    lines = []
    if routing:
        lines.append(
            f"the config says {_several(routing)}, which transformers' {kind} does not know and leaves out: the "
            "checkpoint may be of another architecture than its config says, and route otherwise than recorded"
        )
    if others:
        lines.append(f"the config says {_several(others)}, which transformers' {kind} does not know and leaves out")
    return lines


def _unknown(raw: Mapping[str, Any], config: Any, before: str = "") -> Iterator[str]:
    known = _known_keys(config)
    built_in = BUILT_IN.get(str(config.model_type), {})
    for key, value in raw.items():
        part = getattr(config, key, None)
        if isinstance(value, Mapping) and hasattr(part, "to_dict"):
            yield from _unknown(value, part, f"{before}{key}.")
        elif key not in known | HARMLESS and not _idle(value, (*WITHOUT_EFFECT.get(key, ()), *built_in.get(key, ()))):
            yield f"{before}{key} = {_shown(value)}"


def _idle(value: Any, values: Iterable[Any]) -> bool:
    return value is None or value in (False, 0, "") or value == [] or value == {} or value in values


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _known_keys(config: Any) -> set[str]:
    """Return the keys that a config's class gives a meaning: its own fields and names that it maps to them."""
    known: set[str] = set()
    with suppress(Exception):  # some classes have no defaults
        known |= set(type(config)().to_dict())
    for cls in type(config).__mro__:
        known |= {name for name in vars(cls).get("__annotations__", {}) if not name.startswith("__")}
        known |= {name for name, kind in vars(cls).items() if isinstance(kind, property)}
        known |= set(vars(cls).get("__dataclass_fields__", {}))
        init: Any = vars(cls).get("__init__")
        code: Any = getattr(init, "__wrapped__", init)
        if hasattr(code, "__code__"):
            known |= set(code.__code__.co_varnames[: code.__code__.co_argcount + code.__code__.co_kwonlyargcount])
        post: Any = vars(cls).get("__post_init__")
        if hasattr(post, "__code__"):  # what it looks up among the keys that are no fields
            known |= {text for text in post.__code__.co_consts if isinstance(text, str) and text.isidentifier()}
    return known | set(type(config).attribute_map) | set(type(config).sub_configs)


def check_weights(name: str, model: Any, info: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    """Check that the checkpoint has all weights of the model, and nothing that the model does not use.

    Args:
        name: of the model.
        model: what was loaded.
        info: what ``from_pretrained(..., output_loading_info=True)`` says.
        raw: the config.json.

    Returns:
        A notice on weights that are left out as they should be.

    Raises:
        ConfigError: weights are missing (and were drawn at random), have another shape, or belong to no part.
    """
    extra = {key for key in info["unexpected_keys"] if not UNUSED.search(key)}
    ahead = {key for key in extra if _predicts(key, raw)}
    parts = [
        ("lacks {} that the class {} needs", sorted(info["missing_keys"])),
        ("has {} in another shape than the class {} needs", sorted(key for key, *_ in info["mismatched_keys"])),
        ("has {} that the class {} does not use", sorted(extra - ahead)),
    ]
    said = [text.format(_counted(keys), type(model).__name__) for text, keys in parts if keys]
    if info.get("error_msgs"):
        said.append(" ".join(str(info["error_msgs"][0]).split()))
    if said:
        raise ConfigError(
            f"model {name}: the checkpoint {', and '.join(said)}: it is not of the architecture that its config says, "
            "and what it would route means nothing"
        )
    if ahead:
        return [f"{len(ahead)} weights of layers that predict further tokens are left out"]
    return []


def _predicts(key: str, raw: Mapping[str, Any]) -> bool:
    """Whether a weight is of a layer behind the last that predicts further tokens, as the config announces them."""
    text = raw.get("text_config")
    values = {**raw, **text} if isinstance(text, Mapping) else raw
    layers, more = values.get("num_hidden_layers"), values.get("num_nextn_predict_layers")
    match = re.search(r"(?:^|\.)layers\.(\d{1,6})\.", key)
    if not (match and isinstance(layers, int) and isinstance(more, int)):
        return False
    return layers <= int(match[1]) < layers + more


def _counted(keys: list[str]) -> str:
    return f"{len(keys)} weight{'' if len(keys) == 1 else 's'} ({_several(keys)})"


def _several(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
