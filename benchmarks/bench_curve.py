"""How fast are hit rates at every capacity, against a general cache simulator at one?

Sticky, Zipf-like routing, one layer, top-8 of 64, 128 and 256 experts. CPU time, best of the rounds, the contenders
taking turns. libCacheSim replays the same accesses from a binary trace at one capacity (opening it is not timed);
lrcsim gives all. The same run checks that LRU and the optimum of both have the same hits under sequential access. Then
one pool over many layers, and two jobs against one (wall time, the only figures here that are).

With --reference PATH (the src folder of a clone of github.com/ljcleo/moe-lrc) also against the paper's own code, which
gives all capacities too; hits are compared on the trace that it can do in seconds.

    python benchmarks/bench_curve.py [TOKENS [ROUNDS]] [--reference PATH]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import libcachesim
import numpy as np

from lrcsim.simulator import sch, simulate
from lrcsim.simulator.compiled import in_lanes, lru_turn
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.traces import RoutingTrace
from lrcsim.traces.exporters import Options, export_trace

TOP_K, SLOTS = 8, 16
RIVALS = {"lru": "LRU", "belady": "Belady", "lfu": "LFU", "sch-lookahead:16": "Belady"}


def make_trace(tokens: int, layers: int, experts: int, memory: float = 0.25) -> RoutingTrace:
    """Draw routing in which neighbouring tokens agree and some experts are popular.

    With 64 experts and the default ``memory`` LRU hits 0.35 at 8 slots and 0.53 at 16 (co-resident), as recorded traces
    do; a memory of 0.7 makes it 0.58 and 0.73.
    """
    rng = np.random.default_rng(experts)
    popularity = 0.65 * rng.normal(size=(layers, experts))
    taste = rng.normal(size=(layers, experts))
    ids = np.empty((tokens, layers, TOP_K), np.int16)
    for token in range(tokens):
        taste = memory * taste + (1 - memory**2) ** 0.5 * rng.normal(size=taste.shape)
        scores = popularity + taste
        best = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
        ids[token] = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
    return RoutingTrace.from_arrays(ids, num_experts=experts)


def best_of(rounds: int, contenders: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return the least seconds that each contender reports; they take turns, and run once before."""
    seconds = dict.fromkeys(contenders, float("inf"))
    for number in range(rounds + 1):
        for name, run in contenders.items():
            taken = run()
            if number:
                seconds[name] = min(seconds[name], taken)
    return seconds


def ours(trace: RoutingTrace, policy: str, scope: Any = "layer", access: str = "coresident") -> tuple[float, float]:
    """Run one policy at all capacities; return CPU seconds, and the hit rate at `SLOTS`."""
    start = time.process_time()
    found = stack_hits(trace, policy, scope, access, "step", True, jobs=1)
    seconds = time.process_time() - start
    return seconds, float(found.at([SLOTS] * len(found.hits)).sum() / found.accesses.sum())


def theirs(path: Path, policy: str) -> tuple[float, float]:
    """Replay a binary trace through libCacheSim at one capacity; return CPU seconds and the hit rate."""
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    cache = getattr(libcachesim, policy)(SLOTS)
    start = time.process_time()
    missed, _ = cache.process_trace(reader)
    return time.process_time() - start, 1 - missed


def one_layer(experts: int, tokens: int, rounds: int, memory: float) -> None:
    """Compare all policies with their rivals for one number of experts."""
    trace = make_trace(tokens, 1, experts, memory)
    accesses = trace.experts.size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.oracleGeneral.bin")
        export_trace(trace, path, "oracleGeneral", Options())
        for policy in ("lru", "belady"):
            here, there = ours(trace, policy, access="sequential")[1], theirs(path, RIVALS[policy])[1]
            assert abs(here - there) < 1e-9, f"{policy} at {experts} experts: {here} here, {there} there"
        contenders: dict[str, Callable[[], float]] = {}
        for policy, rival in RIVALS.items():
            contenders[policy] = lambda p=policy: ours(trace, p)[0]  # type: ignore[misc]
            contenders[f"libCacheSim {rival}"] = lambda r=rival: theirs(path, r)[0]  # type: ignore[misc]
        seconds = best_of(rounds, contenders)
    for policy, rival in RIVALS.items():
        mine, other = accesses / seconds[policy] / 1e6, accesses / seconds[f"libCacheSim {rival}"] / 1e6
        print(f"| {experts} | {policy} | {mine:.0f} | {rival} | {other:.1f} | {mine / other:.1f} |")


def against_reference(folder: str, tokens: int, rounds: int) -> None:
    """Compare with the paper's code, access='paper', 64 experts."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from reference_moe_lrc import Sequence, load_reference

    functions = load_reference(folder)
    few, many = make_trace(1_024, 1, 64), make_trace(tokens, 1, 64)
    print("\n| access paper, all capacities | M accesses/s | reference, M/s | ratio |\n|---|---|---|---|")
    for policy, name, extra in (
        ("lru", "calc_lru", ()),
        ("lfu", "calc_lfu", ()),
        ("belady", "calc_beladi", ()),
        ("sch-lookahead:16", "calc_fsf", (16,)),
    ):
        ids = few.experts[:, 0].astype(np.int64).view(Sequence)
        start = time.process_time()
        expected = np.asarray(functions[name](ids, 64, *extra))
        there = few.experts.size / (time.process_time() - start)
        found = stack_hits(few, policy, "layer", "paper", "token", False).hits[0][1, 1:] / few.experts.size
        assert np.abs(found - expected).max() < 1e-6, policy
        run = {"": lambda p=policy: timed(lambda: stack_hits(many, p, "layer", "paper", "token", False, jobs=1))}  # type: ignore[misc]
        here = many.experts.size / best_of(rounds, run)[""]
        print(f"| {policy} | {here / 1e6:.0f} | {there / 1e6:.3f} | {here / there:,.0f} |")


def lru_ways(tokens: int, rounds: int) -> None:
    """Print LRU by number of experts: co-resident with and without registers, and sequential; check that hits agree."""
    print("\n| experts | lru, M/s | without registers, M/s | ratio | sequential, M/s |\n|---|---:|---:|---:|---:|")

    def plain(trace: RoutingTrace) -> tuple[float, float]:
        with patch.object(lru_turn, "available", lambda: False):
            return ours(trace, "lru")

    for experts in (64, 128, 256, 512):
        trace = make_trace(tokens, 1, experts)
        assert plain(trace)[1] == ours(trace, "lru")[1], experts
        ways: dict[str, Callable[[], float]] = {
            "as it is": lambda t=trace: ours(t, "lru")[0],  # type: ignore[misc]
            "plain": lambda t=trace: plain(t)[0],  # type: ignore[misc]
            "sequential": lambda t=trace: ours(t, "lru", access="sequential")[0],  # type: ignore[misc]
        }
        chosen, bits, apart = (trace.experts.size / taken / 1e6 for taken in best_of(rounds, ways).values())
        print(f"| {experts} | {chosen:.0f} | {bits:.0f} | {chosen / bits:.2f} | {apart:.0f} |")


def layers_in_lanes(tokens: int, rounds: int) -> None:
    """Print 16 layers side by side against one after the other; check that hits agree."""
    print("\n| experts, 16 layers | | in lanes, M/s | one by one, M/s | ratio |\n|---|---|---:|---:|---:|")

    def apart(trace: RoutingTrace, policy: str) -> tuple[float, float]:
        with patch.object(in_lanes, "suits", lambda *_: False):
            return ours(trace, policy)

    def together(trace: RoutingTrace, policy: str) -> tuple[float, float]:
        with patch.object(in_lanes, "pays", lambda *_: True):
            return ours(trace, policy)

    for experts in (64, 128, 256):
        trace = make_trace(tokens // 16, 16, experts)
        for policy in ("belady", "lfu", "sch-lookahead:16"):
            assert apart(trace, policy)[1] == together(trace, policy)[1], (experts, policy)
            ways: dict[str, Callable[[], float]] = {
                "lanes": lambda t=trace, p=policy: together(t, p)[0],  # type: ignore[misc]
                "apart": lambda t=trace, p=policy: apart(t, p)[0],  # type: ignore[misc]
            }
            lanes, alone = (trace.experts.size / taken / 1e6 for taken in best_of(rounds, ways).values())
            print(f"| {experts} | {policy} | {lanes:.0f} | {alone:.0f} | {lanes / alone:.1f} |")


def by_request(rounds: int) -> None:
    """Print the seconds of sch-lookahead with intervals on 2,500 requests of 16 tokens."""
    ids = make_trace(40_000, 8, 64).experts
    trace = RoutingTrace.from_arrays(ids, num_experts=64, offsets=np.arange(0, 40_001, 16))
    print("\n| sch-lookahead:16, 2,500 requests, 8 layers x 64 | CPU s |\n|---|---:|")
    for scope in ("layer", "model"):
        how: Any = {"cache": "2x", "definition": "lookahead", "scope": scope, "bootstrap": 1_000, "jobs": 1}
        run = {"": lambda h=how: timed(lambda: sch(trace, segment=16, **h))}  # type: ignore[misc]
        print(f"| {scope} | {best_of(rounds, run)['']:.2f} |")


def two_over_one(tokens: int, rounds: int) -> None:
    """Print how many times as fast curves are with two threads as with one, and runs with two processes; wall time."""
    print("\n| wall time, least of several in turns | one | two | ratio |\n|---|---:|---:|---:|")
    ids = np.tile(make_trace(tokens // 16, 32, 64).experts, (8, 1, 1))
    wide = RoutingTrace.from_arrays(ids, num_experts=64)

    def curve(policy: str, jobs: int) -> float:
        start = time.perf_counter()
        stack_hits(wide, policy, "layer", "coresident", "step", True, jobs)
        return time.perf_counter() - start

    def runs(workers: Executor) -> float:
        start = time.perf_counter()
        list(workers.map(_run, [tokens // 8] * 4))
        return time.perf_counter() - start

    contenders: dict[str, dict[str, Callable[[], float]]] = {
        f"curve {policy}, 32 layers": {"one": partial(curve, policy, 1), "two": partial(curve, policy, 2)}
        for policy in ("lru", "lfu", "belady", "belady-bypass")
    }
    with ProcessPoolExecutor(1, get_context("spawn")) as single, ProcessPoolExecutor(2, get_context("spawn")) as double:
        contenders["four runs, lru with bounds"] = {"one": partial(runs, single), "two": partial(runs, double)}
        for name, both in contenders.items():
            one, two = best_of(rounds, both).values()
            print(f"| {name} | {one:.3f} | {two:.3f} | {one / two:.2f} |", flush=True)


def _run(tokens: int) -> None:
    """Do a run with its bounds, on one core."""
    ids = (np.arange(tokens * 8 * TOP_K).reshape(tokens, 8, TOP_K) * 13 + np.arange(tokens)[:, None, None]) % 64
    with patch("os.cpu_count", lambda: 1):
        simulate(RoutingTrace.from_arrays(ids.astype(np.int16), num_experts=64), "lru", "2x")


def timed(run: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("tokens", type=int, nargs="?", default=100_000)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--reference", metavar="PATH")
    parser.add_argument("--memory", type=float, default=0.25, help="how much neighbouring tokens agree, below 1")
    arguments = parser.parse_args()
    tokens, rounds = arguments.tokens, arguments.rounds
    print(
        "| experts | all capacities | M accesses/s | libCacheSim, 16 slots | M/s | ratio |\n|---|---|---|---|---|---|"
    )
    for experts in (64, 128, 256):
        one_layer(experts, tokens, rounds, arguments.memory)
    lru_ways(tokens, rounds)
    layers_in_lanes(tokens, rounds)
    by_request(rounds)
    print("\n| 48 layers x 128 experts | scope layer, M/s | scope model, M/s |\n|---|---|---|")
    trace = make_trace(tokens // 50, 48, 128)
    for policy in ("lru", "belady", "lfu"):
        rates = []
        for scope in ("layer", "model"):
            seconds = best_of(2, {"": lambda p=policy, s=scope: ours(trace, p, s)[0]})[""]  # type: ignore[misc]
            rates.append(trace.experts.size / seconds / 1e6)
        print(f"| {policy} | {rates[0]:.1f} | {rates[1]:.2f} |")
    two_over_one(tokens, rounds)
    if arguments.reference:
        against_reference(arguments.reference, tokens, rounds)


if __name__ == "__main__":
    main()
