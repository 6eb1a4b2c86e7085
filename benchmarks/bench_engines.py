"""How many layer-steps per second do the two engines make, is it flat in trace length, and what is the peak memory?

Generated traces (16 layers, 64 experts, sticky), LRU at a capacity that gives about 2 misses per layer-step, and other
policies and miss actions, on one core: CPU time of a process of its own for each row, caches, schedule and time
included, compiling and making the trace not. Peak memory is that of the process, compiler and libraries included. Both
engines run the short trace, and their hits and times are compared.

    python benchmarks/bench_engines.py [TOKENS]

Then `simulate` as a whole on a trace with prompts (that of `bench_events.py`: 48 layers x 128 experts, top-8, requests
of 20 prompt tokens and 80 decoded, at 2x), in memory: every policy, and lru with each miss action that has a closed
form; accesses per CPU second of the call, bounds of time included, better of two.

    python benchmarks/bench_engines.py calls [TOKENS [POLICY,POLICY ...]]
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_events import make_trace as make_prompts

from lrcsim.hardware import load_profile
from lrcsim.policies import BUILT_IN
from lrcsim.simulator import Schedule, simulate
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import run_compiled
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS = 16, 64
SIZE = 12_000_000
FLOORS = {"events": 15_000, "compiled": 1_000_000}
CALL_FLOORS = {"lru": 2_000_000, "": 1_500_000}
"""Accesses per second, at scope layer."""

REPEATED = 1_000
"""Tokens that are drawn; longer traces repeat them, which no cache of less than a layer can notice."""


def make_trace(tokens: int, top_k: int, path: Path) -> None:
    """Draw sticky routing and write it."""
    rng = np.random.default_rng(1)
    popularity = -np.log(rng.permuted(np.tile(np.arange(1.0, EXPERTS + 1), (LAYERS, 1)), axis=1))
    taste = np.zeros((LAYERS, EXPERTS))
    drawn = np.empty((min(tokens, REPEATED), LAYERS, top_k), np.int16)
    for token in range(len(drawn)):
        taste = 0.9 * taste + 0.6 * rng.normal(size=taste.shape)
        scores = popularity + 1.5 * taste + rng.gumbel(size=taste.shape)
        drawn[token] = np.argsort(-scores, axis=1)[:, :top_k]
    experts = np.tile(drawn, (-(-tokens // len(drawn)), 1, 1))[:tokens]
    RoutingTrace.from_arrays(experts, num_experts=EXPERTS).save(path, compression="none")


def run(engine: str, path: Path, policy: str, cache: int, action: str, chunk: int) -> dict[str, float]:
    """Run one engine in this process."""
    trace = RoutingTrace.open(path)
    profile = load_profile("rtx-4090", [f"pcie.chunk={chunk}B"] if chunk else [])
    costs = FixedCosts(1e-4, 2e-5, 1e-3, 1e-5, SIZE, 6e10)
    miss = make_action(action, profile)
    pools = tuple(resolve_capacity(cache, trace.layers, "layer"))
    job = Run.in_pools(trace, policy, pools, "coresident", "step", True)
    if engine == "compiled":  # compile, or load what was compiled
        first = RoutingTrace.from_arrays(trace.read("experts", 0, 2), num_experts=EXPERTS)
        run_compiled(
            Run.in_pools(first, policy, pools, "coresident", "step", True), costs, profile, [SIZE] * LAYERS, miss
        )
    started = time.process_time()
    if engine == "compiled":
        tally, counts = run_compiled(job, costs, profile, [SIZE] * LAYERS, miss)
    else:
        residency = Residency(job, miss, sizes=[SIZE] * LAYERS)
        needed = residency.pools[0].policy.needs
        schedule = Schedule(trace)
        future = Future(schedule, job.access, job.warm) if "future" in needed else None
        tally = Engine(steps_of(schedule, future), residency, costs, profile, [SIZE] * LAYERS).run()
        counts = residency.finish()
    passed = time.process_time() - started
    rows = trace.num_tokens * LAYERS
    return {
        "rate": rows / passed,
        "misses": int(counts.misses.sum()) / rows,
        "memory_mb": _peak_mb(),
        "total_s": tally.total,
        "busy_s": tally.links["pcie"].busy_s,
    }


def _peak_mb() -> float:
    """Return the most memory this process has held (Linux; `resource` would count that of the process it came from)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else math.nan


def measure(*arguments: object) -> dict[str, float]:
    """Run one engine in a process of its own; the better of two."""
    found: list[dict[str, float]] = []
    for _ in range(2):
        command = [sys.executable, __file__, "run", *map(str, arguments)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return max(found, key=lambda one: one["rate"])


def main() -> None:
    """Measure, check and print a table."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    print(
        "| top-k | policy | cache | miss | chunk | engine | tokens | misses per layer-step | layer-steps/s | peak MB |"
    )
    print("|---:|---|---:|---|---:|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for top_k, policy, cache, action, chunk in (
            (4, "lru", 8, "load", 0),
            (8, "lru", 22, "load", 0),
            (8, "lru", 22, "split", 0),
            (8, "lfu", 25, "load", 0),
            (8, "lfru", 24, "load", 0),
            (8, "belady", 13, "load", 0),
            (8, "lru", 22, "load", 1_000_000),
        ):
            agreed: list[dict[str, float]] = []
            for engine, length in (
                ("events", 1_000),
                ("events", 4_000),
                ("compiled", 1_000),
                ("compiled", tokens // 10),
                ("compiled", tokens),
            ):
                path = Path(folder, f"{top_k}-{length}.h5")
                if not path.exists():
                    make_trace(length, top_k, path)
                found = measure(engine, path, policy, cache, action, chunk)
                mark = "" if chunk or found["rate"] >= FLOORS[engine] else " (below)"  # a chunk is an event of its own
                print(
                    f"| {top_k} | {policy} | {cache} | {action} | {chunk or ''} | {engine} | {length:,} "
                    f"| {found['misses']:.2f} | {found['rate']:,.0f}{mark} | {found['memory_mb']:.0f} |",
                    flush=True,
                )
                if length == 1_000:
                    agreed.append(found)
            events, compiled = agreed
            assert events["misses"] == compiled["misses"]
            for name in ("total_s", "busy_s"):
                assert abs(events[name] - compiled[name]) <= 1e-9 * events[name], name


def calls(tokens: int, named: list[str]) -> None:
    """Measure whole calls, and print a table."""
    long, short = make_prompts(tokens), make_prompts(200)
    print("| policy | miss | scope layer, M accesses/s | scope model |\n|---|---|---:|---:|")
    for policy in named:
        for miss in ("load", "cpu", "split") if policy == "lru" else ("load",):
            cells = []
            for scope in ("layer", "model"):
                rate = max(_call(long, short, policy, miss, scope) for _ in range(2))
                below = scope == "layer" and rate < CALL_FLOORS.get(policy, CALL_FLOORS[""])
                cells.append(f"{rate / 1e6:.2f}{' (below)' if below else ''}")
            print(f"| {policy} | {miss} | {' | '.join(cells)} |", flush=True)


def _call(long: RoutingTrace, short: RoutingTrace, policy: str, miss: str, scope: str) -> float:
    """Return accesses per CPU second of one call, what it calls being compiled."""
    passed = 0.0
    for trace in (short, long):
        profile = trace if "profile" in BUILT_IN[policy].needs else None
        started = time.process_time()
        found = simulate(
            trace, policy, "2x", scope=scope, profile=profile, hardware="rtx-4090", dtype="q4_k", miss=miss,
            bounds=False, engine="compiled",
        )  # fmt: skip
        passed = time.process_time() - started
    return int(found.counts.accesses.sum()) / passed


if __name__ == "__main__":
    if sys.argv[1:2] == ["calls"]:
        calls(
            int(sys.argv[2]) if len(sys.argv) > 2 else 8_000,
            sys.argv[3].split(",") if len(sys.argv) > 3 else list(BUILT_IN),
        )
    elif sys.argv[1:2] == ["run"]:
        engine, path, policy, cache, action, chunk = sys.argv[2:]
        print(json.dumps(run(engine, Path(path), policy, int(cache), action, int(chunk))))
    else:
        main()
