"""What a stopped run leaves, and what the next one takes over."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.frontier.unfinished import Unfinished

ASKED = {"model": "m", "options": {"cache": "2x"}, "limit": 3}


def test_rows_are_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    first = Unfinished(out, ASKED)
    assert first.rows == {}
    first.add({"rule": "none", "loss": 4.0})
    first.add({"rule": "prior:0.1", "loss": 4.5})
    assert [path.name for path in tmp_path.iterdir()] == [".o.csv.rules.jsonl"]
    again = Unfinished(out, ASKED)
    assert again.rows == {"none": {"rule": "none", "loss": 4.0}, "prior:0.1": {"rule": "prior:0.1", "loss": 4.5}}
    again.discard()
    assert not list(tmp_path.iterdir())


def test_half_a_line_is_not(tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    Unfinished(out, ASKED).add({"rule": "none", "loss": 4.0})
    path = tmp_path / ".o.csv.rules.jsonl"
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"rule": "prior:0.1", "lo')
    again = Unfinished(out, ASKED)
    assert list(again.rows) == ["none"]
    assert path.read_bytes() == whole  # so that the next line begins at a line's begin


def test_of_other_options(tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    Unfinished(out, ASKED).add({"rule": "none", "loss": 4.0})
    with pytest.raises(ConfigError, match=r"unfinished run with other limit, options is there; .*--restart"):
        Unfinished(out, ASKED | {"limit": 4, "options": {}})
    assert Unfinished(out, ASKED).rows  # refused, not dropped
    assert Unfinished(out, ASKED | {"limit": 4}, restart=True).rows == {}


def test_nothing_to_write(tmp_path: Path) -> None:
    nothing = Unfinished(None, ASKED)
    nothing.add({"rule": "none"})
    nothing.discard()
    with pytest.raises(TraceError, match="cannot be written"):
        Unfinished(tmp_path / "absent" / "o.csv", ASKED)
