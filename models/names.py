"""Built-in models by the names that people type: of hubs, of files, of other programs.

One rule: what stands before and behind a model's name is taken off, piece by piece, until what is left is a name or an
alias of a built-in model, case, spaces, hyphens, dots and underscores apart. Nothing is guessed: a name of which
anything else is left is of another model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.models.formats import find_format
from lrcsim.models.mixes import MIXES

HUBS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|modelscope\.cn/models|ollama\.com/library)/")
PATHS = re.compile(r"[/~.]|[a-z]:[/\\]|.*\\|.*/.*/")
"""How the path of a file begins or looks, where it is not ``owner/name``."""

DTYPES = {
    "awq": "int4-g128", "awq-4bit": "int4-g128", "gptq": "int4-g128", "gptq-int4": "int4-g128",
    "gptq-4bit": "int4-g128", "gptq-int8": "int8-g128", "w4a16": "int4-g128-sym", "w8a16": "int8", "w8a8": "int8",
    "int4": "int4-g128", "int8": "int8", "fp8-dynamic": "fp8", "fp8-block": "fp8", "bnb-4bit": "nf4",
    "mlx-4bit": "int4-g64-bias",
    "mlx-6bit": "int6-g64-bias", "mlx-8bit": "int8-g64-bias", "4bit": "int4-g64-bias", "6bit": "int6-g64-bias",
    "8bit": "int8-g64-bias",
}  # fmt: skip
"""What endings of a name say of its weights, besides the names of formats: the usual settings of these tools (AutoAWQ
and GPTQModel groups of 128, llm-compressor's W4A16 scheme, bitsandbytes NF4, MLX groups of 64)."""

ENDINGS = re.compile(
    r"""[\s:_@./-]+(?:
        gguf | \d{5}-of-\d{5} | latest | i1 | imatrix | mlx | hf | pt | qat | quantized | exl2 | exl3 | unsloth
        | dynamic | original
        | instruct | it | chat | base | thinking | reasoning | preview | (?:128|256|512)k | 1m
        | (?:0[1-9]|1[0-2])[0-3]\d | 2[4-9](?:0[1-9]|1[0-2]) | v0\.\d
    )""",
    re.VERBOSE,
)
"""Words, months and days behind a model's name that say nothing of its geometry or its weights."""

DENSE = re.compile(
    r"""qwen3-(?:0\.6|1\.7|4|8|14|32)b | qwen3\.[56]-(?:0\.8|2|4|9|27)b | qwen3-vl-(?:2|4|8|32)b | qwq-32b
        | qwen2(?:\.5)?-(?:(?:coder|math|vl)-)?(?:0\.5|1\.5|3|7|14|32|72)b
        | (?:meta-)?llama-?[23](?:\.[123])?-(?:1|3|7|8|11|13|70|90|405)b | codellama-\d+b
        | mistral-(?:7b|nemo|small-2|small-24b|small-3).* | ministral-.* | codestral-22b
        | (?:devstral|magistral)-small.*
        | gemma-?[123]n?-e?\d+m?b? | gemma-4-(?:e2b|e4b|31b) | phi-?(?:2|3-mini|3-medium|4|4-mini)
        | deepseek-r1-distill-.* | deepseek-(?:llm|coder)-(?:1\.3|6\.7|7|33|67)b | glm-?4-(?:9b|32b) | yi(?:-1\.5)?-\d+b
        | olmo-?[23]-\d+b | smollm[23]?-.* | granite-3\.\d-[28]b | falcon-?3?-\d+b | internlm.* | seed-oss-36b
    """,
    re.VERBOSE,
)
"""Well-known models without experts, their names in lower case."""


class Named(NamedTuple):
    """A built-in model, and the dtype that the given name says its weights have, unchecked; empty: it says none."""

    model: str
    dtype: str


def squashed(name: str) -> str:
    """Return a name without what people write this way or that: case, spaces, hyphens, dots, underscores, colons."""
    return re.sub(r"[\s_.:-]+", "", name.lower())


def find_named(text: str, known: Mapping[str, str]) -> Named | None:
    """Return the built-in model that a name means; None: it is none of them.

    Args:
        text: what was typed: ``Qwen/Qwen3-30B-A3B-FP8``, ``qwen3:30b-a3b``, ``Qwen3-30B-A3B-UD-Q4_K_XL.gguf``.
        known: names and aliases, each with the name of its model.
    """
    models = {squashed(name.rpartition("/")[2]): model for name, model in known.items()}
    for start in _starts(text):
        dtype = ""
        for stem, said in _stems(start):
            dtype = dtype or said
            if model := models.get(squashed(stem)):
                return Named(model, dtype)
    return None


def no_such_model(text: str, known: Mapping[str, str]) -> ConfigError:
    """Return what to say of a name that is no built-in model's: it is a dense one, or may be several, or is unknown."""
    stems = [[stem for stem, _ in _stems(start)] for start in _starts(text)]
    if any(DENSE.fullmatch(re.sub(r"[\s_:]+", "-", stem)) for start in stems for stem in start):
        return ConfigError(
            f"model {text!r} is not a MoE: it has no experts that a cache could hold, and lrcsim is about models that "
            "have; lrcsim models lists them"
        )
    shortest = stems[0][-1]
    begun = squashed(shortest)
    several = [name for name in dict.fromkeys(known.values()) if len(begun) > 2 and squashed(name).startswith(begun)]
    if len(several) > 1:
        return ConfigError(f"model {text!r} may be {', '.join(several[:8])}{' ...' * (len(several) > 8)}: say which")
    closest = [name for name in known.values() if begun and squashed(name).startswith(begun)]  # one at most
    hint = did_you_mean(shortest, closest) or _alike(shortest, known) or "; lrcsim models lists them"
    if text.lower().endswith(".gguf"):
        return ConfigError(f"there is no file {text!r}, and no built-in model of that name{hint}")
    return ConfigError(
        f"there is no model {text!r}: give a built-in name, or the path of a GGUF, config.json or TOML{hint}"
    )


def _alike(stem: str, known: Mapping[str, str]) -> str:
    """Return what may have been meant by a name that is none: a model that is spelt nearly so, else its family.

    What is suggested is a model's own name, never a short alias of it; the first words must be alike too, so that
    ``longcat-flash`` is not taken for ``mimo-v2-flash``.
    """
    models = list(dict.fromkeys(known.values()))
    written = re.sub(r"[\s_:]+", "-", stem)
    word = _letters(written)
    for names in (models, [name for name in known if len(name) >= 0.75 * len(written)]):
        for close in difflib.get_close_matches(written, names, n=3, cutoff=0.6):
            if _same_word(word, _letters(known.get(close, close))):
                return f"; did you mean {known.get(close, close)!r}?"
    family = [name for name in models if word and _same_word(word, _letters(name))]
    return f"; there are {', '.join(family[:6])}{' ...' * (len(family) > 6)}" if family else ""


def _letters(name: str) -> str:
    """Return the letters that a name begins with, after its owner."""
    return re.sub(r"[^a-z].*", "", name.lower().rpartition("/")[2])


def _same_word(one: str, other: str) -> bool:
    """Whether two words are the same but for a slip: a letter more, less or another, or two that changed places."""
    return sorted(one) == sorted(other) or difflib.SequenceMatcher(None, one, other).ratio() >= 0.8


def is_path(text: str) -> bool:
    """Whether a text can only be the path of a file, and not the name of a model or ``owner/name``."""
    return not HUBS.match(text.lower()) and bool(PATHS.match(text.lower()))


def _starts(text: str) -> Iterator[str]:
    """Yield a name in lower case without its owner; then, as some write ``owner_name``, without that too."""
    name = HUBS.sub("", text.strip().lower(), count=1).rstrip("/").rpartition("/")[2]
    name = name.removesuffix(".gguf")
    yield name
    if "_" in name:
        yield name.partition("_")[2]


def _stems(name: str) -> Iterator[tuple[str, str]]:
    """Yield a name with fewer and fewer endings, each with the dtype that the last of them says."""
    yield name, ""
    while True:
        for begin in [match.start() for match in re.finditer(r"[\s:_@.-]", name)]:
            said = _dtype(name[begin + 1 :])
            if said or ENDINGS.fullmatch(name[begin:]):
                name = name[:begin].rstrip(" :_@.-")
                break
        else:
            return
        yield name, said


def _dtype(ending: str) -> str:
    """Return the dtype that an ending says; empty: it says none."""
    plain = ending.replace("_", "-")
    if plain in DTYPES:
        return DTYPES[plain]
    file_type = re.sub(r"^ud[-_]", "", ending)
    if file_type in MIXES or find_format(file_type) or f"ud-{file_type}" in MIXES or file_type == "q8_k_xl":
        return file_type if file_type == ending else f"ud-{file_type}"
    return {"fp16": "f16"}.get(ending, "")
