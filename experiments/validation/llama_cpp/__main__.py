"""`python -m lrcsim.experiments.validation.llama_cpp`: the comparison that this folder's README describes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import LrcsimError
from lrcsim.calibration.of_machine.machine import processor
from lrcsim.experiments.validation.llama_cpp.formats import measure_format
from lrcsim.experiments.validation.llama_cpp.library import VERSION, Library
from lrcsim.experiments.validation.llama_cpp.measure import Work
from lrcsim.experiments.validation.llama_cpp.models import add_by_format, measure_models
from lrcsim.experiments.validation.llama_cpp.tables import as_markdown
from lrcsim.experiments.validation.llama_cpp.weights import cached, narrow, olmoe, shallow, tiny
from lrcsim.experiments.validation.offload.compare import busy
from lrcsim.models import Geometry

MODELS: dict[str, Callable[[], Geometry]] = {"olmoe": olmoe, "narrow": narrow, "tiny": tiny}
LAYERS_OF_FORMATS = 12
"""Of the model in which formats are compared: enough experts to come from memory, a gigabyte in float16."""

CACHED_TOKENS = 4
"""Times as many decoded tokens where experts stay in the caches: each takes half a millisecond."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, predict, and write the tables."""
    options = _options().parse_args(arguments)
    folder = options.folder or Path(tempfile.gettempdir())
    work, before = Work(options.prompt, options.decode), busy()
    library = Library()
    models = [MODELS[name]() for name in options.models.split(",")]
    _say(f"{options.dtype}: {', '.join(model.name for model in models)} in {options.repetitions} rounds")
    measured = measure_models(library, models, options.dtype, folder, work, options.repetitions, options.runtime)
    shape = tiny() if options.models == "tiny" else shallow(narrow(), LAYERS_OF_FORMATS)
    formats: list[dict[str, Any]] = []
    for name in filter(None, options.formats.split(",")):
        _say(f"{name}: experts of {shape.name}")
        formats += measure_format(library, shape, name, folder, work, options.repetitions)
        longer = replace(work, decode=CACHED_TOKENS * work.decode)
        in_cache = measure_format(library, cached(), name, folder, longer, options.repetitions)
        for row, other in zip(formats[-len(in_cache) :], in_cache, strict=True):
            row["cached_decode_bytes_per_s"] = other["decode_bytes_per_s"]
    add_by_format(measured, models, formats, shape, work)
    result = {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "library": {"xllamacpp": VERSION, "instructions": library.instructions, "threads": 1},
        "processors_busy_with_others": float(np.divide(*(busy() - before))),
        "work": asdict(work),
        "rounds": options.repetitions,
        "measured": measured,
        "formats": formats,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(as_markdown(result), encoding="utf-8")
    print(as_markdown(result))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.ArgumentParser:
    about = "Run llama.cpp on one thread, and put its speed beside what lrcsim says of this machine."
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.validation.llama_cpp", description=about)
    option = parser.add_argument
    option("--models", default="olmoe,narrow", help=f"of {', '.join(MODELS)}, with commas between")
    option("--dtype", default="q4_0", help="of their weights")
    option("--formats", default="q4_0,q8_0,q4_k,q6_k,f16", help="of experts, to be compared; empty: none")
    option("--prompt", type=int, default=128, help="tokens of the prompt")
    option("--decode", type=int, default=64, help="tokens decoded after it")
    option("--repetitions", type=int, default=9, help="rounds in which every cell is measured once")
    option("--runtime", help="of the prediction, where this lrcsim has runtimes  [default: the ideal one]")
    option("--folder", type=Path, help="where to put the weights, 4.6 GB  [default: the system's for temporary files]")
    option("--json", type=Path)
    option("--markdown", type=Path)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the weights go
    try:
        main()
    except LrcsimError as error:
        sys.exit(f"error: {error}")
