"""Requests that repeat one another: a case solved by hand, and a definition-level twin on random traces.

The case. Prompts (token ids), then generated tokens: 1 2 3 4 | 9;  1 2 3 4 | 8;  1 2 5 | ;  6 | 7;  1 2 | 3;  none | 1.
The second is the first. Of the third's 3 tokens 2 came before (near: 2 * 2 >= 3). Nothing of the fourth. All of the
fifth did, but no earlier prompt is just 1 2: near. The last has no prompt: left out. Tokens 4 + 4 + 3 + 1 + 2 = 14,
repeated 0 + 4 + 2 + 0 + 2 = 8.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trace_files import make_trace

from lrcsim.traces import RoutingTrace
from lrcsim.traces.duplicates import TURN, groups, in_common, repeats

PROMPTS = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 5], [6], [1, 2], []]
AFTER = [[9], [8], [], [7], [3], [1]]


def trace_of(prompts: list[list[int]], after: list[list[int]], *, ids: bool = True) -> RoutingTrace:
    """A trace in which a token's routing is its id in base 4, a digit a layer (so that equal routing is equal ids)."""
    tokens = [token for pair in zip(prompts, after, strict=True) for part in pair for token in part]
    phase = [at for pair in zip(prompts, after, strict=True) for at, part in enumerate(pair) for _ in part]
    experts = np.array([[token // 4 % 4, token % 4] for token in tokens], int).reshape(-1, 2, 1)
    return RoutingTrace.from_arrays(
        experts,
        num_experts=4,
        offsets=np.cumsum([0, *(len(one) + len(two) for one, two in zip(prompts, after, strict=True))]),
        phase=np.array(phase, np.uint8),
        token_ids=tokens if ids else None,
    )


def test_the_case_solved_by_hand() -> None:
    for ids, by in ((True, "token ids"), (False, "routing")):
        trace = trace_of(PROMPTS, AFTER, ids=ids)
        found = repeats(trace)
        assert (found.compared, found.by, found.requests, found.left_out) == ("prompts", by, 5, 1)
        assert (found.duplicates, found.near, found.tokens, found.repeated) == (1, 2, 14, 8)
        assert found.to_dict()["repeated_share"] == 8 / 14
        assert groups(trace).tolist() == [0, 0, 1, 2, 3, 4]


def test_the_turns_of_a_chat_belong_together() -> None:
    """By hand: 1 asks, 2 goes on with its prompt and answer, 3 with its prompt alone; 0 and 4 only begin alike."""
    system, ask = [1] * (TURN - 1), [2]
    prompts = [[*system, 3], [*system, *ask], [*system, *ask, 7, 8], [*system, *ask, 9], [*system], [*system, *ask, 7]]
    trace = trace_of(prompts, [[7]] * 6)
    assert groups(trace).tolist() == [0, 1, 1, 1, 2, 1]
    backwards = trace_of(prompts[::-1], [[7]] * 6)
    assert groups(backwards).tolist() == [0, 1, 0, 0, 0, 2]
    assert groups(trace_of([prompt[1:] for prompt in prompts], [[7]] * 6)).tolist() == [0, 1, 2, 3, 4, 2]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=TURN + 4), min_size=1, max_size=8))
def test_groups_against_the_definition(ends: list[list[int]]) -> None:
    """Of each prompt the shortest one, long enough, that it begins with."""
    prompts = [[1] * (TURN - 2) + end for end in ends]
    roots = [
        min((other for other in prompts if len(other) >= TURN and one[: len(other)] == other), default=one, key=len)
        for one in prompts
    ]
    assert groups(trace_of(prompts, [[3]] * len(prompts))).tolist() == [
        list(dict.fromkeys(map(tuple, roots))).index(tuple(root)) for root in roots
    ]


def test_without_prompts_whole_requests_are_compared() -> None:
    plain = trace_of([[]] * 3, [[1, 2], [1, 2], [1, 3]])  # all decode
    assert (repeats(plain).compared, repeats(plain).duplicates, repeats(plain).repeated) == ("requests", 1, 3)
    no_phase = RoutingTrace.from_arrays(plain.experts, num_experts=4, offsets=plain.offsets)
    assert (repeats(no_phase).compared, repeats(no_phase).duplicates, repeats(no_phase).by) == (
        "requests",
        1,
        "routing",
    )


def test_a_later_prompt_of_a_chat_is_not_the_prompt() -> None:
    experts = np.zeros((4, 1, 1), int)
    trace = RoutingTrace.from_arrays(experts, num_experts=2, phase=[0, 1, 0, 0], token_ids=[5, 6, 7, 8])
    assert repeats(trace).tokens == 1


def test_unknown_tokens_are_not_compared() -> None:
    experts = np.array([0, 1, -1, 1, 0, 1]).reshape(-1, 1, 1)
    trace = RoutingTrace.from_arrays(experts, num_experts=2, offsets=[0, 2, 4, 6])
    found = repeats(trace)
    assert (found.requests, found.left_out, found.duplicates) == (2, 1, 1)
    assert groups(trace).tolist() == [0, 1, 0]
    ids = RoutingTrace.from_arrays(experts, num_experts=2, offsets=[0, 2, 4, 6], token_ids=[3, 4, 3, 4, -1, 4])
    assert (repeats(ids).by, repeats(ids).left_out, repeats(ids).duplicates) == ("token ids", 1, 1)
    unknown = RoutingTrace.from_arrays(experts, num_experts=2, offsets=[0, 2, 4, 6], token_ids=[-1] * 6)
    assert repeats(unknown).by == "routing"


TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=6)


@given(TEXTS)
def test_against_the_definition(prompts: list[list[int]]) -> None:
    """Of each prompt the longest beginning of any earlier one."""
    found = repeats(trace_of(prompts, [[15]] * len(prompts)))
    kept = [prompt for prompt in prompts if prompt]
    if not kept:  # nothing is prefill: whole requests
        assert found.compared == "requests"
        return
    shared = [
        max((next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
             for other in kept[:at]), default=0)
        for at, one in enumerate(kept)
    ]  # fmt: skip
    same = [one in kept[:at] for at, one in enumerate(kept)]
    assert found.repeated == sum(shared)
    assert found.duplicates == sum(same)
    near = (not again and 2 * s >= len(one) for again, s, one in zip(same, shared, kept, strict=True))
    assert found.near == sum(near)
    assert (found.requests, found.left_out) == (len(kept), len(prompts) - len(kept))


@given(TEXTS, TEXTS)
def test_requests_in_common(one: list[list[int]], other: list[list[int]]) -> None:
    if not any(one) or not any(other):
        return  # no trace is empty
    trace, more = trace_of([[]] * len(one), one, ids=False), trace_of([[]] * len(other), other, ids=False)
    same = [tokens for tokens in one if tokens and tokens in other]
    assert in_common(trace, more) == (len(same), sum(map(len, same)))


def test_requests_in_common_with_itself_and_with_another_model() -> None:
    trace = make_trace(1, tokens=20, requests=4)
    assert in_common(trace, trace) == (4, 20)
    assert in_common(trace, make_trace(1, tokens=20, requests=4)) == (4, 20)
    assert in_common(trace, make_trace(2, tokens=20, requests=4)) == (0, 0)
    assert in_common(trace, make_trace(1, tokens=20, layers=2)) == (0, 0)
    nothing = RoutingTrace.from_arrays(np.full((3, 1, 1), -1), num_experts=2, offsets=[0, 3, 3])
    assert in_common(nothing, nothing) == (0, 0)
    assert in_common(nothing, RoutingTrace.from_arrays(np.full((3, 1, 1), -1), num_experts=2)) == (0, 0)
