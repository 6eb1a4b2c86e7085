"""Results to report on, made once by the commands themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_files import POLICIES, MakePage, Results, command, small_trace, unseen

from lrcsim.reports import make_page, read_inputs
from lrcsim.reports.blocks import Page


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
