"""Lists in one text: taken apart by hand, and written so that they come apart again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.base.lists import Grammar, join_values, split_values

GRAMMARS = st.builds(
    Grammar, st.booleans(), st.sampled_from([{}, {"cpu": ("admit", "payback")}]), st.booleans(), st.booleans()
)
VALUES = st.text(st.sampled_from("ab1.=:, cpu"), min_size=1, max_size=9).filter(lambda text: text == text.strip())


@pytest.mark.parametrize(
    ("text", "grammar", "values"),
    [
        ("8, 16,,8", Grammar(), ["8", "16", "8"]),
        ("8,8,16;2x;", Grammar(), ["8,8,16", "2x"]),
        ("a:1,2,3", Grammar(), ["a:1", "2", "3"]),
        ("a:1,-2.5e3,x=1,b", Grammar(parameters=True), ["a:1,-2.5e3,x=1", "b"]),
        ("a,2,x=1,b:c=1", Grammar(parameters=True), ["a", "2", "x=1", "b:c=1"]),
        ("cpu,on:2,off,up,off", Grammar(words={"cpu": ("on", "off")}), ["cpu,on:2,off", "up", "off"]),
        ("q4,0-3=q8,down=q6,bf16", Grammar(exceptions=True), ["q4,0-3=q8,down=q6", "bf16"]),
        ("2,0,3,0.5,0.6,1,2", Grammar(counts=True), ["2,0,3", "0.5", "0.6", "1,2"]),
        (" , ", Grammar(), []),
    ],
)
def test_by_hand(text: str, grammar: Grammar, values: list[str]) -> None:
    assert split_values(text, grammar) == values


@given(st.lists(VALUES, min_size=1, max_size=4), GRAMMARS)
def test_what_is_joined_comes_apart_again(values: list[str], grammar: Grammar) -> None:
    assert split_values(join_values(values, grammar), grammar) == values


@given(st.text(st.sampled_from("ab1.=:,; cpu"), max_size=20), GRAMMARS)
def test_nothing_is_lost_but_blanks_and_what_is_empty(text: str, grammar: Grammar) -> None:
    left = [part.strip() for value in split_values(text, grammar) for part in value.split(",")]
    assert [part for part in left if part] == [part.strip() for part in re.split("[,;]", text) if part.strip()]


@pytest.mark.parametrize("value", ["", " a", "a;b"])
def test_what_no_list_can_hold_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="cannot be one list"):
        join_values([value, "c"], Grammar())
