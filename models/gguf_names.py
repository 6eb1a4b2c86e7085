"""GGUF files by their names: which file a path means, what its model and its quantisation are called."""

from __future__ import annotations

import re
from os.path import isdir, isfile, join  # unlike those of Path, they take a name that is too long
from pathlib import Path

from lrcsim.base.errors import ConfigError
from lrcsim.models.gguf_header import PART, GgufHeader

MIX = re.compile(r"[-._](?P<mix>(UD-)?(I?Q\d_[A-Z0-9_]+|TQ\d_\d|BF16|F16|F32|MXFP4(_MOE)?|NVFP4))$", re.IGNORECASE)
"""How a file's name ends that says its quantisation, ``-UD-Q4_K_XL``."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""``general.file_type`` (``llama_ftype`` in include/llama.h); held against package ``gguf`` in the tests."""


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a path names: itself, by its ending or how it begins, or the only one in a folder.

    A folder with a config.json is that model's; files of vision encoders (``mmproj``) are no models.

    Raises:
        ConfigError: a folder has several.
    """
    text = str(path)
    if isdir(text):
        if isfile(join(text, "config.json")):
            return None
        try:
            there = sorted(one for one in path.iterdir() if one.suffix.lower() == ".gguf" and "mmproj" not in one.name)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        models = {PART.sub("", one.name): one for one in reversed(there)}
        if len(models) > 1:
            names = ", ".join(sorted(one.name for one in models.values())[:4])
            raise ConfigError(f"{path} has {len(models)} GGUF models: name one of its files: {names} ...")
        return next(iter(models.values()), None)
    if text.lower().endswith(".gguf"):
        return path
    if not isfile(text):
        return None
    try:
        with path.open("rb") as file:
            return path if file.read(4) == b"GGUF" else None
    except OSError:  # who reads it as a config.json says why
        return None


def stem_of(header: GgufHeader) -> str:
    """Return the file's name without its ending, and that of a part."""
    name = PART.sub("", header.path.name)
    return name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def mix_of(header: GgufHeader) -> str:
    """Return how the file's quantisation is called: as its name ends, else as it says itself."""
    if match := MIX.search(stem_of(header)):
        return match["mix"]
    kind = header.values.get("general.file_type")
    return FILE_TYPES.get(kind, "") if isinstance(kind, int) else ""


def name_of(header: GgufHeader) -> str:
    """Return the model's name: the file's without its quantisation; of a file named by its digest what it says."""
    stem = MIX.sub("", stem_of(header))
    said = header.values.get("general.name")
    if re.fullmatch(r"(sha256-)?[0-9a-f]{40,64}", stem) and isinstance(said, str) and said.strip():
        return said.strip()[:100]
    return stem
