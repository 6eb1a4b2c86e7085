"""How many layer-steps per second with prefetchers, batches, drafts, arrivals, a cache in DRAM, lossy miss actions?

A generated trace of 48 layers x 128 experts, top-8, sticky, requests of 20 prompt tokens and 80 decoded (for
trace-match of 2 decoded, so that it keeps 1,000), predictions of which 85 % are right; LRU at 2x on `rtx-4090`. The
SimPy engine and the compiled ones run the same short trace, and all counts and times that they report are compared; the
compiled ones run a longer one too. CPU time of the whole call, schedule included, better of two (SimPy: once),
compiling and making the trace not.

    python benchmarks/bench_events.py [TOKENS]
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS, TOP_K = 48, 128, 8
REQUEST, PROMPT = 100, 20
SHORT = 200
FLOORS = {"prefetch": 400_000, "trace-match": 20_000, "": 300_000}
CASES: tuple[dict[str, Any], ...] = (
    {"prefetch": "next-gate"},
    {"prefetch": "oracle"},
    {"prefetch": "temporal"},
    {"prefetch": "popularity"},
    {"prefetch": "transition"},
    {"prefetch": "trace-match"},
    {"prefetch": "next-gate", "scope": "model"},
    {"batch": 8},
    {"speculative": (3, 0.7)},
    {"arrivals": "poisson:2", "batch": 4},
    {"dram": "50%"},
    {"miss": "skip:0.1"},
    {"miss": "substitute:0.1"},
    {"miss": "low:0.1"},
)


def make_trace(tokens: int) -> RoutingTrace:
    """Draw sticky routing, weights and predictions."""
    rng = np.random.default_rng(1)
    popularity = -np.log(rng.permuted(np.tile(np.arange(1.0, EXPERTS + 1), (LAYERS, 1)), axis=1))
    taste = np.zeros((LAYERS, EXPERTS))
    ids = np.empty((tokens, LAYERS, TOP_K), np.int16)
    guesses = np.empty_like(ids)
    for token in range(tokens):
        taste = 0.9 * taste + 0.6 * rng.normal(size=taste.shape)
        scores = popularity + 1.5 * taste + rng.gumbel(size=taste.shape)
        ranked = np.argsort(-scores, axis=1)
        ids[token] = ranked[:, :TOP_K]
        right = rng.random((LAYERS, TOP_K)) < 0.85
        guesses[token] = np.where(right, ids[token], ranked[:, TOP_K : 2 * TOP_K])
    starts = np.arange(0, tokens, REQUEST)
    return RoutingTrace.from_arrays(
        ids,
        num_experts=EXPERTS,
        offsets=np.append(starts, tokens),
        phase=(np.arange(tokens) % REQUEST >= PROMPT).astype(np.uint8),
        weights=np.sort(rng.random(ids.shape).astype(np.float32), axis=2)[:, :, ::-1],
        predictions={1: guesses},
        model="qwen3-30b-a3b",
    )


def in_requests(trace: RoutingTrace, length: int) -> RoutingTrace:
    """Cut a trace into requests of so many decoded tokens, so that there are many to remember."""
    offsets = np.append(np.arange(0, trace.num_tokens, length), trace.num_tokens)
    return RoutingTrace.from_arrays(trace.experts, num_experts=EXPERTS, offsets=offsets, model=trace.model)


def run(trace: RoutingTrace, engine: str, case: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return layer-steps per second of CPU time, and the result."""
    started = time.process_time()
    found = simulate(trace, "lru", "2x", hardware="rtx-4090", dtype="q4_k", bounds=False, engine=engine, **case)
    passed = time.process_time() - started
    assert found.timed is not None
    return int(found.timed.counts.steps.sum()) * LAYERS / passed, found.to_dict()


def differing(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two results differ: whole numbers at all, others by more than 1e-9."""
    if isinstance(one, dict):
        return [place for name in one for place in differing(one[name], other[name], f"{where}/{name}")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) else [where]
    return [] if one == other else [where]


def main() -> None:
    """Measure, compare and print a table."""
    whole = make_trace(SHORT), make_trace(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000)
    print("| options | SimPy | compiled, short | compiled | ratio |")
    print("|---|---:|---:|---:|---:|")
    for case in CASES:
        matches = case.get("prefetch") == "trace-match"
        short, long = (in_requests(trace, 2) if matches else trace for trace in whole)
        slow, said = run(short, "events", case)
        run(short, "compiled", case)  # compile, or load what was compiled
        quick, compiled = max((run(short, "compiled", case) for _ in range(2)), key=lambda found: found[0])
        for part in ("time", "links", "prefetch", "missed"):
            assert not (wrong := differing(said[part], compiled[part])), (case, part, wrong)
        names = ("hits", "accesses", "evictions", "bytes_loaded")
        assert [said["cache"][name] for name in names] == [compiled["cache"][name] for name in names], case
        rate = max(run(long, "compiled", case)[0] for _ in range(2))
        floor = FLOORS["trace-match" if matches else "prefetch" if "prefetch" in case else ""]
        label = ", ".join(f"{name} {value}" for name, value in case.items())
        mark = "" if rate >= floor else " (below)"
        print(f"| {label} | {slow:,.0f} | {quick:,.0f} | {rate:,.0f}{mark} | {quick / slow:.0f} |", flush=True)


if __name__ == "__main__":
    main()
