"""How fast are the expert ids of a trace file read, checked and ready for a kernel?

Every version and compression of the format holds the same routing (that of bench_paper_size.py: 48 layers, 8 of 128
experts), and is read in turn in three ways: all layers in blocks of 16,384 tokens and of 8,192 (as schedules do), and
layer by layer. The ids are compared with those of the first file in the same run. CPU time of this process, best of so
many rounds; the files are in the system's cache. The last column is for scale: an LRU curve of every capacity from the
file.

    python benchmarks/bench_read.py [MILLIONS_OF_IDS] [ROUNDS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_paper_size import LAYERS, REQUEST, TOP_K, synthesise

from lrcsim.simulator import hit_rate_curve
from lrcsim.traces import RoutingTrace

FORMS: tuple[tuple[int, str], ...] = (
    *((1, "gzip"), (1, "none")),
    *((2, "gzip"), (2, "zstd"), (2, "fast"), (2, "none")),
)
CHECKED = 40_000
"""Tokens of which the ids are compared."""


def in_blocks(trace: RoutingTrace, tokens: int) -> None:
    """Read all layers, so many tokens at a time."""
    for low, high in trace.blocks(tokens):
        trace.read("experts", low, high)


def by_layer(trace: RoutingTrace) -> None:
    """Read one layer after the other."""
    for layer in range(trace.num_layers):
        trace.read("experts", 0, trace.num_tokens, layer=layer)


WAYS: dict[str, Callable[[RoutingTrace], object]] = {
    "blocks of 16,384": lambda trace: in_blocks(trace, 16_384),
    "of 8,192": lambda trace: in_blocks(trace, 8_192),
    "by layer": by_layer,
    "LRU curve": lambda trace: hit_rate_curve(trace, "lru", access="paper", jobs=1),
}


def main() -> None:
    """Make the files, read them in turn, print a table."""
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 100.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    requests = max(1, round(millions * 1e6 / (REQUEST * LAYERS * TOP_K)))
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder, f"{form[0]}_{form[1]}.h5") for form in FORMS}
        synthesise(Path(folder, "drawn.h5"), requests, 1)
        with RoutingTrace.open(Path(folder, "drawn.h5")) as drawn:
            for (version, compression), path in paths.items():
                drawn.save(path, version=version, compression=compression)
            wanted = drawn.read("experts", 0, min(CHECKED, drawn.num_tokens))
            count = drawn.num_tokens * LAYERS * TOP_K
        best = {(form, way): float("inf") for form in FORMS for way in WAYS}
        traces = {form: RoutingTrace.open(path) for form, path in paths.items()}
        for _ in range(rounds):
            for form, trace in traces.items():
                assert np.array_equal(trace.read("experts", 0, len(wanted)), wanted), form
                for way, read in WAYS.items():
                    started = time.process_time()
                    read(trace)
                    best[form, way] = min(best[form, way], time.process_time() - started)
        print(f"{count / 1e6:.0f} M ids, M ids/s of CPU time; times the first line\n")
        print(f"| file | bytes per id | {' | '.join(WAYS)} |\n|---|---:|{'---:|' * len(WAYS)}")
        for form, path in paths.items():
            traces[form].close()
            rates = [count / best[form, way] / 1e6 for way in WAYS]
            ratios = [best[FORMS[0], way] / best[form, way] for way in WAYS]
            cells = " | ".join(f"{rate:,.0f} ({ratio:.1f})" for rate, ratio in zip(rates, ratios, strict=True))
            print(f"| version {form[0]}, {form[1]} | {path.stat().st_size / count:.3f} | {cells} |")


if __name__ == "__main__":
    main()
