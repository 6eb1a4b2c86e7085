"""Routing rules as they are asked, arrays in and choice out, and as they are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.errors import ConfigError, PolicyError
from lrcsim.policies import RoutingRule, make_rule
from lrcsim.policies.routing import RULES, Prior, chosen_by

# Five experts by score 4 3 2 1 0, the last two resident; k = 3.
#
# prior:0.3        residents get 0.3 x 4 = 1.2: 4 3 2 2.2 1.2: 0 1 3
# prior:0.6        2.4: 4 3 2 3.4 2.4: 0 3 1
# prior:1          4: 4 3 2 5 4: 3, then 0 and 4 are equal, the lower first: 3 0 4
# prior:inf        residents, then by score: 3 4 0
# window:1,4       0 is sacred, 3 among the first four, then 1
# window:1,5       0, then both residents
# window:3,5       all sacred: nothing changes
# substitute:0.05  the weights of 0 1 2 among themselves are 0.665 0.245 0.090: all needed
# substitute:0.1   2 is light: 3 stands in
# substitute:0.3   1 and 2 are light: 3 and 4 stand in
# substitute:1     the first is kept all the same
# substitute:1,keep=0  two residents for three light ones: the heaviest stays, behind them
BY_HAND = {
    "prior:0": [0, 1, 2],
    "prior:0.3": [0, 1, 3],
    "prior:0.6": [0, 3, 1],
    "prior:1": [3, 0, 4],
    "prior:inf": [3, 4, 0],
    "window:1,4": [0, 3, 1],
    "window:1,5": [0, 3, 4],
    "window:3,5": [0, 1, 2],
    "substitute:0.05": [0, 1, 2],
    "substitute:0.1": [0, 1, 3],
    "substitute:0.3": [0, 3, 4],
    "substitute:1": [0, 3, 4],
    "substitute:1,keep=0": [3, 4, 0],
}


@pytest.mark.parametrize(("spec", "chosen"), BY_HAND.items())
def test_by_hand(spec: str, chosen: list[int]) -> None:
    scores = np.array([[4.0, 3, 2, 1, 0], [4.0, 3, 2, 1, 0]])
    resident = np.array([False, False, False, True, True])
    assert chosen_by(make_rule(spec), scores, resident, 3).tolist() == [chosen, chosen]


def test_a_sacred_expert_keeps_its_place_whether_it_is_resident_or_not() -> None:
    """Of 4 3 2 1 0 the experts 1 and 4 are resident: window:2,5 takes 0 and 1 in this order, then 4."""
    resident = np.array([False, True, False, False, True])
    assert chosen_by(make_rule("window:2,5"), np.array([[4.0, 3, 2, 1, 0]]), resident, 3).tolist() == [[0, 1, 4]]


@pytest.mark.parametrize("kind", RULES.built_in.values())
def test_no_resident_changes_nothing(kind: type[RoutingRule]) -> None:
    scores = np.random.default_rng(0).normal(size=(20, 9))
    best = np.argsort(-scores, axis=1)[:, :4]
    assert chosen_by(kind(), scores, np.zeros(9, bool), 4).tolist() == best.tolist()


def test_a_constant_of_a_token_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    scores, resident = rng.integers(0, 99, (20, 9)) / 8 + rng.permutation(9) / 128, rng.random(9) < 0.5
    for spec in BY_HAND:
        moved = chosen_by(make_rule(spec), scores - 64, resident, 4)
        assert moved.tolist() == chosen_by(make_rule(spec), scores, resident, 4).tolist()


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("prior", "prior:0.1"),
        ("prior:0.25", "prior:0.25"),
        ("Prior:boost=2", "prior:2"),
        ("prior:inf", "prior:inf"),
        ("window:1,9", "window:1,9"),
        ("window:window=9", "window:2,9"),
        ("substitute:0.2,keep=3", "substitute:0.2,3"),
    ],
)
def test_names(spec: str, label: str) -> None:
    made = make_rule(spec)
    assert made.label() == label
    assert make_rule(label).label() == label


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("prior:0.1,0.2", "prior is given more parameters than there are, '0.1,0.2': it has boost"),
        ("window:-1,4", "window: sacred must be at least 0"),
        ("prior:x", "prior: boost must be a number, given 'x'"),
        ("prior:nan", "prior: boost must be at least 0"),
        ("window:2.5,4", "window: sacred must be a whole number"),
        ("window:2,0", "window: window must be at least 1"),
        ("window:2,sacred=3", "sacred is given twice"),
        ("substitute:2", "threshold must be 0 to 1"),
        ("prior:share=1", "prior has no parameter 'share', it has boost"),
        (
            "windows:1,2",
            "there is no routing rule 'windows', there are prior, window, substitute.*did you mean 'window'",
        ),
    ],
)
def test_wrong_names(spec: str, told: str) -> None:
    with pytest.raises((ConfigError, PolicyError), match=told):
        make_rule(spec)


TEN_LINES = """
import numpy as np
from lrcsim.policies import CompiledRule, Param, RoutingRule


class Top(CompiledRule):
    params = (Param("more", 1.0, "added to residents among the first", 0), Param("first", 6, "ranks", 1))

    @staticmethod
    def value(expert, more, first):
        return expert.score + more * (expert.resident & (expert.rank < first))


class Whole(RoutingRule):
    def choose(self, scores, resident, k):
        together = scores.sum(axis=0) + 1000 * resident
        return np.tile(np.argsort(-together)[:k], (len(scores), 1))


class Stub(RoutingRule):
    pass


class Method(CompiledRule):
    def value(self, expert):
        return expert.score


class Few(CompiledRule):
    params = (Param("more", 1.0, "added"),)

    @staticmethod
    def value(expert):
        return expert.score
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(TEN_LINES)
    return str(tmp_path / "mine.py")


def test_ones_own(mine: str) -> None:
    scores, resident = np.array([[4.0, 3, 2, 1, 0]]), np.array([False, False, False, True, True])
    assert chosen_by(make_rule(f"{mine}:Top:1.5,4"), scores, resident, 3).tolist() == [[0, 1, 3]]
    assert chosen_by(make_rule(f"{mine}:Top:more=9"), scores, resident, 3).tolist() == [[3, 4, 0]]
    assert chosen_by(make_rule(f"{mine}:Whole"), scores, resident, 3).tolist() == [[3, 4, 0]]
    assert make_rule(f"{mine}:Top:1.5,4").label() == "Top:1.5,4"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Stub", "class Stub has no method choose; a RoutingRule needs choose"),
        ("Method", r"Method.value must be a plain static method: write @staticmethod and def value\(candidate\)"),
        ("Few", r"Few.value\(expert\) cannot be called: write @staticmethod and def value\(candidate, more\)"),
        ("Other", "there is no class 'Other' there"),
    ],
)
def test_ones_own_that_cannot_be_used(mine: str, name: str, told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        make_rule(f"{mine}:{name}")


def test_a_class_and_an_object() -> None:
    assert make_rule(Prior).label() == "prior:0.1"
    assert make_rule(Prior(boost=0.5)).label() == "prior:0.5"
