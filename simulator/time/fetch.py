"""An expert on its way over one link after the other."""

from __future__ import annotations

from collections.abc import Callable

from lrcsim.simulator.time.links import DEMAND, LinkServer, Transfer


class Fetch:
    """One expert's way to the GPU (or only to DRAM): a transfer on each link of its path, one after the other.

    Attributes:
        key: layer * stride + expert.
        legs: links still to be taken.
        size: bytes.
        priority: `DEMAND` or `PREFETCH`.
        what: for the log.
        done: called when it has come to the end.
        part: which of the expert's tensors it is; None: all of them.
        pieces: how many transfers the expert is.
    """

    __slots__ = ("done", "key", "legs", "link", "part", "pieces", "priority", "size", "transfer", "what")

    def __init__(
        self,
        key: int,
        legs: list[LinkServer],
        size: float,
        priority: int,
        what: str,
        done: Callable[[Fetch], None],
        part: int | None = None,
        pieces: int = 1,
    ) -> None:
        self.key = key
        self.part = part
        self.pieces = pieces
        self.legs = legs
        self.size = size
        self.priority = priority
        self.what = what
        self.done = done
        self.start()

    def start(self) -> None:
        """Submit the next leg."""
        self.link = self.legs.pop(0)
        self.transfer = Transfer(self.key, self.size, self.priority, self._arrived, self.what, self.pieces)
        self.link.submit(self.transfer)

    def promote(self) -> None:
        """Make it urgent."""
        self.priority = DEMAND
        self.link.promote(self.transfer)

    def cancel(self) -> None:
        """Let nothing more of it start."""
        self.transfer.cancelled = True

    def _arrived(self, transfer: Transfer) -> None:
        if transfer.cancelled:
            return
        if self.legs:
            self.start()
        else:
            self.done(self)
