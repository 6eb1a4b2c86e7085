"""Micro-benchmarks of the machine with the engine's own parts; the names are those of the earlier engine's files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.validation.offload.engine.engine import Engine

REPETITIONS = 15
BURSTS = (1, 2, 3, 4, 6, 8, 16)
SIZES = (1 << 11, 1 << 15, 1 << 18, 1 << 20, 1 << 21, 1 << 23, 1 << 25, 1 << 26)
EXPERTS = (1, 2, 3, 4, 6, 8, 32)
THREADS = (1, 4, 8, 16, 32, 64)
LAUNCHES = 100
CPU_EXPERTS = 16
"""Different experts computed on the processor in a row, so that their weights come from memory."""


def micro(engine: Engine, sizes: Sequence[int]) -> dict[str, Any]:
    """Return medians in seconds, from the call until the host knows that it is done.

    ``burst_s`` by number of experts copied at once, ``size_s`` by bytes of a copy, ``experts_s`` by number of experts
    computed together, ``dense_s`` of a layer before its experts, ``dense_8_layers_s`` of as many as there are up to 8,
    ``head_s``, ``launch_s`` of an almost empty graph and ``launch_100_s`` of a hundred, ``d2h_s`` of a layer's ids,
    ``cpu_expert_N_threads_s`` of one expert on the processor. The engine is left before its first step.

    Args:
        engine: of the cell with which it is measured.
        sizes: bytes of copies.
    """
    found: dict[str, Any] = {"burst_s": _bursts(engine), "size_s": _sizes(engine, sizes), "experts_s": _experts(engine)}
    found |= _graphs(engine)
    found |= _on_cpu(engine)
    engine.reset()
    return found


def _median(engine: Engine, action: Callable[[], object]) -> float:
    times = []
    for _ in range(REPETITIONS + 1):
        engine.device.synchronize()
        start = time.perf_counter()
        action()
        engine.device.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _bursts(engine: Engine) -> dict[str, float]:
    slots = engine.products.room * engine.shape.layers

    def burst(count: int) -> None:
        for slot in range(count):
            engine.bring(slot * 7, slot, engine.streams.demand)

    return {str(count): _median(engine, lambda count=count: burst(count)) for count in BURSTS if count <= slots}  # type: ignore[misc]


def _sizes(engine: Engine, sizes: Sequence[int]) -> dict[str, float]:
    device = engine.device
    source = device.host(max(sizes), dtype=device.torch.uint8)
    target = device.empty(max(sizes), dtype=device.torch.uint8)

    def copy(size: int) -> None:
        device.copy(target[:size], source[:size], engine.streams.demand, writes=[("bytes", 0)])

    return {str(size): _median(engine, lambda size=size: copy(size)) for size in sizes}  # type: ignore[misc]


def _experts(engine: Engine) -> dict[str, float]:
    found = {}
    for count in EXPERTS:
        if count <= engine.products.room:
            for slot in range(count):
                engine.bring(slot * 7, slot, engine.streams.demand)
            rows = [[slot, *[slot % engine.k] * engine.cell.batch] for slot in range(count)]
            found[str(count)] = _median(engine, lambda rows=rows: engine.launch(0, rows))  # type: ignore[misc]
    return found


def _graphs(engine: Engine) -> dict[str, float]:
    device, compute, state = engine.device, engine.streams.compute, engine.state
    both = [("state", 0), ("moe", 0)]
    empty = device.capture(lambda: state.from_cpu.add_(0.0))

    def replay(graphs: Sequence[Any]) -> None:
        for graph in graphs:
            device.replay(graph, compute, reads=both, writes=both)

    return {
        "dense_s": _median(engine, lambda: replay(engine.layers[:1])),
        "dense_8_layers_s": _median(engine, lambda: replay(engine.layers[:8])),
        "head_s": _median(engine, lambda: replay([engine.output])),
        "launch_s": _median(engine, lambda: replay([empty])),
        "launch_100_s": _median(engine, lambda: replay([empty] * LAUNCHES)),
        "d2h_s": _median(engine, lambda: device.copy(engine.ids, state.ids, compute, writes=[("ids", 0)])),
    }


def _on_cpu(engine: Engine) -> dict[str, float]:
    torch, host = engine.device.torch, engine.model.host
    x = torch.randn(1, engine.shape.geometry.hidden).to(torch.bfloat16)
    before = torch.get_num_threads()
    cores = os.cpu_count() or 1
    found = {}
    key = 0
    try:
        for threads in THREADS:
            if threads > cores:
                break
            torch.set_num_threads(threads)
            times = []
            for _ in range(REPETITIONS + 1):
                start = time.perf_counter()
                for _ in range(CPU_EXPERTS):
                    host.on_cpu(key, x)
                    key += 1
                times.append((time.perf_counter() - start) / CPU_EXPERTS)
            found[f"cpu_expert_{threads}_threads_s"] = float(np.median(times[1:]))
    finally:
        torch.set_num_threads(before)
    return found
