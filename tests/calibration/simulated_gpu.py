"""A GPU for tests: as much of torch as calibration asks for, on two clocks, host and GPU, that only calls move.

Every call of the host takes `CALL`; a kernel takes `GAP` and the time of the bytes that it reads and writes; a copy
from the host takes `COPY` and the time of its bytes on the link. What is enqueued begins when its stream is free and
the host has called. So whatever calibration makes of it can be told from these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

CALL = 8e-6
GAP = 1.5e-6
COPY = 3e-6
WAIT = 4e-6
"""Of the host, until it notices that the GPU is done."""
MEMORY, LINK, PAGEABLE, FLOPS = 4e12, 50e9, 15e9, 700e12


class Tensor:
    """Bytes in a place, and a shape."""

    def __init__(self, gpu: SimulatedTorch, shape: tuple[int, ...], width: int, place: str) -> None:
        self.gpu, self.shape, self.width, self.place = gpu, shape, width, place

    @property
    def bytes(self) -> int:
        count = self.width
        for length in self.shape:
            count *= length
        return count

    def copy_(self, source: Tensor, non_blocking: bool) -> None:
        assert non_blocking
        assert source.bytes == self.bytes
        if source.place == "cuda":
            self.gpu.kernel(2 * self.bytes)
        elif source.place == "pinned":
            self.gpu.enqueue(COPY + self.bytes / self.gpu.link, link=True)
        else:  # staged: the host copies, and so waits
            self.gpu.enqueue(COPY + self.bytes / PAGEABLE, link=True)
            self.gpu.host = self.gpu.ends[self.gpu.stream]

    def add_(self, number: int) -> None:
        self.gpu.kernel(2 * self.bytes)

    def __matmul__(self, other: Tensor) -> Tensor:
        assert self.shape[1] == other.shape[0]
        self.gpu.kernel(self.bytes)
        return Tensor(self.gpu, (self.shape[0],), self.width, "cuda")

    def __mul__(self, other: Tensor) -> Tensor:
        assert self.shape == other.shape
        self.gpu.kernel(self.bytes)
        return self


class Event:
    """A moment on a stream."""

    def __init__(self, gpu: SimulatedTorch) -> None:
        self.gpu = gpu
        self.at = -1.0

    def record(self) -> None:
        self.gpu.call()
        self.at = max(self.gpu.ends[self.gpu.stream], self.gpu.host)

    def query(self) -> bool:
        self.gpu.call()
        return self.at <= self.gpu.host

    def synchronize(self) -> None:
        self.gpu.host = max(self.gpu.host, self.at) + WAIT

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class SimulatedTorch:
    """The module.

    Args:
        name: the driver's.
        free: bytes of the GPU's memory that nothing uses.
        engines: copies from the host at once, each on a stream of its own at the link's whole rate.
        product_s: seconds of the product of matrices that keeps the GPU busy; None: as its operations take.
    """

    uint8, bfloat16 = 1, 2
    OutOfMemoryError = MemoryError

    def __init__(
        self, name: str = "Simulated GPU", free: int = 8 << 30, engines: int = 1, product_s: float | None = None
    ) -> None:
        self.host = 0.0
        self.stream = 0
        self.ends = {0: 0.0}
        self.link_free = [0.0] * engines
        self.link = LINK
        self.product_s = product_s
        self.made: list[tuple[str, int]] = []
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            current_device=lambda: 0,
            get_device_properties=lambda _: SimpleNamespace(name=name, total_memory=8 << 30),
            empty_cache=lambda: None,
            mem_get_info=lambda: (free, 8 << 30),
            synchronize=self._wait,
            Event=self._event,
            Stream=self._stream,
            stream=self._on,
        )
        self.nn = SimpleNamespace(functional=SimpleNamespace(silu=self._silu))

    def call(self) -> None:
        self.host += CALL

    def enqueue(self, seconds: float, *, link: bool = False) -> None:
        self.call()
        begin = max(self.ends[self.stream], self.host)
        if link:
            engine = self.link_free.index(min(self.link_free))
            begin = max(begin, self.link_free[engine])
            self.link_free[engine] = begin + seconds
        self.ends[self.stream] = begin + seconds

    def kernel(self, size: int) -> None:
        self.enqueue(GAP + size / MEMORY)

    def clock(self) -> float:
        self.host += 1e-9  # so that no two readings are the same
        return self.host

    def empty(self, *shape: int, dtype: int, device: str = "cpu", pin_memory: bool = False) -> Tensor:
        place = "pinned" if pin_memory else device
        self.made.append((place, shape[0]))
        return Tensor(self, shape, dtype, place)

    ones = empty
    rand = empty

    def zeros(self, *shape: int, device: str) -> Tensor:
        return Tensor(self, shape, 4, device)

    def mm(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        assert a.shape[1] == b.shape[0]
        operations = 2 * a.shape[0] * a.shape[1] * b.shape[1]
        self.enqueue(operations / FLOPS if self.product_s is None else self.product_s)

    def _silu(self, x: Tensor) -> Tensor:
        self.kernel(2 * x.bytes)
        return x

    def _wait(self) -> None:
        self.host = max(self.host, *self.ends.values()) + WAIT

    def _event(self, *, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    def _stream(self) -> int:
        self.ends[len(self.ends)] = 0.0
        return len(self.ends) - 1

    @contextmanager
    def _on(self, stream: int) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before


class RealOnTheCpu:
    """Torch itself with its tensors on the CPU, under the calls that calibration makes: a wrong one fails.

    Streams, events and the device are stand-ins, whose methods must be there on torch's own classes.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.uint8, self.bfloat16, self.nn = torch.uint8, torch.bfloat16, torch.nn
        self.OutOfMemoryError = torch.OutOfMemoryError
        simulated = SimulatedTorch(product_s=1.0)
        self._simulated = simulated
        self.cuda = simulated.cuda
        for name in vars(simulated.cuda):
            assert hasattr(torch.cuda, name), f"torch.cuda.{name}"
        for method in ("record", "query", "synchronize", "elapsed_time"):
            assert hasattr(torch.cuda.Event, method)

    def mm(self, a: Any, b: Any, out: Any) -> None:
        self._torch.mm(a, b, out=out)
        self._simulated.mm(a, b, out)

    def empty(self, *shape: int, **options: Any) -> Any:
        return self._torch.empty(*shape, **self._here(options))

    def ones(self, *shape: int, **options: Any) -> Any:
        return self._torch.ones(*shape, **self._here(options))

    def rand(self, *shape: int, **options: Any) -> Any:
        return self._torch.rand(*shape, **self._here(options))

    def zeros(self, *shape: int, **options: Any) -> Any:
        return self._torch.zeros(*shape, **self._here(options))

    @staticmethod
    def _here(options: dict[str, Any]) -> dict[str, Any]:
        return (
            options
            | ({"device": "cpu"} if "device" in options else {})
            | ({"pin_memory": False} if "pin_memory" in options else {})
        )
