"""Settings for all tests."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from lrcsim.base import compiling
from lrcsim.cli.main import main

# The same examples in every run; LRCSIM_HYPOTHESIS=explore draws new ones, and more.
settings.register_profile("default", max_examples=60, derandomize=True, deadline=None)  # CI has 25 minutes for all
settings.register_profile("explore", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("LRCSIM_HYPOTHESIS", "default"))

# What a test finds on standard error does not depend on whether an earlier one has compiled the kernel, nor how fast:
# that compiling is told of is tested in processes of its own (tests/base/test_compiling.py).
compiling.AFTER = math.inf


CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Outcome(NamedTuple):
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str


Lrcsim = Callable[..., Outcome]


@pytest.fixture
def lrcsim(capsys: pytest.CaptureFixture[str]) -> Lrcsim:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Give a headless Chromium, for a module: while it is open no event loop can be run in this thread."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[test]')")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
