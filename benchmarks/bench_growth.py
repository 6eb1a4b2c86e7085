"""How does time grow with tokens, requests and layers? Everything should be linear at most.

Made-up routing, 64 experts, top-4; CPU time of the whole call, the least of three where they are short; traces and what
is compiled are made before. The exponent is that between the last two sizes, ln(t2 / t1) / ln(n2 / n1): 1 is linear, 0
does not depend on it. Requests divide the same tokens; the last ones have one token (SRP, SCH: 20).

    python benchmarks/bench_growth.py [LARGEST, tokens, 10000000 unless told] [WHAT...]
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from lrcsim.models import load_geometry
from lrcsim.simulator import hit_rate_curve, sch, simulate, srp
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace

EXPERTS, TOP_K = 64, 4
STEPS = np.array([0, 7, 19, 33])
TOKENS = 100_000
LEAST = 20
"""Tokens of the shortest requests that SRP and SCH are measured on: no fewer than their segments."""

LIMIT = 1.15
"""Exponents above are marked."""

SMALL, MIDDLE, LARGE = 100_000, 1_000_000, 10_000_000

Work = Callable[[RoutingTrace], Any]


def timed(trace: RoutingTrace, **options: Any) -> Any:
    """Run a trace in time, as of a model like OLMoE's of so many layers."""
    layers = trace.num_layers
    model = replace(
        load_geometry("olmoe"), layers=layers, moe_layers=tuple(range(layers)), experts=EXPERTS, top_k=TOP_K
    )
    return simulate(trace, "lru", "2x", bounds=False, hardware="rtx-4090", model=model, **options)


CASES: tuple[tuple[str, Work, int], ...] = (
    ("run lru", lambda trace: simulate(trace, "lru", "2x", bounds=False), LARGE),
    ("run lru, bounds", lambda trace: simulate(trace, "lru", "2x"), MIDDLE),
    ("run mrs", lambda trace: simulate(trace, "mrs", "2x", bounds=False), MIDDLE),
    ("run in time", timed, MIDDLE),
    ("run in time, cpu", lambda trace: timed(trace, miss="cpu"), SMALL),
    ("run in time, prefetching", lambda trace: timed(trace, prefetch="temporal", engine="compiled"), SMALL),
    ("run of 8 at once", lambda trace: simulate(trace, "lru", "2x", bounds=False, batch=8), MIDDLE),
    ("curve lru", lambda trace: hit_rate_curve(trace, "lru"), LARGE),
    ("curve lfu", lambda trace: hit_rate_curve(trace, "lfu"), LARGE),
    ("curve belady", lambda trace: hit_rate_curve(trace, "belady"), LARGE),
    ("curve lru, cold", lambda trace: hit_rate_curve(trace, "lru", warm=False), MIDDLE),
    ("curve lru, paper", lambda trace: hit_rate_curve(trace, "lru", access="paper"), MIDDLE),
    ("srp", lambda trace: srp(trace, 16, bootstrap=200), MIDDLE),
    ("sch", lambda trace: sch(trace, 16, "2x", bootstrap=200), MIDDLE),
    ("sch, looking ahead", lambda trace: sch(trace, 16, "2x", definition="lookahead", bootstrap=200), MIDDLE),
)  # fmt: skip
"""What to measure, how, and up to how many tokens."""


def made(tokens: int, layers: int, requests: int) -> RoutingTrace:
    """Make a trace; a fifth of each request of five tokens and more is its prompt."""
    rng = np.random.default_rng(1)
    base = (rng.zipf(1.3, (tokens, layers, 1)) % EXPERTS).astype(np.int16)
    offsets = np.linspace(0, tokens, requests + 1).astype(np.int64)
    within = np.arange(tokens) - np.repeat(offsets[:-1], np.diff(offsets))
    phase = (within >= np.repeat(np.diff(offsets), np.diff(offsets)) // 5).astype(np.uint8)
    ids = (base + STEPS.astype(np.int16)) % EXPERTS
    weights = np.broadcast_to(np.array([0.4, 0.3, 0.2, 0.1], np.float32), ids.shape)
    return RoutingTrace.from_arrays(
        ids, num_experts=EXPERTS, offsets=offsets, phase=phase, weights=weights, model="growth"
    )


def seconds(work: Callable[[Any], Any], given: Callable[[], Any]) -> float:
    """Return CPU seconds of a call, the least of three where it is short; each is given something new to work on."""
    least = math.inf
    for _ in range(3):
        what = given()  # what was worked out from a trace is kept with it
        started = time.process_time()
        work(what)
        least = min(least, time.process_time() - started)
        if least > 1:
            break
    return least


def show(what: str, by: str, sizes: list[int], took: list[float]) -> None:
    """Print a row."""
    (n1, n2), (t1, t2) = sizes[-2:], took[-2:]
    exponent = math.log(t2 / t1) / math.log(n2 / n1)
    mark = " (above)" if exponent > LIMIT else ""
    times = ", ".join(f"{size:,}: {one:.3g}" for size, one in zip(sizes, took, strict=True))
    print(f"| {what} | {by} | {times} | {exponent:.2f}{mark} |", flush=True)


def powers(last: int) -> list[int]:
    """Return 10,000 and so on up to the last, times ten."""
    return [10**power for power in range(4, round(math.log10(last)) + 1)]


def measure(what: str, work: Work, largest: int) -> None:
    """Measure one thing by tokens, by requests and by layers."""
    work(made(2_000, 2, 4))  # compiles
    tokens = min(TOKENS, largest // 5)
    most = tokens // (LEAST if what.startswith(("srp", "sch")) else 1)
    grown = {
        "tokens": [(size, 2, 100) for size in powers(largest)],
        "requests": [(tokens, 2, requests) for requests in (1, 100, most // 10, most)],
        "layers": [(20_000, layers, 100) for layers in (1, 4, 16, 64)],
    }
    for place, (by, shapes) in zip((0, 2, 1), grown.items(), strict=True):
        show(what, by, [shape[place] for shape in shapes], [seconds(work, partial(made, *shape)) for shape in shapes])


def table(path: Path, tokens: int, requests: int) -> Path:
    """Write a table in long form, one layer."""
    trace = made(tokens, 1, requests)
    request = np.repeat(np.arange(requests), np.diff(trace.offsets))
    token = np.arange(tokens) - trace.offsets[request]
    columns = {
        "request": np.repeat(request, TOP_K),
        "token": np.repeat(token, TOP_K),
        "layer": np.zeros(tokens * TOP_K, np.int64),
        "rank": np.tile(np.arange(TOP_K), tokens),
        "expert": trace.experts.ravel(),
    }
    csv.write_csv(pa.table(columns), path)
    return path


def measure_import(most: int) -> None:
    """Measure the import of a table: by tokens, and by requests."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.csv", Path(folder) / "out.h5"

        def work(path: Path) -> None:
            import_trace(path, out)
            out.unlink()

        for by, shapes in (
            ("tokens", [(size, 100) for size in powers(most)]),
            ("requests", [(TOKENS, requests) for requests in (1, 100, 10_000, TOKENS)]),
        ):
            took = [seconds(work, partial(table, source, *shape)) for shape in shapes]
            show("import of a table", by, [shape[by == "requests"] for shape in shapes], took)


def main() -> None:
    """Print the table."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else LARGE
    wanted = sys.argv[2:]
    print("| what | by | CPU s | exponent |\n|---|---|---|---:|")
    for what, work, largest in CASES:
        if not wanted or what in wanted:
            measure(what, work, min(most, largest))
    if not wanted or "import" in wanted:
        measure_import(min(most, MIDDLE))


if __name__ == "__main__":
    main()
