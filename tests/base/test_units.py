from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.base.units import DIMENSIONS, Dimension
from lrcsim.hardware import format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("25.6 GB/s", "bytes/s", 25.6e9),
        ("25.6gb/s", "bytes/s", 25.6e9),
        ("1 GiB/s", "bytes/s", 2**30),
        ("24 GiB", "bytes", 24 * 2**30),
        ("24GB", "bytes", 24e9),
        ("512 B", "bytes", 512),
        (".5 KiB", "bytes", 512),
        ("12 us", "seconds", 12e-6),  # exactly the float 12e-6, though 12 * 1e-6 is another
        ("12 µs", "seconds", 12e-6),
        ("15us", "seconds", 15e-6),
        ("1.5 ms", "seconds", 0.0015),
        ("3e-2 s", "seconds", 0.03),
        ("165 TFLOP/s", "FLOP/s", 165e12),
        ("165 TFLOPS", "FLOP/s", 165e12),
        ("1 PFLOP/s", "FLOP/s", 1e15),
        ("0", "bytes", 0),
        (0, "seconds", 0),
        ("0 us", "seconds", 0),
    ],
)
def test_what_people_write(text: object, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("25.6", "bytes/s", "'25.6' has no unit: expected bytes/s, such as '25.6 GB/s'"),
        (25.6, "bytes/s", "'25.6' has no unit"),
        ("25.6 GB", "bytes/s", "is in bytes: expected bytes/s"),
        ("25.6 GB/s", "bytes", "is in bytes/s: expected bytes"),
        ("12 us", "FLOP/s", "is in seconds: expected FLOP/s"),
        ("-3 us", "seconds", "is negative"),
        (-3, "seconds", "is negative"),
        ("16 Gb/s", "bytes/s", "is in bits"),
        ("16 Gbit/s", "bytes/s", "is in bits"),
        ("16 GT/s", "bytes/s", "unknown unit 'GT/s'"),
        ("12 uss", "seconds", "did you mean 'us'?"),
        ("12 Gi", "bytes", "did you mean 'GiB'?"),
        ("fast", "seconds", "is no number with a unit"),
        ("nan s", "seconds", "is no number with a unit"),
        ("inf GB/s", "bytes/s", "is no number with a unit"),
        ("", "seconds", "is no number with a unit"),
        ("1e999 B", "bytes", "too large"),
        (True, "seconds", "is no quantity"),
        (None, "seconds", "is no quantity"),
        (["12 us"], "seconds", "is no quantity"),
    ],
)
def test_what_is_refused(text: object, dimension: Dimension, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_quantity(text, dimension)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(0, 1e24, allow_subnormal=False), st.sampled_from(DIMENSIONS))
def test_what_is_written_reads_back_exactly(value: float, dimension: Dimension) -> None:
    assert parse_quantity(format_quantity(value, dimension), dimension) == value


@given(st.text(max_size=12), st.sampled_from(DIMENSIONS))
def test_any_text_is_a_number_or_one_clear_line(text: str, dimension: Dimension) -> None:
    try:
        value = parse_quantity(text, dimension)
    except ConfigError as error:
        assert "expected" in str(error)  # noqa: PT017
    else:
        assert value >= 0
        assert math.isfinite(value)


def test_written_as_people_would() -> None:
    assert format_quantity(25.6e9, "bytes/s") == "25.6 GB/s"
    assert format_quantity(24 * 2**30, "bytes") == "24 GiB"
    assert format_quantity(15e-6, "seconds") == "15 us"
    assert format_quantity(165e12, "FLOP/s") == "165 TFLOP/s"
    assert format_quantity(0, "seconds") == "0"
