"""Second-touch admission before other policies: names, what it refuses, prefetches, a changing pool, users' classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import PolicyError
from lrcsim.policies import BUILT_IN, ScorePolicy, View, make_policy
from lrcsim.policies.admission import Admit2
from lrcsim.policies.registry import POLICIES, split_admission
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

TRACE = RoutingTrace.from_arrays(np.random.default_rng(1).random((60, 2, 9)).argsort(axis=2)[:, :, :3], num_experts=9)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("admit2", "admit2:window=0+lru"),
        ("admit2:8", "admit2:window=8+lru"),
        ("admit2+lru", "admit2:window=0+lru"),
        (" Admit2 : window=8 + S3FIFO:share=0.2,threshold=1", "admit2:window=8+s3-fifo:share=0.2,threshold=1"),
        ("admit2:8+lrfu:1e-3", "admit2:window=8+lrfu:lambda=0.001"),
    ],
)
def test_names(spec: str, label: str) -> None:
    assert make_policy(spec).label() == label
    assert make_policy(label).label() == label


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("admit2+lrru", "there is no policy 'lrru'; did you mean 'lru'"),
        ("admit2+lru:3", "lru has no parameters"),
        ("admit2+", r"names no policy behind the admission: write admit2\+lru"),
        ("admit2:wndow=3+lru", "admit2 has no parameter 'wndow'.*did you mean 'window'"),
        ("admit2:-1+lru", "admit2: window must be at least 0, given -1"),
        ("admit2+belady", r"admit2\+belady: belady knows what comes .* take belady-bypass"),
        ("admit2+sch-lookahead:4", "sch-lookahead knows what comes"),
        ("admit2+static", "static fills the cache itself: leave out admit2"),
        ("admit2+pinned-lru:0.2", "pinned-lru fills the cache itself"),
        ("admit2+admit2+lru", r"admit2\+lru admits on the second touch already"),
        ("admit2+nowhere.py:Mine", "nowhere.py does not exist"),
        ("admt2+lru", "did you mean 'admit2'"),
    ],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        make_policy(spec)


def test_the_paper_rule_inserts_every_expert() -> None:
    with pytest.raises(PolicyError, match=r"admit2\+lru lets misses bypass the cache"):
        simulate(TRACE, "admit2+lru", 3, access="paper")


def test_router_weights_are_needed_where_the_policy_behind_needs_them() -> None:
    with pytest.raises(PolicyError, match=r"admit2\+mrs needs router weights"):
        simulate(TRACE, "admit2+mrs", 3)


def test_what_is_built_in() -> None:
    """A result's policy that is one of lrcsim's own is run again; what names a file is not."""
    assert POLICIES.is_built_in("admit2:4+slru:share=0.5")
    assert not POLICIES.is_built_in("admit2+mine.py:Mine")
    assert not POLICIES.is_built_in("admit2+lrru")
    assert split_admission("my.toml+pcie3-x8") == ("", "my.toml+pcie3-x8")


def test_where_all_experts_fit_it_is_the_policy_behind() -> None:
    for name in ("lru", "arc", "w-tinylfu"):
        same = [simulate(TRACE, policy, 9, bounds=False).hit_rate for policy in (name, f"admit2:1+{name}")]
        assert same[0] == same[1]


def test_to_json_and_back() -> None:
    spec = "admit2:8+s3-fifo:share=0.2,threshold=1"
    result = simulate(TRACE, spec, 4, bounds=False)
    written = json.loads(json.dumps(Run.of(TRACE, policy=spec, cache=4).to_dict()))
    again = replay(Run.from_dict(written, TRACE))
    assert result.config["policy"] == "admit2:window=8+s3-fifo:share=0.2,threshold=1"
    assert again.misses.tolist() == result.counts.misses.tolist()
    of_object = Run.of(TRACE, policy=make_policy(spec), cache=4, scope="model").to_dict()
    assert make_policy(of_object["options"]["policy"]).label() == result.config["policy"]


def test_in_one_curve_with_others() -> None:
    from lrcsim.simulator.setup.option_lists import split_list

    text = "lru,admit2:8+s3-fifo:share=0.2,threshold=1,admit2+lfu"
    assert split_list("policy", text) == ["lru", "admit2:8+s3-fifo:share=0.2,threshold=1", "admit2+lfu"]
    assert hit_rate_curve(TRACE, "admit2:8+lfu", capacities=[4]).hit_rate[0] == pytest.approx(
        simulate(TRACE, "admit2:8+lfu", 4, bounds=False).hit_rate, abs=1e-15
    )


def pool_of(policy: str, slots: int) -> Pool:
    size = PoolSize((0,), slots)
    return Pool(size, make_policy(policy), View(slots, 9, (0,), 1, 1))


def test_what_is_brought_ahead_is_admitted() -> None:
    # a and b fill the pool. c, never used, would pass by; brought ahead it stays, and evicts a, the least recent. Then
    # c hits, and d, never used, passes by.
    pool = pool_of("admit2+lru", 2)
    for key in (0, 1):
        assert pool.coresident([key]) == [key]
    assert pool.prefetch(2, {1})
    assert (pool.resident, pool.evictions, pool.bypassed) == ({1, 2}, 1, 0)
    assert pool.coresident([2]) == []
    assert pool.coresident([3]) == [3]
    assert (pool.resident, pool.evictions, pool.bypassed) == ({1, 2}, 1, 1)


def test_a_pool_that_shrinks_and_grows() -> None:
    # a b c d, then 2 slots: a and b go, and may return, since they were used. With 3 slots a returns into the free one,
    # as does e, used the first time, once there are 4.
    pool = pool_of("admit2+lru", 4)
    pool.coresident([0, 1, 2, 3])
    pool.resize(2)
    assert pool.resident == {2, 3}
    pool.resize(3)
    assert pool.coresident([0]) == [0]
    pool.resize(4)
    assert pool.coresident([4]) == [4]
    assert (pool.resident, pool.evictions, pool.bypassed) == ({0, 2, 3, 4}, 2, 0)


def test_one_that_is_admitted_goes_before_one_that_is_not() -> None:
    # 2 slots, then 3: of a batch d c, c was used before (it passed by) and takes the free slot, so that d passes by.
    pool = pool_of("admit2+lru", 2)
    for key in (0, 1, 2):
        pool.coresident([key])
    pool.resize(3)
    assert pool.coresident([3, 2]) == [3, 2]
    assert (pool.resident, pool.evictions, pool.bypassed) == ({0, 1, 2}, 0, 2)


def test_a_pool_that_shrinks_protects_nobody() -> None:
    pool = pool_of("admit2+mru", 4)
    for key in range(4):
        pool.coresident([key])
    pool.resize(2)
    assert pool.resident == {0, 1}  # as without admission: the last used go first


def test_an_admitted_batch_that_exceeds_the_pool() -> None:
    # c, d and e were used before, so that all are admitted: a and b go, then the least recent of the batch, c.
    pool = pool_of("admit2+lru", 2)
    for key in range(5):
        pool.coresident([key])
    assert pool.coresident([2, 3, 4]) == [2, 3, 4]
    assert (pool.resident, pool.evictions, pool.bypassed) == ({3, 4}, 2, 4)


def test_a_batch_that_exceeds_the_pool() -> None:
    # 2 slots hold a and b. Of a batch c d e only d was used (with f, which passed by): it evicts a. The others pass by.
    pool = pool_of("admit2+lru", 2)
    for batch in ([0], [1], [3], [5]):
        pool.coresident(batch)
    assert pool.coresident([2, 3, 4]) == [2, 3, 4]
    assert (pool.resident, pool.evictions, pool.bypassed) == ({1, 3}, 1, 4)


MINE = """
from lrcsim.policies import ScorePolicy

class Mine(ScorePolicy):
    "Evict the smallest key; see only what was asked for."
    def score(self, key):
        return key

class Nosy(Mine):
    def access(self, batch, missed):
        self.view.weights[0]
"""


def test_before_a_users_policy(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    # a and b fill the pool, c passes by, then evicts the smallest key.
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 2, 2, 1, 0)], num_experts=3)
    found = replay(Run.of(trace, policy=f"admit2+{file}:Mine", cache=2), record=True)
    assert found.hit is not None
    assert found.hit.tolist() == [False, False, False, False, True, False]
    with pytest.raises(PolicyError, match=r"view\.weights is empty, it is filled in only for who asks"):
        simulate(trace, f"admit2+{file}:Nosy", 2)


def test_weights_of_the_admitted_reach_the_policy_behind() -> None:
    seen: list[tuple[list[int], list[float], list[float]]] = []

    class Watching(ScorePolicy):
        needs = frozenset({"weights"})

        def access(self, batch, missed):  # type: ignore[no-untyped-def]
            seen.append((list(batch), list(self.view.weights), list(self.view.layer_weights)))
            super().access(batch, missed)

        def score(self, key: int) -> float:
            return key

    # 2 slots: 0 and 1; then 2 passes by beside 1, and the policy sees 1 alone, and the weights of the layer-step.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 1]]], num_experts=3, weights=[[[0.75, 0.25]], [[0.5, 0.125]]])
    replay(Run.of(trace, policy=Admit2(Watching()), cache=2, scope="model"))
    assert seen == [([0, 1], [0.75, 0.25], []), ([1], [0.125], [0.5, 0.125])]


def test_all_other_policies_can_stand_behind() -> None:
    refused = {name for name, one in BUILT_IN.items() if one.refills or "future" in one.needs}
    assert refused == {"static", "pinned-lru", "belady", "belady-bypass", "sch-lookahead", "sch-static", "repin"}
    for name in BUILT_IN.keys() - refused - {"admit2"}:
        assert make_policy(f"admit2+{name}").label().startswith(f"admit2:window=0+{name}")
