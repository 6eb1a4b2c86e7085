"""Look at a stranger's HDF5 file in a child process first.

A damaged or hostile file can make the HDF5 library crash, or loop for ever, deaf to Ctrl-C. So the header of a file
that this process has not written itself is first read by a child with a time limit. The child serves all files that
this process opens: the first costs a fifth of a second, the others a millisecond. Where there are no such limits
(Windows), or no Python to start, files are opened right away.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from lrcsim.base.documents import check_regular, unreadable
from lrcsim.base.errors import TraceError
from lrcsim.traces.hdf5 import TraceFile, read_header

CPU_SECONDS = 3.0
"""What a header may cost, however loaded the machine is; plus a second for every `BYTES_PER_SECOND` of the file."""

BYTES_PER_SECOND = 200_000_000
WALL_SECONDS = 120.0
"""How long a child may wait for a disk."""

SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import lrcsim.traces.probe as p; p.serve()"


class _Child:
    """The child of this process, started when it is first needed and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.stop)

    def ask(self, path: Path) -> str | None:
        """Return what is wrong with a file, or None.

        Raises:
            TraceError: the child crashed on it, or did not come to an end.
            OSError: no child can be started.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(os.fsencode(path.absolute()).hex().encode() + b"\n")
                process.stdin.flush()
                answer = self._wait(process.stdout.fileno())
            except BrokenPipeError:
                answer = b""
            except BaseException:
                self.stop()
                raise
            if answer.endswith(b"\n"):
                wrong: str | None = json.loads(answer)
                return wrong
            process.kill()
            code = process.wait()
            self.stop()
            if code in (-signal.SIGPROF, -signal.SIGKILL):
                raise TraceError(f"{path}: is damaged, the HDF5 library does not come to an end on it")
            raise TraceError(f"{path}: is damaged, the HDF5 library crashes on it (exit code {code})")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # a fork: the child is the parent's
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, json.dumps([entry for entry in sys.path if entry])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process: it stops the child
            )
        return self._process

    def _wait(self, reader: int) -> bytes:
        answer, ends = b"", time.monotonic() + WALL_SECONDS
        while not answer.endswith(b"\n") and time.monotonic() < ends:
            if select.select([reader], [], [], 1.0)[0]:
                read = os.read(reader, 65_536)
                if not read:
                    break
                answer += read
        return answer

    def stop(self) -> None:
        """End the child, if it is this process's."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()


_child = _Child()


def probe(path: Path) -> None:
    """Read a trace file's header in a child process.

    Raises:
        TraceError: the header is wrong, or the HDF5 library crashes or loops on it.
    """
    if os.name != "posix" or not sys.executable:
        return
    try:
        wrong = _child.ask(path)
    except OSError:  # no process to be had: as on Windows
        return
    if wrong is not None:
        raise TraceError(wrong)


def serve() -> None:
    """Answer for each path on standard input (hex, one a line) with JSON: null, or what is wrong with the file."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        path = Path(os.fsdecode(bytes.fromhex(line.decode())))
        wrong = None
        try:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + path.stat().st_size / BYTES_PER_SECOND)
            read_header(path).close()
        except TraceError as error:
            wrong = str(error)
        except OSError as error:
            wrong = f"{path}: cannot be read ({error.strerror or error})"
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(wrong).encode() + b"\n")
        sys.stdout.buffer.flush()


BUNDLED_FOLDER = Path(__file__).parent / "data"
_known: set[tuple[int, ...]] = set()
"""Files that this process wrote, or has looked at in a child: their identity and state (`_state`)."""


def open_file(path: Path) -> TraceFile:
    """Open a trace file and read its header only; one of unknown origin in a child process first.

    Raises:
        TraceError: as of `read_header`; or the file changed while it was opened.
    """
    try:
        state = _state(path)
        if path.parent != BUNDLED_FOLDER and state not in _known:
            check_regular(path)
            probe(path)
            _known.add(state)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, TraceError) else unreadable(path, error) from None
    opened = read_header(path)
    if _state(path) != state:
        opened.close()
        raise TraceError(f"{path}: was replaced or written to while it was opened")
    return opened


def remember(path: Path) -> None:
    """Take a file for one that this process has written itself."""
    _known.add(_state(path))


def _state(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
