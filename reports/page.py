"""A page as HTML: one file with its style, its script, its figures and plotly's script inside."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.installing import from_checkout
from lrcsim.reports.blocks import Figure, Page

HERE = Path(__file__).parent

IN_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that could end a script element, or a line in one, and how JSON writes them otherwise."""


def page_html(page: Page) -> str:
    """Return the page; the same page gives the same text.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
    """
    check_installed()
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    return environment.get_template("page.html").render(
        page=page,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
        figures=Markup(script_json({figure.name: [asdict(view) for view in figure.views] for figure in page.figures})),
    )


def check_installed() -> None:
    """See that a page can be made, before the work is done.

    Raises:
        ConfigError: plotly or jinja2 is not installed.
    """
    for name in ("jinja2", "plotly.offline"):
        try:
            importlib.import_module(name)
        except ImportError:
            package = name.partition(".")[0]
            raise ConfigError(f"a report needs {package}, which is not installed: {from_checkout('report')}") from None


def script_json(value: Any) -> str:
    """Write JSON that may stand inside a script element, whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character, escape in IN_SCRIPT.items():
        text = text.replace(character, escape)
    return text
