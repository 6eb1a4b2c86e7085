"""What runs each variant, as lrcsim has it: the built-in llama.cpp, and without repacking a file beside this."""

from __future__ import annotations

from importlib import resources

from lrcsim.runtimes import RuntimeDocument, load_runtime

DEFAULT, NO_REPACK = "default", "no repack"
VARIANTS = {DEFAULT: True, NO_REPACK: False}
"""By name, whether llama.cpp may store weights another way in memory."""


def runtime_of(variant: str, given: str | None = None) -> RuntimeDocument:
    """Return the runtime that a variant is predicted with.

    Args:
        variant: a key of `VARIANTS`.
        given: a name or the path of a TOML file that stands for every variant.

    Raises:
        ConfigError: nothing of that name, or the file is wrong.
    """
    if given is not None:
        return load_runtime(given)
    if variant == DEFAULT:
        return load_runtime("llama.cpp")
    folder = resources.files("lrcsim.experiments.validation.llama_cpp")
    with resources.as_file(folder.joinpath("no_repack.toml")) as path:
        return load_runtime(path)
