"""``access="paper"``: cases solved by hand; for equality with the reference code see tests/reference_moe_lrc.py.

The rule. A batch is one token. All its experts are looked up in what the previous token left; then they are inserted
one by one, each forced in, so that members of a token may put each other out. The first C distinct experts of a request
are free hits. Every request starts cold.

The case. One layer of four experts, top-2, six tokens in rank order:  0 1 | 2 1 | 1 3 | 2 0 | 2 3 | 3 0.  Two slots.
Left of the arrow what is looked up, right of it what is left behind.

lru (oldest first; 6 hits)
    0 1: both free, 2 hits             -> 0 1
    2 1: 2 is the third new: miss. 1 hit. 2 puts out 0; 1 is used            -> 2 1
    1 3: 1 hit, 3 miss. 3 puts out 2                                         -> 1 3
    2 0: miss, miss. 2 puts out 1, 0 puts out 3                              -> 2 0
    2 3: 2 hit, 3 miss. 3 puts out 0, used before 2                          -> 2 3
    3 0: 3 hit, 0 miss
lfu (fewest uses go, uses are kept for those outside, ties to the oldest use; 5 hits)
    0 1: 2 hits                                                              -> 0 (1 use), 1 (1)
    2 1: 2 miss, 1 hit. 2 puts out 0, as few uses as 1 but older; 1 has 2    -> 2 (1), 1 (2)
    1 3: 1 hit, 3 miss. 1 has 3 uses; 3 puts out 2                           -> 1 (3), 3 (1)
    2 0: miss, miss. 2, now 2 uses, puts out 3; 0, now 2, puts out 2         -> 1 (3), 0 (2)
    2 3: miss, miss. 2, now 3, puts out 0; 3, now 2, puts out 1: 3 uses like 2, but older -> 2 (3), 3 (2)
    3 0: 3 hit, 0 miss
belady (farthest next use goes, counted along 0 1 2 1 1 3 2 0 2 3 3 0, places 0 to 11; 8 hits)
    0 1: 2 hits                                                              -> 0 (next 7), 1 (3)
    2 1: 2 miss, 1 hit. 2 puts out 0                                         -> 2 (6), 1 (4)
    1 3: 1 hit, then never used; 3 miss, puts out 1                          -> 2 (6), 3 (9)
    2 0: 2 hit, 0 miss. 2 is used at 8, 3 at 9: 0 puts out 3                 -> 2 (8), 0 (11)
    2 3: 2 hit, then never used; 3 miss, puts out 2                          -> 3 (10), 0 (11)
    3 0: 2 hits
sch-lookahead:3 (fewest uses left in this token and the next two go, ties to the oldest use; 7 hits)
    0 1: 2 hits                                                              -> 0 1
    2 1: 2 miss, 1 hit. Left up to token 3: 0 once, 1 twice. 2 puts out 0    -> 2 1
    1 3: 1 hit, 3 miss. Up to token 4: 1 never again, 2 twice. 3 puts out 1  -> 2 3
    2 0: 2 hit, 0 miss. Up to token 5: 2 once more, 3 twice. 0 puts out 2    -> 3 0
    2 3: 2 miss, 3 hit. At the lookup of 2: 3 twice, 0 once. 2 puts out 0    -> 2 3
    3 0: 3 hit, 0 miss
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

IDS = npt.NDArray[np.int64]

HAND = np.array([[0, 1], [2, 1], [1, 3], [2, 0], [2, 3], [3, 0]])[:, None, :]


def hits(trace: RoutingTrace, policy: str, capacity: int, scope: str = "layer") -> IDS:
    """Return the hits of each layer."""
    counts = simulate(trace, policy, capacity, scope=scope, access="paper", bounds=False).counts  # type: ignore[arg-type]
    found: IDS = (counts.accesses - counts.misses).sum(axis=0)
    return found


@pytest.mark.parametrize(("policy", "expected"), [("lru", 6), ("lfu", 5), ("belady", 8), ("sch-lookahead:3", 7)])
def test_the_case_solved_by_hand(policy: str, expected: int) -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4)
    assert hits(trace, policy, 2).sum() == expected
    assert hits(trace, policy, 2, "model").sum() == expected  # one layer: the scopes are the same
    assert hits(trace, policy, 0).sum() == 0
    assert hits(trace, policy, 4).sum() == 12  # all experts fit: first uses are free, so everything hits


def test_every_hit_of_the_case_solved_by_hand() -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4)
    counts = simulate(trace, "lru", 2, access="paper", bounds=False, record=True).counts
    assert counts.hit is not None
    assert counts.hit.reshape(6, 2).astype(int).tolist() == [[1, 1], [0, 1], [1, 0], [0, 0], [1, 0], [1, 0]]


def test_a_token_is_looked_up_over_all_layers_before_any_insertion() -> None:
    # Two layers, top-1, the same experts a (layer 0) and b (layer 1) in three tokens. A pool of one slot.
    # Token 0: a is free, b the second new expert, a miss; a enters, b puts it out. Tokens 1 and 2: a misses, b hits; a
    # puts out b, b puts out a. One expert after another would never hit.
    trace = RoutingTrace.from_arrays(np.zeros((3, 2, 1), np.int64), num_experts=2)
    assert hits(trace, "lru", 1, "model").tolist() == [1, 2]
    assert hits(trace, "lru", 2, "model").tolist() == [3, 3]
    sequential = simulate(trace, "lru", 1, scope="model", access="sequential", bounds=False).counts
    assert int((sequential.accesses - sequential.misses).sum()) == 0


def test_every_request_starts_cold_and_has_its_free_experts() -> None:
    # Two slots. Request 0: 0 1 (free), 2 (miss); request 1 the same, from an empty cache. In one request 0 1 2 0 1 2
    # only the first two hit: 0 comes when 1 and 2 are resident, and so on.
    tokens = np.array([[0], [1], [2], [0], [1], [2]])[:, None, :]
    trace = RoutingTrace.from_arrays(tokens, num_experts=3, offsets=[0, 3, 6])
    assert hits(trace, "lru", 2).sum() == 4
    joined = RoutingTrace.from_arrays(tokens, num_experts=3)
    assert hits(joined, "lru", 2).sum() == 2


def test_prompt_tokens_are_batches_of_their_own() -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4, phase=[0, 0, 0, 0, 1, 1])
    assert hits(trace, "lru", 2).sum() == 6
    counts = simulate(trace, "lru", 2, access="paper", bounds=False).counts
    assert (counts.accesses - counts.misses).ravel().tolist() == [4, 2]
    with pytest.raises(ConfigError, match="one token"):
        simulate(trace, "lru", 2, access="paper", prefill="step")
    with pytest.raises(ConfigError, match="starts cold"):
        simulate(trace, "lru", 2, access="paper", warm=True)
