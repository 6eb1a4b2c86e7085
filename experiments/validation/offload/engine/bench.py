"""A model on a device: its weights, made once, and the cells that are run with them."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

from lrcsim.experiments.validation.offload.engine.cells import COUNTS, EngineCell, expected, table_of
from lrcsim.experiments.validation.offload.engine.dense import DenseWeights
from lrcsim.experiments.validation.offload.engine.device import Device
from lrcsim.experiments.validation.offload.engine.engine import Engine, ModelOnDevice, StepCounts, room_of
from lrcsim.experiments.validation.offload.engine.experts import HostExperts, arena, fits
from lrcsim.experiments.validation.offload.engine.micro import SIZES, micro
from lrcsim.experiments.validation.offload.engine.products import Places, Products, choose
from lrcsim.experiments.validation.offload.engine.shape import EngineShape
from lrcsim.traces import RoutingTrace

WARM_UP = 3
"""Steps before those that count; then the cache is emptied."""
KEPT_FREE = 1 / 16
"""Share of the device's free memory that is left for graphs and for what torch's products need."""


class DisagreementError(RuntimeError):
    """The engine and lrcsim count differently."""


class Bench:
    """A model ready to be run.

    Args:
        device: where.
        shape: of the model.
        trace: its routing, decoded tokens.
        tokens: steps of a cell.
        cells: that may be run; those that do not fit are left out.

    Attributes:
        cells: those that fit.
        left_out: the others, with the reason.
        setup_s: seconds that making it took.
        way: how experts are computed, of `products.WAYS`.
        ways: what `products.choose` found of each.
    """

    def __init__(
        self, device: Device, shape: EngineShape, trace: RoutingTrace, tokens: int, cells: Sequence[EngineCell]
    ) -> None:
        start = time.perf_counter()
        self.device, self.shape, self.trace, self.tokens = device, shape, trace, tokens
        self.k = trace.top_k
        host, dense = HostExperts(device, shape), DenseWeights(device, shape)
        device.synchronize()
        free = int(device.free_bytes() * (1 - KEPT_FREE))
        slots = {cell: room_of(cell, shape, self.k) * shape.layers for cell in cells}
        fitting = fits(shape, list(slots.values()), free)
        self.cells = [cell for cell in cells if slots[cell] in fitting]
        self.left_out = [
            f"{cell.name}: {slots[cell] * shape.expert_bytes / 2**30:.1f} GiB of experts do not fit into the "
            f"{free / 2**30:.1f} GiB that the device has left"
            for cell in cells
            if slots[cell] not in fitting
        ]
        self._model = ModelOnDevice(shape, host, dense, arena(device, shape, max(fitting, default=self.k)), "gathered")
        self.way, self.ways = self._choose()
        self._model = ModelOnDevice(shape, host, dense, self._model.slots, self.way)
        self.setup_s = time.perf_counter() - start

    def engine(self, cell: EngineCell) -> Engine:
        """Return the engine of a cell; what the last one left is freed first."""
        gc.collect()
        trace = cell.trace_of(self.trace, self.tokens)
        return Engine(self.device, cell, table_of(cell, trace), self._model)

    def micro(self) -> dict[str, Any]:
        """Return the micro-benchmarks, made with the first cell of one sequence."""
        room = self.device.free_bytes() // 64
        sizes = [size for size in SIZES if size <= room]
        return micro(self.engine(next(cell for cell in self.cells if cell.batch == 1)), sizes)

    def run(self, cell: EngineCell, rows: list[dict[str, Any]], until: float) -> bool:
        """Run a cell; return whether to its end.

        Args:
            cell: which.
            rows: gets a row of `engine.COLUMNS` after each step, so that there is something even if it is interrupted.
            until: by `time.perf_counter`; no step begins later.

        Raises:
            DisagreementError: a step used, loaded or brought ahead another number of experts than lrcsim counts.
        """
        counted = expected(cell, cell.trace_of(self.trace, self.tokens))
        engine = self.engine(cell)
        for _ in range(min(WARM_UP, len(engine.table))):
            engine.step()
        engine.reset()
        gc.collect()
        gc.disable()
        try:
            for step in range(len(engine.table)):
                start = time.perf_counter()
                if start > until:
                    return False
                counts = engine.step()
                wall = time.perf_counter() - start
                for name in COUNTS:
                    if getattr(counts, name) != counted[name][step]:
                        raise DisagreementError(
                            f"{cell.name}, step {step + 1}: {name} {getattr(counts, name)} on the device, "
                            f"{counted[name][step]} by lrcsim"
                        )
                rows.append(self._row(step, wall, counts, engine.moments.parts()))
        finally:
            gc.enable()
        return True

    def _row(self, step: int, wall: float, counts: StepCounts, parts: dict[str, float]) -> dict[str, Any]:
        times = {"wall_ms": 1e3 * wall, **parts, "host_wait_ms": 1e3 * counts.host_wait, "cpu_ms": 1e3 * counts.cpu}
        row: dict[str, Any] = {"step": step + 1} | {name: round(value, 4) for name, value in times.items()}
        row |= {name: getattr(counts, name) for name in COUNTS}
        return row | {"read_bytes": (counts.loads + counts.prefetched) * self.shape.expert_bytes}

    def _choose(self) -> tuple[str, dict[str, str | float]]:
        """Try the ways to compute experts, with k of them in the last slots, where addresses are the largest."""
        device, torch, k, slots = self.device, self.device.torch, self.k, self._model.slots
        stream = device.stream(urgent=True)
        layers = self.shape.layers
        room = max(len(slots) // layers, k)
        layer = max(len(slots) // room, 1) - 1
        used = range((layer + 1) * room - k, (layer + 1) * room)
        for slot in used:
            device.copy(slots[slot], self._model.host[slot], stream, writes=[("slot", slot)])
        device.synchronize()
        hidden = self.shape.geometry.hidden
        h = device.empty(1, hidden, dtype=torch.bfloat16).normal_()
        ranks = torch.arange(k, -1, -1, device=device.where)  # different weights, so that mixed-up experts are found
        weights = device.empty(1, k + 1, dtype=torch.float32).copy_(ranks / ranks.sum())
        work = torch.tensor([[slot, rank] for rank, slot in enumerate(used)], device=device.where)
        places = Places(slots, h, weights, work, device.empty(1, hidden, dtype=torch.float32))

        def seconds(products: Products) -> float:
            times = []
            for _ in range(10):
                start = time.perf_counter()
                for _ in range(10):
                    device.replay(products.graph(layer, k), stream)
                device.synchronize()
                times.append((time.perf_counter() - start) / 10)
            return min(times)

        return choose(device, self.shape, places, room, layer, seconds)
