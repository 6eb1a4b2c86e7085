"""How fast do compiled queue policies run, next to the same policies in Python?

As bench_scored.py: the generated trace of bench_replay.py (8 layers, 64 experts, top-8), co-resident, the cache at 2x,
both scopes, one thread; CPU time of this process, best of the rounds, the contenders take turns, compiling apart.
One capacity pays for reading the trace alone; twelve (the same twelve times) share it. The Python policies run a part
of the trace; the compiled ones run that part too, and the hits must be the same.

    python benchmarks/bench_queues.py [TOKENS [ROUNDS]]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import numpy.typing as npt
from bench_replay import EXPERTS, LAYERS, TOP_K, make_trace

from lrcsim.policies import BUILT_IN, make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.run import Run, uses_by_key
from lrcsim.traces import RoutingTrace

PART = 50
"""The Python policies run this part of the trace."""


def popularity(trace: RoutingTrace) -> npt.NDArray[np.float64]:
    """Return the uses of each expert in the first tokens, as the profile."""
    return uses_by_key(head(trace), like=trace)


def head(trace: RoutingTrace) -> RoutingTrace:
    """Return the first tokens."""
    return RoutingTrace.from_arrays(trace.experts[:500], num_experts=EXPERTS)


def compiled(trace: RoutingTrace, policy: str, scope: Scope, slots: list[int]) -> int:
    """Count the hits with the compiled loop, at all capacities together."""
    sizes = [resolve_capacity(one, trace.layers, scope) for one in slots]
    maker = PoolMaker(make_policy(policy), trace, "coresident", "step", True, popularity(trace))
    found = hits_at_sizes(maker, sizes, jobs=1)
    return int(found.hits.sum())


def in_python(trace: RoutingTrace, policy: str, scope: Scope, slots: int) -> int:
    """Count the hits with the Python class."""
    sizes = tuple(resolve_capacity(slots, trace.layers, scope))
    counts = replay(Run.in_pools(trace, policy, sizes, "coresident", "step", True, popularity(trace)))
    return int((counts.accesses - counts.misses).sum())


def main() -> None:
    """Measure, check and print a table."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    long = make_trace(tokens)
    short = RoutingTrace.from_arrays(long.experts[: tokens // PART], num_experts=EXPERTS)
    print(f"{long.experts.size:,} accesses compiled, {short.experts.size:,} in Python, best of {rounds}\n")
    print("| policy | scope | compiled, M/s | 12 capacities, M/s each | Python, M/s | ratio |")
    print("|---|---|---:|---:|---:|---:|")
    for policy in (name for name, kind in BUILT_IN.items() if kernel_of(kind, Queue) is not None):
        for scope, slots in (("layer", 2 * TOP_K), ("model", 2 * TOP_K * LAYERS)):
            hits = compiled(short, policy, scope, [slots])  # type: ignore[arg-type]
            one = twelve = python = 0.0
            for _ in range(rounds):
                started = time.process_time()
                compiled(long, policy, scope, [slots])  # type: ignore[arg-type]
                one = max(one, long.experts.size / (time.process_time() - started))
                started = time.process_time()
                compiled(long, policy, scope, [slots] * 12)  # type: ignore[arg-type]
                twelve = max(twelve, 12 * long.experts.size / (time.process_time() - started))
                started = time.process_time()
                assert in_python(short, policy, scope, slots) == hits, (policy, scope)  # type: ignore[arg-type]
                python = max(python, short.experts.size / (time.process_time() - started))
            print(
                f"| {policy} | {scope} | {one / 1e6:.1f} | {twelve / 1e6:.1f} | {python / 1e6:.2f} "
                f"| {one / python:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
