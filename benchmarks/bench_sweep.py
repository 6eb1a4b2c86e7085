"""How long does a sweep of 1,000 runs take, and what does it cost beyond the simulations?

1. 20 policies x 25 cache sizes x 2 scopes on the bundled trace (12,396 tokens, 8 layers, 64 experts, top-8), hits
   alone, into one table: wall time in one process and in all cores, processes started and kernels loaded included. Rows
   drawn at random are held against `simulate`, and both tables must be the same file.
2. Overhead: 1,000 runs of a short trace, none of them sharing a pass, against the same calls of `simulate` in a loop.
3. 100 runs in time: 4 policies x 5 cache sizes x 5 bandwidths of the link on the bundled trace, all cores; a row drawn
   at random is held against `simulate`.

    python benchmarks/bench_sweep.py [RUNS OF PART 2]
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lrcsim.simulator import simulate
from lrcsim.sweeps import divide, in_processes, in_this_process, read_spec, run_sweep
from lrcsim.sweeps.execute import run_task
from lrcsim.traces import RoutingTrace

POLICIES = [
    "lru", "lfu", "belady", "belady-bypass", "sch-lookahead:16", "sch-lookahead:4", "sch-static", "mru", "fifo",
    "clock", "sieve", "random", "slru", "s3-fifo", "arc", "lfu-decay", "lfuda", "lfru", "mrs", "hobbit",
]  # fmt: skip
CACHES = [f"{size:g}x" for size in (*(1 + step / 4 for step in range(13)), 4.5, 5, 5.5, 6, 6.5, 7)] + [
    9, 11, 13, 15, 17, 19,
]  # fmt: skip
CHECKED = 10


def thousand_runs(folder: Path) -> None:
    """Time the sweep, check some of its rows, print."""
    grid = {"policy": POLICIES, "cache": CACHES, "scope": ["layer", "model"]}
    tables = []
    for name, workers in (("one process", in_this_process), ("all cores", in_processes(os.cpu_count() or 1))):
        started = time.perf_counter()
        plan = divide(read_spec({"grid": grid}))
        path = folder / f"{len(tables)}.parquet"
        outcome = run_sweep(plan, path, workers=workers)
        took = time.perf_counter() - started
        assert (len(outcome.table), outcome.failed) == (1000, 0), outcome.first_error
        print(f"{len(plan.runs):,} runs in {len(plan.tasks())} tasks, {name}: {took:.1f} s ({os.cpu_count()} cores)")
        tables.append(path.read_bytes())
    assert tables[0] == tables[1]
    trace = RoutingTrace.open()
    for row in random.Random(1).sample(outcome.table.to_pylist(), CHECKED):
        result = simulate(trace, row["policy"], row["cache"], scope=row["scope"])
        assert row["hit_rate"] == result.hit_rate, row
        assert row["belady_hit_rate"] == result.bounds["belady"].hit_rate, row
    print(f"{CHECKED} rows drawn at random are those of simulate()")


def overhead(folder: Path, runs: int) -> None:
    """Time runs of a short trace in a sweep and in a loop, print the difference."""
    bundled = RoutingTrace.open()
    path = folder / "short.h5"
    RoutingTrace.from_arrays(bundled.experts[:20], num_experts=64, expert_bytes=1000).save(path)
    sizes = [f"{1 + number / 1000}x" for number in range(runs)]
    plan = divide(read_spec({"grid": {"trace": path.name, "cache": sizes}}, folder))
    tasks = plan.tasks(share=False)
    trace = RoutingTrace.open(path)
    simulate(trace), run_task(tasks[0])
    started = time.perf_counter()
    alone = [simulate(trace, "lru", size).hit_rate for size in sizes]
    loop = time.perf_counter() - started

    def unshared(_: Any) -> Any:
        return in_this_process(tasks)

    started = time.perf_counter()
    outcome = run_sweep(divide(plan.spec), folder / "o.parquet", workers=unshared)
    sweep = time.perf_counter() - started
    assert outcome.table["hit_rate"].to_pylist() == alone
    print(
        f"{runs:,} runs of {1e3 * loop / runs:.2f} ms each: {1e3 * (sweep - loop) / runs:.2f} ms per run beyond them, "
        "planning and writing included"
    )


def timed_runs(folder: Path) -> None:
    """Time a sweep of runs on a machine, check one of its rows, print."""
    speeds = ["6GB/s", "12GB/s", "25GB/s", "50GB/s", "100GB/s"]
    grid = {"policy": ["lru", "lfu", "slru", "arc"], "cache": ["1x", "2x", "3x", "4x", "6x"], "pcie.bandwidth": speeds}
    started = time.perf_counter()
    plan = divide(read_spec({"defaults": {"hardware": "rtx-3090"}, "grid": grid}))
    outcome = run_sweep(plan, folder / "timed.parquet", workers=in_processes(os.cpu_count() or 1))
    took = time.perf_counter() - started
    assert (len(outcome.table), outcome.failed) == (100, 0), outcome.first_error
    print(f"100 runs in time, all cores: {took:.1f} s")
    (row,) = random.Random(2).sample(outcome.table.to_pylist(), 1)
    speed = [f"pcie.bandwidth={row['pcie.bandwidth']}"]
    result = simulate(RoutingTrace.open(), row["policy"], row["cache"], hardware="rtx-3090", overrides=speed)
    assert row["decode_tokens_per_s"] == result.to_dict()["time"]["decode_tokens_per_s"], row


def main() -> None:
    """Run all parts."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder), runs)
        thousand_runs(Path(folder))
        timed_runs(Path(folder))


if __name__ == "__main__":
    main()
