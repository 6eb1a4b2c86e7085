"""Traces before and after, and over a training: which are meant, what differs, how much of the routing stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.paper.compared import Kept, Value, by_domain, differences, less, routing_kept, values_of
from lrcsim.experiments.paper.inputs import Input, asked_for, in_order, opened, trained
from lrcsim.experiments.paper.intervals import difference
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions, measure
from lrcsim.traces import RoutingTrace

QUICK = PaperOptions(draws=30, segments=(4, 16), hardware=None)


def source(trace: RoutingTrace, label: str = "x") -> Input:
    return Input(label, label, "generated" if trace.phase is not None else "teacher-forced", trace, None)


def trace_of(ids: list[list[list[int]]], **given: object) -> RoutingTrace:
    return RoutingTrace.from_arrays(ids, num_experts=8, **given)  # type: ignore[arg-type]


# --- which traces -----------------------------------------------------------------------------------------------------


def test_what_is_asked_for(tmp_path: Path) -> None:
    for name in ("base", "post", "at10", "at30"):
        (tmp_path / f"{name}.h5").touch()
    base, post, at10, at30 = (str(tmp_path / f"{name}.h5") for name in ("base", "post", "at10", "at30"))
    asked = asked_for([base, f"b={post}"], [[base, "b"], ["base:b"], [post, f"c={post}"]], [[at30, at10, "base"]])
    assert asked.pairs == [("base", "b"), ("base", "b"), ("post", "c")]
    assert asked.series == [["at30", "at10", "base"]]
    assert asked.specs == [base, f"b={post}", post, f"c={post}", at30, at10]
    assert asked.apart == {"at30", "at10"}  # only the series has them
    alone = asked_for([], [], [[at10, at30]])
    assert (alone.specs, alone.apart) == ([at10, at30], frozenset())  # else nothing would be left for other sections
    assert asked_for([], [], []).specs == []  # the traces that come with lrcsim
    whole = asked_for([str(tmp_path)], [["base", "post"]], [[str(tmp_path)]])
    assert whole.specs == [at10, at30, base, post]
    assert (whole.pairs, whole.series) == ([("base", "post")], [["at10", "at30", "base", "post"]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no traces \(\*\.h5\)"):
        asked_for([str(tmp_path / "empty")], [], [])


@pytest.mark.parametrize(
    ("pairs", "series", "said"),
    [
        ([["base"]], [], r"--pair base: name two traces, as --pair base\.h5 post\.h5"),
        ([["base", "base", "base"]], [], "--pair base base base: name two traces"),
        ([["base", "bas"]], [], r"no trace is called 'bas', and there is no such file.*did you mean 'base'"),
        ([["base:nothing.h5"]], [], r"--pair: no trace is called 'nothing\.h5'"),
        ([], [["base"]], "--series base: name two traces or more"),
        ([], [["base", "none"]], "--series: no trace is called 'none'"),
    ],
)
def test_what_is_not_there(pairs: list[list[str]], series: list[list[str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked_for(["base=somewhere.h5"], pairs, series)


def test_order_is_that_of_the_tokens_trained() -> None:
    def at(tokens: object) -> RoutingTrace:
        return trace_of([[[0, 1]]], provenance={"training": {"training_tokens": tokens}})

    late, early = source(at(300)), source(at(10.0))
    assert [trained(one.trace) for one in (late, early)] == [300, 10]
    assert in_order([late, early]) == [early, late]
    unknown = [source(at(None)), source(at("many")), source(trace_of([[[0, 1]]])), source(at(True))]
    assert [trained(one.trace) for one in unknown] == [None] * 4
    assert in_order([late, unknown[0], early]) == [late, unknown[0], early]
    assert trained(trace_of([[[0, 1]]], provenance={"training_tokens": 7})) == 7


def test_a_point_on_the_way_is_no_other_seed(tmp_path: Path) -> None:
    for name in ("baseline.at10.teacher_forced", "baseline.at100", "baseline.seed1"):
        trace_of([[[0, 1]]], model="lrcsim-toy-baseline").save(tmp_path / f"{name}.h5")
    with opened(sorted(map(str, tmp_path.glob("*.h5")))) as inputs:
        assert [(one.variant, one.paper) for one in inputs] == [
            ("baseline.at10", None), ("baseline.at100", None), ("baseline.seed1", "toy.baseline"),
        ]  # fmt: skip


# --- what differs -----------------------------------------------------------------------------------------------------


def test_less_by_hand() -> None:
    # Paired: the draws differ by 1 each, so the interval is the point. Apart: both intervals are 2 wide on each side of
    # 20 and 10 (basic: 2 x - quantiles), so half widths of 2 add to the square root of 8.
    draws = np.linspace(8, 12, 1001)
    one, other = Value(11.0, draws + 1), Value(10.0, draws)
    value, ends = less(one, other, paired=True)
    assert (value, *(ends or ())) == pytest.approx((1, 1, 1), abs=1e-9)
    value, ends = less(Value(20.0, draws + 10), other, paired=False)
    assert value == 10
    assert ends == pytest.approx((10 - 8**0.5, 10 + 8**0.5), rel=0.06)
    assert less(Value(3.0), other, paired=True) == (-7, None)


def random_trace(seed: int, tokens: int = 96, k: int = 2) -> RoutingTrace:
    rng = np.random.default_rng(seed)
    ids = rng.random((tokens, 2, 8)).argsort(-1)[..., :k]
    return RoutingTrace.from_arrays(
        ids, num_experts=8, offsets=[0, 32, 64, tokens], domains=["a", "b", "a"], token_ids=np.arange(tokens)
    )


def test_differences_are_those_of_the_measures_themselves() -> None:
    one, base = (measure(source(random_trace(seed)), QUICK) for seed in (1, 2))
    found = {name: rest for name, *rest in differences(one, base, QUICK)}
    assert {"SRP, m = 4", "SRP, m = 16", "SCH, m = 16, 2x", "LRU, 2x", "load imbalance"} <= found.keys()
    assert found["SRP, m = 16"][2:] == list(difference(one, base))
    after, before, value, ends = found["LRU, 2x"]
    assert (after.value, before.value) == (one.at("lru", "model", 2.0), base.at("lru", "model", 2.0))
    assert value == after.value - before.value
    assert ends is not None
    assert ends[0] < ends[1]
    assert found["load imbalance"][3] is None
    itself = {name: rest[2:] for name, *rest in differences(one, one, QUICK)}
    assert itself["LRU, 2x"] == itself["SRP, m = 4"] == [0, (0, 0)]
    assert values_of(MeasuredTrace(one.source), QUICK) == {}
    domains = by_domain(one, base)
    assert list(domains) == ["a", "b"]
    assert one.domains is not None
    assert base.domains is not None
    assert one.domains.groups is not None
    assert base.domains.groups is not None
    assert domains["b"] == one.domains.groups.value[1] - base.domains.groups.value[1]


def test_routing_kept_by_hand() -> None:
    # Token 0: {0, 1} and {1, 0}: a whole set, both experts, another first choice. Token 1: {2, 3} and {2, 4}: one of
    # two, the same first. Token 2: {5, 6} and {7, 0}: nothing. Token 3 lacks an expert on one side: left out.
    base = trace_of([[[0, 1]], [[2, 3]], [[5, 6]], [[1, 2]]], token_ids=[4, 5, 6, 7])
    post = trace_of([[[1, 0]], [[2, 4]], [[7, 0]], [[1, -1]]], token_ids=[4, 5, 6, 7])
    kept = routing_kept(MeasuredTrace(source(post)), MeasuredTrace(source(base)))
    assert kept == Kept(sets=pytest.approx(1 / 3), experts=pytest.approx(3 / 6), first=pytest.approx(1 / 3))
    other = trace_of([[[1, 0]], [[2, 4]], [[7, 0]], [[1, 2]]], token_ids=[4, 5, 6, 8])
    assert routing_kept(MeasuredTrace(source(other)), MeasuredTrace(source(base))) is None  # another text
    fewer = trace_of([[[1]], [[2]], [[7]], [[1]]], token_ids=[4, 5, 6, 7])
    assert routing_kept(MeasuredTrace(source(fewer)), MeasuredTrace(source(base))) is None
    none = trace_of([[[-1, -1]]] * 4)
    assert routing_kept(MeasuredTrace(source(none)), MeasuredTrace(source(base))) is None
