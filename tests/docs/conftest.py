"""The documentation site, built once in a session of tests, whatever the number of workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600
"""Seconds after which a build by another worker is taken to have died."""


def built(target: Path) -> str:
    """Build into a folder; return what a failed build says. Not quietly: unless warnings are shown, none is counted."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(target)]
    told = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr if run.returncode else ""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the built site; the first worker that asks builds it, the others wait."""
    pytest.importorskip("mkdocs")  # in the extras test and docs
    own = tmp_path_factory.getbasetemp()
    target = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "site"
    said = target.with_suffix(".txt")  # there as soon as the build has ended
    try:
        target.mkdir()
    except FileExistsError:
        given_up = time.monotonic() + PATIENCE
        while not said.exists() and time.monotonic() < given_up:
            time.sleep(0.2)
    else:
        writing = target.with_suffix(".part")
        writing.write_text(built(target), encoding="utf-8")
        writing.rename(said)
    assert said.read_text(encoding="utf-8") == ""
    return target
