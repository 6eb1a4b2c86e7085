"""How fast do compiled score policies run, next to the same policies through the Python contract?

The generated trace of bench_replay.py (sticky and Zipf-like: 8 layers, 64 experts, top-8), co-resident, one capacity
(2x), both scopes, one thread. CPU time of this process, best of the rounds; the contenders take turns. Compiling is not
timed (it is printed apart). The hits of both are compared. The Python contract runs a part of the trace, in accesses/s.

    python benchmarks/bench_scored.py [TOKENS [ROUNDS]]
"""

from __future__ import annotations

import sys
import time

from bench_replay import EXPERTS, LAYERS, TOP_K, make_trace

from lrcsim.policies import BUILT_IN, CompiledScore, Expert, Now, PolicySpec, make_policy
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

SIZES: tuple[tuple[Scope, int], ...] = (("layer", 2 * TOP_K), ("model", 2 * TOP_K * LAYERS))

PART = 10
"""The Python contract runs this part of the trace."""


class Patient(CompiledScore):
    """A user's: evict the fewest uses per step since the first."""

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        """Return uses per step."""
        return expert.uses / (now.step - expert.first_step + 1)


def compiled(trace: RoutingTrace, policy: PolicySpec, scope: Scope, slots: int) -> int:
    """Count the hits with the compiled loop."""
    sizes = [resolve_capacity(slots, trace.layers, scope)]
    found = hits_at_sizes(PoolMaker(make_policy(policy), trace, "coresident", "step", warm=True), sizes, jobs=1)
    return int(found.hits.sum())


def in_python(trace: RoutingTrace, policy: PolicySpec, scope: Scope, slots: int) -> int:
    """Count the hits with the ordinary contract."""
    counts = replay(
        Run.in_pools(trace, policy, tuple(resolve_capacity(slots, trace.layers, scope)), "coresident", "step", True)
    )
    return int((counts.accesses - counts.misses).sum())


def main() -> None:
    """Measure, check and print a table."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    long = make_trace(tokens)
    short = RoutingTrace.from_arrays(
        long.experts[: tokens // PART], num_experts=EXPERTS, weights=long.column("weights")[: tokens // PART]
    )
    policies: list[PolicySpec] = [
        *(name for name, kind in BUILT_IN.items() if issubclass(kind, CompiledScore)),
        Patient,
    ]
    print(f"{long.experts.size:,} accesses compiled, {short.experts.size:,} in Python, best of {rounds}\n")
    print("| policy | scope | compile, s | compiled, M/s | Python, M/s | ratio |")
    print("|---|---|---:|---:|---:|---:|")
    for policy in policies:
        for scope, slots in SIZES:
            started = time.process_time()
            hits = compiled(short, policy, scope, slots)
            first = time.process_time() - started
            best = {"compiled": 0.0, "python": 0.0}
            for _ in range(rounds):
                started = time.process_time()
                compiled(long, policy, scope, slots)
                best["compiled"] = max(best["compiled"], long.experts.size / (time.process_time() - started))
                started = time.process_time()
                assert in_python(short, policy, scope, slots) == hits, (policy, scope)
                best["python"] = max(best["python"], short.experts.size / (time.process_time() - started))
            name = policy if isinstance(policy, str) else "a user's CompiledScore"
            print(
                f"| {name} | {scope} | {first:.2f} | {best['compiled'] / 1e6:.1f} | {best['python'] / 1e6:.2f} "
                f"| {best['compiled'] / best['python']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
