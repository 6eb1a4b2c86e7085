"""How much memory do a run, with its bounds and without, and the curve of each stack policy take at most?

Made-up routing, top-8, in files: 8 M accesses (8 layers of 64 experts, requests of 1,000 tokens of which 200 are the
prompt), and with ``large`` also 1,000 M (48 layers of 128 experts), a block of tokens again and again. Each command is
run by itself, once to compile (8 M), then once to be measured: peak resident memory as the system counts it,
of which some 200 MB are Python, numba and its compiler, and CPU seconds. Aimed at: below 250 MB and below 1 GB.

    python benchmarks/bench_memory.py [large [ACCESSES]]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

POLICIES = ("lru", "lfu", "belady", "belady-bypass", "sch-lookahead:16", "sch-static:16")
"""Those that have a stack algorithm."""

MAKE = """
import sys
import numpy as np
from lrcsim.traces import LayerTable, TraceWriter
path, accesses, layers, experts = sys.argv[1], *map(int, sys.argv[2:])
rng, tokens = np.random.default_rng(1), 4_000
taste = np.repeat(rng.random((tokens // 4, layers, experts)), 4, axis=0) + rng.random((layers, experts))
taste += rng.random(taste.shape, np.float32)
ids = np.ascontiguousarray(taste.argsort(axis=2)[:, :, :8].astype(np.int16))
phase = (np.arange(tokens) % 1_000 >= 200).astype(np.uint8)
with TraceWriter(path, LayerTable.build(layers, num_experts=experts, top_k=8), model="repeated") as writer:
    for low in range(0, accesses // (8 * layers), 1_000):
        writer.begin_request()
        part = slice(low % tokens, low % tokens + 1_000)
        writer.append({"experts": ids[part], "phase": phase[part]})
"""

COMMAND = "from lrcsim.cli.main import main; main()"
ALONE = (
    "import sys; from lrcsim.simulator import simulate; from lrcsim.traces import RoutingTrace; "
    "simulate(RoutingTrace.open(sys.argv[1]), 'lru', '2x', bounds=False)"
)


class Taken(NamedTuple):
    """What a process took: megabytes (1e6 bytes) at most, CPU seconds."""

    peak: float
    cpu: float


def taken(code: str, *arguments: str) -> Taken:
    """Run Python in a process of its own. This one has to be small: a child begins with its parent's peak."""
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} ended with {child.returncode}")
    kilo = 1 if sys.platform == "darwin" else 1024
    return Taken(used.ru_maxrss * kilo / 1e6, used.ru_utime + used.ru_stime)


def measure(path: Path, twice: bool) -> None:
    """Print a line for each command on a trace."""
    cases = [("run, no bounds", ALONE, [str(path)]), ("run", COMMAND, ["run", str(path), "--policy", "lru"])]
    cases += [(f"curve {policy}", COMMAND, ["curve", str(path), "--policy", policy]) for policy in POLICIES]
    for name, code, arguments in cases:
        if twice:
            taken(code, *arguments)
        peak, cpu = taken(code, *arguments)
        print(f"| {name} | {peak:.0f} | {cpu:.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    large = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000_000
    shapes = [(8_000_000, 8, 64), *[(large, 48, 128)] * ("large" in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        for accesses, layers, experts in shapes:
            path = Path(folder) / f"{accesses}.h5"
            taken(MAKE, str(path), str(accesses), str(layers), str(experts))
            shape = f"{layers} layers of {experts} experts"
            print(f"\n| {accesses / 1e6:,.0f} M accesses, {shape} | peak MB | CPU s |\n|---|---:|---:|", flush=True)
            measure(path, twice=accesses < 100_000_000)


if __name__ == "__main__":
    main()
