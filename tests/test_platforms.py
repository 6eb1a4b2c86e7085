"""Windows and macOS, as far as Linux can stand in for them: what the source uses, and what a system refuses."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_architecture import modules

from lrcsim.base import files
from lrcsim.base.errors import TraceError
from lrcsim.base.files import replacing, write_text
from lrcsim.base.locks import lock
from lrcsim.base.plugins import split_spec

MODULES = "fcntl grp msvcrt nt ossaudiodev posix pty pwd readline resource syslog termios tty winreg winsound _winapi"
ONE_SYSTEMS_MODULES = set(MODULES.split(" "))
"""Modules of the standard library that are missing on Windows, or elsewhere."""

_NAMES = {
    "os": """
        O_DIRECT O_DSYNC O_NONBLOCK WEXITSTATUS WIFSIGNALED chown chroot confstr ctermid fchmod fchown fdatasync
        fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpriority getsid getuid initgroups
        killpg lchown lockf major mkfifo mknod nice openpty pathconf posix_fadvise posix_fallocate posix_spawn
        pread preadv pwrite pwritev readv register_at_fork sched_getaffinity sched_setaffinity sched_yield
        sendfile setgid setpriority setsid setuid statvfs sync sysconf tcgetpgrp uname wait wait3 wait4 writev
    """,
    "signal": """
        ITIMER_PROF ITIMER_REAL SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP SIGTSTP SIGUSR1
        SIGUSR2 SIGWINCH alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigwait
    """,
    "time": """
        CLOCK_MONOTONIC clock_getres clock_gettime pthread_getcpuclockid tzset
    """,
    "mmap": """
        MADV_HUGEPAGE MAP_ANONYMOUS MAP_POPULATE MAP_PRIVATE PROT_READ
    """,
    "select": """
        epoll kqueue poll
    """,
    "socket": """
        AF_UNIX
    """,
    "ctypes": """
        WinDLL WinError windll wintypes
    """,
}
ONE_SYSTEMS_NAMES = {module: frozenset(text.split()) for module, text in _NAMES.items()}
"""Names that other systems' modules of the standard library lack (its documentation: Availability)."""

ONLY_THERE = {
    "lrcsim.traces.probe": "`probe` starts a child on POSIX systems only, and only the child sets a timer",
    "lrcsim.experiments.validation.offload.compare": "behind the reading of /proc/stat, whose absence is caught",
    "lrcsim.experiments.validation.offload.engine.shape": "an experiment for machines with CUDA under Linux",
    "lrcsim.calibration.of_machine.files": "an `UncachedFile` asks for preadv when it is made",
}
"""Modules in which such a name stands without a question for it beside it, and why it is never met elsewhere."""


@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in modules().items()}


def parents_of(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def guarded(node: ast.AST, name: str, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether something around asks for the system or the name, in the same function, or catches its absence."""
    asks = ("sys.platform", "os.name", f"'{name}'", "ImportError", "AttributeError")
    while node in parents and not isinstance(node, ast.Module):
        node = parents[node]
        if not isinstance(node, ast.Module | ast.ClassDef) and any(ask in ast.unparse(node) for ask in asks):
            return True
    return False


def of_one_system(tree: ast.AST) -> Iterator[str]:
    """Every unguarded use of what not all systems have."""
    parents = parents_of(tree)
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in ONE_SYSTEMS_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in ONE_SYSTEMS_MODULES:
            names = [node.module]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [node.attr] if node.attr in ONE_SYSTEMS_NAMES.get(node.value.id, ()) else []
        yield from (
            f"{name} in line {getattr(node, 'lineno', 0)}" for name in names if not guarded(node, name, parents)
        )


def test_what_one_system_has_is_asked_for() -> None:
    found = {}
    for name, tree in trees().items():
        uses = list(of_one_system(tree))
        if uses:
            found[name] = uses
    assert {name: uses for name, uses in found.items() if name not in ONLY_THERE} == {}
    assert set(ONLY_THERE) <= set(found), "these exceptions are no longer needed"


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("import fcntl", ["fcntl in line 1"]),
        ("try:\n    import fcntl\nexcept ImportError:\n    pass", []),
        ("def f():\n    return os.getuid()", ["getuid in line 2"]),
        ("def f():\n    return os.getuid() if hasattr(os, 'getuid') else 0", []),
        ("if hasattr(os, 'getuid'):\n    pass\ndef f():\n    os.getuid()", ["getuid in line 4"]),
    ],
)
def test_the_reading_of_the_source(source: str, uses: list[str]) -> None:
    assert list(of_one_system(ast.parse(source))) == uses


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines in which text is read, written or decoded in whatever the locale says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        said = {word.arg for word in node.keywords}
        name = ast.unparse(node.func).split(".")[-1]
        texts = [word.value for word in node.keywords if word.arg == "mode"] + node.args
        modes = [text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)]
        if name in ("read_text", "write_text"):
            bare = isinstance(node.func, ast.Attribute) and len(node.args) <= (name == "write_text")
        elif name == "open" and ast.unparse(node.func) in ("open", "gzip.open", "path.open", "file.open"):
            bare = not any("b" in mode and set(mode) <= set("rwxab+") for mode in modes)
        else:
            bare = name in ("run", "Popen", "check_output") and bool(said & {"text", "universal_newlines"})
        if bare and "encoding" not in said:
            yield node.lineno


def test_no_text_is_in_the_locales_encoding() -> None:
    """Windows reads and writes cp1252 where nothing is said; what tools of the system print is in the locale's."""
    found = {name: lines for name, tree in trees().items() if (lines := list(without_encoding(tree)))}
    assert found.pop("lrcsim.hardware.host")  # `run_tool`: nvidia-smi, sysctl, reg
    assert found == {}


# What Windows refuses: to rename or to remove an open file, to sync one that is open for reading only.


def is_open(path: str | Path, folder: int | None = None) -> bool:
    """Whether this process has a file open (the whole process: HDF5's and Arrow's own handles too)."""
    where = Path(os.readlink(f"/proc/self/fd/{folder}")) / path if folder is not None else Path(path)
    name = os.path.realpath(where)
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == name:
                return True
        except OSError:
            continue
    return False


@pytest.fixture
def windows_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with the rules of Windows, in this process."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc/self/fd to see which files are open")
    fcntl = pytest.importorskip("fcntl")
    replace, unlink, fsync = os.replace, os.unlink, os.fsync

    def windows_replace(source: Any, target: Any, **rest: Any) -> None:
        if is_open(source) or is_open(target):
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        replace(source, target, **rest)

    def windows_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if is_open(path, dir_fd):
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        unlink(path, dir_fd=dir_fd)

    def windows_fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        fsync(descriptor)

    for name, refusing in (("replace", windows_replace), ("rename", windows_replace), ("fsync", windows_fsync)):
        monkeypatch.setattr(os, name, refusing)
    monkeypatch.setattr(os, "unlink", windows_unlink)
    monkeypatch.setattr(os, "remove", windows_unlink)
    monkeypatch.setattr(files, "CAN_LOCK", False)


def test_the_rules_of_windows_are_in_force(windows_files: None, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with open(tmp_path / "a", "rb") as file:
        for refused in (lambda: os.replace(tmp_path / "a", tmp_path / "b"), lambda: (tmp_path / "a").unlink()):
            with pytest.raises(PermissionError):
                refused()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fsync(file.fileno())
    os.replace(tmp_path / "a", tmp_path / "b")


def test_files_are_written_where_open_ones_cannot_be_renamed(windows_files: None, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    for text in ("one\n", "two\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()  # and line ends are not translated
    with open(path, "rb"), pytest.raises(TraceError, match=r"out\.txt: cannot be written \(The process cannot access"):
        write_text(path, "three\n")
    opened = []

    def fail() -> None:
        with replacing(path) as partial:
            opened.append(open(partial, "w", encoding="utf-8"))  # noqa: SIM115 - by somebody who fails, and leaves it open
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # and not that the partial file cannot be removed
        fail()
    opened[0].close()
    assert path.read_bytes() == b"two\n"


def test_commands_write_where_open_files_cannot_be_renamed(
    windows_files: None, tmp_path: Path, lrcsim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log imported, run, swept, drawn: every kind of file that commands write, twice, so that one is replaced."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{token},{layer},{(token + layer) % 7}" for token in range(40) for layer in range(2)]
    Path("log.csv").write_text("token,layer,expert\n" + "\n".join(rows) + "\n", encoding="utf-8")
    Path("spec.toml").write_text(
        '[grid]\ntrace = "mine.h5"\npolicy = ["lru", "lfu"]\ncache = ["2x"]\n', encoding="utf-8"
    )
    for line in (
        "trace import log.csv -o mine.h5 --num-experts 8",
        "run mine.h5 --policy lru --cache 2x --json run.json",
        "curve mine.h5 --policy lru --csv curve.csv --plot curve.svg",
        "trace export mine.h5 -o back.npz",
        "sweep spec.toml --jobs 1 -o table.parquet --replace",
    ):
        for _ in range(2):
            done = lrcsim(*line.split())
            assert done.code == 0, (line, done.err)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(
        [
            "back.npz",
            "curve.csv",
            "log.csv",
            "mine.h5",
            "run.json",
            "curve.svg",
            "spec.toml",
            "table.parquet",
        ]
    )
    assert b"\r\r" not in Path("curve.csv").read_bytes()  # ends of lines of CSV are those of RFC 4180, once
    assert b"\r" not in Path("run.json").read_bytes()


def test_a_lock_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`_locking` locks from the present position: both processes must stand at the same one."""
    held: set[tuple[int, int, int]] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        about = os.fstat(descriptor)
        place = (about.st_dev, about.st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        assert (mode, count) == (2, 1)
        if place in held:
            raise PermissionError(13, "Permission denied")
        held.add(place)

    windows: Any = SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    monkeypatch.setattr(sys, "platform", "win32")
    with open(tmp_path / "lock", "w+b") as one, open(tmp_path / "lock", "r+b") as two, open(tmp_path / "b", "wb") as b:
        os.write(two.fileno(), b"\0")
        lock(one.fileno())
        lock(b.fileno())
        with pytest.raises(OSError, match="Permission denied"):
            lock(two.fileno())


def test_a_lock_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with open(tmp_path / "lock", "wb") as one, open(tmp_path / "lock", "wb") as two:
        lock(one.fileno())
        with pytest.raises(OSError, match="unavailable"):
            lock(two.fileno())
        one.close()
        lock(two.fileno())
        absent: Any = None
        monkeypatch.setitem(sys.modules, "fcntl", absent)  # a system with no locks at all
        lock(two.fileno())


BARE = """
import asyncio, random, select, shutil, subprocess, tempfile, multiprocessing.util, concurrent.futures.process
import h5py, matplotlib, numba, numpy, pyarrow.parquet, sys, os, signal, mmap, time, runpy
for name in {modules!r}:
    sys.modules[name] = None
for module, names in {names!r}.items():
    for name in names:
        if hasattr(sys.modules[module], name) and (module, name) not in {kept!r}:
            delattr(sys.modules[module], name)
sys.argv[0] = "lrcsim"
from lrcsim.cli.main import main
import lrcsim.traces.probe
lrcsim.traces.probe.os = type("os", (), {{"name": "nt"}})  # for all, pathlib could make no paths
main()
"""
KEPT = {
    ("os", "statvfs"),
    ("os", "wait"),
    ("os", "uname"),
    ("os", "register_at_fork"),
    ("signal", "pthread_sigmask"),
    ("select", "poll"),
}
"""What the standard library itself calls on this system."""


@pytest.mark.parametrize(
    "line",
    ["run --policy lru --cache 2x", "plan qwen3-30b-a3b --hardware rtx-4090", "hardware auto"],
)
def test_without_what_windows_lacks(line: str, tmp_path: Path) -> None:
    """The same answers, with modules hidden and names removed that Windows does not have."""
    names = {module: listed for module, listed in ONE_SYSTEMS_NAMES.items() if module in ("os", "signal", "mmap")}
    code = BARE.format(modules=sorted(ONE_SYSTEMS_MODULES - {"posix", "nt"}), names=names, kept=KEPT)
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    outputs = []
    for command in (["-m", "lrcsim"], ["-c", code]):
        done = subprocess.run(
            [sys.executable, *command, *line.split()], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path,
            env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = re.sub(r"compiling.*\n", "", done.stderr)
        assert not said or said.startswith("\nNote: lrcsim-toy-baseline is a toy"), said  # and what to run next
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "place", "name", "given"),
    [
        (r"C:\x.py:Policy:a=1", r"C:\x.py", "Policy", "a=1"),
        (r"c:/my dir/x.py:Policy", "c:/my dir/x.py", "Policy", ""),
        (r"\\server\share\x.py:Policy:b=C:\y", r"\\server\share\x.py", "Policy", r"b=C:\y"),
        (r"..\x.py:Policy", r"..\x.py", "Policy", ""),
        (r"\\?\C:\long\x.py:Policy", r"\\?\C:\long\x.py", "Policy", ""),
    ],
)
def test_paths_of_windows(spec: str, place: str, name: str, given: str) -> None:
    assert split_spec(spec) == (place, name, given)


def test_programs_that_start_processes_guard_their_start() -> None:
    """Windows and macOS start them afresh: a script without a guard would run itself in each."""
    root = Path(__file__).resolve().parents[1]
    for script in sorted(root.glob("examples/*.py")):
        text = script.read_text(encoding="utf-8")
        if "sweep" in text or "jobs" in text or "multiprocessing" in text:
            assert 'if __name__ == "__main__":' in text, f"{script} starts processes"
