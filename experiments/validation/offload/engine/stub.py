"""The engine's device without a GPU: torch on this processor, under the rules of streams, events and graphs.

Everything runs when it is enqueued, so its times say nothing. What it is for is that the code which a GPU will run has
run before: it refuses (`MisuseError`) the use of a place before its event, a copy from or to host memory that is not
page-locked, an event that was never recorded, a graph that was not captured, and captured work that makes tensors out
of nothing, reads host memory or asks for a value, which a capture on a GPU does not survive.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from lrcsim.experiments.validation.offload.engine.clocks import HOST, Clock, Clocks, MisuseError, join
from lrcsim.experiments.validation.offload.engine.cuda import import_torch
from lrcsim.experiments.validation.offload.engine.device import Place

MEMORY = 1 << 30
"""Bytes that a stub claims to have."""


class StubEvent:
    """A moment; `done` says no and yes in turn, as on a GPU it may be either."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self.clock: Clock | None = None
        self.at = 0.0
        self._asked = 0

    def recorded(self) -> Clock:
        """Return what had been done when it was recorded.

        Raises:
            MisuseError: it was not.
        """
        if self.clock is None:
            raise MisuseError("an event is waited for that was never recorded")
        return self.clock

    def synchronize(self) -> None:
        """Let the host see what came before."""
        join(self._clocks.known[HOST], self.recorded())

    def done(self) -> bool:
        """Say no, then yes."""
        self._asked += 1
        if self._asked % 2:
            return False
        self.synchronize()
        return True

    def seconds_to(self, later: StubEvent) -> float:
        """Return the seconds by this processor's clock.

        Raises:
            MisuseError: the host has not waited for it.
        """
        for event in (self, later):
            seen = self._clocks.known[HOST]
            if any(seen.get(agent, 0) < count for agent, count in event.recorded().items()):
                raise MisuseError("the time of an event is asked for before it is past")
        return later.at - self.at


class StubStream:
    """A queue that is worked off at once."""

    def __init__(self, clocks: Clocks, number: int) -> None:
        self._clocks = clocks
        self.number = number

    def record(self, event: StubEvent) -> None:
        """Take note of the moment."""
        self._clocks.act(self.number)
        event.clock, event.at = dict(self._clocks.known[self.number]), time.perf_counter()

    def wait(self, event: StubEvent) -> None:
        """See what came before the event."""
        join(self._clocks.known[self.number], event.recorded())


class StubDevice:
    """This processor; arguments and attributes as `Device` has them."""

    name = "a stub on the processor"
    where = "cpu"
    grouped = True

    def __init__(self) -> None:
        self.torch = import_torch()
        self.clocks = Clocks()
        self._streams = 0
        self._locked: set[int] = set()
        self._given: set[int] = set()
        self._kept: list[Any] = []
        self._graphs: dict[int, Any] = {}

    def host(self, *shape: int, dtype: Any) -> Any:
        """Return memory that counts as page-locked."""
        return self._keep(self.torch.zeros(*shape, dtype=dtype), self._locked)

    def empty(self, *shape: int, dtype: Any) -> Any:
        """Return memory that counts as the device's, full of what nobody wants."""
        fill = float("nan") if dtype.is_floating_point else self.torch.iinfo(dtype).max
        return self._keep(self.torch.full(shape, fill, dtype=dtype), self._given)

    def free_bytes(self) -> int:
        """Return `MEMORY`, always."""
        return MEMORY

    def release(self) -> None:
        """Do nothing."""

    def stream(self, *, urgent: bool) -> StubStream:
        """Return a queue."""
        self._streams += 1
        return StubStream(self.clocks, self._streams)

    def event(self, *, timed: bool = False) -> StubEvent:
        """Return an event."""
        return StubEvent(self.clocks)

    def capture(self, work: Callable[[], None]) -> Any:
        """Run it once, recorded.

        Raises:
            MisuseError: a capture on a GPU would fail.
        """
        with recorder(self.torch, self._locked) as graph:
            work()
        self._graphs[id(graph)] = graph  # kept, so that no other gets its id
        return graph

    def replay(
        self, graph: Any, stream: StubStream, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()
    ) -> None:
        """Do it again.

        Raises:
            MisuseError: it was not captured here, or a place is not ready.
        """
        if id(graph) not in self._graphs:  # those are kept, so no other object has such an id
            raise MisuseError("a graph is replayed that was not captured")
        self.clocks.act(stream.number, reads, writes)
        graph.replay()

    def copy(
        self, target: Any, source: Any, stream: StubStream, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()
    ) -> None:
        """Copy.

        Raises:
            MisuseError: one side is neither page-locked nor the device's, both are the host's, or a place is not ready.
        """
        sides = [_storage(target), _storage(source)]
        for side in sides:
            if side not in self._locked and side not in self._given:
                raise MisuseError("a copy from or to host memory that is not page-locked: the host would wait for it")
        if all(side in self._locked for side in sides):
            raise MisuseError("a copy within host memory is put on a stream")
        if target.shape != source.shape or target.dtype != source.dtype:
            raise MisuseError(f"a copy of {source.shape} {source.dtype} to {target.shape} {target.dtype}")
        if not (target.is_contiguous() and source.is_contiguous()):
            raise MisuseError("a copy of what does not lie together: a GPU would take a buffer and wait")
        self.clocks.act(stream.number, reads, writes)
        target.copy_(source)

    def by_host(self, *, reads: Iterable[Place] = (), writes: Iterable[Place] = ()) -> None:
        """Let the host read and write.

        Raises:
            MisuseError: it has not waited.
        """
        self.clocks.act(HOST, reads, writes)

    def synchronize(self) -> None:
        """Let the host see everything."""
        for clock in list(self.clocks.known.values()):
            join(self.clocks.known[HOST], clock)

    def _keep(self, tensor: Any, among: set[int]) -> Any:
        self._kept.append(tensor)  # or its address is given to another
        among.add(_storage(tensor))
        return tensor


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr())


def recorder(torch: Any, locked: set[int] | None = None) -> Any:
    """Return a context in which every operation of torch is recorded, as a capture records kernels, and looked at.

    `Recorder.replay` does the same operations again on the same tensors, results in the same places: what Python has in
    between, a number or another tensor by now, does not count any more, as in a CUDA graph.

    Args:
        torch: the module.
        locked: addresses of what is host memory.
    """
    dispatch = importlib.import_module("torch.utils._python_dispatch")
    leaves, host = torch.utils._pytree.tree_leaves, locked or set[int]()

    class Recorder(dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[Any, Any, Any, list[Any]]] = []

        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [one for one in leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
            name = str(operation)
            if not given or "lift_fresh" in name:
                raise MisuseError(f"captured work makes a tensor out of nothing: {name}")
            by_mask = name.startswith("aten.index") and any(one.dtype == torch.bool for one in given)
            if by_mask or any(asks in name for asks in ("_local_scalar_dense", "nonzero", "masked_select")):
                raise MisuseError(f"captured work asks the device for a value: {name}")
            if any(_storage(one) in host for one in given):
                raise MisuseError(f"captured work reads host memory: {name}")
            found = operation(*args, **(kwargs or {}))
            self.calls.append((operation, args, kwargs or {}, leaves(found)))
            return found

        def replay(self) -> None:
            for operation, args, kwargs, before in self.calls:
                for old, new in zip(before, leaves(operation(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and _storage(old) != _storage(new):
                        old.copy_(new)

    return Recorder()
