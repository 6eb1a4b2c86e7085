"""Two thousand spoilt files, each read well or refused in one line; `just soak` reads a hundred thousand."""

from pathlib import Path

from fuzz_driver import run
from fuzz_seeds import make_seeds

from lrcsim.traces.importers import FORMATS

CASES = 2_000


def test_every_format_is_spoilt(tmp_path: Path) -> None:
    """A new importer needs a good file here."""
    kinds = make_seeds(tmp_path)
    assert {kind.removeprefix("import ") for kind in kinds if kind.startswith("import ")} == set(FORMATS)


def test_spoilt_files(tmp_path: Path) -> None:
    """No other exception, crash or hang; nothing is imported that cannot be used, or used although it is wrong."""
    assert run(CASES, 0, tmp_path) == []
