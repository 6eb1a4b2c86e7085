"""Two thousand spoilt files of every kind: each is read well or refused in one line (`just soak`: a hundred thousand)."""

from pathlib import Path

import pytest
from fuzz_driver import run
from fuzz_seeds import make_seeds

from lrcsim.traces.importers import FORMATS

CASES = 2_000


def test_every_format_is_spoilt(tmp_path: Path) -> None:
    """A new importer needs a good file here."""
    kinds = make_seeds(tmp_path)
    assert {kind.removeprefix("import ") for kind in kinds if kind.startswith("import ")} == set(FORMATS)


@pytest.mark.timeout(300)
def test_spoilt_files(tmp_path: Path) -> None:
    """No other exception, no crash, no hang, nothing imported that cannot be used, nothing wrong used without a word."""
    assert run(CASES, 0, tmp_path) == []
