"""The names that checkpoints give to the modules behind a geometry's tensors, and patterns that choose among them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import cache

PREFIXES = ("model.", "", "model.language_model.", "language_model.model.")
"""What stands before ``layers.N`` in the names of modules; patterns are tried with each."""

OUTER = {"model", "language_model", "thinker", "transformer", "backbone", "text_model", "llm"}
LAYERS = {"blocks", "h", "block"}  # other names of ``layers``
BLOCKS = ("mlp", "block_sparse_moe", "feed_forward", "moe", "ffn")
ATTENTION = ("self_attn", "attention", "attn")
PROJECTIONS = {
    "gate": ("gate_proj", "w1", "gate_up_proj"),
    "up": ("up_proj", "w3", "gate_up_proj"),
    "down": ("down_proj", "w2"),
}
ATTENTION_PROJECTIONS = {
    "attn_q": ("q_proj", "qkv_proj", "query_key_value"),
    "attn_k": ("k_proj", "qkv_proj", "query_key_value"),
    "attn_v": ("v_proj", "qkv_proj", "query_key_value"),
    "attn_output": ("o_proj", "out_proj", "dense"),
    "attn_q_a": ("q_a_proj", "fused_qkv_a_proj_with_mqa"),
    "attn_q_b": ("q_b_proj",),
    "attn_kv_a_mqa": ("kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"),
    "attn_kv_b": ("kv_b_proj",),
    "attn_extra": ("gate_proj", "g_proj", "q_proj"),
}
MIXERS = ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "mamba.in_proj", "conv.in_proj", "self_attn.q_proj")

LONGEST = 300
MOST = 200
STARS = 3
"""Limits of regular expressions from a file, so that they cannot take for ever: length, how many, how many ``*`` or
``+`` in one (a name has some 50 letters), and no repeated groups."""

OF_OTHERS = ("switch_mlp", "shared_mlp")
"""Names that only some families or MLX use, and that end as others do: expressions are not tried with them."""


class Unreadable(Exception):  # noqa: N818  (not shown: its text becomes part of a ConfigError)
    """A quantisation that is not understood; the text says what of it."""


@cache
def module_names(tensor: str, layer: int, expert: int = 0) -> tuple[str, ...]:
    """Return the names that the modules of a tensor may have, without what stands before ``layers``.

    Args:
        tensor: llama.cpp's name, as `lrcsim.models.tensors.Tensor` has it.
        layer: its layer.
        expert: which of a layer's routed experts.
    """
    if tensor == "output":
        return ("lm_head", "output", "embed_out")
    if tensor == "token_embd":
        return ("embed_tokens", "embedding", "wte")
    start = f"layers.{layer}"
    if tensor == "ffn_gate_inp":
        blocks = [f"{block}.{name}" for block in BLOCKS for name in ("gate", "router")]
        return tuple(f"{start}.{name}" for name in [*blocks, "mlp.gate.wg", "router.proj"])
    if tensor == "mixer":
        return tuple(f"{start}.{name}" for name in MIXERS)
    if tensor.startswith("attn"):
        return tuple(f"{start}.{block}.{name}" for block in ATTENTION for name in ATTENTION_PROJECTIONS[tensor])
    _, which, *suffix = tensor.split("_")
    routed, shared = (f".experts.{expert}", ".switch_mlp"), (".shared_expert", ".shared_experts")
    inner = {(): ("",), ("exps",): routed, ("shexp",): shared}
    blocks = [block + part for block in BLOCKS for part in inner[tuple(suffix)]]
    if suffix == ["exps"]:
        blocks += [f"experts.{expert}", "mlp.experts"]
    if suffix == ["shexp"]:
        blocks += ["shared_mlp", "mlp.shared_mlp"]
    return tuple(f"{start}.{block}.{name}" for block in blocks for name in PROJECTIONS[which])


class Patterns:
    """A list of modules by name, as quantisation configs have them.

    A plain name stands for the module and all below it, wherever its parts come one after the other: ``lm_head``,
    ``mlp.gate``, ``model.layers.3``, ``self_attn``. ``*`` and ``?`` are wild cards, of names from the left, also for
    the module and all below it; ``re:`` begins a regular expression, and so does ``.*``.

    Args:
        patterns: the list.
        expressions: whether all are regular expressions.

    Raises:
        Unreadable: a pattern is no text, or a regular expression that is wrong or too costly.
    """

    def __init__(self, patterns: Iterable[object], *, expressions: bool = False) -> None:
        self.plain: set[tuple[str, ...]] = set()
        self.expressions: list[re.Pattern[str]] = []
        globs: set[str] = set()
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise Unreadable(f"{str(pattern)[:40]!r} is no name of a module")
            if expressions or pattern.startswith(("re:", ".*")) or re.search(r"[\\^$|()\[\]+]", pattern):
                self.expressions.append(_expression(pattern.removeprefix("re:")))
            elif "*" in pattern or "?" in pattern:
                _check_cost(pattern, pattern.count("*"))
                globs.add(fnmatch.translate(pattern).removesuffix(r"\Z"))
            elif parts := _parts(pattern):
                self.plain.add(parts)
        self.globs = re.compile(rf"(?:{'|'.join(sorted(globs))})(?:\..*)?\Z") if globs else None
        if len(self.expressions) > MOST or len(globs) > 20 * MOST:
            raise Unreadable(f"it has more than {MOST} patterns of modules")

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.plain or self.expressions or self.globs)

    def match(self, names: Iterable[str]) -> bool:
        """Tell whether one of the names of a module is among them."""
        names = tuple(names)
        if self.plain and any(run in self.plain for name in names for run in _runs(name)):
            return True
        if not (self.globs or self.expressions):
            return False
        whole = [prefix + name for name in names if not any(o in name for o in OF_OTHERS) for prefix in PREFIXES]
        if self.globs and any(self.globs.match(name) for name in whole):
            return True
        return any(expression.search(name) for expression in self.expressions for name in whole)


def _parts(pattern: str) -> tuple[str, ...]:
    """Return the parts of a plain name, without what stands before ``layers``."""
    parts = [part for part in pattern.strip().strip(".").split(".") if part]
    parts = ["layers" if part in LAYERS else part for part in parts if part != "weight"]
    while len(parts) > 1 and parts[0] in OUTER:
        parts = parts[1:]
    return tuple(parts)


@cache
def _runs(name: str) -> tuple[tuple[str, ...], ...]:
    """Return all runs of consecutive parts of a name."""
    parts = name.split(".")
    size = len(parts)
    return tuple(tuple(parts[low:high]) for low in range(size) for high in range(low + 1, size + 1))


def _check_cost(pattern: str, stars: int) -> None:
    if len(pattern) > LONGEST or stars > STARS:
        raise Unreadable(f"the pattern {pattern[:40]!r} is too long or has too many wild cards")


def _expression(text: str) -> re.Pattern[str]:
    text = re.sub(r"(\.\*\??){2,}", ".*", text)
    bare = re.sub(r"\\.|\[[^\]]*\]", "x", text)
    _check_cost(text, len(re.findall(r"[*+]|\{\d*,", bare)))
    if re.search(r"\)[*+{]", bare) or re.search(r"\\[1-9]", text):
        raise Unreadable(f"the pattern {text[:40]!r} repeats a group")
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise Unreadable(f"the pattern {text[:40]!r} is no regular expression") from None
