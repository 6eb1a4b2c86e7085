"""Where experts are kept and computed: slots that are filled from a file by reader threads, and numpy."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from lrcsim.calibration.of_machine.files import UncachedFile, aligned_buffers
from lrcsim.experiments.validation.offload.weights import ExpertShape, Matrices, Vector, expert, matrices, start_vector


class Device(ABC):
    """What the executor asks of the place where experts are computed.

    Vectors are of the device's own type; here numpy's, computed in the thread that asks.

    Args:
        shape: of the model.
    """

    def __init__(self, shape: ExpertShape) -> None:
        self.shape = shape

    def begin(self, token: int) -> Any:
        """Return the vector with which a token enters the first layer."""
        return start_vector(self.shape, token)

    @abstractmethod
    def load(self, key: int, slot: int) -> None:
        """Begin to bring an expert into a slot; returns at once."""

    @abstractmethod
    def arrived(self) -> int:
        """Wait for the next expert to arrive, in any order; return its key."""

    @abstractmethod
    def compute(self, slot: int, x: Any) -> Any:
        """Return an expert's output for a vector."""

    def combine(self, x: Any, weights: Sequence[float], outputs: Sequence[Any]) -> Any:
        """Return what leaves the layer: the vector and the weighted outputs, scaled to its norm; waits for them."""
        return add_to(x, weights, outputs)

    def wait(self) -> None:  # noqa: B027  # here products are done when `compute` returns
        """Wait for what was computed."""

    def close(self) -> None:  # noqa: B027
        """Give everything back."""


def add_to(x: Vector, weights: Sequence[float], outputs: Sequence[Vector]) -> Vector:
    """Return x and the weighted outputs, float32 [hidden], scaled so that the mean square is 1."""
    total = x + np.asarray(weights, np.float32) @ np.stack(outputs)
    scaled: Vector = total * np.float32(len(x) ** 0.5 / np.linalg.norm(total))
    return scaled


class Throttle:
    """Makes reads last as on a slower link: a bucket of tokens, one read after the other.

    Args:
        bandwidth: bytes/s.
    """

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth
        self._lock = threading.Lock()
        self._free = 0.0

    def reserve(self, size: int) -> float:
        """Return when a read that is asked for now is over."""
        with self._lock:
            self._free = max(self._free, time.perf_counter()) + size / self.bandwidth
            return self._free


class FileDevice(Device):
    """Experts in a file, read past the page cache by threads, computed by numpy in the thread that asks.

    Args:
        path: the file, with expert ``key`` at ``key * shape.expert_bytes``.
        shape: of the model.
        slots: experts that memory holds.
        lanes: reader threads.
        throttle: what makes reads slower, or None.
    """

    def __init__(
        self, path: Path, shape: ExpertShape, slots: int, lanes: int, throttle: Throttle | None = None
    ) -> None:
        super().__init__(shape)
        self.file = UncachedFile(path)
        self.throttle = throttle
        self.buffers = aligned_buffers(slots, shape.expert_bytes)
        self.matrices: list[Matrices] = [matrices(buffer, shape) for buffer in self.buffers]
        self._asked: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._arrived: SimpleQueue[int | BaseException] = SimpleQueue()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(lanes)]
        for thread in self._threads:
            thread.start()

    def load(self, key: int, slot: int) -> None:
        """Ask the reader threads for an expert."""
        self._asked.put((key, slot))

    def arrived(self) -> int:
        """Wait for the next one.

        Raises:
            OSError: it could not be read.
        """
        found = self._arrived.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def compute(self, slot: int, x: Vector) -> Vector:
        """Compute an expert."""
        return expert(self.matrices[slot], x)

    def close(self) -> None:
        """End the threads and close the file."""
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()
        self.file.close()

    def _read(self) -> None:
        size = self.shape.expert_bytes
        while (asked := self._asked.get()) is not None:
            key, slot = asked
            try:
                over = self.throttle.reserve(size) if self.throttle is not None else 0.0
                self.file.read(key * size, self.buffers[slot])
                if over:
                    time.sleep(max(over - time.perf_counter(), 0.0))
                self._arrived.put(key)
            except BaseException as error:  # the thread that computes must hear of it, or it waits for ever
                self._arrived.put(error)


class NoDevice(Device):
    """Loads nothing; computes with experts that are there, and keeps that time apart.

    What is left of a run's time is the executor's own: the cache and its policy, the loop, the sum of the outputs. With
    the products left out it would look several times shorter, because it would stay in the processor's caches.

    Args:
        shape: of the model.
        experts: computed in turn, whichever are asked for.

    Attributes:
        seconds: spent in products.
    """

    def __init__(self, shape: ExpertShape, experts: Sequence[Matrices]) -> None:
        super().__init__(shape)
        self.experts = experts
        self.seconds = 0.0
        self._turn = 0
        self._asked: deque[int] = deque()

    def load(self, key: int, slot: int) -> None:
        """Take note."""
        self._asked.append(key)

    def arrived(self) -> int:
        """Return the next one at once."""
        return self._asked.popleft()

    def compute(self, slot: int, x: Vector) -> Vector:
        """Compute the next expert."""
        start = time.perf_counter()
        output = expert(self.experts[self._turn % len(self.experts)], x)
        self._turn += 1
        self.seconds += time.perf_counter() - start
        return output
