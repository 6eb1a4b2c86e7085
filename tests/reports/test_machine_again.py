"""Of a result's machine only what lrcsim knows by name is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrcsim.reports.allowed import Unavailable
from lrcsim.reports.machine_again import HITS_ONLY, machine_options


def test_names_of_lrcsim_s_own_are_taken() -> None:
    given = {
        "hardware": "rtx-3060+ryzen-7950x",
        "overrides": ["pcie.bandwidth=25.6GB/s"],
        "prefetch": "popularity",
        "miss": "split",
        "overlap": True,
        "dram": "4GiB",
    }
    assert machine_options(given | {"policy": "lru"}) == HITS_ONLY | given


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("hardware", "evil.toml", "may be a file"),
        ("hardware", "/dev/zero", "may be a file"),
        ("hardware", "\\\\host\\share", "may be a file"),
        ("hardware", "here", "may be a file"),
        ("hardware", "rtx-3090+here", "may be a file"),
        ("hardware", {"name": "x", "toml": ""}, "may be a file"),
        ("hardware", "auto", "the machine it ran on"),
        ("overrides", ["nvme=here"], "may be a file"),
        ("model", "config.json", "may be a file"),
        ("runtime", "here", "may be a file"),
        ("miss", "evil.py:M", "is a class of the user's"),
        ("miss", ["load"], "is a class of the user's"),
        ("prefetch", "pkg.mod:P", "is a class of the user's"),
        ("dram_policy", "evil:P", "is a class of the user's"),
        ("low_copy", "q4_k", "second precision"),
    ],
)
def test_what_may_be_a_file_or_code_is_refused(
    name: str, value: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("a file of this name")
    with pytest.raises(Unavailable, match=why):
        machine_options({"hardware": "rtx-3090"} | {name: value})
