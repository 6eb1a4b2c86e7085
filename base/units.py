"""Quantities as people write them: ``"25.6 GB/s"``, ``"12 us"``, ``"24 GiB"``, ``"165 TFLOP/s"``."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Literal, get_args

from lrcsim.base.errors import ConfigError, did_you_mean

Dimension = Literal["bytes", "bytes/s", "seconds", "FLOP/s"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(\S*)")
"""A number and its unit."""

LONGEST = 1_000
"""Characters of a quantity: what is longer is none, and a pattern could take long to say so."""

_BYTES = {"B": Decimal(1)} | {
    prefix + suffix: Decimal(base**power)
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
UNITS: dict[Dimension, dict[str, Decimal]] = {
    "bytes": _BYTES,
    "bytes/s": {f"{unit}/s": value for unit, value in _BYTES.items()},
    "seconds": {
        unit: Decimal(10) ** power
        for unit, power in (("s", 0), ("ms", -3), ("us", -6), ("\u00b5s", -6), ("\u03bcs", -6), ("ns", -9))
    },
    "FLOP/s": {
        prefix + spelling: Decimal(1000**power)
        for power, prefix in enumerate(("", "K", "M", "G", "T", "P"))
        for spelling in ("FLOP/s", "FLOPS")
    },
}
EXAMPLES: dict[Dimension, str] = {
    "bytes": "24 GiB or 24 GB",
    "bytes/s": "25.6 GB/s",
    "seconds": "12 us",
    "FLOP/s": "165 TFLOP/s",
}


def parse_quantity(text: object, dimension: Dimension) -> float:
    """Read a number with a unit, in SI base units.

    Prefixes K, M, G, T, P are powers of 1000; Ki, Mi, Gi, Ti powers of 1024. Case does not matter, except that a rate
    in bits (``Gb/s``, ``Gbit/s``) is refused rather than read as bytes. Only 0 may stand without a unit.

    Args:
        text: such as ``"25.6 GB/s"``; a number is refused unless it is 0.
        dimension: one of ``DIMENSIONS``.

    Returns:
        Bytes, bytes/s, seconds, or FLOP/s; finite and not negative.

    Raises:
        ConfigError: it has no unit or another dimension's, is negative or no number. The message says what was given
            and what is expected; the caller puts before it which value it is.
    """
    expected = f"expected {dimension}, such as {EXAMPLES[dimension]!r}"
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = "inf" if isinstance(text, int) and abs(text) > 10**LONGEST else repr(text)
    if not isinstance(text, str):
        raise ConfigError(f"{_shown(text)} is no quantity: {expected}")
    match = QUANTITY.fullmatch(text.strip()) if len(text) <= LONGEST else None
    if not match:
        raise ConfigError(f"{_shown(text)} is no number with a unit: {expected}")
    number, unit = float(match[1]), match[2]
    if number < 0:
        raise ConfigError(f"{text!r} is negative: {expected}")
    if not unit:
        if number == 0:
            return 0.0
        raise ConfigError(f"{text!r} has no unit: {expected}")
    factor = _factor(text, unit, dimension, expected)
    if number > 1e100 or not math.isfinite(number):
        raise ConfigError(f"{text!r} is too large a number: {expected}")
    return float(Decimal(match[1]) * factor)  # decimal: 15 us is 1.5e-05, the float nearest to it


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:60]}... ({len(text):,} characters)"


def _factor(text: str, unit: str, dimension: Dimension, expected: str) -> Decimal:
    if (re.fullmatch(r"[KMGTkmgt]?(bits?|b)(/s|ps)", unit) and unit != unit.lower()) or "bit" in unit.lower():
        raise ConfigError(f"{text!r} is in bits: {expected} (8 bits are a byte, written with a capital B)")
    folded = {name.lower(): factor for name, factor in UNITS[dimension].items()}
    if unit.lower() in folded:
        return folded[unit.lower()]
    for other, units in UNITS.items():
        if unit.lower() in {name.lower() for name in units}:
            raise ConfigError(f"{text!r} is in {other}: {expected}")
    closest = did_you_mean(unit, folded)
    written = {name.lower(): name for name in UNITS[dimension]}
    for low, name in written.items():
        closest = closest.replace(f"'{low}'", f"'{name}'")
    raise ConfigError(f"{text!r} has the unknown unit {unit!r}: {expected}{closest}")


def format_quantity(value: float, dimension: Dimension) -> str:
    """Write a value so that `parse_quantity` gives exactly the same value back: ``"25.6 GB/s"``.

    The shortest form in any of the dimension's units; of equally short ones the one with the largest unit.

    Args:
        value: in bytes, bytes/s, seconds or FLOP/s.
        dimension: which of these it is.
    """
    if value == 0:
        return "0"
    exact = Decimal(repr(float(value)))
    forms = []
    for unit, factor in UNITS[dimension].items():
        if unit.endswith("FLOPS") or not unit.isascii() or ("i" in unit and dimension != "bytes"):
            continue
        text = f"{exact / factor:f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        if parse_quantity(f"{text} {unit}", dimension) == value:
            forms.append((len(text), -factor, f"{text} {unit}"))
    return min(forms)[2]
