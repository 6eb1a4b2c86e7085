"""How a command refuses: the same for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., None]


@pytest.fixture
def refused(lrcsim: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command, in the test's own folder, that is to end with 1, say this in one line and write nothing."""

    def run(message: str, *arguments: object) -> None:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        done = lrcsim(*arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("Error: ")
        assert message in done.err
        assert done.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before

    return run
