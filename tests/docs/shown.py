"""Run what a page shows: files from fences with a title, commands from ``console`` fences, each with its output.

python tests/docs/shown.py --write [PAGE ...]     # write the outputs anew into pages, after a change that is meant
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from lrcsim.cli.main import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
QUESTIONS = tuple(sorted((DOCS / "questions").glob("*.md")))
NAMED = ("tutorial", "metrics", "misses", "prediction", "from-vllm", "from-llamacpp", "from-a-model-name")
PAGES = (DOCS.parent / "README.md", *(DOCS / f"{name}.md" for name in NAMED), *QUESTIONS)
SHELL = set("|<>;&$`*?")
FENCE = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.DOTALL | re.MULTILINE)
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


def run(command: str, folder: Path) -> str:
    """Return what a command prints on standard output; dates and blanks at line ends are taken out."""
    alone = command.startswith("lrcsim ") and not SHELL & set(command)
    printed = in_this_process(command, folder) if alone else in_a_shell(command, folder)
    lines = [line.rstrip() for line in DATE.sub("YYYY-MM-DD", printed).splitlines()]
    return "".join(f"{line}\n" for line in lines)


def in_this_process(command: str, folder: Path) -> str:
    """Return what a command of lrcsim alone prints: nothing is imported and no kernel is loaded anew."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(shlex.split(command)[1:])
        except SystemExit as stop:
            code = stop.code or 0
    assert code == 0, f"{command}: {err.getvalue()}"
    return out.getvalue()


def in_a_shell(command: str, folder: Path) -> str:
    """Return what anything else prints."""
    place = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


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
    if sys.argv[1:2] != ["--write"] or not {path.stem for path in PAGES} >= set(sys.argv[2:]):
        sys.exit(__doc__)
    for path in PAGES:
        if sys.argv[2:] and path.stem not in sys.argv[2:]:
            continue
        with tempfile.TemporaryDirectory() as empty:
            path.write_text(with_outputs(path.read_text(encoding="utf-8"), Path(empty)), encoding="utf-8")
        print(path.name)
