"""The engine's device on an NVIDIA GPU, by torch."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.offload.engine.device import Place

HOPPER = (9, 0)
"""Compute capability from which torch's grouped products (`torch._grouped_mm`) run without asking the host."""


def import_torch() -> Any:
    """Return torch.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise ConfigError("torch is not installed: install it (pip install torch), or leave out --gpu") from None


class CudaEvent:
    """An event of torch's.

    Args:
        raw: of torch.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.synchronize: Callable[[], None] = raw.synchronize
        self.done: Callable[[], bool] = raw.query

    def seconds_to(self, later: CudaEvent) -> float:
        """Return the seconds between."""
        return float(self.raw.elapsed_time(later.raw)) / 1e3


class CudaStream:
    """A stream of torch's.

    Args:
        raw: of torch.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def record(self, event: CudaEvent) -> None:
        """Record an event."""
        event.raw.record(self.raw)

    def wait(self, event: CudaEvent) -> None:
        """Wait for an event."""
        self.raw.wait_event(event.raw)


class CudaDevice:
    """The current GPU; arguments and attributes as `Device` has them.

    Raises:
        ConfigError: torch is not installed, or sees no GPU.
    """

    where = "cuda"

    def __init__(self) -> None:
        self.torch = torch = import_torch()
        if not torch.cuda.is_available():
            raise ConfigError("torch sees no GPU: leave out --gpu, or use --stub to try the command without one")
        self.name: str = torch.cuda.get_device_name()
        self.grouped = torch.cuda.get_device_capability() >= HOPPER
        self._capturing = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()
        self._now: Any = None
        one = torch.zeros(1, device=self.where)
        self._keeper = self.capture(lambda: one.zero_())  # torch does not take a pool again that all graphs have left

    def host(self, *shape: int, dtype: Any) -> Any:
        """Return page-locked memory."""
        return self.torch.empty(*shape, dtype=dtype, pin_memory=True)

    def empty(self, *shape: int, dtype: Any) -> Any:
        """Return memory of the GPU."""
        return self.torch.empty(*shape, dtype=dtype, device=self.where)

    def free_bytes(self) -> int:
        """Return what the driver says."""
        return int(self.torch.cuda.mem_get_info()[0])

    def release(self) -> None:
        """Empty torch's store of freed memory."""
        gc.collect()
        self.torch.cuda.empty_cache()

    def stream(self, *, urgent: bool) -> CudaStream:
        """Return a stream."""
        return CudaStream(self.torch.cuda.Stream(priority=-1 if urgent else 0))

    def event(self, *, timed: bool = False) -> CudaEvent:
        """Return an event."""
        return CudaEvent(self.torch.cuda.Event(enable_timing=timed))

    def capture(self, work: Callable[[], None]) -> Any:
        """Capture a CUDA graph.

        All graphs share one pool of memory: each writes its results to tensors outside, and they run one by one.
        torch's own context manager collects garbage each time, which takes seconds over hundreds of graphs; here none
        is collected meanwhile, for a graph or an event that is freed during a capture may break it.
        """
        torch = self.torch
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._capturing):
            for _ in range(2):
                work()
            torch.cuda.synchronize()
            with _no_garbage_collected():
                graph.capture_begin(pool=self._pool)
                try:
                    work()
                finally:
                    graph.capture_end()
        return graph

    def replay(
        self, graph: Any, stream: CudaStream, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()
    ) -> None:
        """Launch a graph."""
        self._use(stream)
        graph.replay()

    def copy(
        self, target: Any, source: Any, stream: CudaStream, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()
    ) -> None:
        """Enqueue a copy."""
        self._use(stream)
        target.copy_(source, non_blocking=True)

    def by_host(self, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()) -> None:
        """Do nothing: the places are for the stub."""

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self.torch.cuda.synchronize()

    def _use(self, stream: CudaStream) -> None:
        if stream is not self._now:
            self.torch.cuda.set_stream(stream.raw)
            self._now = stream


@contextlib.contextmanager
def _no_garbage_collected() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
