"""mkdocs hook: the page of the notebook, its cells and what they show as text, which a test holds them to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "from_log_to_decision.ipynb"
NOTE = """!!! note "A notebook"

    This is `examples/from_log_to_decision.ipynb`, and below each cell is what it shows, as text. In a notebook traces,
    results and plans also show a small table and a picture; where a figure stands alone, it is left out here.
"""
PICTURE = re.compile(r"<(?:Picture|Figure) size [^>]*>")


def outputs() -> dict[int, str]:
    """Return what is shown below each cell of code, by its number from 1."""
    text = NOTEBOOK.with_suffix(".out").read_text(encoding="utf-8")
    parts = re.split(r"^\[(\d+)\]\n", text, flags=re.MULTILINE)[1:]
    return {int(number): shown.rstrip() for number, shown in zip(parts[::2], parts[1::2], strict=True)}


def page() -> str:
    """Return the notebook as Markdown; the note stands below its title."""
    shown, parts, number = outputs(), [], 0
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        number += 1
        parts.append(f"```python\n{source}\n```")
        if below := shown.get(number):
            parts.append("*(a figure)*" if PICTURE.fullmatch(below) else f"```text\n{below}\n```")
    title, rest = parts[0].split("\n", 1)
    return "\n\n".join([title, NOTE, rest.strip(), *parts[1:], ""])


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "notebook.md", content=page()))
    return files
