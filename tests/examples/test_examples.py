"""Every script in examples/ prints what the file of its name ending in .out says.

After a change that is meant, ``python tests/examples/test_examples.py --write`` writes the files anew.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def output(script: Path, folder: Path) -> str:
    """Run a script in another folder, warnings being errors, and return what it printed."""
    run = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_prints_what_is_committed(script: Path, tmp_path: Path) -> None:
    assert output(script, tmp_path) == script.with_suffix(".out").read_text(encoding="utf-8")
    assert not list(tmp_path.iterdir())


def test_form() -> None:
    """A question first, then the scenario; short; every output belongs to a script or a notebook."""
    assert len(SCRIPTS) >= 5
    shown = {path.stem for path in [*SCRIPTS, *EXAMPLES.glob("*.ipynb")]}
    assert {path.stem for path in EXAMPLES.glob("*.out")} == shown
    for script in SCRIPTS:
        source = script.read_text(encoding="utf-8")
        question, blank, scenario = (ast.get_docstring(ast.parse(source)) or "").split("\n", 2)
        assert question.endswith("?"), script.name
        assert (blank, bool(scenario)) == ("", True), script.name
        assert len([line for line in source.splitlines() if line.strip()]) <= 40, script.name


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for path in SCRIPTS:
        path.with_suffix(".out").write_text(output(path, EXAMPLES), encoding="utf-8")
        print(path.with_suffix(".out").name)
