"""mkdocs hook: leave out of the site what no reader needs.

Half a megabyte of every kind comes with the theme: maps of its scripts for those who debug them, and the search's rules for
other languages than English.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def on_post_build(config: Any) -> None:
    """Delete them."""
    assets = Path(config.site_dir) / "assets"
    for path in assets.rglob("*.map"):
        path.unlink()
    shutil.rmtree(assets / "javascripts" / "lunr", ignore_errors=True)
