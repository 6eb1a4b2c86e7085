"""mkdocs hook: a line of output that begins with a parenthesis is not the name of an environment before a prompt."""

from __future__ import annotations

from typing import Any


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  # passed by name
    """Mark such beginnings as output; the prompts of this project's pages are all `$`."""
    return html.replace('<span class="gp gp-VirtualEnv">', '<span class="go">')
