"""The order of a server: what runs together, what is emitted, and that replay, bounds and engine agree on it.

In traces of one layer, top-1, whose token t uses expert t, the experts of a trace say which tokens stand where.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain, combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import load_profile
from lrcsim.simulator import simulate
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.replay import Counts, replay
from lrcsim.simulator.serving.batching import batched, parse_acceptance
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

P, D = 0, 1


def numbered(*requests: list[int], phases: bool = True) -> RoutingTrace:
    """Make a trace of requests, given by the phases of their tokens; token t uses expert t."""
    phase = list(chain(*requests))
    offsets = np.cumsum([0, *map(len, requests)])
    experts = np.arange(len(phase))[:, None, None]
    return RoutingTrace.from_arrays(
        experts, num_experts=len(phase), offsets=offsets, phase=phase if phases else None, expert_bytes=1
    )


def steps(trace: RoutingTrace) -> list[list[int]]:
    """Return the tokens of each step, as `Schedule` has them."""
    starts = Schedule(trace).all_steps().starts.tolist()
    tokens = trace.experts[:, 0, 0].tolist()
    return [tokens[low:high] for low, high in pairwise(starts)]


def kept(trace: RoutingTrace) -> list[int]:
    """Return the tokens that were no rejected drafts, in order."""
    return [int(token) for token, keep in zip(trace.experts[:, 0, 0], trace.column("kept"), strict=True) if keep]


# --- solved by hand --------------------------------------------------------------------------------------------------

# request      A            B      C
# tokens       0 1 2 3 4    5 6    7 8 9 10
# phase        P P D D D    P D    P P D D
ABC = numbered([P, P, D, D, D], [P, D], [P, P, D, D])


@pytest.mark.parametrize(
    ("batching", "prefill", "expected"),
    [
        # A and B join; both prompts, A's first; they decode together; B is done, C takes its place and runs its prompt
        # while A waits; A and C decode together. A is done, and so is C a step later.
        ("continuous", "step", [[0, 1], [5], [2, 6], [7, 8], [3, 9], [4, 10]]),
        # the same, but C must wait until A is done too
        ("static", "step", [[0, 1], [5], [2, 6], [3], [4], [7, 8], [9], [10]]),
        # prompts token by token, each still by itself
        ("continuous", "token", [[0], [1], [5], [2, 6], [7], [8], [3, 9], [4, 10]]),
        ("continuous", "chunk:1", [[0], [1], [5], [2, 6], [7], [8], [3, 9], [4, 10]]),
        ("continuous", "chunk:2", [[0, 1], [5], [2, 6], [7, 8], [3, 9], [4, 10]]),
    ],
)
def test_two_at_once(batching: str, prefill: str, expected: list[list[int]]) -> None:
    assert steps(batched(ABC, batch=2, batching=batching, prefill=prefill)) == expected  # type: ignore[arg-type]


def test_three_at_once() -> None:
    expected = [[0, 1], [5], [7, 8], [2, 6, 9], [3, 10], [4]]
    assert steps(batched(ABC, batch=3)) == expected
    assert steps(batched(ABC, batch=99)) == expected


def test_one_at_a_time_is_the_trace_itself() -> None:
    assert batched(ABC) is ABC


def test_a_trace_without_phases_decodes_all_its_tokens() -> None:
    # request 0: tokens 0 1 2, request 1: 3, request 2: 4 5
    trace = numbered([D] * 3, [D], [D] * 2, phases=False)
    assert steps(batched(trace, batch=2)) == [[0, 3], [1, 4], [2, 5]]
    assert steps(batched(trace, batch=2, batching="static")) == [[0, 3], [1], [2], [4], [5]]


def test_a_later_prompt_of_a_running_request_is_run_alone_too() -> None:
    # A: 0P 1D 2P 3D, B: 4P 5D 6D. After the first decode step A has a prompt again: B waits.
    trace = numbered([P, D, P, D], [P, D, D])
    assert steps(batched(trace, batch=2)) == [[0], [4], [1, 5], [2], [3, 6]]


def test_a_request_of_prompt_alone_gives_its_place_away_at_once() -> None:
    # A: 0P 1D, B: 2P, C: 3P 4D
    trace = numbered([P, D], [P], [P, D])
    assert steps(batched(trace, batch=2)) == [[0], [2], [3], [1, 4]]
    assert steps(batched(trace, batch=2, batching="static")) == [[0], [2], [1], [3], [4]]


def test_requests_without_tokens_are_passed_over() -> None:
    experts = np.arange(3)[:, None, None]
    trace = RoutingTrace.from_arrays(experts, num_experts=3, offsets=[0, 0, 2, 2, 3, 3])
    assert steps(batched(trace, batch=2)) == [[0, 2], [1]]


def test_the_columns_of_the_order() -> None:
    trace = batched(ABC, batch=2)
    # steps                                     0     1  2     3     4     5
    assert trace.experts[:, 0, 0].tolist() == [0, 1, 5, 2, 6, 7, 8, 3, 9, 4, 10]
    assert trace.column("step").tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert trace.column("sequence").tolist() == [0, 0, 1, 0, 1, 2, 2, 0, 2, 0, 2]
    assert trace.column("position").tolist() == [0, 1, 0, 2, 1, 0, 1, 3, 2, 4, 3]
    assert trace.column("kept").tolist() == [1] * 11
    assert trace.phase is not None
    assert trace.phase.tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    assert trace.offsets.tolist() == [0, 11]  # some request is always running
    assert batched(ABC, batch=2, batching="static").offsets.tolist() == [0, 7, 11]  # A and B; C


def test_drafts() -> None:
    # One request: 0 prompt, 1 to 5 decoded. Two drafts a step; accepted 1, 0, 1, 0 ...
    #   1 and drafts 2 3: 2 is accepted          emitted 2
    #   3 and drafts 4 5: none                   emitted 1
    #   4 and draft 5 (the end): it is accepted  emitted 2
    trace = batched(numbered([P, D, D, D, D, D]), speculative=(2, [1, 0]))
    assert steps(trace) == [[0], [1, 2, 3], [3, 4, 5], [4, 5]]
    assert trace.column("kept").tolist() == [1, 1, 1, 0, 1, 0, 0, 1, 1]
    assert [step.emitted for step in steps_of(Schedule(trace))] == [(), (2,), (1,), (2,)]


def test_no_more_is_accepted_than_is_left() -> None:
    trace = batched(numbered([D, D, D], phases=False), speculative=(5, [1, 5]))
    assert steps(trace) == [[0, 1, 2], [2]]
    assert kept(trace) == [0, 1, 2]


def test_drafts_end_before_a_later_prompt() -> None:
    trace = batched(numbered([P, D, D, P, D]), speculative=(3, 1.0))
    assert steps(trace) == [[0], [1, 2], [3], [4]]


def test_drafts_of_two_requests() -> None:
    # A: 0 1 2 3, B: 4 5 6, two at once, one draft, accepted in turn 0, 1 in each request
    #   A 0 (1), B 4 (5): none accepted; A 1 and 2, B 5 and 6: all; B is done; A 3
    trace = batched(numbered([D] * 4, [D] * 3, phases=False), batch=2, speculative=(1, [0, 1]))
    assert steps(trace) == [[0, 1, 4, 5], [1, 2, 5, 6], [3]]
    assert [step.emitted for step in steps_of(Schedule(trace))] == [(1, 1), (2, 2), (1,)]


def test_how_large_the_steps_are() -> None:
    # tokens, tokens with output, context read, pairs of a token and one it attends to, requests
    sizes = [tuple(step.size) for step in steps_of(Schedule(batched(ABC, batch=2)))]
    assert sizes == [
        (2, 1, 2, 3, 1),  # A's prompt: token 1 attends to two
        (1, 1, 1, 1, 1),
        (2, 2, 5, 5, 2),  # A's third token, B's second
        (2, 1, 2, 3, 1),
        (2, 2, 7, 7, 2),  # A's fourth, C's third
        (2, 2, 9, 9, 2),
    ]
    drafted = batched(numbered([P, D, D, D, D, D]), speculative=(2, [1, 0]))
    sizes = [tuple(step.size) for step in steps_of(Schedule(drafted))]
    # 2nd, 3rd, 4th token; 4th, 5th, 6th; 5th and 6th. Every one that is verified has an output.
    assert sizes == [(1, 1, 1, 1, 1), (3, 3, 4, 9, 1), (3, 3, 6, 15, 1), (2, 2, 6, 11, 1)]


def test_unions_of_experts() -> None:
    # Requests {0 1}, {2 3} and {1 2}, {3 0}, one layer, top-2: together {0 1 2} and {2 3 0}, by last use.
    trace = RoutingTrace.from_arrays(
        [[[0, 1]], [[2, 3]], [[1, 2]], [[3, 0]]],
        num_experts=4,
        offsets=[0, 2, 4],
        weights=[[[0.5, 0.25]], [[0.5, 0.25]], [[0.75, 0.5]], [[0.5, 0.125]]],
    )
    both = [step.layers[0] for step in steps_of(Schedule(batched(trace, batch=2), weights=True))]
    assert [work.keys for work in both] == [[0, 1, 2], [2, 3, 0]]
    assert [work.tokens for work in both] == [[1, 2, 1], [1, 2, 1]]
    assert [work.weights for work in both] == [[0.25, 0.5, 0.25], [0.25, 0.375, 0.0625]]
    # Four slots: the first step misses 0, 1 and 2, the second 3.
    counts = simulate(batched(trace, batch=2), "lru", 4).counts
    assert (int(counts.accesses.sum()), int(counts.misses.sum())) == (6, 4)


# --- a twin from the rules -------------------------------------------------------------------------------------------


def twin(
    requests: list[list[tuple[int, int]]], batch: int, static: bool, prefill: str, drafts: int, accepted: list[int]
) -> list[list[tuple[int, bool]]]:
    """Return the steps as lists of (token, kept), from requests as lists of (token, phase)."""
    waiting = [list(tokens) for tokens in requests if tokens]
    running: list[list[tuple[int, int]]] = []
    decoded: list[int] = []  # decode steps that each running request has had
    result = []
    while waiting or running:
        alive = [place for place, tokens in enumerate(running) if tokens]
        running, decoded = [running[place] for place in alive], [decoded[place] for place in alive]
        if not static or not running:
            while waiting and len(running) < batch:
                running.append(waiting.pop(0))
                decoded.append(0)
        prompts = [tokens for tokens in running if tokens[0][1] == P]
        step: list[tuple[int, bool]] = []
        if prompts:
            longest = {"step": 10**9, "token": 1}.get(prefill) or int(prefill.removeprefix("chunk:"))
            while prompts[0] and prompts[0][0][1] == P and len(step) < longest:
                step.append((prompts[0].pop(0)[0], True))
        else:
            for place, tokens in enumerate(running):
                verified = [tokens[0][0]]
                for token, phase in tokens[1 : 1 + drafts]:
                    if phase == P:
                        break
                    verified.append(token)
                right = 1 + (accepted[decoded[place] % len(accepted)] if drafts else 0)
                step += [(token, i < right) for i, token in enumerate(verified)]
                del tokens[: min(right, len(verified))]
                decoded[place] += 1
        if step:
            result.append(step)
    return result


phases = st.lists(st.lists(st.sampled_from([P, D]), max_size=6), min_size=1, max_size=5).filter(any)
options = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 4),
        "batching": st.sampled_from(["continuous", "static"]),
        "prefill": st.sampled_from(["step", "token", "chunk:2", "chunk:3"]),
        "speculative": st.none()
        | st.integers(1, 4).flatmap(
            lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=3))
        ),
    }
)


def split(flat: list[int], requests: list[list[int]]) -> list[list[int]]:
    """Cut a list into pieces as long as the requests."""
    ends = np.cumsum([0, *map(len, requests)]).tolist()
    return [flat[low:high] for low, high in pairwise(ends)]


@settings(max_examples=400)
@given(requests=phases, chosen=options)
def test_steps_equal_the_twin_and_every_token_counts_once(requests: list[list[int]], chosen: dict) -> None:  # type: ignore[type-arg]
    base = numbered(*requests)
    trace = batched(base, **chosen)
    drafts, accepted = chosen["speculative"] or (0, [0])
    tokens = split(list(range(base.num_tokens)), requests)
    pairs = [list(zip(own, kinds, strict=True)) for own, kinds in zip(tokens, requests, strict=True)]
    static = chosen["batching"] == "static"
    expected = twin(pairs, chosen["batch"], static, chosen["prefill"], drafts, accepted)
    if trace is base:
        schedule = Schedule(trace, chosen["prefill"]).all_steps().starts
        assert [[token for token, _ in step] for step in expected] == [
            list(range(low, high)) for low, high in pairwise(schedule.tolist())
        ]
        return
    assert steps(trace) == [[token for token, _ in step] for step in expected]
    assert kept(trace) == [token for step in expected for token, right in step if right]
    assert sorted(kept(trace)) == list(range(base.num_tokens))
    found = list(steps_of(Schedule(trace)))
    emitted = [sum(step.emitted) for step in found if step.phase == D]
    assert sum(emitted) == sum(map(sum, requests))
    if not drafts:
        assert trace.num_tokens == base.num_tokens


@settings(max_examples=60)
@given(requests=phases, chosen=options, size=st.integers(1, 5))
def test_the_order_streams(requests: list[list[int]], chosen: dict, size: int) -> None:  # type: ignore[type-arg]
    trace = batched(numbered(*requests), **chosen)
    keys = np.concatenate([block.keys for block in Schedule(trace, chosen["prefill"]).blocks(size)])
    whole = np.concatenate([block.keys for block in Schedule(trace, chosen["prefill"]).blocks()])
    assert keys.tolist() == whole.tolist()


def test_a_request_is_accepted_alike_whatever_runs_beside_it() -> None:
    trace = numbered(*[[P, *[D] * 40]] * 5)
    alone, together = (batched(trace, batch=batch, speculative=(3, 0.6), seed=7) for batch in (1, 4))

    def counts(trace: RoutingTrace, request: int) -> list[int]:
        return [
            emitted
            for step in steps_of(Schedule(trace))
            for sequence, emitted in zip(step.sequences, step.emitted, strict=False)
            if sequence == request
        ]

    for request in range(5):
        assert counts(alone, request) == counts(together, request)
    assert counts(alone, 0) != counts(alone, 1)
    other = batched(trace, speculative=(3, 0.6), seed=8)
    assert counts(other, 0) != counts(alone, 0)


@pytest.mark.parametrize(("rate", "mean"), [(0.0, 1.0), (1.0, 4.0), (0.7, (1 - 0.7**4) / (1 - 0.7))])
def test_the_rate_of_acceptance(rate: float, mean: float) -> None:
    # (1 - p^(n+1)) / (1 - p) tokens a step on average; about 4,000 steps, of standard deviation 1.2: 0.1 is 5 sigma.
    trace = batched(numbered([D] * 10_000, phases=False), speculative=(3, rate))
    emitted = [sum(step.emitted) for step in steps_of(Schedule(trace))]
    assert sum(emitted) == 10_000
    assert sum(emitted) / len(emitted) == pytest.approx(mean, abs=0.1 if 0 < rate < 1 else 0)


# --- replay, bounds and engine ---------------------------------------------------------------------------------------


@st.composite
def routed(draw: st.DrawFn) -> tuple[RoutingTrace, dict]:  # type: ignore[type-arg]
    """Draw a trace of one or two layers, some positions not recorded, and how to serve it."""
    requests, chosen = draw(phases), draw(options)
    tokens = sum(map(len, requests))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    layers = draw(st.integers(1, 2))
    experts = np.argsort(random.random((tokens, layers, 5)), axis=2)[:, :, :2]
    experts[random.random(experts.shape) < draw(st.sampled_from([0.05, 0.6]))] = -1
    weights = random.random(experts.shape)
    trace = RoutingTrace.from_arrays(
        experts,
        num_experts=5,
        offsets=np.cumsum([0, *map(len, requests)]),
        phase=list(chain(*requests)),
        weights=weights,
        expert_bytes=1_000,
    )
    return trace, chosen


def run(job: Run, future: bool = False) -> tuple[Tally, Counts]:
    """Run a trace through the engine."""
    profile = load_profile("rtx-4090")
    schedule = Schedule(job.trace, job.prefill)
    source = steps_of(schedule, Future(schedule, job.access, job.warm) if future else None)
    residency = Residency(job, make_action("load", profile))
    engine = Engine(source, residency, FixedCosts(1e-5, 1e-6), profile, [1_000] * job.trace.num_layers)
    return engine.run(), residency.finish()


@pytest.mark.parametrize("policy", ["lru", "fifo", "belady"])
@settings(max_examples=60)
@given(case=routed(), capacity=st.integers(1, 4), warm=st.booleans())
def test_engine_and_replay_agree(policy: str, case: tuple[RoutingTrace, dict], capacity: int, warm: bool) -> None:  # type: ignore[type-arg]
    base, chosen = case
    trace = batched(base, **chosen)
    pools = tuple(resolve_capacity(capacity, trace.layers, "layer"))
    job = Run.in_pools(trace, policy, pools, "coresident", chosen["prefill"], warm)
    _, counts = run(job, future=policy == "belady")
    expected = replay(job)
    assert counts.misses.tolist() == expected.misses.tolist()
    assert counts.accesses.tolist() == expected.accesses.tolist()
    assert (counts.evictions, counts.cold_misses) == (expected.evictions, expected.cold_misses)
    assert counts.steps.tolist() == expected.steps.tolist()


def fewest_misses(periods: list[list[frozenset[int]]], capacity: int) -> int:
    """Try all evictions: batches are looked up whole and are never put out for one of their own."""

    @cache
    def search(batches: tuple[frozenset[int], ...], resident: frozenset[int]) -> int:
        if not batches:
            return 0
        batch = batches[0]
        missed = len(batch - resident)
        if len(resident | batch) <= capacity or not missed:
            return missed + search(batches[1:], resident | batch if missed else resident)
        must, rest = (batch, resident - batch) if len(batch) <= capacity else (frozenset(), batch)
        choices = combinations(sorted(rest), capacity - len(must))
        return missed + min(search(batches[1:], must | frozenset(choice)) for choice in choices)

    return sum(search(tuple(batches), frozenset()) for batches in periods)


@settings(max_examples=150)
@given(case=routed(), capacity=st.integers(1, 4), warm=st.booleans())
def test_the_optimum_equals_exhaustive_search(case: tuple[RoutingTrace, dict], capacity: int, warm: bool) -> None:  # type: ignore[type-arg]
    base, chosen = case
    trace = batched(base, **chosen)
    found = simulate(trace, "belady", capacity, warm=warm, prefill=chosen["prefill"])
    misses = 0
    for layer in range(trace.num_layers):
        periods: dict[int, list[frozenset[int]]] = {}
        for step in steps_of(Schedule(trace, chosen["prefill"])):
            for work in step.layers:
                if work.layer == layer:
                    periods.setdefault(0 if warm else step.request, []).append(frozenset(work.keys))
        misses += fewest_misses(list(periods.values()), capacity)
    assert int(found.counts.misses.sum()) == misses  # replayed
    assert found.hit_rate == found.bounds["belady"].hit_rate if found.counts.accesses.sum() else True  # compiled


def test_what_is_emitted_is_what_throughput_counts() -> None:
    trace = batched(numbered([P, *[D] * 9], [P, *[D] * 5]), batch=2, speculative=(2, [2, 0, 1]))
    job = Run.in_pools(trace, "lru", tuple(resolve_capacity(16, trace.layers, "layer")), "coresident", "step", True)
    tally, _ = run(job)
    assert tally.decode_tokens() == 14
    time = tally.to_dict()["time"]
    assert time["decode_tokens_per_s"] == pytest.approx(14 / time["decode_s"], rel=1e-12)


@pytest.mark.parametrize(
    "chosen",
    [
        {"batch": 4},
        {"batch": 3, "batching": "static", "prefill": "chunk:16"},
        {"speculative": (3, 0.7)},
        {"batch": 4, "speculative": (2, [2, 0])},
    ],
)
def test_the_bundled_trace(chosen: dict) -> None:  # type: ignore[type-arg]
    with RoutingTrace.open() as base:
        trace = batched(base, **chosen)
        result = simulate(trace, "lru", "4x")
        assert result.lru is not None
        assert result.hit_rate == result.lru.hit_rate  # replayed and compiled
        assert 0 < result.lru.hit_rate < result.bounds["belady"].hit_rate < 1
        decoded = sum(sum(step.emitted) for step in steps_of(Schedule(trace)))
        assert base.phase is not None
        assert decoded == int(base.phase.sum())


def test_a_file_and_arrays_give_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    experts = np.argsort(random.random((40, 2, 6)), axis=2)[:, :, :2]
    experts[random.random(experts.shape) < 0.1] = -1
    trace = RoutingTrace.from_arrays(experts, num_experts=6, offsets=[0, 15, 40], predictions={1: experts})
    trace.save(tmp_path / "x.h5")
    chosen = {"batch": 2, "speculative": (2, 0.5)}
    with RoutingTrace.open(tmp_path / "x.h5") as opened:
        mine, other = batched(trace, **chosen), batched(opened, **chosen)  # type: ignore[arg-type]
        assert mine.experts.dtype == other.experts.dtype
        for name in mine.columns:
            assert mine.column(name).tolist() == other.column(name).tolist()
        assert mine.read("experts", 3, 9, layer=1).tolist() == mine.experts[3:9, 1:].tolist()
        assert other.read("experts", 3, 9, layer=1).tolist() == mine.experts[3:9, 1:].tolist()
        assert other.read("experts", 4, 4).shape == (0, 2, 2)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"batch": 0}, "batch must be a number of requests, 1 or more, given 0"),
        ({"batch": 2.5}, "given 2.5"),
        ({"batch": True}, "given True"),
        ({"batching": "continous"}, "use continuous or static; did you mean 'continuous'"),
        ({"prefill": "steps"}, "prefill 'steps' is not known"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, given -1"),
        ({"speculative": 3}, r"speculative must be \(drafts, acceptance\), such as \(3, 0.7\), given 3"),
        ({"speculative": (0, 0.5)}, "drafts must be a number of tokens from 1 to 1,024, given 0"),
        ({"speculative": (10**8, 0.5)}, "drafts must be a number of tokens from 1 to 1,024, given 100000000"),
        ({"speculative": (2, 1.5)}, "a rate from 0 to 1, or a list of accepted drafts, given 1.5"),
        ({"speculative": (2, float("nan"))}, "given nan"),
        ({"speculative": (2, [])}, r"given \[\]"),
        ({"speculative": (2, "0.5")}, "given '0.5'"),
        ({"speculative": (2, [0, 3])}, "of 2 drafts 0 to 2 can be accepted, given 3"),
    ],
)
def test_wrong_options(chosen: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=message):
        batched(ABC, **chosen)


def test_an_order_of_an_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="in the order of a server already"):
        batched(batched(ABC, batch=2), batch=2)


def test_the_rule_of_the_paper_is_refused() -> None:
    with pytest.raises(ConfigError, match="access 'paper' runs one token after the other"):
        simulate(batched(ABC, batch=2), "lru", 2, access="paper")


def test_acceptance_as_users_write_it() -> None:
    assert parse_acceptance("0.7") == 0.7
    assert parse_acceptance("2,0,3") == [2, 0, 3]
    assert parse_acceptance("2,") == [2]
    with pytest.raises(ConfigError, match="acceptance 'most' is neither a rate from 0 to 1 nor a list"):
        parse_acceptance("most")


def test_worked_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3] / "docs/batching.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    exec(compile(snippet, "batching.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "[0, 1, 0, 0, 1, 1, 0, 0, 1]",
        "[0, 0, 1, 2, 1, 2, 2, 3, 2]",
        "[1, 1, 1, 0, 1, 0, 1, 1, 1]",
        "6",
    ]
