"""The replay against its definition: every policy, rule of access and scope, access by access (tests/naive.py)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from math import perm
from random import Random

import naive
import naive_queues
import naive_traces
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st

from lrcsim.policies import BUILT_IN
from lrcsim.simulator import Schedule, simulate
from lrcsim.simulator.replay import Counts
from lrcsim.traces import RoutingTrace

EXAMPLES = int(os.environ.get("LRCSIM_EXAMPLES", "25"))
"""Cases per policy, rule of access and scope."""

ORACLE = settings(
    derandomize="LRCSIM_RANDOM" not in os.environ,
    database=None,
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if "LRCSIM_NO_SHRINK" in os.environ else list(Phase),
)

FEW = settings(ORACLE, max_examples=max(EXAMPLES // 3, 1))

UNIT = 27720 / 2**18
"""Router weights are multiples of this: their means over up to 12 tokens are exact in float32, so ties are ties."""

HALVES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
PARAMS: dict[str, dict[str, st.SearchStrategy[float]]] = {
    "random": {"seed": st.integers(0, 3)},
    "slru": {"share": st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])},
    "s3-fifo": {"share": st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), "threshold": st.integers(1, 3)},
    "2q": {"share": st.sampled_from([0.0, 0.25, 0.5, 1.0]), "ghost": st.sampled_from([0.0, 0.5, 1.0, 2.0])},
    "lirs": {"share": st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0])},
    "w-tinylfu": {
        "window": st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0]),
        "share": st.sampled_from([0.0, 0.5, 0.8, 1.0]),
        "sample": st.integers(1, 10),
    },
    "admit2": {"window": st.sampled_from([0, 1, 2, 5, 20])},
    "lrfu": {"lambda": st.sampled_from([0.0, 0.001, 0.01, 0.125, 0.5, 1.0])},
    "lfu-decay": {"half_life": st.sampled_from([0.001, 0.5, 1.0, 2.0, 3.0, 64.0])},
    "lfu-aging": {"interval": st.integers(1, 12), "decay": HALVES},
    "lfuda": {"cap": st.integers(1, 12)},
    "lcp": {"window": st.sampled_from([0.5, 1.0, 2.0, 3.0, 128.0])},
    "mrs": {"alpha": HALVES},
    "score-ema": {"alpha": HALVES},
    "hobbit": {"w1": HALVES, "w2": HALVES, "w3": HALVES, "w4": HALVES},
    "dali": {"window": st.integers(1, 24), "heavy": st.integers(1, 5)},
    "heat": {"cold": st.integers(0, 4)},
    "pinned-lru": {"share": st.sampled_from([0.0, 0.25, 0.5, 1.0])},
    "repin": {"n": st.integers(1, 8), "swaps": st.integers(0, 4)},
    "sch-lookahead": {"m": st.integers(1, 8)},
    "sch-static": {"m": st.integers(1, 8)},
}
BY_KEY = {"belady", "belady-bypass", "static", "pinned-lru", "repin", "sch-static"}
"""Policies that settle ties by the expert's number."""

POLICIES = sorted(BUILT_IN)
ACCESS = ("coresident", "sequential", "paper")
SCOPES = ("layer", "model")


def kperm(index: int, n: int, k: int) -> list[int]:
    """Return the index-th choice of k out of n in order."""
    left, chosen = list(range(n)), []
    for size in range(n, n - k, -1):
        index, place = divmod(index, size)
        chosen.append(left.pop(place))
    return chosen


@st.composite
def traces(draw: st.DrawFn, like: naive_traces.Trace | None = None) -> naive_traces.Trace:
    if like is None:
        num_layers = draw(st.integers(1, 3))
        experts = [draw(st.integers(1, 8))] * num_layers
        if draw(st.booleans()):
            experts = draw(st.lists(st.integers(1, 8), min_size=num_layers, max_size=num_layers))
        top_k = [draw(st.integers(1, min(4, n))) for n in experts]
        expert_bytes = draw(st.lists(st.integers(1, 4), min_size=num_layers, max_size=num_layers))
    else:
        num_layers, experts, top_k, expert_bytes = like.num_layers, like.num_experts, like.top_k, like.expert_bytes
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=3))
    lengths[0] += sum(lengths) == 0
    tokens, k = sum(lengths), max(top_k)
    ids = [[[-1] * k for _ in range(num_layers)] for _ in range(tokens)]
    for layer in range(num_layers):
        choices = st.integers(0, perm(experts[layer], top_k[layer]) - 1)
        for token, index in enumerate(draw(st.lists(choices, min_size=tokens, max_size=tokens))):
            ids[token][layer][: top_k[layer]] = kperm(index, experts[layer], top_k[layer])
    for _ in range(draw(st.integers(0, 4))):
        token, layer = draw(st.integers(0, tokens - 1)), draw(st.integers(0, num_layers - 1))
        ids[token][layer][draw(st.integers(0, k - 1))] = -1
    if draw(st.integers(0, 4)) == 4:  # a token of which nothing was recorded
        ids[draw(st.integers(0, tokens - 1))] = [[-1] * k for _ in range(num_layers)]
    phase: list[int] | None = None
    form = draw(st.sampled_from(["none", "prompt", "prompt", "any"]))
    if form == "prompt":
        phase = []
        for length in lengths:
            prompt = draw(st.integers(0, length))
            phase += [0] * prompt + [1] * (length - prompt)
    elif form == "any":
        phase = draw(st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens))
    weight = st.integers(0, 8)
    size = tokens * num_layers * k
    flat = [UNIT * value for value in draw(st.lists(weight, min_size=size, max_size=size))]
    weights = [[[flat.pop() for _ in range(k)] for _ in range(num_layers)] for _ in range(tokens)]
    offsets = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    return naive_traces.Trace(ids, experts, top_k, offsets, phase, weights, expert_bytes)


def real(trace: naive_traces.Trace) -> RoutingTrace:
    return RoutingTrace.from_arrays(
        trace.experts,
        num_experts=trace.num_experts,
        top_k=trace.top_k,
        offsets=trace.offsets,
        phase=trace.phase,
        weights=trace.weights,
        expert_bytes=trace.expert_bytes if trace.each_bytes is None else padded(trace.each_bytes, trace.stride),
    )


def padded(sizes: list[list[int]], stride: int) -> list[list[int]]:
    """Return the sizes of a layer's experts as a table has them, with anything for experts that it does not have."""
    return [row + [9] * (stride - len(row)) for row in sizes]


PREFILL = st.sampled_from(["step", "token", "chunk:1", "chunk:2", "chunk:3", "chunk:5"])


@st.composite
def cache_sizes(draw: st.DrawFn, trace: naive_traces.Trace, scope: str, bytes_too: bool) -> str:
    relative = st.sampled_from(["0.5x", "1x", "1.5x", "2x", "10%", "25%", "50%", "100%"])
    assert trace.expert_bytes is not None
    needed = [n * size for n, size in zip(trace.num_experts, trace.expert_bytes, strict=True)]
    all_bytes = st.integers(0, sum(needed) + 2).map("{}B".format)
    if scope == "model":
        slots = st.integers(0, sum(trace.num_experts) + 2).map(str)
        return draw(st.one_of(slots, slots, relative, all_bytes) if bytes_too else st.one_of(slots, slots, relative))
    slots = st.integers(0, max(trace.num_experts) + 2).map(str)
    one = st.one_of(slots, slots, relative)
    if trace.num_layers > 1 and draw(st.booleans()):
        entry = st.one_of(slots, relative, st.integers(0, max(needed)).map("{}B".format))
        return ",".join(draw(st.lists(entry, min_size=trace.num_layers, max_size=trace.num_layers)))
    return draw(st.one_of(one, all_bytes))


@dataclass
class Case:
    trace: naive_traces.Trace
    params: dict[str, float]
    cache: str
    prefill: str
    warm: bool
    profile: naive_traces.Trace | None


@st.composite
def cases(draw: st.DrawFn, policy: str, access: str, scope: str) -> Case:
    trace = draw(traces())
    if policy == "hobbit" and draw(st.integers(0, 3)) == 3:
        trace.weights = None
    params = {name: draw(values) for name, values in PARAMS.get(policy, {}).items()}
    equal = len(set(trace.expert_bytes or [])) == 1
    cache = draw(cache_sizes(trace, scope, bytes_too=equal or policy not in naive_queues.QUEUES))
    prefill = "token" if access == "paper" else draw(PREFILL)
    warm = access != "paper" and draw(st.booleans())
    profile = None
    if "profile" in BUILT_IN[policy].needs:
        profile = draw(st.one_of(st.just(trace), traces(like=trace)))
    return Case(trace, params, cache, prefill, warm, profile)


def combinations() -> list[tuple[str, str, str]]:
    return [
        (policy, access, scope)
        for policy in POLICIES
        for access in ACCESS
        for scope in SCOPES
        if not (BUILT_IN[policy].bypass and access == "paper")
    ]


def spec(policy: str, params: dict[str, float]) -> str:
    text = ",".join(f"{name}={value}" for name, value in params.items())
    return f"{policy}:{text}" if text else policy


def run(case: Case, policy: str, access: str, scope: str) -> Counts:
    return simulate(
        real(case.trace),
        policy,
        case.cache,
        scope=scope,  # type: ignore[arg-type]
        access=access,  # type: ignore[arg-type]
        prefill=case.prefill,
        warm=case.warm,
        profile=None if case.profile is None else real(case.profile),
        bounds=False,
        record=True,
    ).counts


def hits(case: Case, policy: str, access: str, scope: str) -> list[bool]:
    flags = run(case, policy, access, scope).hit
    assert flags is not None
    return flags.tolist()


@st.composite
def long_traces(draw: st.DrawFn) -> naive_traces.Trace:
    """One layer, whose experts come back after some time: long enough for ghosts and halved counts."""
    experts, k = draw(st.integers(5, 9)), draw(st.integers(1, 2))
    random = Random(draw(st.integers(0, 2**32)))
    ids: list[list[list[int]]] = []
    for _ in range(120):
        again = random.random() < 0.5 and len(ids) > 9
        ids.append(random.choice(ids[-9:]) if again else [random.sample(range(experts), k)])
    return naive_traces.Trace(ids, [experts], [k], [0, 120], None, None, [1])


@pytest.mark.parametrize("policy", naive_queues.QUEUES)
def test_queues_that_turn_over_many_times(policy: str) -> None:
    @ORACLE
    @given(cases(policy, "coresident", "layer"), long_traces(), st.integers(2, 6))
    def check(case: Case, trace: naive_traces.Trace, slots: int) -> None:
        case.trace, case.cache = trace, str(slots)
        check_case(case, policy, "coresident", "layer")

    check()


BEHIND = [name for name in POLICIES if not BUILT_IN[name].bypass and "future" not in BUILT_IN[name].needs]
"""Policies that second-touch admission goes before."""


def check_case(case: Case, policy: str, access: str, scope: str, admission: int | None = None) -> None:
    given_as = (policy, case.params, case.cache, scope, access, case.prefill, case.warm, case.profile, admission)
    want = naive.replay(case.trace, *given_as)
    before = "" if admission is None else f"admit2:{admission}+"
    got = run(case, before + spec(policy, case.params), access, scope)
    note(f"wanted {want}")
    assert got.hit is not None
    assert got.hit.tolist() == want.hit
    assert got.accesses.tolist() == want.accesses
    assert got.misses.tolist() == want.misses
    assert got.cold_misses == want.cold_misses
    assert got.evictions == want.evictions
    assert got.bypassed == want.bypassed
    assert got.preloaded.tolist() == want.preloaded
    assert got.steps.tolist() == want.steps
    assert got.resident == want.resident


@pytest.mark.parametrize(("policy", "access", "scope"), combinations())
def test_replay_equals_its_definition(policy: str, access: str, scope: str) -> None:
    @ORACLE
    @given(cases(policy, access, scope))
    def check(case: Case) -> None:
        check_case(case, policy, access, scope)

    check()


@pytest.mark.parametrize(("policy", "access", "scope"), combinations())
def test_experts_of_unequal_bytes_equal_their_definition(policy: str, access: str, scope: str) -> None:
    if policy in naive_queues.QUEUES:  # their law is written in slots; tests/simulator/compiled/test_unequal_experts.py
        return

    @FEW
    @given(cases(policy, access, scope), st.data())
    def check(case: Case, data: st.DataObject) -> None:
        unlike(case, scope, data)
        check_case(case, policy, access, scope)

    check()


def unlike(case: Case, scope: str, data: st.DataObject) -> None:
    """Give every expert bytes of its own, and the cache as bytes."""
    trace = case.trace
    size = st.integers(1, 4)
    trace.each_bytes = [data.draw(st.lists(size, min_size=n, max_size=n)) for n in trace.num_experts]
    trace.each_bytes[0][0] = 5  # one at least is unlike the others of its layer, where it has any
    assume(len(trace.each_bytes[0]) > 1)
    totals = [sum(row) for row in trace.each_bytes]
    case.cache = f"{data.draw(st.integers(0, sum(totals) + 2))}B"
    if scope == "layer" and len(totals) > 1 and data.draw(st.booleans()):
        case.cache = ",".join(f"{data.draw(st.integers(0, total))}B" for total in totals)


@pytest.mark.parametrize("access", ["coresident", "sequential"])  # under paper bypassing policies are refused
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("policy", BEHIND)
def test_second_touch_admission_before_any_policy(policy: str, access: str, scope: str) -> None:
    @FEW
    @given(cases(policy, access, scope), PARAMS["admit2"]["window"])
    def check(case: Case, window: int) -> None:
        check_case(case, policy, access, scope, window)

    check()


@pytest.mark.parametrize("target_tokens", [1, 2, 5, 8192])
def test_schedule_equals_its_definition(target_tokens: int) -> None:
    @settings(ORACLE, max_examples=3 * EXAMPLES)
    @given(traces(), PREFILL)
    def check(trace: naive_traces.Trace, prefill: str) -> None:
        steps = naive_traces.schedule(trace, prefill)
        scheduled = Schedule(real(trace), prefill, weights=True)
        assert scheduled.stride == trace.stride
        assert scheduled.all_steps().starts.tolist() == [s.tokens[0] for s in steps] + [len(trace.experts)]
        got, accesses, last_step = [], 0, -1
        for block in scheduled.blocks(target_tokens):
            assert block.first_access == accesses
            assert block.weights is not None
            accesses += len(block.keys)
            if len(block.step):
                assert block.step[0] > last_step, "a step was cut"
                last_step = int(block.step[-1])
            for row, (low, high) in enumerate(pairwise(block.starts.tolist())):
                columns = (block.step, block.request, block.phase, block.first_token, block.layer)
                keys, weights = block.keys[low:high].tolist(), block.weights[low:high].tolist()
                got.append((*(int(column[row]) for column in columns), keys, weights))
        assert got == [
            (s.number, s.request, s.phase, s.tokens[0], run.layer, run.batch, [float(w) for w in run.weights])
            for s in steps
            for run in s.layers
        ]

    check()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("policy", [name for name in POLICIES if not BUILT_IN[name].refills])
def test_a_cache_that_holds_all_misses_only_first_uses(policy: str, scope: str) -> None:
    @FEW
    @given(cases(policy, "coresident", scope), st.sampled_from(["coresident", "sequential"]))
    def check(case: Case, access: str) -> None:
        case.cache = "100%"
        found = run(case, spec(policy, case.params), access, scope)
        assert found.evictions == found.bypassed == 0
        assert int(found.misses.sum()) == found.cold_misses

    check()


# Elsewhere what the rest of the same step uses counts for the look-ahead, and is spared.
@pytest.mark.parametrize(("access", "scope"), [("coresident", "layer"), ("paper", "layer"), ("paper", "model")])
def test_lookahead_of_one_step_is_lru(access: str, scope: str) -> None:
    @ORACLE
    @given(cases("lru", access, scope))
    def check(case: Case) -> None:
        assert hits(case, "sch-lookahead:1", access, scope) == hits(case, "lru", access, scope)

    check()


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("scope", SCOPES)
def test_hits_of_lru_stay_hits_in_a_larger_cache(access: str, scope: str) -> None:
    @ORACLE
    @given(cases("lru", access, scope))
    def check(case: Case) -> None:
        before = [False] * 10_000
        for capacity in range(sum(case.trace.num_experts) + 1):
            case.cache = str(capacity)
            flags = hits(case, "lru", access, scope)
            assert all(now or not then for now, then in zip(flags, before, strict=False))
            before = flags

    check()


@pytest.mark.parametrize("access", ["coresident", "sequential"])  # under paper bypassing policies are refused
@pytest.mark.parametrize("scope", SCOPES)
def test_pinned_lru_with_nothing_pinned_is_lru(access: str, scope: str) -> None:
    @ORACLE
    @given(cases("pinned-lru", access, scope))
    def check(case: Case) -> None:
        assert hits(case, "pinned-lru:0", access, scope) == hits(case, "lru", access, scope)

    check()


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("scope", SCOPES)
def test_pinning_everything_is_static(access: str, scope: str) -> None:
    @ORACLE
    @given(cases("static", access, scope), st.integers(0, 8))
    def check(case: Case, capacity: int) -> None:
        case.cache = str(capacity)
        assert case.profile is not None
        used = [run.batch for step in naive_traces.schedule(case.profile, "step") for run in step.layers]
        distinct = {key for batch in used for key in batch}
        for pool in naive_traces.pool_sizes(case.trace, case.cache, scope):
            assume(sum(key // case.trace.stride in pool.layers for key in distinct) >= pool.capacity)
        assert hits(case, "pinned-lru:1", access, scope) == hits(case, "static", access, scope)

    check()


@pytest.mark.parametrize(
    ("policy", "access"), [(p, a) for p, a, scope in combinations() if p not in BY_KEY and scope == "model"]
)
def test_names_of_experts_do_not_matter(policy: str, access: str) -> None:
    @FEW
    @given(cases(policy, access, "model"), st.randoms(use_true_random=False), st.sampled_from(SCOPES))
    def check(case: Case, random: Random, scope: str) -> None:
        if scope == "layer" and case.cache.endswith("B"):
            case.cache = "1x"
        before = hits(case, spec(policy, case.params), access, scope)
        for layer, experts in enumerate(case.trace.num_experts):
            new_name = list(range(experts))
            random.shuffle(new_name)
            for token in case.trace.experts:
                token[layer] = [new_name[expert] if expert >= 0 else -1 for expert in token[layer]]
        assert hits(case, spec(policy, case.params), access, scope) == before

    check()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_batches_of_one_expert_make_coresident_and_sequential_the_same(policy: str, scope: str) -> None:
    @FEW
    @given(cases(policy, "sequential", scope))
    def check(case: Case) -> None:
        case.prefill = "token"
        for trace in (case.trace, case.profile):
            if trace is not None:
                trace.top_k = [1] * trace.num_layers
                trace.experts = [[ranks[:1] for ranks in token] for token in trace.experts]
                if trace.weights is not None:
                    trace.weights = [[ranks[:1] for ranks in token] for token in trace.weights]
        name = spec(policy, case.params)
        assert hits(case, name, "coresident", scope) == hits(case, name, "sequential", scope)

    check()


class TestRandom:
    @pytest.mark.parametrize("access", ACCESS)
    @pytest.mark.parametrize("scope", SCOPES)
    def test_keeps_its_contract_and_repeats_with_its_seed(self, access: str, scope: str) -> None:
        @ORACLE
        @given(cases("random", access, scope), st.integers(0, 3))
        def check(case: Case, seed: int) -> None:
            found, again = (run(case, f"random:{seed}", access, scope) for _ in range(2))
            assert found.hit is not None
            assert again.hit is not None
            assert found.hit.tolist() == again.hit.tolist()
            pools = naive_traces.pool_sizes(case.trace, case.cache, scope)
            if all(set(pool.size.values()) == {1} for pool in pools):
                assert found.resident <= sum(pool.capacity for pool in pools)
            if case.warm:
                assert int(found.misses.sum()) - found.evictions == found.resident

        check()

    def test_draws_every_resident_alike(self) -> None:
        trace = RoutingTrace.from_arrays([[[expert]] for expert in (0, 1, 2, 3, 4, 0, 1, 2, 3)], num_experts=5)
        victims = [0] * 4
        for seed in range(400):
            flags = simulate(trace, f"random:{seed}", 4, bounds=False, record=True).counts.hit
            assert flags is not None
            victims[flags.tolist().index(False, 5) - 5] += 1
        assert min(victims) > 60  # 100 expected, four and a half standard deviations
        assert max(victims) < 140
