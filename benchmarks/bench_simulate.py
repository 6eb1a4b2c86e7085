"""How much CPU does `simulate` take with the compiled cache, next to the replay in Python?

The bundled trace, 2x, co-resident, warm, every policy that has a compiled form, both scopes; CPU time of one process,
best of the rounds, compiling not timed. All counts of both are compared in the same run.

    python benchmarks/bench_simulate.py [ROUNDS [POLICY,POLICY ...]]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from lrcsim.policies import BUILT_IN
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled.counts import compiled_counts
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.replay import Counts, replay
from lrcsim.simulator.setup.run import Run, uses_by_key
from lrcsim.traces import RoutingTrace

SCOPES: tuple[Scope, ...] = ("layer", "model")


def timed(run: Callable[[Run], Counts], job: Run, rounds: int) -> tuple[float, Counts]:
    """Return the least CPU seconds of some rounds, and what was counted."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        counts = run(job)
        best = min(best, time.process_time() - started)
    return best, counts


def main() -> None:
    """Measure, check and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    named = sys.argv[2].split(",") if len(sys.argv) > 2 else list(BUILT_IN)
    trace = RoutingTrace.open()
    for name in ("experts", "weights", "phase"):
        trace.column(name)  # in memory
    profile = uses_by_key(trace, like=trace)
    totals = dict.fromkeys(SCOPES, (0.0, 0.0))
    print("| policy | scope | Python, s | compiled, s | ratio |\n|---|---|---:|---:|---:|")
    for policy in named:
        if engine_for(BUILT_IN[policy]()) != "compiled":
            continue
        for scope in SCOPES:
            pools = tuple(resolve_capacity("2x", trace.layers, scope))
            job = Run.in_pools(trace, policy, pools, "coresident", "step", True, profile)
            compiled_counts(job)
            fast, one = timed(compiled_counts, job, rounds)
            slow, other = timed(replay, job, rounds)
            assert repr(vars(one)) == repr(vars(other)), (policy, scope)
            totals[scope] = totals[scope][0] + slow, totals[scope][1] + fast
            print(f"| {policy} | {scope} | {slow:.3f} | {fast:.3f} | {slow / fast:.1f} |", flush=True)
    for scope, (slow, fast) in totals.items():
        print(f"| all | {scope} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} |")


if __name__ == "__main__":
    main()
