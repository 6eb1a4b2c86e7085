"""mkdocs hook: what a runtime's document may say, and the runtimes that are built in, from the data files."""

from __future__ import annotations

from typing import Any

HEAD = """# Runtime keys

What an engine's software makes of machines, as data. What each is for, and how to write your own:
[runtimes](runtimes.md). A number that is left out is the machine's own, or the one that changes nothing.
"""


def keys_table() -> list[str]:
    """Return what a document may say, from the fields of its parts."""
    from lrcsim.runtimes.runtime import IDEAL, PARTS, keys

    rows = ["| key | unit | | without it |", "|---|---|---|---|"]
    for part in PARTS:
        for key, about in keys(part).items():
            rest = IDEAL.at(f"{part}.{key}")
            shown = "the machine's" if rest is None else _value(f"{part}.{key}", rest)
            rows.append(f"| `{part}.{key}` | {about.kind} | {about.meaning} | {shown} |")
    return [*rows, ""]


def _value(path: str, value: object) -> str:
    from lrcsim.runtimes.load import written

    return written(path, value)


def page() -> str:
    """Return the page."""
    from lrcsim.runtimes import runtimes

    parts = [HEAD, *keys_table()]
    for name, document in runtimes().items():
        parts += [f"## {name}\n", f"{document.description}.\n"]
        if document.numbers:
            parts += ["| | | source |", "|---|---|---|"]
        for path, value in document.numbers.items():
            parts.append(f"| `{path}` | {_value(path, value)} | {document.sources.get(path, '')} |")
        parts.append("")
    return "\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "runtime-keys.md", content=page()))
    return files
