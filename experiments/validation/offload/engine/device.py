"""What the engine asks of the place where it runs: memory, streams, events, captured work.

`cuda` is a GPU. `stub` is this processor with the same rules, and refuses what a GPU would silently get wrong. So that
it can, whoever enqueues something says which places it reads and which it writes: a `Place` is a name and a number, as
``("slot", 7)``. A GPU does not look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

Place = tuple[str, int]
"""A piece of memory that someone waits for."""


class Event(Protocol):
    """A moment on a stream."""

    def synchronize(self) -> None:
        """Let the host wait until the stream has come there."""

    def done(self) -> bool:
        """Whether the stream has come there."""

    def seconds_to(self, later: Any) -> float:
        """Return the seconds by the device's clock to an event of the same kind; both are past, both made timed."""


class Stream(Protocol):
    """A queue of work: one thing after the other."""

    def record(self, event: Any) -> None:
        """Put an event behind what is in the queue."""

    def wait(self, event: Any) -> None:
        """Let what comes next in the queue wait for an event of another stream."""


class Device(Protocol):
    """Where the engine runs.

    Attributes:
        name: for people.
        torch: the module.
        where: torch's name of the device, ``"cuda"``.
        grouped: whether grouped matrix products run here without the host.
    """

    name: str
    torch: Any
    where: str
    grouped: bool

    def host(self, *shape: int, dtype: Any) -> Any:
        """Return a page-locked tensor in host memory."""

    def empty(self, *shape: int, dtype: Any) -> Any:
        """Return a tensor on the device."""

    def free_bytes(self) -> int:
        """Return how many bytes the device can still give."""

    def release(self) -> None:
        """Give memory that nobody holds any more back to the device."""

    def stream(self, *, urgent: bool) -> Any:
        """Return a new `Stream`, of high or of low priority."""

    def event(self, *, timed: bool = False) -> Any:
        """Return a new `Event`."""

    def capture(self, work: Callable[[], None]) -> Any:
        """Run some work twice to warm it up, and record it, to be repeated by `replay`.

        The work reads and writes tensors that stay, and neither asks the device nor makes tensors out of nothing.
        """

    def replay(self, graph: Any, stream: Any, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()) -> None:
        """Enqueue captured work."""

    def copy(
        self, target: Any, source: Any, stream: Any, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()
    ) -> None:
        """Enqueue a copy between page-locked host memory and the device; the host does not wait."""

    def by_host(self, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()) -> None:
        """Say that the host itself is going to read or write places."""

    def synchronize(self) -> None:
        """Let the host wait for everything."""
