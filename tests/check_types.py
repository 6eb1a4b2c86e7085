"""Type-check the package as users get it: installed, not editable, from outside the checkout.

Type checkers do not follow editable import hooks, so this installs into a folder of its own. Run as a script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\n")
        for name in filter(None, tracked):  # a copy, so that no build folder is left in the checkout
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes((ROOT / name).read_bytes())
        target = Path(folder, "installed")
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(source)]
        subprocess.run(install, check=True)
        config = ["--config-file", str(ROOT / "pyproject.toml")]
        environment = {**os.environ, "MYPYPATH": str(target)}
        command = [sys.executable, "-m", "mypy", *config, "-p", "lrcsim", "--namespace-packages"]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
