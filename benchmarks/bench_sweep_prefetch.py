"""How long does a sweep of 1,000 runs in time with prefetching take, at the shape of Qwen3-30B-A3B?

5 policies x 5 prefetchers x 8 cache sizes x 5 bandwidths on a made-up trace of 48 layers x 128 experts, top-8, of
`bench_events` (20,000 tokens unless told): so many of the runs, spread over the spec, in so many processes as there are
cores, by the same `run_sweep` that the command line calls; the rest is extrapolated from seconds per run. CPU seconds
of all processes, and what a run takes beside its event loop.

    python benchmarks/bench_sweep_prefetch.py [RUNS] [TOKENS]
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from bench_events import make_trace

from lrcsim.sweeps import divide, in_processes, in_this_process, read_spec, run_sweep
from lrcsim.sweeps.spec import Spec

ALL = 1_000
GRID = {
    "trace": ["trace.h5"],
    "hardware": ["rtx-4090"],
    "dtype": ["q4_k"],
    "model": ["qwen3-30b-a3b"],
    "policy": ["lru", "slru", "fifo", "arc", "s3-fifo"],
    "prefetch": ["next-gate", "oracle", "temporal", "popularity", "transition"],
    "cache": ["1x", "1.5x", "2x", "2.5x", "3x", "4x", "5x", "6x"],
    "pcie.bandwidth": ["6GB/s", "12GB/s", "25GB/s", "50GB/s", "100GB/s"],
}


def cpu_seconds() -> float:
    """Return CPU seconds of this process and of those that it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def some(spec: Spec, runs: int) -> Spec:
    """Return a spec of so many of the runs, spread over it; 377 is prime to 1,000, so that none comes twice."""
    return Spec([spec.runs[377 * number % len(spec.runs)] for number in range(runs)], spec.folder, spec.source)


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        make_trace(tokens).save(Path(folder) / "trace.h5")
        spec = read_spec({"grid": GRID}, folder)
        assert len(spec.runs) == ALL
        plan = divide(some(spec, runs))
        for jobs in sorted({1, cores}):
            begin, begin_cpu = time.perf_counter(), cpu_seconds()
            workers = in_processes(jobs) if jobs > 1 else in_this_process
            outcome = run_sweep(plan, Path(folder) / f"{jobs}.parquet", workers=workers)
            wall, cpu = time.perf_counter() - begin, cpu_seconds() - begin_cpu
            assert outcome.failed == 0, outcome.first_error
            minutes, as_it_was = ALL * cpu / runs / 60 / jobs, ALL * wall / runs / 60
            print(
                f"processes: {jobs}. {runs} runs: {wall:.0f} s, {cpu:.0f} s of CPU time, {cpu / runs:.2f} each. "
                f"All {ALL:,}: {minutes:.0f} minutes where each process has a core, {as_it_was:.0f} as it was",
                flush=True,
            )


if __name__ == "__main__":
    main()
