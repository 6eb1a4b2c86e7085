"""The time that a command may take, and what of it is left."""

from __future__ import annotations

import time


class Budget:
    """Seconds from now on.

    Args:
        seconds: in all.
        kept: of them, for what comes at the end.
    """

    def __init__(self, seconds: float, kept: float) -> None:
        self.begun = time.perf_counter()
        self.seconds = seconds
        self.end = self.begun + seconds - kept

    @staticmethod
    def now() -> float:
        """Return the moment, by `time.perf_counter`."""
        return time.perf_counter()

    @property
    def gone(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun

    @property
    def left(self) -> float:
        """Seconds until what comes at the end must begin."""
        return self.end - time.perf_counter()

    def share(self, part: float) -> float:
        """Return the moment, by `time.perf_counter`, when that part of what is left now is over."""
        return time.perf_counter() + part * max(self.left, 0.0)
