"""What pip installs is all there is to import."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_INSTALLED = {"tests", "docs", "examples", "benchmarks", "build"}


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {
        f"lrcsim.{'.'.join(place.parts)}"
        for place in (path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py"))
        if place.parts and place.parts[0] not in NOT_INSTALLED and not place.parts[0].startswith(".")
        and "site-packages" not in place.parts
    }  # fmt: skip
    assert set(listed) == found | {"lrcsim"}
