"""Environments of real servers: their own, since they want another transformers than lrcsim's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BACKEND = "lrcsim_triton_cpu"


def python_of(server: str) -> Path:
    """Return the Python that runs ``vllm`` or ``sglang``; its environment is made if it is not there or out of date.

    It lies in ``.venv-vllm`` or ``.venv-sglang`` of the checkout, or of the folder that ``LRCSIM_REAL_SERVERS`` names.
    """
    folder = Path(os.environ.get("LRCSIM_REAL_SERVERS", ROOT)).resolve() / f".venv-{server}"
    python, made_of = folder / "bin/python", folder / "made-of.txt"
    requirements = HERE / f"requirements-{server}.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if not (made_of.exists() and made_of.read_text(encoding="utf-8") == wanted):
        print(f"making {folder} (3 GB, some minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-r", requirements], check=True)
        made_of.write_text(wanted, encoding="utf-8")
    return python


def add_triton_backend(folder: Path) -> Path:
    """Write `triton_cpu` as a package that Triton finds by its entry point; return the folder for ``PYTHONPATH``."""
    shutil.copytree(HERE / "triton_cpu", folder / BACKEND)
    about = folder / f"{BACKEND}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {BACKEND}\nVersion: 1\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[triton.backends]\ncpu = {BACKEND}\n", encoding="utf-8")
    return folder
