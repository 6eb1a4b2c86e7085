"""Results to report on, made once by the commands themselves, and a browser to look at the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_files import POLICIES, MakePage, Results, command, small_trace, unseen

from lrcsim.reports import make_page, read_inputs
from lrcsim.reports.blocks import Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    names = ("run", "timed", "curve", "srp", "sch")
    made = Results(folder, folder / "trace.h5", *(folder / f"{name}.json" for name in names))
    small_trace(made.trace)
    command("run", made.trace, "--policy", "lfu", "--json", made.run)
    machine = ("--hardware", "rtx-3090", "--engine", "events")
    command("run", made.trace, "--policy", "lfu", *machine, "--json", made.timed)
    command("curve", made.trace, "--policy", "lru,belady,fifo", "--json", made.curve)
    command("srp", made.trace, "-m", "4,16", "--json", made.srp)
    command("sch", made.trace, "-m", "4,16", "--json", made.sch)
    return made


@pytest.fixture
def page_of() -> MakePage:
    """Make a page of files, with few policies to compare with."""

    def make(*paths: Path, **options: Any) -> Page:
        return make_page(read_inputs(paths), unseen, **{"policies": POLICIES, **options})

    return make


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
