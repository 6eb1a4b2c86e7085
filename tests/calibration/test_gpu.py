"""Measuring a GPU, on one that is simulated: the profile must say what it is made of. And with torch's own tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import simulated_gpu as sim
from simulated_gpu import RealOnTheCpu, SimulatedTorch

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine import (
    GpuPlan,
    MeasurePlan,
    Timing,
    gpu_clock,
    machine,
    measure_machine,
    profile_of,
    timing,
    toml_of,
)
from lrcsim.calibration.of_machine import gpu as measure
from lrcsim.calibration.of_machine.gpu import GpuTimes, measure_gpu
from lrcsim.calibration.of_machine.known_gpu import PROFILES, known_gpu
from lrcsim.calibration.of_machine.write_gpu import put_gpu
from lrcsim.hardware import load_profile, profile_names

Measure = Callable[[SimulatedTorch], GpuTimes]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measure:
    def run(torch: SimulatedTorch, plan: GpuPlan | None = None) -> GpuTimes:
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=torch.clock))
        return measure_gpu(torch, plan or GpuPlan(), 5, lambda: None)

    return run


def numbers(gpu: GpuTimes) -> tuple[dict[str, float], dict[str, str]]:
    values, sources = {}, {}

    def put(path: str, value: float, source: str) -> None:
        values[path], sources[path] = value, source

    put_gpu(gpu, put)
    return values, sources


def test_the_profile_says_what_the_gpu_is_made_of(measured: Measure) -> None:
    # A copy begun and waited for takes the host's call and wait and the link's cost: 8 + 4 + 3 us. An operation
    # likewise, 8 + 4 + 1.5. The memory's own rate shows in copies inside: 1.5 us beside 537 of bytes.
    values, sources = numbers(measured(SimulatedTorch()))
    assert 0.99 * sim.MEMORY < values["gpu.bandwidth"] <= sim.MEMORY
    assert "a copy inside of 1.0 GiB" in sources["gpu.bandwidth"]
    assert values["gpu.overhead"] == pytest.approx(sim.GAP, rel=0.01)
    assert values["gpu.compute"] == pytest.approx(sim.FLOPS, rel=0.01)
    assert 0.99 * sim.LINK < values["pcie.bandwidth"] <= sim.LINK
    assert values["pcie.overhead"] == pytest.approx(sim.COPY, rel=0.02)
    assert values["pcie.latency"] == pytest.approx(sim.CALL + sim.WAIT, rel=0.02)
    assert values["pcie.lanes"] == 1
    assert 0.99 * sim.PAGEABLE < values["pcie.pageable"] <= sim.PAGEABLE
    assert values["layer_overhead"] == pytest.approx(sim.CALL + sim.WAIT + sim.GAP, rel=0.01)
    for path in set(sources) - {"gpu.memory", "pcie.latency", "pcie.lanes"}:
        assert "p10-p90" in sources[path], path


def test_what_python_takes_is_kept_apart(measured: Measure) -> None:
    gpu = measured(SimulatedTorch())
    single, many = gpu.enqueued[1], gpu.enqueued[32]
    each = (many.median - single.median) / 31  # five calls of the host, five operations of the GPU meanwhile
    assert each == pytest.approx(5 * sim.CALL, rel=0.01)
    assert gpu.launches is not None
    assert gpu.launches.median == pytest.approx(100 * sim.CALL + sim.GAP + sim.WAIT, rel=0.01)
    assert [one.size for one in gpu.experts] == [one.size // 32 for one in gpu.streamed]
    seconds = [one.median / 32 for one in gpu.streamed]
    expected = [5 * sim.GAP + one.size / 32 / sim.MEMORY for one in gpu.streamed]
    assert seconds == pytest.approx(expected, rel=0.02)


def test_a_second_copy_engine_is_a_second_lane(measured: Measure) -> None:
    values, sources = numbers(measured(SimulatedTorch(engines=2)))
    assert values["pcie.lanes"] == 2
    assert 1.9 * sim.LINK < values["pcie.bandwidth"] <= 2 * sim.LINK
    assert "fewest streams within 5 %" in sources["pcie.lanes"]


def test_copies_inside_take_no_more_than_a_quarter_of_free_memory(measured: Measure) -> None:
    torch = SimulatedTorch(free=1 << 30)
    assert [one.size for one in measured(torch).copies.inside] == [64 << 20]
    assert max(size for place, size in torch.made if place == "cuda") == 256 << 20  # of the copies to it
    assert {place for place, _ in torch.made} == {"cuda", "pinned", "cpu"}


def test_a_gpu_that_cannot_be_kept_busy_is_refused(measured: Measure) -> None:
    with pytest.raises(ConfigError, match=r"the GPU was done before .*--no-gpu"):
        measured(SimulatedTorch(product_s=1e-9))


def test_a_gpu_whose_memory_is_taken_is_refused(measured: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimulatedTorch()

    def full(*shape: int, **options: object) -> None:
        raise MemoryError("CUDA out of memory. Tried to allocate 32.00 MiB. GPU 0 has 1 KiB free")

    monkeypatch.setattr(torch, "rand", full)
    with pytest.raises(ConfigError, match=r"does not hold .* 2 GiB: CUDA out of memory: end what else .*--no-gpu"):
        measured(torch)


def test_every_call_is_one_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(measure, "MULTIPLY_WIDTH", 64)
    monkeypatch.setattr(measure, "POOL", 1 << 20)
    monkeypatch.setattr(gpu_clock, "WIDTH", 64)
    plan = GpuPlan(copies=(64, 4096), bursts=(64, 4096), counts=(1, 2), inside=(64, 4096), experts=(1 << 14, 1 << 16))
    parts = []
    gpu = measure_gpu(RealOnTheCpu(torch), plan, 3, lambda: parts.append(1))
    assert len(parts) == plan.parts
    assert [one.size for one in gpu.copies.pinned] == [64, 4096]
    assert all(second > 0 for one in (*gpu.experts, *gpu.enqueued.values()) for second in one.seconds)


def test_a_whole_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = SimulatedTorch()
    monkeypatch.setattr(machine, "find_torch", lambda: torch)
    real = timing.time.perf_counter
    begun = real()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: torch.clock() + real() - begun))
    tiny = MeasurePlan(
        copies=(4096,), reads=(4096, 8192), experts=(24 << 10, 96 << 10), largest_expert=96 << 10, lanes=(1,),
        repetitions=3, file_bytes=1 << 16, working_set=1 << 20, folder=tmp_path,
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    found = measure_machine(tiny, lambda done, of: told.append((done, of)))
    assert told[-1] == told[-2] == (tiny.parts, tiny.parts)
    assert len(told) == tiny.parts + 1
    data = found.to_dict()["gpu"]
    assert list(data["expert_enqueued"]) == [str(count) for count in GpuPlan().counts]
    assert set(data["copy_bursts_on_gpu_clock"]) == {str(64 << 10), str(8 << 20)}
    path = tmp_path / "gpu.toml"
    path.write_text(toml_of(found), encoding="utf-8")
    read, made = load_profile(path), profile_of(found)
    assert read.gpu == made.gpu
    assert read.part("pcie") == made.part("pcie")
    assert read.part("pcie").pageable is not None


def launch_bound(name: str) -> GpuTimes:
    """Experts of 1 to 4 MB that took 68 us each, and nothing else that memory could be the limit of."""
    flat = [Timing(size, (68e-6,) * 3) for size in (1_000_000, 2_000_000, 4_000_000)]
    copies = measure.CopyTimes(pinned=[Timing(size, (10e-6 + size / 50e9,)) for size in (4096, 1 << 24, 1 << 26)])
    return GpuTimes(name, 1 << 30, copies, flat, Timing(0, (14e-6,)), Timing(10**12, (1e-3,)), streamed=flat)


def test_launches_are_no_bandwidth() -> None:
    values, sources = numbers(launch_bound("NVIDIA H200"))
    h200 = load_profile("h200")
    assert values["gpu.bandwidth"] == h200.at("gpu.bandwidth")
    assert "took 68 us: launches are the limit" in sources["gpu.bandwidth"]
    assert "of built-in h200: 88 % of the theoretical 4800 GB/s" in sources["gpu.bandwidth"]
    assert values["gpu.overhead"] == h200.at("gpu.overhead")
    assert values["pcie.latency"] == 0
    with pytest.raises(ConfigError, match=r"gpu\.bandwidth of NVIDIA H300 is not known: .*no built-in profile"):
        numbers(launch_bound("NVIDIA H300"))


def test_copies_that_are_bound_by_launches_are_refused() -> None:
    gpu = launch_bound("NVIDIA H200")
    flat = measure.CopyTimes(pinned=[Timing(size, (10e-6,)) for size in (4096, 8192)])
    with pytest.raises(ConfigError, match=r"pcie\.bandwidth is not known: copies of 4.0 KiB to 8.0 KiB took"):
        numbers(replace(gpu, copies=flat))
    with pytest.raises(ConfigError, match=r"no copies were measured"):
        numbers(replace(gpu, copies=measure.CopyTimes()))


def test_known_gpus_are_built_in_and_named_as_a_whole() -> None:
    assert set(PROFILES.values()) <= set(profile_names())
    for name, profile in [
        ("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA GeForce RTX 4060 Laptop GPU", "rtx-4060-laptop"),
    ]:  # fmt: skip
        found = known_gpu(name)
        assert found is not None
        assert found.name == profile
    for other in ("NVIDIA H100 PCIe", "NVIDIA A100 80GB PCIe", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4060"):
        assert known_gpu(other) is None
