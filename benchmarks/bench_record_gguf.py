"""What does it cost to take the routing out of llama.cpp?

Four layers of the size of Qwen3-30B-A3B (32 experts of 2048 x 768, top-8, random weights) run the same tokens with and
without the callback, in turn within one run, on one thread; CPU time, the median of the pairs' ratios. That recording
changes nothing is checked: the same logits to the bit, and top-8 routing of every token and layer.

    python benchmarks/bench_record_gguf.py [PAIRS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.experiments.validation.llama_cpp.weights import weights_file, wide
from lrcsim.recorder.llama_cpp.library import Library
from lrcsim.recorder.llama_cpp.routing import Routing

PROMPT, DECODE = 128, 64


def main() -> None:
    """Print the ratios."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    library, geometry = Library(), wide()
    routing = Routing(library)
    tokens = np.random.default_rng(0).integers(0, geometry.vocab, PROMPT + DECODE).tolist()

    def seconds(context: Any, *, watched: bool) -> tuple[float, float, Any]:
        """CPU seconds of the prompt and of the decoding, and the last logits."""
        context.clear()
        begun = time.process_time()
        context.run(tokens[:PROMPT], every=True)
        if watched:
            routing.take(PROMPT)
        between = time.process_time()
        for token in tokens[PROMPT:]:
            context.run([token])
            if watched:
                assert routing.take(1)["experts"].shape == (1, geometry.layers, geometry.top_k)
        return between - begun, time.process_time() - between, context.logits()

    with tempfile.TemporaryDirectory() as folder, weights_file(Path(folder), geometry, "q4_0", library) as path:
        room = PROMPT + DECODE
        with (
            library.model(path) as model,
            model.context(room) as plain,
            model.context(room, watch=routing.callback) as watched,
        ):
            each: list[float] = []
            ratios: dict[str, list[float]] = {"prompt": [], "decode": []}
            for _ in range(pairs + 1):
                first, second = seconds(plain, watched=False), seconds(watched, watched=True)
                assert (first[2] == second[2]).all()
                for name, one, other in zip(ratios, second[:2], first[:2], strict=True):
                    ratios[name].append(one / other)
                each.append((second[1] - first[1]) / DECODE / geometry.layers * 1e6)
    for name, found in ratios.items():
        found = found[1:]  # the first warms up
        print(f"{name}: {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f}) with the callback")
    print(f"that is {statistics.median(each[1:]):.0f} us for each layer of a decoded token")


if __name__ == "__main__":
    main()
