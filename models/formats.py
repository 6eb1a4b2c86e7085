"""Formats in which weights are stored: how many bytes a matrix takes, scales and zero points included.

Named formats are in `FORMATS`. Formats with free numbers are named by their arithmetic:

* ``int4-g128``: N bits a weight, in groups of G along a row; each group has a 16-bit scale and a zero point of N bits
  (GPTQ, AWQ). ``-sym``: a scale and no zero point (compressed-tensors, symmetric). ``-bias``: a 16-bit scale and a
  16-bit zero point or bias (MLX, HQQ, quanto). ``int4-row`` and so on: one group for each row.
* ``4.25bpw``: so many bits a weight, all included (EXL2, EXL3).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from lrcsim.base.errors import ConfigError, did_you_mean


class WeightFormat(NamedTuple):
    """How a matrix is stored.

    Attributes:
        block: weights in a block; a row is filled up to whole blocks (a matrix, where ``flat``).
        bits: of a block, what is stored with it included.
        group: weights along a row that share a scale; 0: the whole row does.
        scale: bits of the scale and zero point of each group that is begun.
        flat: blocks run over the matrix as one line.
    """

    block: int
    bits: int
    group: int = 0
    scale: int = 0
    flat: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight in a long row, scales included."""
        return self.bits / self.block + (self.scale / self.group if self.group else 0.0)

    def matrix_bytes(self, rows: int, length: int) -> int:
        """Return the bytes of ``rows`` rows of ``length`` weights each."""
        if self.flat:
            return -(-(-(-rows * length // self.block) * self.bits) // 8)
        groups = -(-length // self.group) if self.group else 1
        return rows * (-(-length // self.block) * self.bits + groups * self.scale) // 8


FORMATS: dict[str, WeightFormat] = {
    "f32": WeightFormat(1, 32),
    "bf16": WeightFormat(1, 16),
    "f16": WeightFormat(1, 16),
    # fp8 with a float32 scale per 128 x 128, int8 with a scale per row: below 0.02 bits per weight, not counted
    "fp8": WeightFormat(1, 8),
    "int8": WeightFormat(1, 8),
    # OCP MX: 4 or 8 bits, an 8-bit exponent per 32; NVFP4: 4 bits, an 8-bit scale per 16 (one more per tensor is not
    # counted)
    "mxfp4": WeightFormat(32, 32 * 4 + 8),
    "mxfp8": WeightFormat(32, 32 * 8 + 8),
    "nvfp4": WeightFormat(16, 16 * 4 + 8),
    # bitsandbytes, 4 bits (nf4 and fp4 alike): a float32 maximum per 64 weights of the flattened matrix. Double
    # quantisation: maxima in 8 bits, a float32 per 256 of them, that is 1 bit for each 512 / 64 = 8 of them
    "nf4": WeightFormat(64, 64 * 4 + 32, flat=True),
    "nf4-double": WeightFormat(512, 512 * 4 + 8 * 8 + 1, flat=True),
    # ggml, one 16-bit scale (and for _1 a 16-bit minimum) per 32
    "q4_0": WeightFormat(32, 32 * 4 + 16),
    "q4_1": WeightFormat(32, 32 * 4 + 32),
    "q5_0": WeightFormat(32, 32 * 5 + 16),
    "q5_1": WeightFormat(32, 32 * 5 + 32),
    "q8_0": WeightFormat(32, 32 * 8 + 16),
    "iq4_nl": WeightFormat(32, 32 * 4 + 16),
    # ggml k-quants: super-blocks of 256, in 8 or 16 blocks with quantised scales (and minima), 16-bit scales above them
    "q2_k": WeightFormat(256, 256 * 2 + 16 * 8 + 32),
    "q3_k": WeightFormat(256, 256 * 3 + 16 * 6 + 16),
    "q4_k": WeightFormat(256, 256 * 4 + 8 * 12 + 32),
    "q5_k": WeightFormat(256, 256 * 5 + 8 * 12 + 32),
    "q6_k": WeightFormat(256, 256 * 6 + 16 * 8 + 16),
    # ggml i-quants: super-blocks of 256 with codebooks
    "iq1_s": WeightFormat(256, 50 * 8),
    "iq1_m": WeightFormat(256, 56 * 8),
    "iq2_xxs": WeightFormat(256, 66 * 8),
    "iq2_xs": WeightFormat(256, 74 * 8),
    "iq2_s": WeightFormat(256, 82 * 8),
    "iq3_xxs": WeightFormat(256, 98 * 8),
    "iq3_s": WeightFormat(256, 110 * 8),
    "iq4_xs": WeightFormat(256, 136 * 8),
    # ggml ternary: three values a weight, five in a byte or four, and a 16-bit scale per 256
    "tq1_0": WeightFormat(256, 54 * 8),
    "tq2_0": WeightFormat(256, 66 * 8),
}
COMMON = ("int4-g32", "int4-g128")
"""Of the formats with free numbers those that are listed by name."""

ALIASES = {"fp32": "f32", "float32": "f32", "fp16": "f16", "float16": "f16", "bfloat16": "bf16", "int4": "int4-g128"}
GGUF = {name for name in FORMATS if re.match(r"[it]?q\d", name)}

_GROUPED = re.compile(r"int([1-8])-(?:g([1-9]\d{0,5})|row)(-sym|-bias)?")
_PER_WEIGHT = re.compile(r"(\d{1,2}(?:\.\d{1,4})?)bpw")


@cache
def find_format(name: str) -> WeightFormat | None:
    """Return a format by its name in lower case; None: there is none."""
    if name in FORMATS:
        return FORMATS[name]
    if match := _GROUPED.fullmatch(name):
        bits = int(match[1])
        scale = 16 + {None: bits, "-sym": 0, "-bias": 16}[match[3]]
        return WeightFormat(1, bits, int(match[2] or 0), scale)
    if match := _PER_WEIGHT.fullmatch(name):
        mean = Fraction(match[1])
        return WeightFormat(mean.denominator, mean.numerator, flat=True) if 0 < mean <= 32 else None
    return None


def group_format(bits: int, group: int, kind: str = "") -> str:
    """Return the name of the format of ``bits`` bits in groups; ``group`` -1: a row; ``kind``: ``-sym``, ``-bias``."""
    return f"int{bits}-{'row' if group < 0 else f'g{group}'}{kind}"


def format_names() -> list[str]:
    """Return the names of formats, without those with free numbers but the common ones."""
    return sorted({*FORMATS, *COMMON, *ALIASES})


def known_name(name: str, others: frozenset[str] = frozenset()) -> str:
    """Return the one name of a format, or of one of ``others`` (mixes).

    Raises:
        ConfigError: there is no such format.
    """
    plain = name.strip().lower()
    plain = ALIASES.get(plain, plain)
    if plain.startswith("ud-") and plain not in others:
        counted = ", ".join(sorted(name for name in others if name.startswith("ud-"))) or "none"
        raise ConfigError(
            f"there is no dtype {plain!r}: the recipes of Unsloth's dynamic files are not public, and only {counted} "
            "are counted, by the nearest file type; give the GGUF file itself, or a file type of its size"
        )
    if plain not in others and find_format(plain) is None:
        allowed = sorted({*format_names(), *others})
        # of _s, _m and _l, which are as close, the usual one
        small = {name for name in allowed if name[-2:] in ("_s", "_l") and f"{name[:-1]}m" in allowed}
        likely = [name for name in allowed if name not in small or plain.endswith(name[-1])]
        hint = did_you_mean(plain, likely) or f"; there are {', '.join(allowed)}, and int3-g64, 4.25bpw of any number"
        raise ConfigError(f"there is no dtype {plain!r}{hint}")
    return plain
