"""File types of llama.cpp (``q4_k_m``, ``iq3_xxs`` ...): a format by kind of tensor, its layer and the model.

The rules are those of ``llama-quantize`` (``llama_tensor_get_type_impl`` in src/llama-quant.cpp of ggml-org/llama.cpp,
commit 007dbbf), in the words of this project. File types whose names begin with ``iq`` are taken with an importance
matrix, without which llama.cpp refuses most of them, and all others without one. tests/models/test_file_types.py holds
them against what llama.cpp chose, tensor by tensor. What they do not know:

* llama.cpp splits ``attn_kv_b`` of MLA in two, of which one falls back to a larger format where heads are narrow; in
  ``mxfp4_moe`` it makes both mxfp4.
* Of what stands in the place of attention, some matrices get the format of ``attn_v``, and count where it asks which.
* A file with layers that predict further tokens counts them among its layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lrcsim.models.geometry import Geometry
from lrcsim.models.tensors import Tensor

Rule = Callable[[Geometry, Tensor], str]


def use_more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp's ``_m`` mixes give more bits to this layer: the first and last eighth, and every third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


@dataclass(frozen=True)
class FileType:
    """Formats by kind of tensor; an empty one: ``base``.

    Attributes:
        base: of what nothing else names.
        values: of ``attn_v``.
        down: of the last matrices of experts and dense blocks.
        up: of their other matrices.
        queries: of ``attn_q``.
        keys: of ``attn_k``.
        projection: of ``attn_output``.
        eight: of ``attn_v``, ``attn_k`` and ``attn_output`` in models with eight experts.
        output: of the output matrix.
        embedding: of the embedding, where it is not the output matrix too.
        experts: of all matrices of routed experts.
    """

    base: str
    values: Rule | str = ""
    down: Rule | str = ""
    up: Rule | str = ""
    queries: str = ""
    keys: str = ""
    projection: str = ""
    eight: tuple[str, str, str] = ("q8_0", "q8_0", "")
    output: str = "q6_k"
    embedding: str = ""
    experts: str = ""

    def __call__(self, geometry: Geometry, tensor: Tensor) -> str:
        """Return the format of a tensor, whatever the length of its rows."""
        rule = self._rule(geometry, tensor.name)
        return (rule(geometry, tensor) if callable(rule) else rule) or self.base

    def _rule(self, geometry: Geometry, name: str) -> Rule | str:
        if self.experts and name.endswith("_exps"):
            return self.experts
        if geometry.experts == 8 and name in ("attn_v", "attn_k", "attn_output"):
            return self.eight[("attn_v", "attn_k", "attn_output").index(name)]
        attention: dict[str, Rule | str] = {
            "attn_v": self.values, "attn_q": self.queries, "attn_k": self.keys, "attn_output": self.projection
        }  # fmt: skip
        if name.startswith("ffn_"):
            return self.down if name.startswith("ffn_down") else self.up
        if name in ("output", "token_embd"):
            return self.output if name == "output" or geometry.tied else self.embedding
        return attention.get(name, "")


def _value_place(geometry: Geometry, layer: int) -> tuple[int, int]:
    """Return a layer's place among those that have a matrix for values, and how many these are."""
    layers = geometry.kv_layers
    if geometry.global_attention is not None and geometry.global_attention.keys_are_values:
        layers = tuple(other for other in layers if other in geometry.window_layers)
    return layers.index(layer), len(layers)


def _if_shared(shared: str, own: str = "") -> Rule:
    """Values: one format where four query heads or more share a value head, another where fewer do."""

    def rule(geometry: Geometry, _: Tensor) -> str:
        return shared if geometry.heads // geometry.kv_heads >= 4 else own

    return rule


def _first_values(count: int, first: str, rest: str = "") -> Rule:
    """Values: one format in the first layers that have such a matrix, another in the rest."""
    return lambda geometry, tensor: first if _value_place(geometry, tensor.layer)[0] < count else rest


def _more_values(more: str) -> Rule:
    return lambda geometry, tensor: more if use_more_bits(*_value_place(geometry, tensor.layer)) else ""


def _more_layers(more: str) -> Rule:
    return lambda geometry, tensor: more if use_more_bits(tensor.layer, geometry.layers) else ""


def _first_layers(part: int, first: str, rest: str = "") -> Rule:
    """One format in the first eighth (or whatever part) of all layers, another in the rest."""
    return lambda geometry, tensor: first if tensor.layer < geometry.layers // part else rest


def _outside_the_middle(middle: str) -> Rule:
    """Another format in the layers between the first and the last eighth."""

    def rule(geometry: Geometry, tensor: Tensor) -> str:
        return middle if geometry.layers // 8 <= tensor.layer < 7 * geometry.layers // 8 else ""

    return rule


def _first_down(first: str) -> Rule:
    """Another format for as many down matrices as an eighth of the layers; a layer with shared experts has two."""

    def rule(geometry: Geometry, tensor: Tensor) -> str:
        two = set(geometry.moe_layers) if geometry.shared_width else set()
        before = tensor.layer + sum(layer < tensor.layer for layer in two) + tensor.name.endswith("_shexp")
        return first if before < geometry.layers // 8 else ""

    return rule


def _iq3_m_down(geometry: Geometry, tensor: Tensor) -> str:
    more = geometry.experts == 8 and use_more_bits(tensor.layer, geometry.layers)
    return "q4_k" if more or tensor.layer < geometry.layers // 8 else ""


def _few_bits(base: str, more: str, projection: str, embedding: str) -> FileType:
    """Types of 1 and 2 bits; ``more`` is of the first down matrices. A MoE model has more than four experts."""
    return FileType(
        base, values="q4_k", down=_first_down(more), projection=projection, eight=("q4_k", "q4_k", "q5_k"),
        output="q5_k", embedding=embedding,
    )  # fmt: skip


EIGHT_WITH_OUTPUT = ("q8_0", "q8_0", "q5_k")

MIXES: dict[str, FileType] = {
    "q4_0": FileType("q4_0"),
    "q4_1": FileType("q4_1"),
    "q5_0": FileType("q5_0"),
    "q5_1": FileType("q5_1"),
    "q6_k": FileType("q6_k"),
    "q8_0": FileType("q8_0", output="q8_0"),
    "q5_k_s": FileType("q5_k"),
    "q5_k_m": FileType("q5_k", values=_more_values("q6_k"), down=_more_layers("q6_k")),
    "q4_k_s": FileType(
        "q4_k", values=_first_values(4, "q5_k"), down=_first_layers(8, "q5_k"), eight=EIGHT_WITH_OUTPUT
    ),
    "q4_k_m": FileType(
        "q4_k", values=_more_values("q6_k"), down=_more_layers("q6_k"), eight=EIGHT_WITH_OUTPUT
    ),
    "q3_k_s": FileType("q3_k", eight=EIGHT_WITH_OUTPUT),
    "q3_k_m": FileType(
        "q3_k", values=_first_values(2, "q5_k", "q4_k"), down=_first_layers(16, "q5_k", "q4_k"), projection="q4_k",
        eight=EIGHT_WITH_OUTPUT,
    ),
    "q3_k_l": FileType("q3_k", values="q5_k", down="q5_k", projection="q5_k"),
    "q2_k": FileType(
        "q2_k", values=_if_shared("q4_k", "q3_k"), down="q3_k", projection="q3_k", eight=EIGHT_WITH_OUTPUT
    ),
    "q2_k_s": FileType("q2_k", values=_if_shared("q4_k"), down=_first_layers(8, "q4_k")),
    "iq4_nl": FileType("iq4_nl", values=_if_shared("q5_k"), eight=EIGHT_WITH_OUTPUT),
    "iq4_xs": FileType("iq4_xs", values=_if_shared("q5_k"), eight=EIGHT_WITH_OUTPUT),
    "iq3_m": FileType("iq3_s", values="q4_k", down=_iq3_m_down, projection="q4_k", eight=EIGHT_WITH_OUTPUT),
    "iq3_s": FileType("iq3_s", values=_if_shared("q4_k"), eight=EIGHT_WITH_OUTPUT),
    "iq3_xs": FileType(
        "iq3_s", values=_if_shared("q4_k"), up=_outside_the_middle("iq3_xxs"), queries="iq3_xxs", keys="iq3_xxs",
        eight=EIGHT_WITH_OUTPUT,
    ),
    "iq3_xxs": FileType(
        "iq3_xxs", values=_if_shared("q4_k"), queries="iq2_s", keys="iq2_s", projection="iq3_s",
        eight=EIGHT_WITH_OUTPUT, output="q5_k", embedding="iq3_s",
    ),
    "iq2_m": _few_bits("iq2_s", "iq3_s", "iq3_s", "iq3_s"),
    "iq2_s": _few_bits("iq2_xs", "iq3_s", "iq3_s", "iq3_s"),
    "iq2_xs": _few_bits("iq2_xs", "q2_k", "", "q2_k"),
    "iq2_xxs": _few_bits("iq2_xxs", "q2_k", "", "q2_k"),
    "iq1_m": _few_bits("iq1_m", "q2_k", "iq2_xxs", "q2_k"),
    "iq1_s": _few_bits("iq1_s", "q2_k", "iq2_xxs", "q2_k"),
    "tq2_0": FileType("tq2_0", embedding="q4_k"),
    "tq1_0": FileType("tq1_0", embedding="q4_k"),
    "mxfp4_moe": FileType("q8_0", output="q8_0", eight=("", "", ""), experts="mxfp4"),
}  # fmt: skip

UNSLOTH = {
    "ud-q2_k_xl": "q2_k", "ud-q3_k_xl": "q3_k_m", "ud-q4_k_xl": "q4_k_m", "ud-q5_k_xl": "q5_k_m", "ud-q6_k_xl": "q6_k"
}  # fmt: skip
"""Unsloth's dynamic files, and the file type that each is counted as.

Their recipes are not published and differ from model to model and over time. Held against published sizes, the counts
are off by -6 to +6 % for Q4_K_XL (5 models), +6 % for Q3_K_XL, 0 % for Q5_K_XL and -5 % for Q6_K_XL (one model each),
-5 and +15 % for Q2_K_XL (two): tests/models/test_published_files.py. Where it matters, give the file itself.
"""
MIXES |= {name: MIXES[usual] for name, usual in UNSLOTH.items()}

LARGER = {"q3_k_xl": "q3_k_l", "q4_k_l": "q4_k_m", "q5_k_l": "q5_k_m", "q6_k_l": "q6_k"}
"""Files that some publishers (bartowski) list besides: a file type with output matrix and embedding in Q8_0.

Exact for their files of Meta-Llama-3.1-8B-Instruct (tests/models/test_published_files.py). ``Q2_K_L`` is none of them,
by which two publishers mean two things.
"""
MIXES |= {name: replace(MIXES[usual], output="q8_0", embedding="q8_0") for name, usual in LARGER.items()}
