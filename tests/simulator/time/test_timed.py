"""`simulate` on a machine: times, their bounds, samples, the timeline; hand-solved, then laws on the bundled trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machines import geometry, machine

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import Gpu, load_profile
from lrcsim.plots.chrome_trace import timeline_events, write_timeline
from lrcsim.policies.recency import Lru
from lrcsim.simulator import Result, simulate
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.time import run_in_time
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


def toy(**options: Any) -> RoutingTrace:
    """Two layers, top-1: a prompt of two tokens (experts 0, 1), then 0, 1, 2 decoded, the same in both layers."""
    experts = np.tile(np.array([0, 1, 0, 1, 2]).reshape(-1, 1, 1), (1, 2, 1))
    given = {"num_experts": 4, "expert_bytes": 100, "phase": [0, 0, 1, 1, 1], **options}
    return RoutingTrace.from_arrays(experts, **given)


def small(length: int = 1500) -> RoutingTrace:
    bundled = RoutingTrace.open()
    return RoutingTrace.from_arrays(
        bundled.experts[:length],
        num_experts=bundled.num_experts,
        phase=bundled.read("phase", 0, length),
        weights=bundled.read("weights", 0, length),
        expert_bytes=bundled.expert_bytes,
        model=bundled.model,
    )


def test_hand_solved() -> None:
    """A step: dense 1 s a layer (overhead of the GPU), experts 1 s, output 1 s; a load takes 100 bytes / 100 B/s = 1 s.

    Loads are in order on one link, compute follows. Capacity 2 a layer.
        prefill  layer: dense 1, loads of 0 and 1 until 3 s, expert 1 until 4 s; two layers, output: 9 s.
        decode 0 layer: dense 1, expert 1 (hit): 2 s; two layers and output: 5 s. The same for decode 1.
        decode 2 layer: dense 1, load 1, expert 1: 3 s; two layers and output: 7 s.
    All: 9 + 5 + 5 + 7 = 26 s; compute: prefill 2 x 3 + 1, decode 3 x 5: 22 s; stall 2 x 1 + 2 x 1 = 4 s.
    """
    gpu = Gpu(memory=10**9, bandwidth=1e30, compute=1e30, overhead=1.0)
    data = simulate(toy(), "lru", 2, hardware=machine(gpu=gpu), model=geometry()).to_dict()
    time = data["time"]
    assert (time["total_s"], time["prefill_s"], time["decode_s"]) == pytest.approx((26.0, 9.0, 17.0))
    assert time["compute_s"] == pytest.approx(22.0)
    assert time["stall_s"] == pytest.approx(4.0)
    assert time["decode_ms_per_token"] == pytest.approx(17e3 / 3)
    assert time["decode_tokens_per_s"] == pytest.approx(3 / 17)
    assert time["ttft_ms"]["p50"] == pytest.approx(9e3)
    assert (time["tpot_ms"]["p50"], time["tpot_ms"]["max"]) == pytest.approx((5e3, 7e3))
    # misses: 0, 1 and 2 in each of two layers
    assert data["links"]["pcie"]["bytes"] == 600
    assert data["links"]["pcie"]["busy_s"] == pytest.approx(6.0)
    assert data["links"]["pcie"]["utilization"] == pytest.approx(6 / 26)
    assert data["cache"]["bytes_loaded"] == 600
    assert data["cache"]["decode"]["bytes_loaded"] == 200
    # bounds: compute alone 22 s; 600 bytes take 6 s; the optimum has the same six misses, so compute binds it too
    assert time["bounds"]["compute_only"]["total_s"] == pytest.approx(22.0)
    assert time["bounds"]["compute_only"]["ratio"] == pytest.approx(26 / 22)
    assert time["bounds"]["link_bound"]["total_s"] == pytest.approx(6.0)
    assert time["bounds"]["link_bound"]["decode_s"] == pytest.approx(2.0)
    assert time["bounds"]["link_bound"]["link"] == "pcie"
    assert time["bounds"]["optimum"]["total_s"] == pytest.approx(22.0)
    assert time["bounds"]["optimum"]["proven"] is True
    assert time["bounds"]["optimum"]["reachable"] is True
    assert time["binds"]["resource"] == "gpu"
    assert time["binds"]["busy"] == pytest.approx(22 / 26)
    json.dumps(data, allow_nan=False)


def test_the_growing_kv_cache_takes_slots_where_it_is_shared() -> None:
    """Two numbers of 2 bytes per token and layer: with n tokens 8n bytes, half of them from each layer's pool.

    Experts take 4 bytes, so n tokens cost a pool n slots: a cache of 3 has 1 left in the prompt, then 0.
    """
    shared = machine(kv_shared=True)
    for profile, hits in ((machine(), 4), (shared, 0)):
        result = simulate(toy(expert_bytes=4), "lru", 3, hardware=profile, model=geometry())
        assert int(result.counts.accesses.sum() - result.counts.misses.sum()) == hits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overlap": False},
        {"prefetch": "temporal"},
        {"prefetch": "oracle:2"},
        {"miss": "cpu"},
        {"miss": "split"},
        {"miss": "skip:0.05"},
        {"miss": "low:0.1,0.5"},
        {"dram": "30%"},
    ],
    ids=str,
)
def test_no_run_is_shorter_than_its_bounds(options: dict[str, Any]) -> None:
    result = simulate(small(), "lru", "2x", hardware="rtx-3090", **options)
    time = result.to_dict()["time"]
    for name, bound in time["bounds"].items():
        if bound["ratio"] is not None:
            assert bound["ratio"] >= 1 - 1e-9, name
    assert all(0 <= share <= 1 + 1e-9 for share in time["binds"]["all"].values())
    assert time["compute_s"] + time["overhead_s"] + time["stall_s"] == pytest.approx(time["total_s"])
    if options.get("miss") != "cpu":
        assert time["bounds"]["link_bound"]["ratio"] is not None


def test_all_resident_is_the_time_with_everything_resident() -> None:
    trace = small(400)
    all_resident = simulate(trace, "static", "100%", hardware="rtx-3090", profile=trace)
    assert all_resident.counts.misses.sum() == 0
    on_cpu = simulate(trace, "lru", "2x", hardware="rtx-3090", miss="cpu")
    for result in (all_resident, on_cpu):  # computed step by step for the second, summed up for the first
        found = result.to_dict()["time"]["all_resident"]
        assert found["total_s"] == pytest.approx(all_resident.to_dict()["time"]["total_s"])
    bounds = [result.to_dict()["time"]["bounds"]["compute_only"]["total_s"] for result in (all_resident, on_cpu)]
    assert bounds[1] < bounds[0]  # no bound where the CPU computes beside the GPU


def test_hits_are_those_of_the_replay() -> None:
    trace = small(600)
    for policy in ("lru", "lfu", "belady", "sieve"):
        timed = simulate(trace, policy, "2x", hardware="rtx-3090").counts
        plain = simulate(trace, policy, "2x").counts
        assert (timed.misses == plain.misses).all()
        assert (timed.evictions, timed.cold_misses, timed.resident) == (
            plain.evictions, plain.cold_misses, plain.resident,
        )  # fmt: skip


def test_samples_add_up() -> None:
    result = simulate(small(600), "lru", "2x", scope="model", hardware="rtx-3090", samples=True)
    assert result.timed is not None
    samples = result.timed.samples
    assert samples is not None
    assert samples.steps[0] == 0
    assert (np.diff(samples.times) >= 0).all()
    assert (samples.accesses[-1] == result.counts.accesses.sum(axis=0)).all()
    assert (samples.misses[-1] == result.counts.misses.sum(axis=0)).all()
    assert samples.residents[-1].sum() == result.counts.resident
    assert samples.link_bytes["pcie"][-1] == result.timed.tally.links["pcie"].bytes


def logged(**options: Any) -> Result:
    return simulate(small(300), "lru", "2x", hardware="rtx-3090", log=True, **options)


@pytest.mark.parametrize("options", [{}, {"miss": "split"}, {"prefetch": "temporal"}, {"dram": "20%"}], ids=str)
def test_timeline_is_a_chrome_trace(options: dict[str, Any], tmp_path: Path) -> None:
    """The format: an object with traceEvents, each with name, ph, ts, pid, tid; X has dur; spans of a track nest."""
    result = logged(**options)
    write_timeline(tmp_path / "out.json", result)
    document = json.loads((tmp_path / "out.json").read_text())
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    ends: dict[tuple[int, int], float] = {}
    names = {}
    for event in document["traceEvents"]:
        assert event["ph"] in "MXi"
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
        track = (event["pid"], event["tid"])
        if event["ph"] == "M":
            names[track] = names.get(track) or event["args"].get("name")
        elif event["ph"] == "i":
            assert event["s"] == "t"
        else:
            assert event["dur"] > 0
            assert event["ts"] >= ends.get(track, 0.0) - 1e-6  # nothing overlaps on a track
            ends[track] = event["ts"] + event["dur"]
        assert event["ph"] == "M" or track in names
    shown = set(names.values())
    assert {"machine", "requests", "gpu", "cache", "pcie", "stall", "request [0]"} <= shown
    assert ("cpu" in shown) == (options == {"miss": "split"})
    assert any(str(name).startswith("nvme") for name in shown) == ("dram" in options)


def test_timeline_accounts_for_everything() -> None:
    result = logged()
    assert result.timed is not None
    log, tally = result.timed.log, result.timed.tally
    assert log is not None
    events = list(timeline_events(log))
    compute = sum(event["dur"] for event in events if event.get("cat") in ("dense", "expert", "output"))
    assert compute / 1e6 == pytest.approx(tally.compute)
    assert sum(event.get("cat") == "load" for event in events) == int(result.counts.misses.sum())
    assert sum(event["args"]["count"] for event in events if event.get("cat") == "evict") == result.counts.evictions
    assert sum(event["dur"] for event in events if event.get("cat") == "stall") / 1e6 == pytest.approx(
        result.to_dict()["time"]["stall_s"]
    )
    steps = [event for event in events if event.get("cat") == "step"]
    assert len(steps) == len(tally.phases)
    assert sum(event["dur"] for event in steps) / 1e6 == pytest.approx(tally.total)


def test_a_window_of_the_timeline_is_what_the_whole_one_has_of_its_passes() -> None:
    """Tokens 100 to 119: the passes over them, and all that is in the whole log from their begin to their end."""
    whole, part = logged(), simulate(small(300), "lru", "2x", hardware="rtx-3090", log=(100, 120))
    assert whole.timed is not None
    assert part.timed is not None
    all_of_it, kept = whole.timed.log, part.timed.log
    assert all_of_it is not None
    assert kept is not None
    assert len(whole.timed.tally.phases) == len(all_of_it.steps)  # nothing was dropped
    numbers = [at for at, step in enumerate(all_of_it.steps) if step in kept.steps]
    assert kept.steps == all_of_it.steps[numbers[0] : numbers[-1] + 1]  # passes that follow each other
    sizes = [step.size.tokens for step in steps_of(Schedule(small(300), "step"))]
    tokens = np.cumsum([0, *sizes])
    assert tokens[numbers[0]] <= 100 < tokens[numbers[0] + 1]
    assert tokens[numbers[-1]] <= 119 < tokens[numbers[-1] + 1]
    low, high = kept.steps[0].start, kept.steps[-1].end
    assert kept.spans == [span for span in all_of_it.spans if span.end >= low and span.start < high]
    assert part.to_dict() == whole.to_dict()  # the run is the same


@pytest.mark.parametrize("window", [(300, 400), (120, 100), (-1, 5)])
def test_a_window_that_cannot_be_is_refused(window: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=rf"tokens {window[0]}:{window[1]} is not possible: the trace has 100 tokens"):
        simulate(small(100), "lru", "2x", hardware="rtx-3090", log=window)


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"runtime": "llama.cpp"}], ids=str)
def test_the_passes_of_a_timeline_say_what_they_stalled(options: dict[str, Any]) -> None:
    """Their sums are those of the run; a batch's pass stands once, however many requests are in it."""
    result = logged(**options)
    assert result.timed is not None
    assert result.timed.log is not None
    passes = [event for event in timeline_events(result.timed.log) if event.get("cat") == "pass"]
    time = result.to_dict()["time"]
    assert len(passes) == len(result.timed.tally.phases)
    for name in ("compute", "overhead", "stall"):
        assert sum(event["args"][f"{name}_us"] for event in passes) / 1e6 == pytest.approx(time[f"{name}_s"], rel=1e-9)


def test_same_run_same_bytes() -> None:
    first, second = (
        json.dumps(simulate(small(300), "random:seed=3", "2x", hardware="rtx-3090", prefetch="transition").to_dict())
        for _ in range(2)
    )
    assert first == second


def test_more_lanes_split_the_link() -> None:
    """Four lanes share the bandwidth, so the bytes take as long; the track of the link becomes up to four tracks."""
    profile = load_profile("rtx-3090", ["pcie.lanes=4", "pcie.overhead=0us", "pcie.latency=0us"])
    one = load_profile("rtx-3090", ["pcie.lanes=1", "pcie.overhead=0us", "pcie.latency=0us"])
    runs = [simulate(small(200), "lru", "2x", hardware=machine, log=True, overlap=False) for machine in (one, profile)]
    times = [run.to_dict()["time"]["total_s"] for run in runs]
    assert times[0] == pytest.approx(times[1])
    assert runs[1].timed is not None
    assert runs[1].timed.log is not None
    tracks = {event["args"]["name"] for event in timeline_events(runs[1].timed.log) if event["name"] == "thread_name"}
    assert {"pcie [1]", "pcie [2]", "pcie [3]", "pcie [4]"} <= tracks


def test_a_policy_in_python_runs_in_closed_form_where_that_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class decides the hits, which the result says; a short run compiles nothing for its times."""
    monkeypatch.setattr(run_in_time, "_in_simpy", 0)  # other tests of this process may have run much
    mine = type("Mine", (Lru,), {})
    found: dict[bool, Result] = {}
    for compiled in (False, True):
        monkeypatch.setattr(run_in_time, "closed_form_is_compiled", lambda compiled=compiled: compiled)
        found[compiled] = simulate(small(300), mine, "2x", hardware="rtx-4090", bounds=False)
        timed = found[compiled].timed
        assert timed is not None
        assert (found[compiled].engine, timed.engine) == ("python", "compiled" if compiled else "events")
    slow, quick = found[False].timed, found[True].timed
    assert slow is not None
    assert quick is not None
    assert quick.tally.by_step() == pytest.approx(slow.tally.by_step(), rel=1e-9)
    compiled_cache = simulate(small(300), "lru", "2x", hardware="rtx-4090", bounds=False)
    assert compiled_cache.engine == "compiled"
    assert compiled_cache.counts.misses.tolist() == found[True].counts.misses.tolist()
