"""mkdocs hook: leave out of the site what no reader needs.

The theme brings over two megabytes of it: maps of its scripts for those who debug them, and the search's rules for
languages other than English.
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
