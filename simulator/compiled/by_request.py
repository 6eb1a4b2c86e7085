"""Hits of each request at every capacity, where every request starts cold.

The kernels of `every_size` count by phase, in the row of ``hits`` that the phase of a step says. Requests that start
cold do not know of each other, so their numbers can stand where phases do, and one call counts many of them apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled import stack_any as stack
from lrcsim.simulator.compiled.every_size import StackKernel, kernel_steps
from lrcsim.simulator.compiled.stack_any import StackState
from lrcsim.simulator.compiled.stack_decode import LOOKAHEAD
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

REQUESTS = 256
"""Counted apart in one call: as many as the type of a phase, uint8, has numbers."""

TOKENS = 65_536
"""Read at a time, one request at least: 50 MB of ids at 48 layers and top-8."""


def lookahead_by_request(
    trace: RoutingTrace, window: int, scope: Scope, jobs: int | None = None
) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
    """Run policy ``sch-lookahead`` under access ``paper``, every request apart.

    Args:
        trace: the routing trace.
        window: tokens looked ahead, the current one included.
        scope: ``"layer"`` or ``"model"``.
        jobs: threads, one pool each at a time; None: all cores.

    Yields:
        Which requests, and int64 [pools, requests, keys + 1], the hits of each in a cache of 0, 1, 2 ... slots.

    Raises:
        TraceError: the trace, opened from a file and not checked, has impossible expert ids.
    """
    pools = [slice(None)] if scope == "model" else [slice(layer, layer + 1) for layer in range(trace.num_layers)]
    keys = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    kernel = StackKernel(LOOKAHEAD, stack.PAPER, True, trace.num_experts, keys, window, None)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for requests in _groups(trace.offsets):
            offsets = trace.offsets[requests.start : requests.stop + 1]
            experts = trace.read("experts", int(offsets[0]), int(offsets[-1]))
            part = RoutingTrace(trace.layers, {"experts": experts}, offsets - offsets[0])
            steps = kernel_steps(Schedule(part, "token").all_steps())
            steps = steps._replace(phase=steps.request.astype(np.uint8))

            def run(pool: slice, experts: npt.NDArray[np.integer] = experts, steps: stack.Steps = steps) -> StackState:
                state = StackState.empty(keys, REQUESTS)
                kernel(np.ascontiguousarray(experts[:, pool]), steps, state)
                return state

            found = np.stack([state.hits for state in threads.map(run, pools)])[:, : requests.stop - requests.start]
            yield requests, np.pad(found.cumsum(axis=2), ((0, 0), (0, 0), (1, 0)))


def _groups(offsets: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Divide the requests into runs of at most `REQUESTS` and, but for one request alone, `TOKENS` tokens."""
    first, last = 0, len(offsets) - 1
    while first < last:
        within = int(np.searchsorted(offsets, offsets[first] + TOKENS, side="right")) - 1
        end = min(max(within, first + 1), first + REQUESTS, last)
        if offsets[first] < offsets[end]:
            yield slice(first, end)
        first = end
