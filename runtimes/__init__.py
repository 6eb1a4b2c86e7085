"""Inference runtimes: what the software of an engine makes of a machine."""

from lrcsim.runtimes.document import RuntimeDocument
from lrcsim.runtimes.load import load_runtime, read_toml, runtime_names, runtimes, to_toml
from lrcsim.runtimes.runtime import IDEAL, Runtime

__all__ = ["IDEAL", "Runtime", "RuntimeDocument", "load_runtime", "read_toml", "runtime_names", "runtimes", "to_toml"]
