"""Where numba keeps compiled code and matplotlib its fonts.

Both die, or complain, where lrcsim is installed by somebody else and there is no home to write to (containers, batch
systems). Then a folder of this user's own under the temporary folder is taken. numba runs what it finds there, so the
folder must belong to this user and be closed to others.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from lrcsim.base.errors import ConfigError

COMPILED = ("cache", "compiled", "metrics", "serving", "time")
"""Folders of `simulator` that have compiled functions: numba keeps each function beside its module. Those of
`calibration` lie in the same installation."""

NEEDED = 16 << 20
"""Bytes that must be free for compiled code: all of it takes about 8 MiB."""


def for_compiled_code() -> None:
    """See that numba can keep what it compiles; called before numba is imported, and once it is of no effect.

    Raises:
        ConfigError: no folder can be written at all.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    if usable(Path(given)) if given else _installation_writable() or usable(home_cache() / "numba"):
        return
    folder = own_folder() / "numba"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    numba = sys.modules.get("numba")
    if numba is not None:  # it has read the variable already
        numba.config.CACHE_DIR = str(folder)


def for_fonts() -> None:
    """See that matplotlib has a folder to write to; called before matplotlib is imported."""
    if "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules:
        return
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if not (usable(Path(config) / "matplotlib") and usable(home_cache() / "matplotlib")):
        folder = own_folder() / "matplotlib"
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["MPLCONFIGDIR"] = str(folder)


def _installation_writable() -> bool:
    """Return whether numba can write beside the modules that it compiles, as it does where it can."""
    simulator = Path(__file__).parent.parent / "simulator"
    packages = [simulator / name for name in COMPILED]
    kept = [
        folder if folder.is_dir() else folder.parent for folder in (package / "__pycache__" for package in packages)
    ]
    return all(os.access(folder, os.W_OK | os.X_OK) for folder in kept) and _room(simulator)


def home_cache() -> Path:
    """Return the folder in which this user's programs keep what they can make anew; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _room(folder: Path) -> bool:
    return shutil.disk_usage(folder).free >= NEEDED


def usable(folder: Path) -> bool:
    """Return whether files can be made in a folder, which is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return _room(folder)
    except OSError:
        return False


def own_folder() -> Path:
    """Return a folder under the temporary one that only this user can read and write.

    It is the same in every process, so that what is compiled is compiled once; where somebody else has taken its name,
    one for this process alone, which goes when it ends.

    Raises:
        ConfigError: there is no temporary folder.
    """
    try:
        base = Path(tempfile.gettempdir())
        folder = base / (f"lrcsim-{os.getuid()}" if hasattr(os, "getuid") else "lrcsim")
        new = False
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            new = True
        if not _ours_alone(folder):
            folder = Path(tempfile.mkdtemp(prefix="lrcsim-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            new = True
    except OSError as error:
        raise ConfigError(
            f"there is no folder to keep compiled code in ({error.strerror or error}): set NUMBA_CACHE_DIR, or "
            "TMPDIR, to one that can be written"
        ) from None
    if new and sys.stderr is not None:
        print(
            f"Note: neither lrcsim's folder nor a home can be written, compiled code is kept in {folder}",
            file=sys.stderr,
        )
    return folder


def _ours_alone(folder: Path) -> bool:
    """Return whether a folder is one, no link, and belongs to this user and nobody else."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
