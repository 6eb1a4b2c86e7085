"""Which of an answer's counts go with its rows, worked out by hand; an answer of P + G tokens has P + G - 1 rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.placing import Routed, Said
from lrcsim.traces.importers.wire import Wire


def placed(rows: int, own_start: int | None = None, **told: Any) -> Routed:
    """Place so many rows, by what an answer says; ids are given as how many there are."""
    said = dict.fromkeys(("prompt_ids", "made_ids", "prompt", "made", "start", "cached")) | {"aborted": False} | told
    for name in ("prompt_ids", "made_ids"):
        said[name] = None if said[name] is None else list(range(said[name]))
    return Said(Wire(np.zeros((rows, 1, 1), np.int32), own_start), **said).placed()


def test_where_the_array_says_that_it_starts_it_does() -> None:
    # 4 + 2 - 1 = 5 positions, of which the array has those from 2; the answer says 0.
    found = placed(3, own_start=2, start=0, prompt=4, made=2)
    assert (found.sent.start, found.disputed) == (2, False)
    assert placed(3, start=2, prompt=4, made=2).sent.start == 2


def test_counts_with_which_the_rows_are_complete_go_before_lists_of_ids() -> None:
    # 6 rows: 8 + 2 - 1 would leave out 3 of them, which may be; 5 + 2 - 1 leave out none.
    assert placed(6, prompt_ids=8, prompt=5, made=2).sent.prompt == 5
    # 4 rows for a prompt of 3: one generated token has a surplus row, two are complete.
    assert placed(4, prompt=3, made_ids=1, made=2).sent.made == 2


def test_lists_of_ids_go_before_counts_with_which_the_rows_are_as_complete() -> None:
    # 3 rows are complete with nothing generated, and with one token, which is never run.
    assert placed(3, prompt=3, made_ids=0, made=1).sent.made == 0
    # 6 rows leave out 3 of 8 + 2 - 1, and 1 of 6 + 2 - 1.
    assert placed(6, prompt_ids=8, prompt=6, made=2).sent.prompt == 8


def test_more_cached_tokens_than_the_longest_prompt_said_are_left_aside() -> None:
    full = placed(4, prompt_ids=3, prompt=4, made=1, cached=4)
    assert (full.sent.cached, full.overcounted) == (4, 0)
    more = placed(4, prompt_ids=3, prompt=4, made=1, cached=5)
    assert (more.sent.cached, more.overcounted) == (None, 5)


def test_an_array_that_says_its_start_goes_before_counts_that_contradict_it() -> None:
    # From 2 on 3 rows of a prompt of 4 make 5 positions; with 4 generated tokens there were 7.
    found = placed(3, own_start=2, prompt=4, made=4)
    assert (found.disputed, found.sent.made, found.sent.start) == (True, None, 2)
    with pytest.raises(TraceError, match="a complete answer has 7 rows"):
        placed(3, start=2, prompt=4, made=4)
