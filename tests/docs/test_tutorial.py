"""The commands of the tutorial and of docs/metrics.md print what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from shown import PAGES, with_outputs

COMMANDS = {"tutorial": 5, "metrics": 2, "misses": 4, "prediction": 1}
"""At least so many commands are shown."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n$ ") >= COMMANDS[page.stem]
    assert with_outputs(text, tmp_path) == text, "if the change is meant: python tests/docs/shown.py --write"


def test_the_server_s_routing_arrives_unchanged(tmp_path: Path) -> None:
    """The stand-in script and the importer, against the trace that the script took."""
    from lrcsim.traces import RoutingTrace

    text = PAGES[0].read_text(encoding="utf-8")
    until_import = text[: text.index("$ lrcsim trace check")] + "```"
    with_outputs(until_import, tmp_path)
    imported, taken = RoutingTrace.open(tmp_path / "mine.h5"), RoutingTrace.open()
    assert (imported.experts == taken.experts).all()
    assert (imported.phase == taken.phase).all()
    assert imported.offsets.tolist() == taken.offsets.tolist()
