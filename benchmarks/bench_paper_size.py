"""How long does the paper's whole experiment take for one model?

Its size: 11 data sets x 2,048 samples x 512 tokens = 11,534,336 tokens, through 48 MoE layers x 128 experts, top-8
(those of Qwen3-30B-A3B): 4.4 G accesses, by the paper's rule of access; LRU, LFU, the optimum's rule and four
look-aheads at every capacity. The routing is synthetic: it is drawn once, in bounded memory, into a trace file.

All policies run in one process and one thread, in one reading of the file; with --apart each in a process of its own,
--jobs of them at a time. CPU time (from the process's start: imports, loading of kernels, reading and unpacking the
file are in it) and peak memory are the process's. After its figures are taken, it checks itself against other parts of
the trace: on two whole requests the curve must equal `simulate`, the replay in Python, at several capacities; at all
capacities the rates of the whole trace must be those of a sample of its requests, and every expert must be a hit once
all have room.

Time grows with the number of tokens, so --tokens with a small part of them tells the whole: the last line does.

The paper's code would take: its rates on one core where they were measured, with 64 experts a layer; with --reference
PATH (the src folder of a clone of github.com/ljcleo/moe-lrc) those on a piece of this trace, and the hits are compared.

    python benchmarks/bench_paper_size.py [--tokens N] [--policies A,B] [--apart] [--jobs N] [--trace FILE]
                                          [--reference PATH]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.compiled.every_size import stack_hits_of
from lrcsim.traces import RoutingTrace
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.writer import TraceWriter

LAYERS, EXPERTS, TOP_K = 48, 128, 8
REQUEST = 512
TOKENS = 11 * 2_048 * REQUEST
REFERENCE_RATES = {"lru": 0.33e6, "lfu": 0.18e6, "belady": 0.26e6, "sch-lookahead": 0.22e6}
"""Accesses per second of the paper's code on one core, 64 experts, top-8 (for the look-ahead 0.21 to 0.23)."""

POLICIES = ("sch-lookahead:4", "sch-lookahead:16", "sch-lookahead:64", "sch-lookahead:256", "lfu", "belady", "lru")
"""The slow ones first, so that two at a time end together."""

AT_A_TIME = 32
"""Requests drawn together: 16,384 tokens, the chunk of a trace file."""

CHECKED_AT = (1, 8, 16, 40, 127)
"""Experts per layer at which the replay in Python is asked."""

SAMPLE = 32
"""Requests, evenly spread, whose hit rates must be those of the whole trace to `CLOSE`."""

CLOSE = 0.01
"""The rate of one request strays by up to 0.0016 (standard deviation; lru), that of a sample by a sixth of it."""


class TimedRun(NamedTuple):
    """What a process took, and what it found of each of its policies."""

    policies: tuple[str, ...]
    cpu_seconds: float
    started_seconds: float  # of these, before the first access
    wall_seconds: float
    peak_bytes: int
    at_twice: list[float]  # hit rate at 2 x top-k
    off_sample: float  # largest difference from the sample of requests


def draw(block: int) -> npt.NDArray[np.int16]:
    """Draw requests of routing in which neighbouring tokens agree and some experts are popular.

    The scores are those of bench_curve.py (same popularity, same memory), made cheaper: all requests advance together;
    the noise is a window, at random, of normal numbers drawn once; and the expert's number replaces the last 7 bits of
    its score, so that sorting scores sorts experts.

    Returns:
        int16 [AT_A_TIME, REQUEST, LAYERS, TOP_K].
    """
    memory = np.float32(0.25)
    popularity = 0.65 * np.random.default_rng(EXPERTS).standard_normal((LAYERS, EXPERTS), np.float32)
    pull = (1 - memory) * popularity
    rng = np.random.default_rng([1, block])
    scores = popularity + rng.standard_normal((AT_A_TIME, LAYERS, EXPERTS), np.float32)
    noise = np.sqrt(1 - memory**2) * rng.standard_normal(10 * scores.size, np.float32)
    experts = np.arange(EXPERTS, dtype=np.int32)
    ids = np.empty((AT_A_TIME, REQUEST, LAYERS, TOP_K), np.int16)
    for token, start in enumerate(rng.integers(9 * scores.size, size=REQUEST)):
        scores *= memory
        scores += pull
        scores += noise[start : start + scores.size].reshape(scores.shape)
        tagged = (scores.view(np.int32) & -EXPERTS) | experts
        tagged.view(np.float32).sort(axis=-1)
        ids[:, token] = tagged[..., : -TOP_K - 1 : -1] & (EXPERTS - 1)
    return ids


def synthesise(path: Path, requests: int, jobs: int) -> None:
    """Write the trace; blocks are drawn ahead on other threads, as many as there are jobs."""

    def drawn() -> Iterator[npt.NDArray[np.int16]]:
        with ThreadPoolExecutor(jobs) as threads:
            numbers = iter(range(-(-requests // AT_A_TIME)))
            waiting = [threads.submit(draw, number) for number in islice(numbers, jobs)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [threads.submit(draw, number) for number in islice(numbers, 1)]

    layers = LayerTable.build(LAYERS, EXPERTS, TOP_K)
    with TraceWriter(path, layers, model="synthetic", provenance={"synthetic": True}) as writer:
        left = requests
        for block in drawn():
            for ids in block[:left]:
                writer.begin_request()
                writer.append({"experts": ids})
            left -= len(block)


def requests_of(trace: RoutingTrace, numbers: npt.NDArray[np.int64], layers: int = LAYERS) -> RoutingTrace:
    """Return some requests of a trace, and the first layers, as a trace."""
    ids = [trace.read("experts", *map(int, trace.offsets[number : number + 2])) for number in numbers]
    offsets = np.append(0, np.cumsum([len(part) for part in ids]))
    return RoutingTrace.from_arrays(np.concatenate(ids)[:, :layers], num_experts=EXPERTS, offsets=offsets)


def measure(path: Path, policies: tuple[str, ...]) -> TimedRun:
    """Run policies over the trace, in a process that has done nothing else, and check them."""
    started = time.perf_counter()
    with RoutingTrace.open(path) as trace:
        before = time.process_time()
        found = stack_hits_of(trace, policies, "layer", "paper", "token", warm=False, jobs=1)
        wall, cpu = time.perf_counter() - started, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)

        two = requests_of(trace, np.array([0, trace.num_requests - 1]))
        spread = np.linspace(0, trace.num_requests - 1, SAMPLE).astype(np.int64)
        some, off, at_twice = requests_of(trace, spread), 0.0, []
        for policy, hits in zip(policies, found, strict=True):
            rates = sum(hits.hits).sum(axis=0)[1:] / hits.accesses.sum()
            curve = hit_rate_curve(two, policy, access="paper", jobs=1).hit_rate
            for slots in CHECKED_AT:
                replayed = simulate(two, policy, slots, access="paper", bounds=False).hit_rate
                assert abs(curve[slots - 1] - replayed) < 1e-12, (policy, slots, curve[slots - 1], replayed)
            sample = hit_rate_curve(some, policy, access="paper", jobs=1).hit_rate
            off = max(off, float(np.abs(rates - sample).max()))
            assert off < CLOSE, (policy, off)
            assert rates[-1] == 1, (policy, rates[-1])
            at_twice.append(float(rates[2 * TOP_K - 1]))
    return TimedRun(policies, cpu, before, wall, peak, at_twice, off)


def reference_rates(path: Path, folder: str, layers: int = 4) -> dict[str, float]:
    """Run the paper's code on the first layers of one request, and compare hits; return accesses per second."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from reference_moe_lrc import Sequence, load_reference

    functions = load_reference(folder)
    names = {"lru": "calc_lru", "lfu": "calc_lfu", "belady": "calc_beladi"}
    with RoutingTrace.open(path) as trace:
        piece = requests_of(trace, np.array([trace.num_requests // 2]), layers)
    rates = {}
    for policy in POLICIES:
        name, _, ahead = policy.partition(":")
        run: Any = functions[names.get(name, "calc_fsf")]
        extra = [int(ahead)] if ahead else []
        ids = [piece.experts[:, layer].astype(np.int64).view(Sequence) for layer in range(layers)]
        started = time.process_time()
        theirs = [np.asarray(run(layer, EXPERTS, *extra)) for layer in ids]
        rates[policy] = piece.experts.size / (time.process_time() - started)
        ours = hit_rate_curve(piece, policy, access="paper", jobs=1).hit_rate
        assert np.abs(ours - np.mean(theirs, axis=0)).max() < 1e-6, policy
    return rates


def main() -> None:
    """Make the trace, run the policies, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="rounded to requests of 512 (default: the paper's)")
    parser.add_argument("--policies", default=",".join(POLICIES), help="separated by commas")
    parser.add_argument("--apart", action="store_true", help="each policy in a process of its own")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: all cores)"
    )
    parser.add_argument("--trace", metavar="FILE", type=Path, help="keep the trace here; used as it is if it exists")
    parser.add_argument("--reference", metavar="PATH")
    options = parser.parse_args()
    requests = max(SAMPLE, round(options.tokens / REQUEST))
    accesses = requests * REQUEST * LAYERS * TOP_K
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = options.trace or Path(folder, "paper_size.h5")
        if not path.exists():
            started = time.perf_counter()
            with ProcessPoolExecutor(1, processes) as one:  # apart, or its memory would count as that of its children
                one.submit(synthesise, path, requests, options.jobs).result()
            print(f"drawn and written in {time.perf_counter() - started:,.0f} s of wall time, ", end="")
        with RoutingTrace.open(path) as trace:
            assert trace.num_tokens == requests * REQUEST, f"{path} has {trace.num_tokens:,} tokens: remove it"
        print(f"{requests * REQUEST:,} tokens, {accesses / 1e9:.3f} G accesses, {path.stat().st_size / 1e9:.2f} GB\n")
        print("| policies | CPU s | start | wall s | peak MB | ns/access | hit rate at 2x | paper's code, h | ratio |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        theirs = reference_rates(path, options.reference) if options.reference else {}
        names = tuple(options.policies.split(","))
        tasks = [(name,) for name in names] if options.apart else [names]
        cpu, work = 0.0, 0.0
        with ProcessPoolExecutor(options.jobs, processes, max_tasks_per_child=1) as pool:
            for future in as_completed(pool.submit(measure, path, policies) for policies in tasks):
                run = future.result()
                rates = [theirs.get(name) or REFERENCE_RATES[name.partition(":")[0]] for name in run.policies]
                hours = sum(accesses / rate for rate in rates) / 3_600
                cpu, work = cpu + run.cpu_seconds, work + run.cpu_seconds - run.started_seconds
                print(
                    f"| {' '.join(run.policies)} | {run.cpu_seconds:.1f} | {run.started_seconds:.1f} "
                    f"| {run.wall_seconds:.1f} | {run.peak_bytes / 1e6:.0f} | {run.cpu_seconds / accesses * 1e9:.1f} "
                    f"| {' '.join(f'{rate:.4f}' for rate in run.at_twice)} | {hours:.2f} "
                    f"| {hours * 3_600 / run.cpu_seconds:,.0f} |",
                    flush=True,
                )
        whole = cpu - work + work * TOKENS / (requests * REQUEST)
        print(f"\n{cpu:.0f} s of CPU time; {TOKENS:,} tokens would take {whole:,.0f} s if it grows with their number")
        source = "measured in this run" if theirs else "as measured elsewhere with 64 experts a layer"
        print(f"the paper's code: {source}")


if __name__ == "__main__":
    main()
