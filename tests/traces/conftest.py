"""Fixtures of the trace tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_traces() -> Path:
    """Folder of recorded traces, from LRCSIM_SHARED or beside the checkout."""
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared")) / "traces"
    if not shared.is_dir():
        pytest.skip(f"the shared traces are not here ({shared})")
    return shared


@pytest.fixture
def reliability() -> Path:
    """Folder of files that once broke something, beside the checkout."""
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared")) / "field" / "reliability"
    if not shared.is_dir():
        pytest.skip(f"the shared files are not here ({shared})")
    return shared
