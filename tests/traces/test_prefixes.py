"""How much of a prompt repeats an earlier sequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.traces.importers import prefixes
from lrcsim.traces.importers.prefixes import Prefixes


def test_by_hand() -> None:
    seen = Prefixes()
    assert seen.shared([1, 2, 3]) == 0
    seen.add([1, 2, 3, 4, 5])
    assert seen.shared([1, 2, 3]) == 2  # the last token of a prompt always runs
    assert seen.shared([1, 2, 3, 9]) == 3
    assert seen.shared([1, 2, 3, 4, 5, 6, 7]) == 5
    assert seen.shared([2, 3]) == 0
    assert seen.shared([]) == 0


@given(st.lists(st.lists(st.integers(0, 1), max_size=40), max_size=6))
def test_against_every_earlier_sequence(sequences: list[list[int]]) -> None:
    seen, before = Prefixes(), list[list[int]]()
    for sequence in sequences:
        longest = 0
        for other in before:
            same = 0
            while same < min(len(sequence), len(other)) and sequence[same] == other[same]:
                same += 1
            longest = max(longest, same)
        assert seen.shared(sequence) == max(0, min(longest, len(sequence) - 1))
        seen.add(sequence)
        before.append(sequence)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MOST_BLOCKS", 3)
    seen = Prefixes()
    seen.add(list(range(100)))
    assert seen.shared(list(range(100))) == 48
    seen.add(list(range(1000, 1100)))
    assert seen.shared(list(range(1000, 1100))) == 0


def test_no_more_than_eight_continuations_are_kept() -> None:
    seen = Prefixes()
    for first in range(9):
        seen.add([first] * 20)
    assert [seen.shared([first] * 20) for first in range(9)] == [19] * 8 + [0]


def test_a_block_is_known_by_what_comes_before_it() -> None:
    # Blocks of 16 tokens: A B C and D B E. D B C has two blocks of the second; C followed B only after A.
    a, b, c, d, e = ([token] * 16 for token in range(5))
    seen = Prefixes()
    seen.add(a + b + c)
    seen.add(d + b + e)
    assert seen.shared(d + b + c) == 32
    assert seen.shared(a + b + c) == 47  # all but the last


def test_what_is_more_than_a_template() -> None:
    assert Prefixes.tells(16, 400)
    assert Prefixes.tells(3, 6)
    assert not Prefixes.tells(3, 60)
    assert not Prefixes.tells(0, 0)
