"""Run what a page shows: files from fences with a title, commands from ``console`` fences, each with its output.

python tests/docs/shown.py --write        # write the outputs anew into the pages, after a change that is meant
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (DOCS / "tutorial.md", DOCS / "metrics.md", DOCS / "misses.md", DOCS / "prediction.md")
FENCE = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.DOTALL | re.MULTILINE)
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


def run(command: str, folder: Path) -> str:
    """Return what a command prints on standard output; dates and blanks at line ends are taken out."""
    place = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    lines = [line.rstrip() for line in DATE.sub("YYYY-MM-DD", done.stdout).splitlines()]
    return "".join(f"{line}\n" for line in lines)


def with_outputs(page: str, folder: Path) -> str:
    """Return a page with the outputs that its commands give now, run in order in one folder."""

    def shown(fence: re.Match[str]) -> str:
        if fence["title"]:
            (folder / fence["title"]).write_text(fence["body"], encoding="utf-8")
        if fence["kind"] != "console":
            return fence[0]
        commands = [line for line in fence["body"].splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{run(line[2:], folder)}" for line in commands) + "```"

    return FENCE.sub(shown, page)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for path in PAGES:
        with tempfile.TemporaryDirectory() as empty:
            path.write_text(with_outputs(path.read_text(encoding="utf-8"), Path(empty)), encoding="utf-8")
        print(path.name)
