"""What tests of reports share: results made by the commands themselves, pages of them, what is in a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lrcsim.base.progress import Progress
from lrcsim.cli.main import main
from lrcsim.reports import page_html
from lrcsim.reports.blocks import Page
from lrcsim.traces import RoutingTrace

POLICIES = ("lru", "fifo", "belady")
"""To compare with in tests: compiled ahead, or soon."""


class Results(NamedTuple):
    """Files that the commands wrote.

    Attributes:
        folder: where they lie.
        trace: the trace they are of, two requests of the bundled one.
        run: of ``lrcsim run``.
        timed: of ``lrcsim run --hardware``.
        curve: of ``lrcsim curve``.
        srp: of ``lrcsim srp``.
        sch: of ``lrcsim sch``.
    """

    folder: Path
    trace: Path
    run: Path
    timed: Path
    curve: Path
    srp: Path
    sch: Path


def command(*arguments: object) -> None:
    """Run lrcsim in this process; it must succeed."""
    main([str(argument) for argument in arguments])


def load(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def small_trace(path: Path) -> None:
    """Write the first two requests of the bundled trace."""
    with RoutingTrace.open() as whole:
        end = int(whole.offsets[2])
        RoutingTrace.from_arrays(
            whole.read("experts", 0, end),
            num_experts=whole.num_experts,
            offsets=whole.offsets[:3],
            phase=whole.read("phase", 0, end),
            expert_bytes=whole.expert_bytes,
            model=whole.model,
        ).save(path)


@contextmanager
def unseen(_: str) -> Iterator[Progress]:
    """Show no progress."""
    yield lambda done, total: None


MakePage = Callable[..., Page]


def embedded(html: str) -> Mapping[str, Any]:
    """Return the figures in a page: lists of views by name, in which lines have their points."""
    _, _, rest = html.partition('<script type="application/json" id="figures">')
    found = json.loads(rest.partition("</script>")[0])
    for figure in found.values():
        columns = (figure["columns"] or {"values": {}})["values"]
        for name, column in columns.items():
            if isinstance(column, dict):
                columns[name] = [column["words"][word] for word in column["at"]]
        lines = [mark for view in figure["views"] for mark in view["marks"] if mark["kind"] == "line"]
        for line in lines:
            for side in ("x", "y"):
                if isinstance(line[side], str):
                    rows = range(len(columns[line[side]])) if line["rows"] is None else line["rows"]
                    line[side] = [columns[line[side]][row] for row in rows]
    return {name: figure["views"] for name, figure in found.items()}


def toy(path: Path, *, model: str = "toy", tokens: int = 40, seed: int = 0) -> Path:
    """Write a small random trace without phases."""
    ids = np.random.default_rng(seed).random((tokens, 3, 8)).argsort(axis=2)[:, :, :2]
    RoutingTrace.from_arrays(ids, num_experts=8, offsets=[0, tokens // 2, tokens], model=model).save(path)
    return path


def html_of(page: Page) -> str:
    """Return a page's HTML, or skip where jinja2 is not installed."""
    pytest.importorskip("jinja2")
    return page_html(page)
