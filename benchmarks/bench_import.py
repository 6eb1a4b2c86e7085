"""How fast does a CSV come in, and does opening a large trace stay instant?

Makes a CSV of recorded-looking routing in long form and imports it, and makes a trace file of 100 M tokens whose
datasets are created but never written (HDF5 stores nothing for them) and opens it. Both results are checked in the
same run. Times are CPU time of this process, best of three for opening; the CSV is read twice by the importer, and
rows per second count it once.

    python benchmarks/bench_import.py [MILLIONS_OF_ROWS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
from pyarrow import csv

from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace

LAYERS, EXPERTS, TOP_K = 16, 64, 8
PROMPT, GENERATED = 256, 256  # tokens of one request
BIG_TOKENS, BIG_LAYERS, BIG_TOP_K = 100_000_000, 48, 8


def make_csv(path: Path, millions: float) -> np.ndarray:
    """Write long-form rows and return the experts [tokens, L, k] that they hold."""
    rng = np.random.default_rng(1)
    per_token = LAYERS * TOP_K
    requests = max(1, round(millions * 1e6 / per_token / (PROMPT + GENERATED)))
    tokens = PROMPT + GENERATED
    schema = pa.schema(
        [(name, pa.int32()) for name in ("request", "phase", "token", "layer", "rank", "expert")]
        + [("weight", pa.float32())]
    )
    written = []
    with csv.CSVWriter(str(path), schema) as writer:
        for request in range(requests):
            scores = rng.random((tokens, LAYERS, EXPERTS), np.float32)
            experts = np.argsort(-scores, axis=2)[:, :, :TOP_K].astype(np.int32)
            written.append(experts)
            count = tokens * per_token
            token = np.repeat(np.arange(tokens, dtype=np.int32), per_token)
            columns = [
                np.full(count, request, np.int32),
                (token >= PROMPT).astype(np.int32),
                token,
                np.tile(np.repeat(np.arange(LAYERS, dtype=np.int32), TOP_K), tokens),
                np.tile(np.arange(TOP_K, dtype=np.int32), tokens * LAYERS),
                experts.ravel(),
                np.round(np.take_along_axis(scores, experts, 2), 4).ravel(),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    return np.concatenate(written)


def make_big_trace(path: Path) -> None:
    """Write a trace file of 100 M tokens that takes no space."""
    with h5py.File(path, "w") as file:
        file.attrs.update(format="lrcsim-trace", version=1, model="empty", provenance='{"synthetic": true}')
        file["layers/num_experts"] = np.full(BIG_LAYERS, 256)
        file["layers/top_k"] = np.full(BIG_LAYERS, BIG_TOP_K)
        shape, chunks = (BIG_TOKENS, BIG_LAYERS, BIG_TOP_K), (16_384, 1, BIG_TOP_K)
        file.create_dataset("routing/experts", shape, np.uint16, chunks=chunks, compression="gzip", fillvalue=65_535)
        file.create_dataset("tokens/phase", (BIG_TOKENS,), np.uint8, chunks=(16_384,), compression="gzip")
        file["requests/offsets"] = np.arange(0, BIG_TOKENS + 1, 1_000, dtype=np.int64)


def main() -> None:
    """Run both measurements and print a small table."""
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "routing.csv", Path(folder) / "routing.h5"
        experts = make_csv(source, millions)
        started, wall = time.process_time(), time.perf_counter()
        report = import_trace(source, out)
        cpu, wall = time.process_time() - started, time.perf_counter() - wall
        with RoutingTrace.open(out) as trace:
            assert report.tokens == trace.num_tokens == len(experts)
            assert np.array_equal(trace.experts, experts)

        big = Path(folder) / "big.h5"
        make_big_trace(big)
        opening = []
        for _ in range(3):
            started = time.process_time()
            with RoutingTrace.open(big) as trace:
                opening.append(time.process_time() - started)
                assert trace.num_tokens == BIG_TOKENS
                assert trace.num_requests == BIG_TOKENS // 1_000

        print(f"{'what':<34}{'size':>18}{'CPU s':>10}{'wall s':>10}{'rows per CPU s':>18}")
        size = f"{experts.size / 1e6:.1f} M rows"
        print(f"{'import of a CSV, long form':<34}{size:>18}{cpu:>10.2f}{wall:>10.2f}{experts.size / cpu:>18,.0f}")
        print(f"{'open a trace file':<34}{'100 M tokens':>18}{min(opening):>10.4f}")


if __name__ == "__main__":
    main()
