"""The offloading executor on tiny experts: it computes what it says, loads what the replay says, and needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.offload.__main__ import main
from lrcsim.experiments.validation.offload.calibration import BURSTS, Numbers, OffloadCalibration
from lrcsim.experiments.validation.offload.compare import (
    Cell,
    Setting,
    as_markdown,
    bookkeeping,
    measure,
    predict,
    summarise,
)
from lrcsim.experiments.validation.offload.devices import FileDevice, NoDevice, Throttle, add_to
from lrcsim.experiments.validation.offload.executor import Executor, decode_part, slots_for
from lrcsim.experiments.validation.offload.weights import (
    ExpertShape,
    Vector,
    expert,
    matrices,
    random_expert,
    start_vector,
    weights_file,
)
from lrcsim.simulator import simulate
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

SHAPE = ExpertShape(layers=8, experts=64, hidden=16, ffn=64)  # 12 KiB each
TOKENS = 30


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    return decode_part(RoutingTrace.open(), TOKENS, SHAPE.expert_bytes)


@pytest.fixture(scope="module")
def setting(trace: RoutingTrace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with weights_file(tmp_path_factory.mktemp("weights"), SHAPE) as path:
        yield Setting(trace, SHAPE, path, lanes=2, part=10)
    assert not path.exists()


def directly(setting: Setting) -> list[Vector]:
    """Compute every token from the weights themselves, without file, cache or threads."""
    outputs = []
    for step in setting.steps():
        x = start_vector(SHAPE, step.first_token)
        for work in step.layers:
            assert work.weights is not None
            each = [expert(matrices(random_expert(SHAPE, key), SHAPE), x) for key in work.keys]
            x = add_to(x, work.weights, each)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("policy", "cache"), [("lru", "1.5x"), ("lfu", "3x"), ("lru", "4")])
def test_loads_are_the_replays_and_outputs_those_of_all_experts_in_memory(
    setting: Setting, policy: str, cache: str, overlap: bool
) -> None:
    cell = Cell(policy, cache, overlap)  # "4": smaller than a batch of 8, so experts pass through
    residency = setting.residency(cell)
    slots = slots_for(residency, setting.trace.top_k)
    device = FileDevice(setting.path, SHAPE, slots, setting.lanes)
    try:
        run = Executor(device, residency, slots, overlap=overlap, keep=True).run(setting.steps())
    finally:
        device.close()
    counts = residency.finish()
    found = simulate(setting.trace, policy=policy, cache=cache, scope="layer", access="coresident").to_dict()["cache"]
    assert counts.accesses.sum() == found["accesses"] == TOKENS * 8 * 8
    assert counts.misses.sum() == run.loads == found["accesses"] - found["hits"]
    assert counts.evictions == found["evictions"]
    for output, expected in zip(run.outputs, directly(setting), strict=True):
        assert (output == expected).all()  # the same products in the same order: to the last bit
    assert np.isfinite(run.outputs[-1]).all()
    assert len(run.seconds) == TOKENS


def test_misses_by_layer_are_the_replays(setting: Setting) -> None:
    from lrcsim.simulator.cache.capacity import resolve_capacity

    residency = setting.residency(Cell("lru", "2x", True))
    slots = slots_for(residency, setting.trace.top_k)
    Executor(NoDevice(SHAPE, [matrices(random_expert(SHAPE, 0), SHAPE)]), residency, slots).run(setting.steps())
    pools = tuple(resolve_capacity("2x", setting.trace.layers, "layer"))
    expected = replay(Run.in_pools(setting.trace, "lru", pools, "coresident", "step", True))
    counts = residency.finish()
    assert (counts.misses == expected.misses).all()
    assert counts.cold_misses == expected.cold_misses


def test_slots_are_never_shared(setting: Setting) -> None:
    residency = setting.residency(Cell("lfu", "1x", True))
    slots = slots_for(residency, setting.trace.top_k)
    assert slots == 8 * 8 + 8
    executor = Executor(NoDevice(SHAPE, [matrices(random_expert(SHAPE, 0), SHAPE)]), residency, slots)
    for step in setting.steps():
        executor.run([step])
        held = list(executor.slot.values())
        assert len(held) == len(set(held)) == sum(len(pool.resident) for pool in residency.pools)
        assert set(executor.slot) == set().union(*(pool.resident for pool in residency.pools))


def test_the_prediction_is_the_closed_form_without_overlap(setting: Setting) -> None:
    # One lane, nothing but reads of 1 s per expert, 2 s once per burst, 10 s per product, 100 s per layer-step:
    # each layer-step takes 100 + 8 * 10, and 2 + misses where there are any.
    numbers = Numbers(2.0, SHAPE.expert_bytes, 10.0, 0.0, 10.0, 100.0)
    cell = Cell("lru", "2x", False)
    one_lane = Setting(setting.trace, SHAPE, setting.path, lanes=1, part=10)
    residency, expected = setting.residency(cell), []
    for step in setting.steps():
        residency.begin(step)
        misses = [len(residency.look_up(step, work).decision.get(Outcome.LOADED, [])) for work in step.layers]
        expected.append(sum(100 + 80 + (2 + m if m else 0) for m in misses))
    assert predict(one_lane, cell, numbers) == pytest.approx(expected)


def test_a_run_is_measured_and_summarised(setting: Setting) -> None:
    found = [measure(setting, Cell("lru", "3x", overlap), seed) for overlap in (True, False) for seed in (0, 1)]
    for one in found:
        assert one.measured > 0
        assert one.predicted > 0
        assert one.accesses == TOKENS * 64
        assert one.numbers.bandwidth > 0
    assert found[0].loads == found[2].loads
    cells = [summarise(found[:2], 0.2), summarise(found[2:], 0.2)]
    assert len(cells[0]["repetitions"]) == 2
    assert cells[0]["measured_range_s"][0] <= cells[0]["measured_s"] <= cells[0]["measured_range_s"][1]
    table = as_markdown({"tokens": TOKENS, "cells": cells}).splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


def test_calibration_counts_its_samples(setting: Setting) -> None:
    spare = range(10, 20)
    device = FileDevice(setting.path, SHAPE, 20, 2)
    try:
        calibration = OffloadCalibration(SHAPE, spare)
        calibration.sample(device, range(10))
        calibration.sample(device, range(10))
        layer = bookkeeping(setting, Cell("lru", "2x", True), device.matrices)
    finally:
        device.close()
    assert {count: len(times) for count, times in calibration.bursts.items()} == dict.fromkeys(BURSTS, 2)
    assert len(calibration.fresh) == 2 * sum(BURSTS)
    numbers = calibration.numbers(layer)
    profile = numbers.profile(lanes=3)
    link = profile.part("nvme")
    assert link is not None
    assert (link.bandwidth, link.latency, link.lanes) == (numbers.bandwidth, numbers.latency, 3)
    assert profile.layer_overhead == layer > 0
    assert numbers.costs(1.0).expert(0, 1) == numbers.expert > 0
    assert numbers.costs(0.0).expert(0, 1) == numbers.expert_fresh > 0


def test_a_throttle_makes_reads_wait_their_turn() -> None:
    throttle = Throttle(1000.0)
    first, second = throttle.reserve(500), throttle.reserve(250)
    assert second - first == pytest.approx(0.25, abs=1e-9)


def test_a_failing_read_reaches_the_thread_that_waits(setting: Setting) -> None:
    device = FileDevice(setting.path, SHAPE, 1, 1)
    try:
        device.load(SHAPE.layers * SHAPE.experts, 0)  # one behind the last
        with pytest.raises(OSError, match="ends at byte"):
            device.arrived()
    finally:
        device.close()


def test_experts_that_cannot_be_read_past_the_page_cache_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden 10, ffn 10 has 1,200 bytes.*multiple of 4096"):
        ExpertShape(2, 4, 10, 10)


def test_decode_tokens_only(trace: RoutingTrace) -> None:
    whole = RoutingTrace.open()
    phase = np.asarray(whole.read("phase", 0, whole.num_tokens))
    first = np.flatnonzero(phase == 1)[:TOKENS]
    assert (trace.read("experts", 0, TOKENS) == whole.read("experts", 0, whole.num_tokens)[first]).all()
    prompts = RoutingTrace.from_arrays(np.zeros((2, 1, 1), int), num_experts=2, phase=np.zeros(2, np.uint8))
    with pytest.raises(ConfigError, match="no decode tokens"):
        decode_part(prompts, 5, 4096)


def test_the_script_writes_its_table(tmp_path: Path) -> None:
    tiny = [
        "--tokens",
        "4",
        "--repetitions",
        "1",
        "--policies",
        "lru",
        "--caches",
        "2x",
        "--hidden",
        "16",
        "--ffn",
        "64",
    ]
    files = ["--folder", str(tmp_path), "--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]
    main([*tiny, *files])
    assert (tmp_path / "r.md").read_text().count("\n") == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.md"]


def test_torch_is_not_imported() -> None:
    modules = "lrcsim.experiments.validation.offload.compare, lrcsim.calibration.of_machine"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
