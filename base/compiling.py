"""Says on standard error that something is being compiled, for seconds, and lets Ctrl-C end it.

Compilers take no notice of Ctrl-C: Python acts on it between two instructions, and one of LLVM's passes, or a thread
that compiles, can keep it from the next for seconds. So while something is compiled a thread of ours waits for the
signal too, and ends the process if Python has not done so soon. Where everything is on disk no thread is started.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

AFTER = 1.0
"""Seconds of compiling before anything is said."""

GRACE = 0.3
"""Seconds that Python has to end by itself after Ctrl-C."""

FRAME = 0.1
WIDTH, PIECE = 24, 6

wanted = False
"""Whether to tell: the command line does; a library's user is not spoken to."""

aborted = False
"""Whether the user has been told already that Ctrl-C was heard."""

shown_by: Callable[[str], None] | None = None
"""What shows the words instead, an empty text for none: a progress bar that has the line."""


def tell() -> None:
    """Ask for it, before numba is imported."""
    global wanted
    wanted = True


def watch() -> None:
    """Listen to numba from now on, if that was asked for; called where compiled functions are defined."""
    global wanted
    if not wanted:
        return
    wanted = False
    from numba.core import event
    from numba.core.caching import NullCache

    class Listener(event.Listener):
        """Hands on when compiling begins and ends."""

        def on_start(self, event: Any) -> None:
            dispatcher = event.data["dispatcher"]
            kept = getattr(dispatcher, "kept", False) or not isinstance(dispatcher._cache, NullCache)
            teller.begin(dispatcher.__name__, kept=kept)

        def on_end(self, event: Any) -> None:
            teller.end()

    teller = Teller()
    register: Any = event.register
    register("numba:compile", Listener())


class Teller:
    """The thread that tells, for as long as something is compiled."""

    def __init__(self) -> None:
        self.depth = 0  # functions being compiled, one for another
        self.name = ""  # of the first of them
        self.kept = True  # on disk: the next start does not compile it
        self.told = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._signals: Any = None  # a socket that is told of every signal
        if threading.current_thread() is threading.main_thread():
            import socket  # not for `--help`

            self._signals, heard = socket.socketpair()
            heard.setblocking(False)
            self._signals.settimeout(FRAME)
            signal.set_wakeup_fd(heard.detach(), warn_on_full_buffer=False)

    def begin(self, name: str, *, kept: bool = True) -> None:
        """Take note that a function is being compiled, and whether it is kept on disk."""
        with self._lock:
            self.depth += 1
            if self.depth == 1:
                self.name, self.kept = name, kept
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="compiling")
                self._thread.start()

    def end(self) -> None:
        """Take note that it is done."""
        with self._lock:
            self.depth -= 1

    def _run(self) -> None:
        started = busy = time.monotonic()
        while True:
            stopped = self._interrupted()
            now = time.monotonic()
            with self._lock:
                if self.depth:
                    busy = now
                elif now - busy > 2 * FRAME:  # not between two functions of one kernel
                    self._thread = None
                    break
            if stopped and self.depth:
                self._stop()
            if now - started > AFTER:
                self._show(now - started)
        if self.told and shown_by is not None:
            shown_by("")
        elif self.told and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _interrupted(self) -> bool:
        """Wait for the time of a picture; return whether Ctrl-C was pressed meanwhile."""
        if self._signals is None:
            time.sleep(FRAME)
            return False
        try:
            return signal.SIGINT in self._signals.recv(64)
        except TimeoutError:
            return False

    def _stop(self) -> None:
        time.sleep(GRACE)  # mostly it ends by itself meanwhile
        if not aborted:
            print(("\r\x1b[K" if self.told and sys.stderr.isatty() else "") + "Aborted.", file=sys.stderr, flush=True)
        os._exit(130)

    def _show(self, seconds: float) -> None:
        what = "compiling, once" if self.kept else "compiling"
        if shown_by is not None:
            shown_by(f"{what}: {self.name}")
        elif sys.stderr.isatty():
            at = int(seconds / FRAME) % WIDTH
            bar = "".join("=" if (place - at) % WIDTH < PIECE else " " for place in range(WIDTH))
            print(f"\r{what}  [{bar}]  {self.name}\x1b[K", end="", file=sys.stderr, flush=True)
        elif not self.told:
            why = ": it is kept on disk, the next start is fast" if self.kept else f": {self.name}"
            print(f"{what}{why}", file=sys.stderr, flush=True)
        self.told = True
