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

from lrcsim.base.documents import parse_json, read_text
from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.base.files import write_text
from lrcsim.base.kinds import kind_of, named
from lrcsim.calibration.of_machine.machine import processor
from lrcsim.experiments.validation.llama_cpp.formats import measure_format
from lrcsim.experiments.validation.llama_cpp.measure import Work
from lrcsim.experiments.validation.llama_cpp.models import measure_models
from lrcsim.experiments.validation.llama_cpp.predictions import add_by_format, add_predictions
from lrcsim.experiments.validation.llama_cpp.tables import as_markdown
from lrcsim.experiments.validation.llama_cpp.weights import cached, narrow, olmoe, tiny, wide
from lrcsim.experiments.validation.offload.compare import busy
from lrcsim.models import Geometry
from lrcsim.recorder.llama_cpp.declarations import VERSION
from lrcsim.recorder.llama_cpp.library import Library

KIND = "llama-cpp-on-one-core"
MODELS: dict[str, Callable[[], Geometry]] = {"olmoe-1b-7b": olmoe, "narrow": narrow, "tiny": tiny}
CACHED_TOKENS = 4
"""Times as many decoded tokens where experts stay in the caches: each takes half a millisecond."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, or read what was measured; predict, and write the tables."""
    options = _options().parse_args(arguments)
    result = _measured(options) if options.again is None else _read(options.again)
    shape = tiny() if result["shape"] == "tiny" else wide()
    work = Work(**result["work"])
    add_predictions(result["measured"], MODELS, work, options.runtime)
    add_by_format(result["measured"], MODELS, result["formats"], shape, work)
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    if options.markdown:
        write_text(options.markdown, as_markdown(result))
    print(as_markdown(result))


def _read(path: Path) -> dict[str, Any]:
    """Return results that the command wrote.

    Raises:
        ConfigError: they are no such results.
    """
    result = parse_json(read_text(path, f"results {path}", ConfigError), f"results {path}", ConfigError)
    if kind_of(result) != KIND:
        raise ConfigError(f"results {path}: they are not of this command: give a file that its --json wrote")
    return dict(result)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.folder or Path(tempfile.gettempdir())
    work, before = Work(options.prompt, options.decode), busy()
    library = Library()
    models = [MODELS[name]() for name in options.models.split(",")]
    _say(f"{options.dtype}: {', '.join(model.name for model in models)} in {options.repetitions} rounds")
    measured = measure_models(library, models, options.dtype, folder, work, options.repetitions)
    shape = tiny() if options.models == "tiny" else wide()
    formats: list[dict[str, Any]] = []
    for name in filter(None, options.formats.split(",")):
        _say(f"{name}: experts of {shape.name}")
        formats += measure_format(library, shape, name, folder, work, options.repetitions)
        longer = replace(work, decode=CACHED_TOKENS * work.decode)
        in_cache = measure_format(library, cached(), name, folder, longer, options.repetitions)
        for row, other in zip(formats[-len(in_cache) :], in_cache, strict=True):
            row["cached_decode_bytes_per_s"] = other["decode_bytes_per_s"]
    found = {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "library": {"xllamacpp": VERSION, "instructions": library.instructions, "threads": 1},
        "processors_busy_with_others": float(np.divide(*(busy() - before))),
        "work": asdict(work),
        "rounds": options.repetitions,
        "measured": measured,
        "shape": shape.name,
        "formats": formats,
    }
    return named(KIND, found)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.ArgumentParser:
    about = "Run llama.cpp on one thread, and put its speed beside what lrcsim says of this machine."
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.validation.llama_cpp", description=about)
    option = parser.add_argument
    option(
        "--again",
        type=Path,
        metavar="FILE",
        help="predict anew what a file of --json holds; options of measuring play no part",
    )
    option("--models", default="olmoe-1b-7b,narrow", help=f"of {', '.join(MODELS)}, with commas between")
    option("--dtype", default="q4_0", help="of their weights")
    option("--formats", default="q4_0,q8_0,q4_k,q6_k,f16", help="of experts, to be compared; empty: none")
    option("--prompt", type=int, default=128, help="tokens of the prompt")
    option("--decode", type=int, default=64, help="tokens decoded after it")
    option("--repetitions", type=int, default=9, help="rounds in which every cell is measured once")
    option("--runtime", help="of all predictions  [default: llama.cpp; without repacking no_repack.toml here]")
    option("--folder", type=Path, help="where to put the weights, 4.8 GB  [default: the system's for temporary files]")
    option("--json", type=Path)
    option("--markdown", type=Path)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the weights go
    try:
        main()
    except LrcsimError as error:
        sys.exit(f"error: {error}")
