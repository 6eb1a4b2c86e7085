"""Requests that arrive while others run: who waits, for how long, and that time changes nothing else."""

from __future__ import annotations

from dataclasses import astuple
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link, load_profile
from lrcsim.policies import make_policy
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.replay import replay
from lrcsim.simulator.serving.arrivals import ArrivalSteps, arrival_steps, arrival_times
from lrcsim.simulator.serving.batching import batched
from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.run_in_time import check_arrivals
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

P, D = 0, 1

# Each step takes a second of dense compute; the one expert there is takes a quarter of a second to load, once.
MACHINE = HardwareProfile(
    name="toy",
    description="",
    gpu=Gpu(memory=1 << 30, bandwidth=1.0, compute=1.0, overhead=0.0),
    cpu=Cpu(compute=1.0, bandwidth=1.0, overhead=0.0, cores=1),
    dram=Dram(memory=1 << 30, bandwidth=1e9),
    links=(Link("pcie", bandwidth=4.0, latency=0.0, overhead=0.0, lanes=1),),
    unified=False,
    layer_overhead=0.0,
    expert_overhead=0.0,
)


def one_expert(*requests: list[int]) -> RoutingTrace:
    """Make a trace of requests, given by the phases of their tokens; all use the same expert."""
    phase = list(chain(*requests))
    offsets = np.cumsum([0, *map(len, requests)])
    return RoutingTrace.from_arrays(np.zeros((len(phase), 1, 1), int), num_experts=1, offsets=offsets, phase=phase)


def serve(trace: RoutingTrace, arrivals: list[float] | None, **chosen: Any) -> Tally:
    """Run a trace on the machine above; without arrivals, in the order of `batched`."""
    pools = tuple(resolve_capacity(1, trace.layers, "layer"))
    residency = Residency(Run.in_pools(trace, "lru", pools, "coresident", "step", True), make_action("load", MACHINE))
    if arrivals is None:
        source: Any = steps_of(Schedule(batched(trace, **chosen)))
    else:
        source = arrival_steps(trace, arrivals, **chosen)
    return Engine(source, residency, FixedCosts(dense=1.0), MACHINE, [1]).run()


def ttft(tally: Tally) -> dict[int, float]:
    """Return seconds from arrival to the first token, by request."""
    return {request: end - begin for request, (begin, end) in tally.first_step.items()}


def spans(tally: Tally) -> list[tuple[float, float]]:
    """Return begin and end of each step."""
    return [(begin, end) for begin, end, *_ in tally.by_step().tolist()]


# --- solved by hand --------------------------------------------------------------------------------------------------


def test_one_place() -> None:
    # A at 0: prompt to 1.25 (it loads the expert), token to 2.25. B has waited since 0.5: prompt to 3.25, token to
    # 4.25. Nothing to do until C comes at 10: prompt to 11, token to 12.
    tally = serve(one_expert([P, D], [P, D], [P, D]), [0, 0.5, 10])
    assert spans(tally) == [(0, 1.25), (1.25, 2.25), (2.25, 3.25), (3.25, 4.25), (10, 11), (11, 12)]
    assert ttft(tally) == {0: 1.25, 1: 2.75, 2: 1}
    assert tally.idle == 5.75
    assert tally.total == 12
    assert list(tally.gaps) == [1, 1, 1]
    assert tally.to_dict()["time"]["stall_s"] == 0.25


def test_two_places() -> None:
    # B joins at 1.25, its prompt runs to 2.25, then both decode to 3.25: A's token comes 2 s after its first, B's 1 s.
    tally = serve(one_expert([P, D], [P, D], [P, D]), [0, 0.5, 10], batch=2)
    assert spans(tally) == [(0, 1.25), (1.25, 2.25), (2.25, 3.25), (10, 11), (11, 12)]
    assert ttft(tally) == {0: 1.25, 1: 1.75, 2: 1}
    assert list(tally.gaps) == [2, 1, 1]
    assert tally.idle == 6.75
    time = tally.to_dict()["time"]
    # Three tokens in two seconds of decode steps; time per token as each request sees it.
    assert time["decode_tokens_per_s"] == 1.5
    assert time["tpot_ms"] == pytest.approx({"mean": 4e3 / 3, "p50": 1e3, "p90": 1.8e3, "p99": 1.98e3, "max": 2e3})
    assert time["ttft_ms"]["max"] == 1.75e3


BURST = one_expert([P, D, D], [P, D], [P, D])


def test_a_burst() -> None:
    # All come at 5. Prompts of A and B to 6.25 and 7.25, both decode to 8.25, B is done. C: prompt to 9.25, then with
    # A to 10.25.
    tally = serve(BURST, [5, 5, 5], batch=2)
    assert spans(tally) == [(5, 6.25), (6.25, 7.25), (7.25, 8.25), (8.25, 9.25), (9.25, 10.25)]
    assert ttft(tally) == {0: 1.25, 1: 2.25, 2: 4.25}
    assert tally.idle == 5
    assert list(tally.gaps) == [2, 1, 2, 1]  # A waited for B's prompt, then for C's


def test_a_burst_for_a_static_batch() -> None:
    # C waits until A is done at 9.25.
    tally = serve(BURST, [5, 5, 5], batch=2, batching="static")
    assert ttft(tally) == {0: 1.25, 1: 2.25, 2: 5.25}
    assert tally.total == 11.25


def test_a_static_batch_is_who_is_there() -> None:
    # B comes at 0.5, too late for the batch that began at 0 with A alone (0 to 3.25); C, at 3, is with B.
    tally = serve(BURST, [0, 0.5, 3], batch=2, batching="static")
    assert ttft(tally) == {0: 1.25, 1: 3.75, 2: 2.25}
    assert tally.total == 6.25


def test_an_arrival_at_a_step_boundary_joins_there() -> None:
    tally = serve(BURST, [0, 1.25, 2.2500001], batch=3)
    # B's prompt from 1.25 to 2.25; C has just missed that boundary: A and B decode to 3.25, B is done; C 3.25 to 4.25.
    assert spans(tally) == [(0, 1.25), (1.25, 2.25), (2.25, 3.25), (3.25, 4.25), (4.25, 5.25)]


def test_the_order_of_arrival_is_the_order_of_service() -> None:
    tally = serve(BURST, [2, 1, 0])
    # C from 0 to 2.25, B to 4.25, A to 7.25. Requests that arrive together are served as they stand in the trace.
    assert ttft(tally) == {2: 1.25, 1: 2.25, 0: 3.25}


def test_drafts_shorten_the_time_per_token() -> None:
    # The steps of 5 decoded tokens give 2, 1 and 2: a second each, after the prompt's 1.25.
    for arrivals in (None, [3.0]):
        tally = serve(one_expert([P, D, D, D, D, D]), arrivals, speculative=(2, [1, 0]))
        assert list(tally.emitted) == [1, 2, 1, 2]
        assert list(zip(tally.gaps, tally.gap_tokens, strict=True)) == [(0.5, 2), (1, 1), (0.5, 2)]
        time = tally.to_dict()["time"]
        assert time["decode_s"] == 3
        assert time["decode_tokens_per_s"] == 5 / 3
        assert time["decode_ms_per_token"] == 600
        assert time["tpot_ms"]["mean"] == 600
        assert time["tpot_ms"]["p50"] == 500


def test_a_later_prompt_does_not_move_the_first_token() -> None:
    tally = serve(one_expert([P, D, P, D]), None)
    assert ttft(tally) == {0: 1.25}
    assert tally.total == 4.25


def test_without_a_prompt_the_first_token_is_decoded() -> None:
    tally = serve(one_expert([D, D]), [2.0])
    assert ttft(tally) == {0: 1.25}
    assert list(tally.gaps) == [1.25, 1]


# --- time changes the order and nothing else -------------------------------------------------------------------------

phases = st.lists(st.lists(st.sampled_from([P, D]), max_size=5), min_size=1, max_size=5).filter(any)
options = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 4),
        "batching": st.sampled_from(["continuous", "static"]),
        "prefill": st.sampled_from(["step", "token", "chunk:2"]),
        "speculative": st.none() | st.just((2, [1, 0, 2])) | st.just((3, 0.5)),
    }
)


@st.composite
def routed(draw: st.DrawFn) -> RoutingTrace:
    requests = draw(phases)
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    experts = np.argsort(random.random((sum(map(len, requests)), 2, 5)), axis=2)[:, :, :2]
    experts[random.random(experts.shape) < draw(st.sampled_from([0, 0.6]))] = -1  # whole steps may be unrecorded
    weights = random.random(experts.shape)
    offsets = np.cumsum([0, *map(len, requests)])
    return RoutingTrace.from_arrays(
        experts, num_experts=5, offsets=offsets, phase=list(chain(*requests)), weights=weights
    )


def drain(source: ArrivalSteps) -> list[Step]:
    steps = []
    while (step := source.next(0.0)) is not None:
        assert isinstance(step, Step)
        steps.append(step)
    return steps


@settings(max_examples=150)
@given(trace=routed(), chosen=options)
def test_arrivals_at_zero_are_the_order_without_arrivals(trace: RoutingTrace, chosen: dict[str, Any]) -> None:
    source = arrival_steps(trace, [0.0] * trace.num_requests, weights=True, **chosen)
    order = batched(trace, **chosen)
    expected = list(steps_of(Schedule(order, chosen["prefill"], weights=True)))
    found = drain(source)
    reordered = order is not trace
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        for work in (*mine.layers, *other.layers):
            work.tokens = work.tokens or [1] * len(work.keys)  # None: one each
        assert [astuple(work) for work in mine.layers] == [astuple(work) for work in other.layers]
        assert (mine.number, mine.phase, mine.first_token) == (other.number, other.phase, other.first_token)
        assert (mine.size, mine.sequences) == (other.size, other.sequences)
        ones = (1,) * len(mine.sequences)
        assert (mine.emitted or ones) == (other.emitted or ones)
        if reordered:  # a trace in its own order also counts requests without tokens
            assert mine.request == other.request
        assert mine.rows is not None
        ran = other.rows  # None: all of the step; else without tokens of which nothing is recorded
        if ran is None:
            ran = np.arange(other.first_token, other.first_token + other.size.tokens)
        assert trace.experts[mine.rows].tolist() == order.experts[ran].tolist()
    run = source.trace()
    assert run.experts.tolist() == order.experts.tolist()
    if reordered:
        for name in ("step", "sequence", "position", "kept"):
            assert run.column(name).tolist() == order.column(name).tolist()
        assert run.offsets.tolist() == order.offsets.tolist()


@settings(max_examples=100)
@given(
    trace=routed(),
    chosen=options,
    times=st.lists(st.floats(0, 1e-3), min_size=5, max_size=5),
    capacity=st.integers(1, 4),
    warm=st.booleans(),
)
def test_replaying_what_was_run_gives_the_same_hits(
    trace: RoutingTrace, chosen: dict[str, Any], times: list[float], capacity: int, warm: bool
) -> None:
    profile = load_profile("rtx-4090")
    pools = tuple(resolve_capacity(capacity, trace.layers, "layer"))
    source = arrival_steps(trace, times[: trace.num_requests], **chosen)
    residency = Residency(Run.in_pools(trace, "lru", pools, "coresident", "step", warm), make_action("load", profile))
    tally = Engine(source, residency, FixedCosts(1e-5, 1e-6), profile, [100_000] * 2).run()
    counts = residency.finish()
    run = source.trace()
    expected = replay(Run.in_pools(run, "lru", pools, "coresident", "step", warm))
    assert counts.misses.tolist() == expected.misses.tolist()
    assert counts.accesses.tolist() == expected.accesses.tolist()
    assert counts.evictions == expected.evictions
    tokens = run.read("kept", 0, run.num_tokens).sum()
    assert tokens == trace.num_tokens
    steps = tally.by_step()
    assert tally.idle + (steps[:, 1] - steps[:, 0]).sum() == pytest.approx(tally.total, rel=1e-9)
    for request, (arrival, _) in tally.first_step.items():
        assert arrival == source.arrivals[request]
        first = [begin for (begin, *_), step in zip(steps, _steps_of(run), strict=True) if request in step.sequences]
        assert first[0] >= arrival


def _steps_of(run: RoutingTrace) -> list[Step]:
    return list(steps_of(Schedule(run)))


def test_predictions_follow_the_tokens() -> None:
    # Two requests, two layers; at layer 0 token t is predicted to use expert t at layer 1.
    experts = np.array([[[t], [t]] for t in range(4)])
    trace = RoutingTrace.from_arrays(experts, num_experts=4, offsets=[0, 2, 4], predictions={1: experts})
    prefetcher = make_prefetcher("next-gate")
    prefetcher.trace, prefetcher.stride, prefetcher.num_layers, prefetcher.top_k = trace, 4, 2, 1
    prefetcher.reset()
    proposed = [list(prefetcher.propose(step, 0)) for step in drain(arrival_steps(trace, [0, 0], batch=2))]
    assert proposed == [[4, 6], [5, 7]]


def test_a_prediction_not_recorded_in_a_file_is_none(tmp_path: Path) -> None:
    experts = np.array([[[0], [1]], [[1], [0]]])
    gaps = np.array([[[0], [-1]], [[1], [0]]])
    RoutingTrace.from_arrays(experts, num_experts=2, predictions={1: gaps}).save(tmp_path / "x.h5")
    with RoutingTrace.open(tmp_path / "x.h5") as trace:
        prefetcher = make_prefetcher("next-gate")
        prefetcher.trace, prefetcher.stride, prefetcher.num_layers, prefetcher.top_k = trace, 2, 2, 1
        prefetcher.reset()
        assert [list(prefetcher.propose(step, 0)) for step in steps_of(Schedule(trace))] == [[], [2]]


def test_the_same_seed_gives_the_same_run() -> None:
    trace = one_expert(*[[P, *[D] * 10]] * 6)

    def times(seed: int) -> list[tuple[float, float]]:
        return spans(serve(trace, "poisson:0.2", batch=2, speculative=(2, 0.5), seed=seed))  # type: ignore[arg-type]

    assert times(1) == times(1) != times(2)


def test_the_bundled_trace() -> None:
    profile = load_profile("rtx-4090")
    with RoutingTrace.open() as trace:
        pools = tuple(resolve_capacity("4x", trace.layers, "layer"))
        source = arrival_steps(trace, "poisson:20/s", batch=4)
        residency = Residency(
            Run.in_pools(trace, "lru", pools, "coresident", "step", True), make_action("load", profile)
        )
        tally = Engine(source, residency, FixedCosts(1e-5, 2e-6), profile, [600_000] * trace.num_layers).run()
        assert trace.phase is not None
        assert tally.decode_tokens() == int(trace.phase.sum())
        assert len(tally.first_step) == trace.num_requests
        assert residency.finish().misses.sum() < residency.finish().accesses.sum()


# --- times of arrival ------------------------------------------------------------------------------------------------


def test_times_from_a_list_and_a_file(tmp_path: Path) -> None:
    assert arrival_times([3, 0.5], 2) == [3.0, 0.5]
    file = tmp_path / "times.txt"
    file.write_text("3\n0.5\n")
    assert arrival_times(str(file), 2) == [3.0, 0.5]


def test_poisson() -> None:
    times = arrival_times("poisson:4", 10_000, seed=1)
    gaps = np.diff([0, *times])
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)  # 5 sigma
    assert gaps.std() == pytest.approx(0.25, rel=0.1)
    assert arrival_times("poisson:4/s", 10_000, seed=1) == times
    assert arrival_times("poisson:4", 10_000, seed=2) != times


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        ([1.0], "a time for each of the 2 requests, given 1"),
        ([1.0, -2.0], "arrival of request 1 must be a number of seconds, 0 or more, given -2.0"),
        ([1.0, float("nan")], "given nan"),
        ([1.0, "soon"], "given 'soon'"),
        ("poisson:0", "'poisson:0': give requests per second, more than 0, such as poisson:2.5"),
        ("poisson", "give requests per second"),
        ("poisson:2/min", "give requests per second"),
        ("no/such/file", r"cannot be read \(FileNotFoundError\): give poisson:RATE"),
    ],
)
def test_wrong_times(arrivals: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arrival_times(arrivals, 2)


def test_who_needs_the_future_is_refused() -> None:
    check_arrivals(make_policy("lru"), make_prefetcher("temporal"))
    with pytest.raises(ConfigError, match="policy belady needs to know the steps to come"):
        check_arrivals(make_policy("belady"))
    with pytest.raises(ConfigError, match="prefetcher oracle needs to know"):
        check_arrivals(make_policy("lru"), make_prefetcher("oracle"))
