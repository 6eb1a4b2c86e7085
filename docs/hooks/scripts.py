"""mkdocs hook: the page of examples, from the scripts and the output that the tests hold them to."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Examples

Questions that people ask before they write an engine, each answered by a short script on the trace that comes with
lrcsim. They are in `examples/`; put your own trace in place of `RoutingTrace.open()`. The outputs are those of
`python examples/NAME.py`, checked by a test.

A notebook goes the whole way, from the log of an engine to a policy and a size on two machines:
[from a log to a decision](notebook.md) (`examples/from_log_to_decision.ipynb`).
"""


def section(script: Path) -> str:
    """Return one script's section: its question, the script, its output."""
    source = script.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    question, _, scenario = doc.partition("\n")
    code = source[source.index('"""\n', 3) + 4 :].strip()
    output = script.with_suffix(".out").read_text(encoding="utf-8").rstrip()
    parts = [
        f"## {question} {{#{script.stem}}}",
        scenario.strip(),
        f'```python title="examples/{script.name}"\n{code}\n```',
    ]
    return "\n\n".join([*parts, f"```text\n{output}\n```", ""])


def page() -> str:
    """Return the page of all examples."""
    return "\n\n".join([HEAD, *(section(script) for script in sorted((ROOT / "examples").glob("*.py")))])


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "examples.md", content=page()))
    return files
