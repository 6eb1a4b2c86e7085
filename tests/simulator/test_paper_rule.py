"""``access="paper"``: cases solved by hand, and equality with the reference code at every capacity.

The rule. A batch is one token. All its experts are looked up in what the previous token left; then they are inserted one
by one, each forced in, so that members of a token may put each other out. The first C distinct experts of a request are
free hits. Every request starts cold.

For the second part give the reference code, github.com/ljcleo/moe-lrc: LRCSIM_MOE_LRC=/path/to/moe-lrc/src (the folder
of 50_chr_calc.py and 41_sch_calc.py). Nothing of it is kept here: its functions calc_lru, calc_lfu, calc_beladi and
calc_fsf are taken out of those files and run on numpy arrays.

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

import ast
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.errors import ConfigError
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
    # Two slots. Request 0: 0 1 (free), 2 (miss); request 1 the same, from an empty cache: without the cold start 1 and 2
    # would be resident and 0, the third distinct expert, would miss.
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


# --- the reference code ----------------------------------------------------------------------------------------------


class Sequence(np.ndarray[Any, Any]):
    """As much of a tensor as the reference functions use."""

    def numel(self) -> int:
        return self.size


@pytest.fixture(scope="module")
def reference() -> dict[str, Callable[..., Any]]:
    folder = os.environ.get("LRCSIM_MOE_LRC")
    if not folder:
        pytest.skip("LRCSIM_MOE_LRC does not name the src folder of a clone of github.com/ljcleo/moe-lrc")
    sorted_set = pytest.importorskip("sortedcontainers", reason="sortedcontainers is not installed").SortedSet
    functions: dict[str, Callable[..., Any]] = {}
    for name, wanted in {"50_chr_calc.py": "calc_lru calc_lfu calc_beladi", "41_sch_calc.py": "calc_fsf"}.items():
        path = Path(folder) / name
        if not path.is_file():
            pytest.fail(f"LRCSIM_MOE_LRC: there is no {path}")
        module = ast.parse(path.read_text())
        module.body = [node for node in module.body if getattr(node, "name", None) in wanted.split()]
        torch = SimpleNamespace(tensor=np.array, Tensor=np.ndarray)
        scope: dict[str, Any] = {"torch": torch, "SortedSet": sorted_set, "bisect_left": bisect_left, "deque": deque}
        exec(compile(module, str(path), "exec"), scope)
        functions |= {function: scope[function] for function in wanted.split()}
    return functions


PAIRS = [
    ("lru", "calc_lru", ()),
    ("lfu", "calc_lfu", ()),
    ("belady", "calc_beladi", ()),
    *((f"sch-lookahead:{m}", "calc_fsf", (m,)) for m in (1, 2, 4, 16)),
]


def their_hits(function: Callable[..., Any], trace: RoutingTrace, scope: str, extra: tuple[int, ...]) -> IDS:
    """Return hits [capacities 1.., layers or 1], summed over requests."""
    experts = trace.experts.astype(np.int64)
    total_experts = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    total: Any = 0
    for begin, end in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
        request = experts[begin:end]
        if scope == "model":
            keys = request + trace.num_experts * np.arange(trace.num_layers)[:, None]
            parts = [keys.reshape(len(request), -1)]
        else:
            parts = [request[:, layer] for layer in range(trace.num_layers)]
        rates = [function(part.view(Sequence), total_experts, *extra) for part in parts]
        found = np.stack([np.asarray(rate) * part.size for rate, part in zip(rates, parts, strict=True)], axis=1)
        assert np.abs(found - found.round()).max() < 1e-6
        total = total + found.round().astype(np.int64)
    return np.asarray(total)


def check_all_capacities(
    trace: RoutingTrace, policy: str, function: Callable[..., Any], extra: tuple[int, ...], scope: str
) -> None:
    expected = their_hits(function, trace, scope, extra)
    for capacity, row in enumerate(expected.tolist(), start=1):
        found = hits(trace, policy, capacity, scope)
        assert (found.tolist() if scope == "layer" else [int(found.sum())]) == row, f"{policy} at {capacity}"


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    num_experts = draw(st.integers(1, 6))
    k, layers, tokens = draw(st.integers(1, min(3, num_experts))), draw(st.integers(1, 3)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.gumbel(size=(tokens, layers, num_experts)) - draw(st.floats(0, 2)) * np.log1p(np.arange(num_experts))
    experts = np.argsort(-scores, axis=2)[:, :, :k]
    cut = draw(st.integers(1, tokens))
    return RoutingTrace.from_arrays(
        experts, num_experts=num_experts, offsets=[0, tokens] if cut == tokens else [0, cut, tokens]
    )


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize(("policy", "name", "extra"), PAIRS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(trace=traces())
def test_equals_the_reference_on_drawn_traces(
    reference: dict[str, Callable[..., Any]],
    policy: str,
    name: str,
    extra: tuple[int, ...],
    scope: str,
    trace: RoutingTrace,
) -> None:
    check_all_capacities(trace, policy, reference[name], extra, scope)


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize(("policy", "name", "extra"), PAIRS)
def test_equals_the_reference_on_a_longer_trace(
    reference: dict[str, Callable[..., Any]], policy: str, name: str, extra: tuple[int, ...], scope: str
) -> None:
    rng = np.random.default_rng(11)
    taste = np.cumsum(rng.normal(size=(200, 2, 16)), axis=0) * 0.3
    experts = np.argsort(-(taste + rng.gumbel(size=taste.shape)), axis=2)[:, :, :4]
    trace = RoutingTrace.from_arrays(experts, num_experts=16, offsets=[0, 120, 200])
    check_all_capacities(trace, policy, reference[name], extra, scope)
