"""The environment of a real server: its own, since it wants another transformers than lrcsim's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "requirements-vllm.txt"
BACKEND = "lrcsim_triton_cpu"


def vllm_python() -> Path:
    """Return the Python that runs vLLM; its environment is made if it is not there or not of these requirements.

    It lies in ``.venv-real-servers`` of the checkout (3.5 GB), or where ``LRCSIM_REAL_SERVERS`` says.
    """
    folder = Path(os.environ.get("LRCSIM_REAL_SERVERS", ROOT / ".venv-real-servers")).resolve()
    python, made_of = folder / "bin/python", folder / "made-of.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if not (made_of.exists() and made_of.read_text(encoding="utf-8") == wanted):
        print(f"making {folder} (3.5 GB, some minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-r", REQUIREMENTS], check=True)
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
