"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from lrcsim.base.errors import did_you_mean
from lrcsim.base.text import cell_text


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("decode_tokens_per_s", 76.75, "76.75"),
        ("decode_tokens_per_s", 73.8, "73.80"),  # under it
        ("decode_tokens_per_s", 1391.2903, "1,391.29"),
        ("ttft_ms_p50", 12.5, "12.50"),
        ("decode_ms_per_token", 9.0, "9.00"),
        ("total_s", 68.061, "68.06 s"),
        ("stall_s", 0.0025, "2.50 ms"),
        ("decode_hit_rate", 0.5, "50.0 %"),
        ("gap_closed", -0.0305, "-3.0 %"),
        ("gpu_bytes", 2048, "2.0 KiB"),
        ("batch", 1000, "1,000"),
        ("pcie_utilization", 0.123456, "0.1235"),
        ("warm", True, "yes"),
        ("policy", "lru", "lru"),
        ("error", None, "–"),
    ],
)
def test_a_cell_by_its_column(column: str, value: Any, text: str) -> None:
    assert cell_text(column, value) == text


def test_of_one_letter_nothing_is_guessed() -> None:
    assert did_you_mean("3", ["a30", "h200"]) == ""
    assert did_you_mean("a3", ["a30", "h200"]) == "; did you mean 'a30'?"
