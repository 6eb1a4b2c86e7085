"""The page of runtimes: its example is a document, its keys and classes are those that there are."""

from __future__ import annotations

import re
from pathlib import Path

from lrcsim.runtimes import read_toml
from lrcsim.runtimes.machine_kinds import CPU_CLASSES, DEVICE_KINDS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "runtimes.md").read_text(encoding="utf-8")


def test_the_example_is_a_runtime() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    found = read_toml("mine", toml)
    assert found.numbers["device.cuda-unified.layer"] == 6e-6
    assert found.sources["device.layer"] == "measured, 48 layers"


def test_every_kind_and_class_is_named() -> None:
    assert all(f"`{kind}`" in TEXT for kind in (*DEVICE_KINDS, *CPU_CLASSES))
