"""How fast do routing rules choose, compiled beside LRU and in Python?

Logits of 64 experts in 8 layers, top-8, that drift as in bench_replay.py, LRU of 16 slots per layer, one token a step;
CPU time of this process, best of the rounds, compiling apart. All of `rerouted` is counted: reading the scores, telling
equal ones apart, choosing, and how far the choice is from the router's own. The rules in Python run a part of the
trace, the compiled ones that part too, and both must choose the same.

    python benchmarks/bench_routes.py [TOKENS [ROUNDS]]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from lrcsim.simulator.compiled import reroute
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS, TOP_K = 8, 64, 8
PART = 50
"""In Python this part of the trace is run."""


def make_trace(tokens: int) -> RoutingTrace:
    """Draw logits with a drifting taste, so that neighbouring tokens agree."""
    rng = np.random.default_rng(1)
    taste = np.zeros((LAYERS, EXPERTS))
    logits = np.empty((tokens, LAYERS, EXPERTS), np.float16)
    for token in range(tokens):
        taste = 0.9 * taste + 0.6 * rng.normal(size=taste.shape)
        logits[token] = 1.5 * taste + rng.gumbel(size=taste.shape)
    scores = logits.astype(np.float32)
    experts = np.argsort(-scores, axis=2, kind="stable")[:, :, :TOP_K]
    weights = np.exp(np.take_along_axis(scores, experts, axis=2))
    weights /= weights.sum(axis=2, keepdims=True)
    return RoutingTrace.from_arrays(experts, num_experts=EXPERTS, weights=weights, logits=logits)


def run(trace: RoutingTrace, rule: str, *, policy: str = "lru", python: bool = False) -> tuple[float, RoutingTrace]:
    """Return layer-steps per second of CPU, and what was chosen."""
    job = Run.of(trace, policy=policy, cache=2 * TOP_K, route=rule)
    reroute._better_in_python = lambda _: python
    started = time.process_time()
    chosen, _ = reroute.rerouted(job)
    return trace.num_tokens * LAYERS / (time.process_time() - started), chosen.trace


def main() -> None:
    """Measure, check and print a table."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    long = make_trace(tokens)
    part = slice(0, tokens // PART)
    short = RoutingTrace.from_arrays(
        long.experts[part],
        num_experts=EXPERTS,
        weights=long.column("weights")[part],
        logits=long.column("logits")[part],
    )
    print(f"{tokens * LAYERS:,} layer-steps compiled, {short.num_tokens * LAYERS:,} in Python, best of {rounds}\n")
    print("| rule | compiled, thousand/s | Python, thousand/s | with lfu, thousand/s |")
    print("|---|---:|---:|---:|")
    for rule in ("prior:0.1", "window:2,12", "substitute:0.1"):
        _, wanted = run(short, rule)
        compiled = python = other = 0.0
        for _ in range(rounds):
            compiled = max(compiled, run(long, rule)[0])
            speed, found = run(short, rule, python=True)
            assert (found.experts == wanted.experts).all(), rule
            python, other = max(python, speed), max(other, run(short, rule, policy="lfu")[0])
        print(f"| {rule} | {compiled / 1e3:.0f} | {python / 1e3:.1f} | {other / 1e3:.1f} |", flush=True)


if __name__ == "__main__":
    main()
