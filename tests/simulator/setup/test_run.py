"""A run as a value: JSON and back, what it refuses, and that nothing changes it."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError, LrcsimError, PolicyError
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.policies.recency import Lru
from lrcsim.runtimes import Runtime, load_runtime, to_toml
from lrcsim.runtimes.runtime import DeviceUse, LoadUse
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.options import ACCESS, Options, declared
from lrcsim.simulator.setup.platform import memory_needed
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.simulate import result_of
from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS, TOP_K = 8, 64, 8
MODEL = "lrcsim-toy-baseline"


def routed(tokens: int = 18) -> RoutingTrace:
    rng = np.random.default_rng(5)
    ids = rng.random((tokens, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K]
    return RoutingTrace.from_arrays(
        ids,
        num_experts=EXPERTS,
        offsets=[0, tokens // 3, tokens],
        phase=np.arange(tokens) % (tokens // 3) >= 3,
        weights=rng.random(ids.shape),
        expert_bytes=1 << 20,
        model=MODEL,
    )


TRACE = routed()
SLOW_LOADS = Runtime(
    "mine",
    'my "own"',
    DeviceUse(dense=1 / 3, layer=1e-4),
    loads=LoadUse(overlap="tensor", byte=1.7e-10, copies=4, eviction=2e-5),
    sources={"device.layer": "measured"},
)
SLOWER = load_profile("rtx-3090", ["pcie.bandwidth=9GB/s"])
LAYER_SIZES = st.lists(st.integers(0, EXPERTS), min_size=LAYERS, max_size=LAYERS)

HITS = st.fixed_dictionaries(
    {},
    optional={
        "expert_bytes": st.sampled_from([1000, "2.5MiB", [1000 + layer for layer in range(LAYERS)]]),
        "policy": st.sampled_from(["lru", "lfu", "fifo", "slru:share=0.5", "sch-lookahead:4", "belady", "mrs"]),
        "cache": st.one_of(
            st.integers(0, EXPERTS), st.sampled_from(["2x", "25%", "0.5x", "8MiB"]), LAYER_SIZES,
            LAYER_SIZES.map(np.array), st.integers(0, EXPERTS).map(np.int64),
        ),
        "scope": st.just("layer"),
        "access": st.sampled_from(["coresident", "sequential", "paper"]),
        "prefill": st.sampled_from([None, "step", "chunk:4", "token"]),
        "warm": st.sampled_from([None, True, False]),
        "profile": st.just("self"),
        "bounds": st.booleans(),
        "batch": st.integers(1, 3),
        "batching": st.sampled_from(["continuous", "static"]),
        "speculative": st.sampled_from([None, (2, 0.5), [1, 1.0], (2, [1, 0, 2])]),
        "seed": st.integers(0, 5),
    },
)  # fmt: skip

TIMED = st.fixed_dictionaries(
    {"hardware": st.sampled_from(["rtx-3090", "rtx-4090+pcie3-x8", SLOWER])},
    optional={
        "cache": st.sampled_from(["2x", 20]),
        "batch": st.integers(1, 2),
        "model": st.sampled_from([MODEL, load_geometry(MODEL)]),
        "overrides": st.sampled_from([(), ["pcie.bandwidth=25.6GB/s"], ("gpu.bandwidth=1TB/s", "pcie.latency=1us")]),
        "runtime": st.sampled_from(["ideal", "llama.cpp", load_runtime("llama.cpp"), SLOW_LOADS]),
        "dtype": st.sampled_from([None, "bf16", "q4_k_m"]),
        "overlap": st.booleans(),
        "miss": st.sampled_from(["load", "cpu", "split:0.5", "skip:0.05", "low:0.1,0.5"]),
        "prefetch": st.sampled_from(["none", "oracle:2", "popularity"]),
        "dram": st.sampled_from([None, "50%", "32GiB"]),
        "dram_policy": st.sampled_from(["lru", "fifo"]),
        "engine": st.sampled_from(["auto", "events"]),
        "arrivals": st.sampled_from(["poisson:5", [0.0, 0.5]]),
    },
)


@settings(max_examples=150)
@given(st.one_of(HITS, TIMED))
def test_there_and_back(told: dict[str, Any]) -> None:
    try:
        run = Run.of(TRACE, **told)
    except LrcsimError:
        return
    text = json.dumps(run.to_dict(), allow_nan=False)
    again = Run.from_dict(json.loads(text), TRACE)
    assert json.dumps(again.to_dict()) == text
    assert again.config() == run.config()
    assert again.pools == run.pools
    assert (again.policy, again.access, again.prefill, again.warm) == (run.policy, run.access, run.prefill, run.warm)
    assert (again.profile is None) == (run.profile is None)
    assert again.profile is None or np.array_equal(again.profile, run.profile)  # type: ignore[arg-type]  # both are there
    assert (again.platform is None) == (run.platform is None)
    if run.platform is not None:
        assert again.platform is not None
        assert (again.platform.profile, again.platform.geometry) == (run.platform.profile, run.platform.geometry)
        assert again.platform.runtime == run.platform.runtime
        assert again.platform.costs.table(LAYERS).parts.tolist() == run.platform.costs.table(LAYERS).parts.tolist()
        assert (again.platform.sizes, again.platform.dram) == (run.platform.sizes, run.platform.dram)


@pytest.mark.parametrize(
    "told",
    [
        {"policy": "slru:share=0.5", "cache": "3x", "scope": "model", "warm": False},
        {"batch": 2, "speculative": (2, 0.5), "seed": 3, "prefill": "chunk:2"},
        {"hardware": SLOWER, "model": load_geometry(MODEL), "cache": 20},
        {"hardware": "rtx-3090", "model": MODEL, "cache": 20, "runtime": SLOW_LOADS},
    ],
    ids=["hits", "served", "timed", "under a runtime"],
)
def test_a_result_is_a_run_again_with_the_same_numbers(told: dict[str, Any]) -> None:
    text = json.dumps(simulate(TRACE, **told).to_dict())
    assert json.dumps(result_of(Run.from_dict(json.loads(text), TRACE)).to_dict()) == text


def test_instead_of_what_is_described() -> None:
    data = Run.of(TRACE, policy="lfu", cache=4).to_dict()
    assert Run.from_dict(data, TRACE, policy="fifo").to_dict()["options"]["policy"] == "fifo"


RUN = {"kind": "run", "version": 1, "options": {}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "this is no run: give what Run.to_dict"),
        ({"run": 1}, "this is no run"),
        ({"run": {"kind": "curve"}}, "this is no run"),
        (RUN | {"kind": "curve"}, "this is no run"),
        (RUN | {"options": []}, "this is no run"),
        (RUN | {"version": 2}, "was written as version 2, this lrcsim reads 1"),
        ({"run": RUN | {"version": None}}, "was written as version None"),
        (RUN | {"options": {"polcy": "lru"}}, "there is no option 'polcy'; did you mean 'policy'\\? there are"),
        (RUN | {"options": {"hardware": {"name": "x", "toml": "="}}}, "x is no TOML"),
        (RUN | {"options": {"hardware": "rtx-3090", "model": {"name": "x"}}}, "model is no geometry"),
    ],
)
def test_what_is_no_run(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run.from_dict(data, TRACE)


WRONG: tuple[Any, ...] = ("x", [], {}, -1, 10**400, 0.5, True, [[1]], {"a": 1}, "")


@pytest.mark.parametrize("name", declared())
def test_values_of_wrong_types_are_one_line(name: str) -> None:
    """Whatever JSON has in an option's place, it is refused in words or taken."""
    machine = declared()[name].timed or name == "arrivals"
    for wrong in WRONG:
        options = {"cache": 8} | ({"hardware": "rtx-3090"} if machine else {}) | {name: wrong}
        said = ""
        try:
            Run.from_dict(RUN | {"options": options}, TRACE).config()
        except LrcsimError as error:
            said = str(error)
        assert "\n" not in said, (name, wrong)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batching": "sometimes"}, "batching 'sometimes' is not known"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"hardware": "rtx-3090", "dram_policy": "belady"}, "dram policy 'belady' needs more than main memory knows"),
        ({"hardware": "rtx-3090", "dram_policy": "lur"}, "did you mean 'lru'"),
    ],
)
def test_a_wrong_value_is_refused_where_the_run_does_not_use_it_too(option: dict[str, Any], message: str) -> None:
    """One request at a time has no batching and draws nothing; main memory that holds all experts evicts none."""
    with pytest.raises(LrcsimError, match=message):
        Run.of(TRACE, cache=8, **option)


def test_a_run_is_frozen() -> None:
    run = Run.of(TRACE, cache=8)
    for value, field in ((run, "options"), (run, "trace"), (run.options, "policy")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)
    larger = run.at(9)
    assert (run.options.cache, larger.options.cache) == (8, 9)
    assert {pool.capacity for pool in larger.pools} == {9}


@pytest.mark.parametrize(
    ("access", "warm", "prefill"),
    [("coresident", True, "step"), ("sequential", True, "step"), ("paper", False, "token")],
)
def test_what_is_left_open_is_settled_by_the_rule_of_access(access: str, warm: bool, prefill: str) -> None:
    run = Run.of(TRACE, access=access, cache=8)
    assert (run.options.warm, run.options.prefill) == (warm, prefill)


@pytest.mark.parametrize("access", ACCESS)
def test_a_policy_that_needs_a_profile_is_refused_without_by_every_rule(access: str) -> None:
    popular = type("Popular", (Lru,), {"needs": frozenset({"profile"})})
    with pytest.raises(PolicyError, match="policy Popular needs a profile"):
        Run.of(TRACE, policy=popular, access=access, cache=8)
    assert Run.of(TRACE, policy=popular, access=access, cache=8, profile="self").profile is not None


def test_arrivals_alone_make_a_server() -> None:
    with pytest.raises(ConfigError, match="arrivals are about time"):
        Run.of(TRACE, cache=8, arrivals=[0.0, 0.5])
    config = Run.of(TRACE, cache=8, arrivals=[0.0, 0.5], hardware="rtx-3090").config()
    assert (config["arrivals"], config["requests"], config["batch"]) == ([0.0, 0.5], 2, 1)
    assert "arrivals" not in Run.of(TRACE, cache=8, hardware="rtx-3090").config()


def test_options_that_go_with_a_machine_only() -> None:
    timed = [option.name for option in declared().values() if option.timed]
    machine = ["model", "overrides", "runtime", "dtype", "overlap", "miss", "prefetch", "dram", "dram_policy", "engine"]
    assert timed == machine


def test_a_value_of_another_type_is_not_the_default() -> None:
    assert Options(batch=1, bounds=True, cache="2x").given() == {}
    assert Options(batch=True).given() == {"batch": True}
    listed = np.array([1, 2])
    assert Options(cache=listed).given() == {"cache": listed}  # type: ignore[arg-type]


def test_the_callers_trace_stays_as_it_is() -> None:
    before = TRACE.layers
    run = Run.of(TRACE, hardware="rtx-3090", dtype="q4_k_m", cache=8)
    assert run.trace.layers.expert_bytes.tolist() != before.expert_bytes.tolist()
    assert TRACE.layers is before


def test_popularity_is_that_of_the_trace_as_given() -> None:
    # In a server two requests share their steps, and an expert that both use is used once: that counts for hits alone.
    together = Run.of(TRACE, policy="static", cache=8, profile="self", batch=2)
    alone = Run.of(TRACE, policy="static", cache=8, profile="self")
    assert together.profile is not None
    assert alone.profile is not None
    assert together.profile.tolist() == alone.profile.tolist()
    assert together.trace.num_tokens == TRACE.num_tokens


def test_the_kv_cache_is_as_long_as_the_longest_request_as_given() -> None:
    # Together the requests, of 6 and 12 tokens, make one order of 18 tokens; each of the two has a KV cache of 12.
    profile = load_profile("rtx-3090")
    assert profile.gpu is not None
    run = Run.of(TRACE, hardware=profile, cache=8, batch=2)
    assert run.platform is not None
    needed = sum(memory_needed(run.platform, TRACE, run.pools, 2))
    assert needed < sum(memory_needed(run.platform, run.trace, run.pools, 2))
    for memory, fits in ((needed, True), (needed - 1, False)):
        card = dataclasses.replace(profile, gpu=dataclasses.replace(profile.gpu, memory=memory))
        with nullcontext() if fits else pytest.raises(ConfigError, match="KV cache this exceeds"):
            Run.of(TRACE, hardware=card, cache=8, batch=2).check_memory()


def test_simulate_lists_every_option() -> None:
    import inspect

    found = inspect.signature(simulate).parameters
    for field in dataclasses.fields(Options):
        assert found[field.name].default == field.default


def test_a_runtime_by_name_by_path_and_as_an_object_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(SLOW_LOADS), encoding="utf-8")
    told: dict[str, Any] = {"cache": 20, "hardware": "rtx-3090", "model": MODEL}
    runs = [Run.of(TRACE, **told, runtime=one) for one in (path, str(path), load_runtime(path), SLOW_LOADS)]
    assert all(run.platform is not None and run.platform.runtime == SLOW_LOADS for run in runs)
    assert all(run.config()["runtime"] == "mine" for run in runs)
    assert runs[0].to_dict()["options"]["runtime"] == str(path)
    assert runs[3].to_dict()["options"]["runtime"] == {"name": "mine", "toml": to_toml(SLOW_LOADS)}
    results = [simulate(TRACE, **told, runtime=one).to_dict() for one in (path, SLOW_LOADS)]
    assert results[0]["time"] == results[1]["time"]
    assert results[0]["time"] != simulate(TRACE, **told).to_dict()["time"]


@pytest.mark.parametrize(
    ("runtime", "says"),
    [
        ("lama.cpp", "did you mean 'llama.cpp'?"),
        (3, "runtime 3 is no name and no path of a TOML file: lrcsim runtimes lists them"),
        (None, "runtime None is no name"),
    ],
)
def test_a_runtime_that_is_none(runtime: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Run.of(TRACE, cache=20, hardware="rtx-3090", model=MODEL, runtime=runtime)
    assert says in str(caught.value)


def test_a_runtime_needs_a_machine_and_overlap_for_prefetches() -> None:
    with pytest.raises(ConfigError, match="option 'runtime' is about time: name a machine with it"):
        Run.of(TRACE, cache=20, runtime="llama.cpp")
    waits = Runtime("waits", loads=LoadUse(overlap="none"))
    told: dict[str, Any] = {"cache": 20, "hardware": "rtx-3090", "model": MODEL, "runtime": waits}
    run = Run.of(TRACE, **told)
    assert run.config()["overlap"] is False
    with pytest.raises(ConfigError, match="beside compute: runtime waits does not overlap them"):
        Run.of(TRACE, **told, prefetch="oracle:1")
