"""A page as HTML: one file with its style, its scripts and its figures inside."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.installing import from_checkout
from lrcsim.reports.blocks import Figure, Page

HERE = Path(__file__).parent

SCRIPTS = ("scale.js", "figure.js", "tip.js", "page.js")
"""The page's script, in the order in which the parts use one another."""

IN_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that could end a script element, or a line in one, and how JSON writes them otherwise."""


def page_html(page: Page) -> str:
    """Return the page; the same page gives the same text.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    check_installed()
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    return environment.get_template("page.html").render(
        page=page,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup((HERE / name).read_text(encoding="utf-8")) for name in SCRIPTS],
        figures=Markup(script_json({figure.name: _drawn(figure) for figure in page.figures})),
    )


def _drawn(figure: Figure) -> dict[str, Any]:
    """Return what the script draws of a figure."""
    columns = figure.columns
    shared = None if columns is None else {"said": columns.said, "values": _packed(columns.values)}
    return {"views": [asdict(view) for view in figure.views], "columns": shared}


def _packed(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return columns in which every word stands once, with the number of the word in each row."""
    packed: dict[str, Any] = {}
    for name, values in columns.items():
        packed[name] = values
        if values and all(isinstance(value, str) for value in values):
            words = {word: number for number, word in enumerate(dict.fromkeys(values))}
            packed[name] = {"words": list(words), "at": [words[value] for value in values]}
    return packed


def check_installed() -> None:
    """See that a page can be made, before the work is done.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    try:
        importlib.import_module("jinja2")
    except ImportError:
        raise ConfigError(f"a report needs jinja2, which is not installed: {from_checkout('report')}") from None


def script_json(value: Any) -> str:
    """Write JSON that may stand inside a script element, whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False, default=list)
    for character, escape in IN_SCRIPT.items():
        text = text.replace(character, escape)
    return text
