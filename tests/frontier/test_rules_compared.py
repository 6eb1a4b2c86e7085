"""The text of ``--rules``."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.frontier import parse_rules


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("prior:0.05,0.1;none", ["none", "prior:0.05", "prior:0.1"]),
        ("window:2,12", ["none", "window:2,12"]),
        ("window:2,12; window:2,12;", ["none", "window:2,12"]),
        ("skip:0.1", ["none", "skip:0.1"]),
        ("skip:0.1,0.2,keep=2", ["none", "skip:0.1,keep=2", "skip:0.2,keep=2"]),
        ("substitute:0.1,0.125", ["none", "substitute:0.1,1", "substitute:0.125,1"]),
        ("substitute:0.1,keep=2", ["none", "substitute:0.1,2"]),
        ("prior:0.10,0.1", ["none", "prior:0.1"]),
        ("prior", ["none", "prior:0.1"]),
        ("prior:boost=0.3", ["none", "prior:0.3"]),
        ("none", ["none"]),
    ],
)
def test_labels(text: str, labels: list[str]) -> None:
    assert [rule.label for rule in parse_rules(text)] == labels


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from lrcsim.policies import CompiledRule, Param\n"
        "class Mine(CompiledRule):\n"
        "    params = (Param('a', 1.0, 'first'), Param('b', 2.0, 'second'))\n"
        "    @staticmethod\n"
        "    def value(expert, a, b):\n"
        "        return a * expert.score + b * expert.resident\n"
    )
    none, mine = parse_rules(f"{tmp_path}/mine.py:Mine:3,4")
    assert none.route is None
    assert mine.route is not None
    assert mine.route.values() == (3.0, 4.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no rule"),
        (" ; ", "names no rule"),
        ("cpu", "changes no choice of the router"),
        ("low:0.1", "copies that the model does not have"),
        ("priors:0.1", "did you mean 'prior'"),
        ("skip:2", "skip:2"),
        ("prior:x", "boost"),
    ],
)
def test_what_is_no_rule(text: str, said: str) -> None:
    with pytest.raises(LrcsimError, match=said) as raised:
        parse_rules(text)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, ConfigError) or text == "prior:x"
