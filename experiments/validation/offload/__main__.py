"""`python -m lrcsim.experiments.validation.offload`: the comparison that this folder's README describes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lrcsim.base.errors import LrcsimError
from lrcsim.calibration.of_machine.files import file_system
from lrcsim.experiments.validation.offload.compare import (
    Cell,
    MeasuredCell,
    Setting,
    as_markdown,
    busy,
    measure,
    summarise,
)
from lrcsim.experiments.validation.offload.executor import decode_part
from lrcsim.experiments.validation.offload.weights import ExpertShape, weights_file
from lrcsim.traces import RoutingTrace


def main(arguments: list[str] | None = None) -> None:
    """Measure all cells several times, in random order, and write the table; with ``--gpu`` see `engine.command`."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--gpu" in given:
        from lrcsim.experiments.validation.offload.engine.command import main as on_gpu

        on_gpu(given)
        return
    options = _options().parse_args(given)
    folder = options.folder or Path(tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(RoutingTrace.open(options.trace))
        shape = ExpertShape(opened.num_layers, opened.num_experts, options.hidden, options.ffn)
        trace = decode_part(opened, options.tokens, shape.expert_bytes)
        count = shape.layers * shape.experts
        print(f"writing {count} experts of {shape.expert_bytes:,} bytes to {folder}", file=sys.stderr)
        path = stack.enter_context(weights_file(folder, shape))
        lanes = 1 if options.throttle else options.lanes
        setting = Setting(trace, shape, path, lanes, options.part, options.throttle)
        policies, caches = options.policies.split(","), options.caches.split(",")
        cells = [Cell(p, c, overlap) for p in policies for c in caches for overlap in (True, False)]
        found = _repeat(setting, cells, options)
        result = {
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
            "storage": {"file_system": file_system(folder)},
            "trace": trace.model,
            "tokens": trace.num_tokens,
            "shape": {**asdict(shape), "expert_bytes": shape.expert_bytes},
            "lanes": lanes,
            "throttle_bytes_per_s": options.throttle,
            "quiet": options.quiet,
            "cells": [summarise(found[cell], options.quiet) for cell in cells if found[cell]],
        }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(as_markdown(result), encoding="utf-8")
    print(as_markdown(result))


def _repeat(setting: Setting, cells: list[Cell], options: argparse.Namespace) -> dict[Cell, list[MeasuredCell]]:
    """Measure each cell until it has enough quiet repetitions, time is up, or Ctrl-C; in rounds of random order."""
    found: dict[Cell, list[MeasuredCell]] = {cell: [] for cell in cells}
    order, begun = np.random.default_rng(0), time.perf_counter()

    def missing() -> list[int]:
        quiet = [sum(one.is_quiet(options.quiet) for one in found[cell]) for cell in cells]
        return [place for place, count in enumerate(quiet) if count < options.repetitions]

    with contextlib.suppress(KeyboardInterrupt):  # what there is by then counts
        while places := missing():
            for place in order.permutation(places).tolist():
                if not _wait_for_quiet(options.quiet, begun + options.at_most):
                    return found
                one = measure(setting, cells[place], len(found[cells[place]]))
                found[cells[place]].append(one)
                print(f"{time.perf_counter() - begun:6.0f} s  {one}", file=sys.stderr, flush=True)
    return found


def _wait_for_quiet(quiet: float, until: float) -> bool:
    """Wait until other processes leave the processors alone for two seconds; return False where they never do."""
    while time.perf_counter() < until:
        before = busy()
        time.sleep(2)
        if not np.divide(*(busy() - before)) > quiet:
            return True
    return False


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _options() -> argparse.ArgumentParser:
    about = "Run the executor and the simulator on the same decode steps, and put their times side by side."
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.validation.offload", description=about)
    option, quiet = parser.add_argument, (os.cpu_count() or 1) - 0.9
    option("--trace", help="an lrcsim trace; default: the bundled one")
    option("--tokens", type=int, default=100, help="decode tokens to run")
    option("--policies", default="lru,lfu")
    option("--caches", default="1.5x,3x,6x")
    option("--repetitions", type=int, default=5, help="quiet ones of each cell")
    option("--quiet", type=float, default=quiet, help="processors others may use in a repetition that counts")
    option("--at-most", type=float, default=1800, help="seconds; what is not done then is left out")
    option("--hidden", type=int, default=256)
    option("--ffn", type=int, default=512)
    option("--lanes", type=int, default=2, help="reader threads")
    option("--part", type=int, default=1, help="tokens between two samples of the calibration")
    option("--folder", type=Path, help="where to put the weights; it must be on the storage to be measured")
    option("--throttle", type=float, help="bytes/s of a slower link to imitate, with one reader thread")
    option("--gpu", action="store_true", help="another engine, on a GPU: see --gpu --help")
    option("--json", type=Path)
    option("--markdown", type=Path)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was measured is written, and the weights go
    try:
        main()
    except LrcsimError as error:
        sys.exit(f"Error: {error}")
