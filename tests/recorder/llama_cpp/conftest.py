"""The library, for tests that need it; they are skipped where it is not installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest

from lrcsim.recorder.llama_cpp.declarations import VERSION
from lrcsim.recorder.llama_cpp.library import Library


@pytest.fixture(scope="session")
def library() -> Library:
    for package in ("cffi", "gguf", "xllamacpp"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install '.[llamacpp]')")
    if importlib.metadata.version("xllamacpp") != VERSION:
        pytest.skip(f"xllamacpp is not {VERSION}")
    return Library()
