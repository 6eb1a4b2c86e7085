"""Timing on the GPU: on the host's clock, begun and waited for, or on the GPU's own, without what the host takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine.timing import Timing, repeat, repeat_timed

WIDTH = 4096
"""Of the square bfloat16 matrices whose product keeps the GPU busy: 0.2 ms on an H200."""
MOST_PRODUCTS = 512
"""In a row before a measurement; a driver queues about a thousand operations before it makes the host wait."""


class GpuTimer:
    """Times operations of the current device.

    Args:
        torch: the module.
        repetitions: of each measurement.
    """

    def __init__(self, torch: Any, repetitions: int) -> None:
        self.torch = torch
        self.repetitions = repetitions
        self._a, self._b = (torch.rand(WIDTH, WIDTH, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        self._c = torch.empty(WIDTH, WIDTH, dtype=torch.bfloat16, device="cuda")
        self._products = 1

    def waited(self, size: int, action: Callable[[int], object], count: int = 1) -> Timing:
        """Time so many calls in a row and the wait for the last one's end, on the host's clock.

        Args:
            size: bytes that one call moves.
            action: enqueues something; called with the number of the call.
            count: calls in a row.

        Returns:
            Of all together: its size is ``count * size``.
        """

        def both(turn: int) -> None:
            for i in range(count):
                action(turn * count + i)
            self.torch.cuda.synchronize()

        return repeat(count * size, both, self.repetitions)

    def in_a_row(self, size: int, action: Callable[[int], object], count: int = 1) -> Timing:
        """Time so many calls in a row on the GPU's clock, all of them enqueued before the first begins.

        The GPU is kept busy by products of matrices meanwhile; whether it still was when the last call returned is
        asked, and more products taken if not. So neither Python nor the driver's calls are in the time, only what the
        GPU itself takes from one operation to the next.

        Args:
            size: bytes that one call moves.
            action: enqueues something on the current stream; called with the number of the call.
            count: calls in a row; with all their operations far fewer than a thousand.

        Returns:
            Of all together: its size is ``count * size``.

        Raises:
            ConfigError: the GPU cannot be kept busy for so long.
        """

        def once(turn: int) -> float:
            while True:
                begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                for _ in range(self._products):
                    self.torch.mm(self._a, self._b, out=self._c)
                begin.record()
                for i in range(count):
                    action(turn * count + i)
                end.record()
                busy = not begin.query()
                end.synchronize()
                if busy:
                    return float(begin.elapsed_time(end)) / 1e3  # milliseconds
                if self._products >= MOST_PRODUCTS:
                    raise ConfigError(
                        f"the GPU was done before {count} operations were enqueued, after {self._products} products of "
                        f"{WIDTH} x {WIDTH} matrices: its own times cannot be told from the host's: try again on an "
                        "idle machine, or leave the GPU out with --no-gpu"
                    )
                self._products *= 2

        return repeat_timed(count * size, once, self.repetitions)
