"""The engine: decode steps, layer by layer, with experts in slots on the device and all of them in host memory.

A layer: one graph computes everything before the experts and reads the recorded routing out of a table on the device;
the ids come to the host, which waits for them: the one wait of a layer. The host's cache says what is missing, puts the
copies on a stream of their own, launches the experts that are there (one graph for any number of them), and each
missing one behind the event of its copy. Nothing else is waited for: the next layer's graph stands behind in the queue.

Why no copy can overwrite what is still read: a slot that is filled was last read in an earlier step of its own layer,
and the host has since waited for the routing of this layer, which stands behind all that in one queue.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.validation.offload.engine.cells import EngineCell, most_used
from lrcsim.experiments.validation.offload.engine.dense import (
    DenseWeights,
    State,
    join_work,
    layer_work,
    output_work,
)
from lrcsim.experiments.validation.offload.engine.device import Device, Place
from lrcsim.experiments.validation.offload.engine.experts import HostExperts
from lrcsim.experiments.validation.offload.engine.products import Places, Products
from lrcsim.experiments.validation.offload.engine.shape import EngineShape
from lrcsim.experiments.validation.offload.engine.slots import LayerCache, batch_of

RING = 4096
"""Rows of page-locked memory for what is launched, used in turn; more than two layers can launch."""
COLUMNS = (
    "step", "wall_ms", "dense_ms", "resident_ms", "arriving_ms", "output_ms", "host_wait_ms", "cpu_ms", "accesses",
    "loads", "prefetched", "read_bytes",
)  # fmt: skip
"""Of a cell's CSV, a row for each step; see the README."""


@dataclass
class StepCounts:
    """What a step did.

    Attributes:
        accesses: experts used, over the layers.
        loads: brought because they were missing.
        prefetched: brought ahead.
        host_wait: seconds the host waited for routing.
        cpu: seconds in which the processor computed experts.
    """

    accesses: int = 0
    loads: int = 0
    prefetched: int = 0
    host_wait: float = 0.0
    cpu: float = 0.0


@dataclass
class Moments:
    """Timed events of one step: in each layer its routing is known, its residents are done, all its experts are.

    Attributes:
        begin: of the step.
        layers: three of each layer.
        output: when the token is there.
    """

    begin: Any
    layers: list[tuple[Any, Any, Any]]
    output: Any

    def parts(self) -> dict[str, float]:
        """Return milliseconds by the device's clock, in which it may also have waited for the host."""
        last, sums = self.begin, [0.0, 0.0, 0.0]
        for layer in self.layers:
            for part, moment in enumerate(layer):
                sums[part] += last.seconds_to(moment)
                last = moment
        names = ("dense_ms", "resident_ms", "arriving_ms", "output_ms")
        return {name: 1e3 * value for name, value in zip(names, [*sums, last.seconds_to(self.output)], strict=True)}


@dataclass(frozen=True)
class ModelOnDevice:
    """What all cells of a model share; it is made once.

    Attributes:
        shape: of the model.
        host: all experts.
        dense: everything else.
        slots: bfloat16 [S, numbers] on the device, at least `room_of` for each layer.
        way: how experts are computed, of `products.WAYS`.
    """

    shape: EngineShape
    host: HostExperts
    dense: DenseWeights
    slots: Any
    way: str


@dataclass
class Streams:
    """The queues: what computes, what brings missing experts, what brings experts ahead."""

    compute: Any
    demand: Any
    ahead: Any

    @classmethod
    def of(cls, device: Device) -> Streams:
        """Make them."""
        return cls(device.stream(urgent=True), device.stream(urgent=True), device.stream(urgent=False))


class Engine:
    """One cell of one model, its graphs captured, before its first step.

    Args:
        device: where.
        cell: what is run.
        table: `cells.table_of`.
        model: the model's weights and slots.

    Attributes:
        shape: of the model.
        state: what goes from graph to graph.
        products: of experts.
        streams: queues.
        moments: of the last step.
        counts: of the last step.
        k: experts per token.
        layers: graphs of `dense.layer_work`.
        output: graph of `dense.output_work`.
        ids: int64 [batch * k], page-locked: a layer's experts on the host.
    """

    def __init__(self, device: Device, cell: EngineCell, table: npt.NDArray[np.int64], model: ModelOnDevice) -> None:
        torch, shape, dense = device.torch, model.shape, model.dense
        self.device, self.cell, self.table, self.model, self.shape = device, cell, table, model, shape
        self.k = k = table.shape[2] // cell.batch
        self.state = state = State(device, shape, torch.from_numpy(table), k)
        self.streams = Streams.of(device)
        work = device.empty(k, 1 + cell.batch, dtype=torch.int64)
        state.reset(dense.head)
        places = Places(model.slots, state.h, state.weights, work.zero_(), state.moe)
        self.products = Products(device, shape, places, model.way, room_of(cell, shape, k))
        device.synchronize()
        each = enumerate(dense.layers)
        self.layers = [device.capture(layer_work(device, shape, weights, state, layer)) for layer, weights in each]
        self.output = device.capture(output_work(device, shape, dense.head, state))
        self._join = device.capture(join_work(state)) if cell.cpu else None
        self.products.prepare(range(shape.layers), range(1, k + 1))
        self._make_buffers()
        self.reset()

    def _make_buffers(self) -> None:
        """Make host memory and events."""
        device, torch, batch, k = self.device, self.device.torch, self.cell.batch, self.k
        hidden, layers = self.shape.geometry.hidden, self.shape.layers
        self.ids = device.host(batch * k, dtype=torch.int64)
        self._token = device.host(batch, dtype=torch.int64)
        self._ring = device.host(RING, k, 1 + batch, dtype=torch.int64)
        self._ring_rows = self._ring.numpy()
        self._turn = 0
        self._h = device.host(batch, hidden, dtype=torch.bfloat16)
        self._weights = device.host(batch, k + 1, dtype=torch.float32)
        self._from_cpu = device.host(batch, hidden, dtype=torch.float32)
        self._arrivals = [device.event() for _ in range(self.products.room * layers)]  # one for each slot
        begin, output, *timed = (device.event(timed=True) for _ in range(3 * layers + 2))
        self.moments = Moments(begin, list(zip(timed[0::3], timed[1::3], timed[2::3], strict=True)), output)

    def reset(self) -> None:
        """Go back to before the first step: an empty cache, or the fixed one, which is loaded here, untimed."""
        self.device.synchronize()
        experts, room = self.shape.geometry.experts, self.products.room
        capacity = self.cell.capacity(experts)
        fixed: list[list[int] | None] = [None] * self.shape.layers
        if self.cell.policy == "static":
            fixed = [*most_used(self.table, experts, capacity)]
        self.caches = [LayerCache(layer * room, capacity, room, keys) for layer, keys in enumerate(fixed)]
        self._on_the_way: dict[int, Any] = {}
        self.step_number = 0
        self.counts = StepCounts()
        self.state.reset(self.model.dense.head)
        for cache in self.caches:
            for key, slot in cache.slot.items():
                self.bring(key, slot, self.streams.demand)
        self.device.synchronize()
        self.device.by_host(writes=[("state", 0), ("moe", 0)])

    def step(self) -> StepCounts:
        """Run the next step, to where its token is on the host."""
        self.counts = counts = StepCounts()
        compute, moments = self.streams.compute, self.moments
        compute.record(moments.begin)
        for layer in range(self.shape.layers):
            self._layer(layer)
        self.device.replay(self.output, compute, reads=[("moe", 0)], writes=[("state", 0), ("moe", 0)])
        self.device.copy(self._token, self.state.token, compute, reads=[("state", 0)], writes=[("token", 0)])
        compute.record(moments.output)
        moments.output.synchronize()
        self.device.by_host(reads=[("token", 0)])
        self.step_number += 1
        return counts

    @property
    def token(self) -> list[int]:
        """What each sequence got from the last step."""
        found: list[int] = self._token.tolist()
        return found

    def _layer(self, layer: int) -> None:
        rows = self._route(layer)
        cell, cache, compute = self.cell, self.caches[layer], self.streams.compute
        _, residents, end = self.moments.layers[layer]
        base = layer * self.shape.geometry.experts
        keys = [base + one for one in batch_of(rows)]
        ranks = self._ranks(rows, base)
        hits, misses = cache.look_up(keys)
        self.counts.accesses += len(keys)
        arriving = [key for key in hits if key in self._on_the_way and not self._on_the_way.pop(key).done()]
        there = [key for key in hits if key not in arriving] if arriving else hits
        if not cell.cpu:
            self.counts.loads += len(misses)
            for key in misses:
                self.bring(key, cache.slot[key], self.streams.demand)
            arriving += misses
        if cell.overlap:
            self._launch(layer, there, ranks)
            compute.record(residents)
            if cell.cpu and misses:
                self._on_cpu(misses, ranks)
            for key in arriving:
                compute.wait(self._arrivals[cache.slot[key]])
                self._launch(layer, [key], ranks)
        else:
            compute.record(residents)
            for key in arriving:
                compute.wait(self._arrivals[cache.slot[key]])
            if cell.cpu and misses:
                self._on_cpu(misses, ranks)
            self._launch(layer, there + arriving, ranks)
        if cell.prefetch:
            self._bring_ahead(layer, keys)
        compute.record(end)
        cache.end()

    def _route(self, layer: int) -> list[int]:
        """Compute a layer up to its routing; return the ids of all tokens, once they are on the host."""
        device, compute, state = self.device, self.streams.compute, self.state
        both: list[Place] = [("state", 0), ("moe", 0)]
        device.replay(self.layers[layer], compute, reads=both, writes=both)
        device.copy(self.ids, state.ids, compute, reads=[("state", 0)], writes=[("ids", 0)])
        if self.cell.cpu:
            device.copy(self._h, state.h, compute, reads=[("state", 0)], writes=[("h", 0)])
            device.copy(self._weights, state.weights, compute, reads=[("state", 0)], writes=[("weights", 0)])
        known = self.moments.layers[layer][0]
        compute.record(known)
        start = time.perf_counter()
        known.synchronize()
        self.counts.host_wait += time.perf_counter() - start
        device.by_host(reads=[("ids", 0)])
        ids: list[int] = self.ids.tolist()
        return ids

    def _ranks(self, rows: Sequence[int], base: int) -> dict[int, list[int]]:
        """Return by key the rank at which each token wants it, k where it does not."""
        k, ranks = self.k, dict[int, list[int]]()
        for place, one in enumerate(rows):
            if one >= 0:
                token, rank = divmod(place, k)
                ranks.setdefault(base + one, [k] * self.cell.batch)[token] = rank
        return ranks

    def bring(self, key: int, slot: int, stream: Any) -> None:
        """Put the copy of an expert on its way."""
        self.device.copy(self.model.slots[slot], self.model.host[key], stream, writes=[("slot", slot)])
        stream.record(self._arrivals[slot])

    def _launch(self, layer: int, keys: Sequence[int], ranks: dict[int, list[int]]) -> None:
        slot = self.caches[layer].slot
        self.launch(layer, sorted([slot[key], *ranks[key]] for key in keys))

    def launch(self, layer: int, rows: Sequence[list[int]]) -> None:
        """Compute experts of a layer that are in slots, k at most at a time.

        Args:
            layer: of the experts.
            rows: of `Places.work`, by ascending slot.
        """
        device, compute, k = self.device, self.streams.compute, self.k
        for first in range(0, len(rows), k):
            part = rows[first : first + k]
            turn = self._turn = (self._turn + 1) % RING
            device.by_host(writes=[("ring", turn)])
            self._ring_rows[turn, : len(part)] = part
            device.copy(
                self.products.places.work, self._ring[turn], compute, reads=[("ring", turn)], writes=[("work", 0)]
            )
            reads: list[Place] = [("work", 0), ("state", 0), ("moe", 0)]
            reads += [("slot", row[0]) for row in part]
            device.replay(self.products.graph(layer, len(part)), compute, reads=reads, writes=[("moe", 0)])

    def _on_cpu(self, keys: Sequence[int], ranks: dict[int, list[int]]) -> None:
        """Compute experts on the processor, and add them."""
        device, torch, compute = self.device, self.device.torch, self.streams.compute
        start = time.perf_counter()
        device.by_host(reads=[("h", 0), ("weights", 0)], writes=[("from cpu", 0)])
        total = self._from_cpu.zero_()
        for key in keys:
            tokens = [token for token, rank in enumerate(ranks[key]) if rank < self.k]
            wanted = torch.tensor(tokens)
            weights = self._weights[wanted, torch.tensor([ranks[key][token] for token in tokens])]
            output = self.model.host.on_cpu(key, self._h[wanted])
            total.index_add_(0, wanted, output.float() * weights.unsqueeze(1))
        self.counts.cpu += time.perf_counter() - start
        device.copy(self.state.from_cpu, self._from_cpu, compute, reads=[("from cpu", 0)], writes=[("joining", 0)])
        device.replay(self._join, compute, reads=[("joining", 0), ("moe", 0)], writes=[("moe", 0)])

    def _bring_ahead(self, layer: int, keys: Sequence[int]) -> None:
        """Put what the next layer-step will use behind everything urgent."""
        step, place = divmod(self.step_number * self.shape.layers + layer + 1, self.shape.layers)
        if step >= len(self.table):
            return
        cache, base = self.caches[place], place * self.shape.geometry.experts
        protected = {*keys}
        for one in batch_of(self.table[step, place].tolist()):
            slot = cache.bring_ahead(base + one, protected)
            if slot is not None:
                self.bring(base + one, slot, self.streams.ahead)
                self._on_the_way[base + one] = self._arrivals[slot]
                self.counts.prefetched += 1
                protected.add(base + one)


def room_of(cell: EngineCell, shape: EngineShape, k: int) -> int:
    """Return how many slots each layer needs: the cache, or a step's experts where they are more."""
    experts = shape.geometry.experts
    capacity = cell.capacity(experts)
    return capacity if cell.cpu else max(capacity, min(cell.batch * k, experts))
