"""Compiled code finds a place where neither the installation nor a home can be written, and only a safe one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import lrcsim.simulator
from lrcsim.base import folders
from lrcsim.base.errors import ConfigError

PACKAGES = Path(lrcsim.simulator.__file__).parent.parent
POSIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners of files are POSIX's")


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that cannot be written, no home, and a temporary folder; numba has been imported already."""
    import numba

    monkeypatch.setattr(folders, "_installation_writable", lambda: False)
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("HOME", str(file))  # in a file no folder can be made, by root neither
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    return temporary


def test_a_folder_of_one_s_own(closed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numba

    folders.for_compiled_code()
    [own] = closed.iterdir()
    assert os.environ["NUMBA_CACHE_DIR"] == str(own / "numba") == numba.config.CACHE_DIR
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert capsys.readouterr().err.count("\n") == 1
    folders.for_compiled_code()  # as a worker, which inherits the variable
    del os.environ["NUMBA_CACHE_DIR"]
    folders.for_compiled_code()  # as the next command
    assert list(closed.iterdir()) == [own]
    assert capsys.readouterr().err == ""


@POSIX
@pytest.mark.parametrize("taken", ["open to others", "link", "file", "of another"])
def test_a_folder_that_others_may_have_filled_is_not_used(
    taken: str, closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba runs what it finds there: whoever can write to it runs code as this user."""
    known = closed / f"lrcsim-{os.getuid()}"
    if taken == "open to others":
        known.mkdir()
        known.chmod(0o777)
    elif taken == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        known.symlink_to(tmp_path / "theirs")
    elif taken == "file":
        known.touch()
    else:
        user = os.getuid()
        known.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        known.rename(closed / f"lrcsim-{user + 1}")
        known = closed / f"lrcsim-{user + 1}"
    folders.for_compiled_code()
    chosen = Path(os.environ["NUMBA_CACHE_DIR"]).parent
    assert chosen.parent == closed
    assert chosen != known
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    shutil.rmtree(chosen)


def test_what_the_user_has_set_is_kept_where_it_works(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    folders.for_compiled_code()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "mine"))
    folders.for_compiled_code()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_relative_to(closed)


def test_a_full_home_is_none(closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders.usable(tmp_path / ".cache")
    monkeypatch.setattr(folders, "NEEDED", 1 << 62)
    folders.for_compiled_code()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_relative_to(closed)


def test_nowhere_to_write(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(closed / "absent"))
    with pytest.raises(ConfigError, match="set NUMBA_CACHE_DIR, or TMPDIR, to one that can be written"):
        folders.for_compiled_code()


def test_an_ordinary_installation_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(folders, "_installation_writable", lambda: True)
    monkeypatch.setattr(folders, "own_folder", pytest.fail)
    folders.for_compiled_code()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_an_installation_is_writable_if_all_folders_with_compiled_functions_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator = PACKAGES / "simulator"
    found = {file.parent for file in simulator.rglob("*.py") if "@numba.njit" in file.read_text()}
    assert {simulator / name for name in folders.COMPILED} == found
    for closed_one in (None, *folders.COMPILED):
        monkeypatch.setattr(os, "access", lambda path, _, name=closed_one: name not in Path(path).parts)
        assert folders._installation_writable() == (closed_one is None), closed_one


def test_fonts(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    folders.for_fonts()
    assert Path(os.environ["MPLCONFIGDIR"]).is_relative_to(closed)


def test_every_package_that_uses_numba_is_ready_for_it() -> None:
    """The place must be known before numba is imported: the package's own first import sees to it."""
    packages = [init.parent for init in PACKAGES.glob("*/__init__.py")]
    assert len(packages) > 10
    users = {
        package
        for package in packages
        for file in package.rglob("*.py")
        if any(line.startswith(("import numba", "from numba")) for line in file.read_text().splitlines())
    }
    assert users == {PACKAGES / "simulator", PACKAGES / "calibration"}
    for package in users:
        lines = (package / "__init__.py").read_text().splitlines()
        imports = [line for line in lines if "import" in line and "__future__" not in line and "typing" not in line]
        assert imports[0].startswith("import lrcsim.base.ready")


def runs_as_nobody() -> str | None:
    """Return a Python of this version that another user can run; None where there is none, or no other user."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return None
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        line = "import os, sys; assert os.getuid() == 65534"
        if Path(python).exists() and as_nobody([python, "-c", line], {}).returncode == 0:
            return python
    return None


def as_nobody(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as the user nobody, without a home."""
    path = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(
            command,
            env=path | environment,
            cwd="/",
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:  # it may not even be run
        return subprocess.CompletedProcess(command, 126, "", str(error))


@pytest.fixture
def installation() -> Callable[[], Path]:
    """Make a copy of lrcsim's packages that everybody can read, and nobody but root write."""
    folder = Path(tempfile.mkdtemp(prefix="lrcsim-installed-"))
    folder.chmod(0o755)
    skip = shutil.ignore_patterns("tests", "benchmarks", "docs", ".*", "__pycache__", "*.egg-info", "venv*", "examples")
    shutil.copytree(PACKAGES, folder / "lrcsim", ignore=skip)
    return lambda: folder


def test_another_user_without_a_home(installation: Callable[[], Path]) -> None:
    python = runs_as_nobody()
    folder = installation()
    try:
        if python is None:
            pytest.skip("needs root, and a Python that other users can run")
        temporary = folder / "tmp"
        temporary.mkdir()
        temporary.chmod(0o1777)
        sites = [str(folder), *(path for path in sys.path if path.endswith("site-packages"))]
        environment = {"PYTHONPATH": os.pathsep.join(sites), "TMPDIR": str(temporary)}
        line = "from lrcsim.simulator.compiled.lru_bits import ones; print(ones(7))"
        done = as_nobody([python, "-c", line], environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "3\n"
        assert done.stderr.count("\n") == 1
        [own] = temporary.iterdir()
        assert own.stat().st_uid == 65534
        assert list((own / "numba").rglob("*.nbc"))
        again = as_nobody([python, "-c", line], environment)
        assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, "")
    finally:
        shutil.rmtree(folder)
