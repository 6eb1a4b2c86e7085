"""How far is `lrcsim sweep --dry-run` from what the sweep then takes?

Sweeps of several kinds on the bundled trace, each by the command line in processes of its own: the estimate first, then
the sweep, with one process and with two; wall seconds, so on a machine that is shared with other work the ratio says
more than either.

    python benchmarks/bench_sweep_estimate.py [KIND...]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPECS = {
    "hits alone, one pass": {
        "policy": ["lru", "lfu", "belady"],
        "cache": ["1x", "2x", "4x"],
        "scope": ["layer", "model"],
    },
    "hits alone, at each size": {
        "policy": ["fifo", "slru", "mrs", "lfu-decay", "hobbit", "arc", "clock", "random"],
        "cache": ["1x", "1.5x", "2x", "2.5x", "3x", "3.5x", "4x", "5x"],
        "scope": ["layer", "model"],
    },
    "in time": {
        "hardware": ["rtx-3090"],
        "policy": ["lru", "lfu", "slru", "arc"],
        "cache": ["1x", "2x", "3x", "4x", "6x"],
        "pcie.bandwidth": ["6GB/s", "12GB/s", "25GB/s", "50GB/s"],
    },
    "prefetching": {
        "hardware": ["rtx-3090"],
        "policy": ["lru", "slru"],
        "cache": ["1x", "2x", "4x"],
        "prefetch": ["popularity", "transition", "oracle:1"],
        "pcie.bandwidth": ["12GB/s", "25GB/s"],
    },
}  # fmt: skip
"""Grids, by what they are."""


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Run the command line; return wall seconds, and CPU seconds of it and its processes."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", "from lrcsim.cli.main import main; main()", "sweep", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    kinds = sys.argv[1:] or list(SPECS)
    print("| sweep | processes | estimated, s | took, s | ratio | CPU s | estimating, s |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.toml"
        said = Path(folder) / "said.json"
        for kind in kinds:
            lines = (f"{json.dumps(name)} = {json.dumps(values)}" for name, values in SPECS[kind].items())
            spec.write_text("[grid]\n" + "\n".join(lines) + "\n")
            for jobs in (1, 2)[: os.cpu_count() or 1]:
                estimating, _ = seconds([str(spec), "--dry-run", "--jobs", str(jobs), "--json", str(said)])
                about = json.loads(said.read_text())["seconds"]
                table = Path(folder) / f"{jobs}.parquet"
                real, cpu = seconds([str(spec), "--jobs", str(jobs), "-o", str(table)])
                table.unlink()
                said_took = f"{about:.1f} | {real:.1f} | {about / real:.2f}"
                print(f"| {kind} | {jobs} | {said_took} | {cpu:.1f} | {estimating:.0f} |", flush=True)


if __name__ == "__main__":
    main()
