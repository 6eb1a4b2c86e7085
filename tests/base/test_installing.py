"""What messages and pages say of installing: extras that there are, from a checkout."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from lrcsim.base.installing import from_checkout

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
OURS = [path for path in ROOT.rglob("*") if path.suffix in {".py", ".md", ".ipynb", ".toml"} and path.is_file()]
SHOWN = [path for path in OURS if not any(part.startswith((".", "build")) for part in path.relative_to(ROOT).parts)]


def test_the_command() -> None:
    assert from_checkout("record") == "pip install '.[record]' in a checkout of lrcsim"


def test_nothing_sends_people_to_an_index_that_has_no_lrcsim() -> None:
    sends = re.compile(r"install[^\n]*\blrcsim\[")
    found = [path.name for path in SHOWN if path.name != "CHANGELOG.md" and sends.search(path.read_text("utf-8"))]
    assert found == []


def test_every_extra_that_is_named_is_there() -> None:
    asked = {
        extra
        for path in SHOWN
        for group in re.findall(r"'\.\[([a-z,]+)\]'|from_checkout\([\"']([a-z]+)[\"']\)", path.read_text("utf-8"))
        for names in group
        for extra in names.split(",")
        if extra
    }
    assert {"record", "llamacpp", "report", "dask", "test"} <= asked <= set(EXTRAS)
