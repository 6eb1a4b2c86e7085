"""Measuring the machine: what is measured, its shapes and units, the profile it becomes. No time is asserted."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.calibration import of_machine
from lrcsim.calibration.of_machine import (
    Machine,
    MeasurePlan,
    Timing,
    compute,
    fit_line,
    measure_machine,
    profile_of,
    repeat,
    toml_of,
)
from lrcsim.calibration.of_machine import files as measure_files
from lrcsim.calibration.of_machine.compute import CpuTimes, cores, thread_counts, widths
from lrcsim.calibration.of_machine.files import UncachedFile, aligned_buffers, file_system, scratch_file
from lrcsim.calibration.of_machine.gpu import GpuTimes, find_torch
from lrcsim.calibration.of_machine.gpu_copies import CopyTimes
from lrcsim.calibration.of_machine.kernels import read, run_expert
from lrcsim.calibration.of_machine.machine import Reads
from lrcsim.calibration.of_machine.memory import last_cache
from lrcsim.cli.calibrate_machine import calibrate_machine
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.hardware.document import SCHEMA

KIB = 1024
TINY = MeasurePlan(
    copies=(4 * KIB, 64 * KIB),
    reads=(4 * KIB, 16 * KIB, 64 * KIB),
    experts=(24 * KIB, 96 * KIB),
    largest_expert=96 * KIB,
    lanes=(1, 2),
    repetitions=3,
    file_bytes=1 << 20,
    working_set=1 << 20,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("storage")
    found = measure_machine(replace(TINY, folder=folder))
    assert list(folder.iterdir()) == []  # the file that was read is gone
    return found


def timing(size: int, *seconds: float) -> Timing:
    return Timing(size, seconds)


def test_every_size_is_measured_in_order(machine: Machine) -> None:
    assert [one.size for one in machine.copies] == list(TINY.copies)
    assert machine.reads is not None
    assert [one.size for one in machine.reads.sizes] == list(TINY.reads)
    assert list(machine.reads.lanes) == [1, 2]
    assert {one.size for one in machine.reads.lanes.values()} == {64 * KIB}
    experts = machine.experts
    sizes = [cold.size for _, cold in experts.sizes]
    assert sizes == sorted(set(sizes))
    assert [warm.size for warm, _ in experts.sizes] == sizes
    counts = list(thread_counts(cores()))
    assert list(experts.threads) == list(machine.copied) == list(machine.read) == counts
    assert experts.best in counts
    assert {one.size for one in experts.threads.values()} == {sizes[-1]}
    assert [one.size for one in machine.copied.values()] == [(1 << 19) // count for count in counts]
    assert [one.size // 4 for one in machine.read.values()] == [(1 << 18) // count for count in counts]
    assert machine.multiply.size == 2 * 1024**3
    everything = [*machine.copies, *machine.copied.values(), *machine.read.values(), machine.hand_over]
    everything += [*machine.reads.sizes, *experts.threads.values(), *(one for pair in experts.sizes for one in pair)]
    for one in everything:
        assert len(one.seconds) == 3
        assert all(second > 0 for second in one.seconds)
        assert one.percentile(10) <= one.median <= one.percentile(90)


def test_json_has_numbers_with_their_spread(machine: Machine) -> None:
    data = json.loads(json.dumps(machine.to_dict(), allow_nan=False))
    assert set(data["file_read"]) == {"how", "file_system", "sizes", "lanes"}
    assert set(data["memory_copy"][0]) == {"bytes", "n", "median_s", "p10_s", "p90_s", "bytes_per_s"}
    assert "gpu" not in data or data["gpu"]["memory_bytes"] > 0


def test_the_profile_is_read_back_from_its_toml(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "me.toml"
    path.write_text(toml_of(machine), encoding="utf-8")
    read, made = load_profile(path), profile_of(machine)
    for part in ("cpu", "dram", "gpu", "links", "layer_overhead", "expert_overhead", "unified", "description"):
        assert read.at(part) == made.at(part)
    assert read.part("nvme") is not None
    assert machine.reads is not None
    assert read.part("nvme").lanes in (1, 2)
    assert read.dram.memory == machine.memory
    assert machine.name in read.description
    assert machine.date in read.description
    table = tomllib.loads(path.read_text())
    for part in ("cpu", "dram", "nvme"):
        for key, entry in table[part].items():
            assert entry["source"], f"{part}.{key} does not say where it is from"
    assert "median of 3, p10-p90" in table["nvme"]["bandwidth"]["source"]
    assert machine.reads.how in path.read_text()
    assert set(read.sources) <= set(SCHEMA)


def box(**parts: Any) -> Machine:
    """A machine whose numbers can be worked out in the head."""
    given: dict[str, Any] = {
        "name": "box",
        "date": "2026-01-02T03:04:05+00:00",
        "processor": "cpu",
        "memory": 1 << 30,
        "copies": [timing(100, 10.0)],
        "copied": {1: timing(10_000_000, 8e-3), 2: timing(5_000_000, 2e-3)},
        "read": {1: timing(10_000_000, 5e-3), 2: timing(5_000_000, 2e-3)},
        "experts": CpuTimes(
            threads={1: timing(4_000_000, 4e-3), 2: timing(4_000_000, 2.5e-3)},
            best=2,
            sizes=[
                (timing(100_000, 1e-6), timing(100_000, 5e-4)),
                (timing(4_000_000, 1e-6), timing(4_000_000, 2.5e-3)),
            ],
        ),
        "multiply": timing(1000, 2.0),
        "hand_over": timing(0, 5e-6, 7e-6, 9e-6),
        "reads": None,
        "gpu": None,
        "notes": [],
    }
    return Machine(**given | parts)


def test_numbers_of_the_profile_by_hand() -> None:
    # CPU: 4 MB in 2.5 ms are 1.6 GB/s with two threads, 1 with one. 100 KB took 500 us, 62.5 of them bytes: 437.5.
    # Memory: two threads copy 2.5 GB/s, so 5 read and written; they read 2.5.
    # Reads of 4 and 8 MB in 3 and 5 s: at 1.6 MB/s, none is more overhead than bytes; the smaller took 0.5 s besides.
    # Two threads read 4 MB/s, four 4.1 MB/s: two are within 5 % of the best.
    reads = Reads(
        "O_DIRECT",
        "ext4 on disk",
        [timing(4_000_000, 3, 3, 3), timing(8_000_000, 5, 5, 5)],
        {1: timing(8_000_000, 5), 2: timing(8_000_000, 2), 4: timing(8_200_000, 2)},
    )
    made = profile_of(box(reads=reads))
    assert made.cpu.bandwidth == 1.6e9
    assert made.cpu.overhead == pytest.approx(437.5e-6)
    assert (made.cpu.compute, made.cpu.cores) == (500, 2)
    assert made.dram.bandwidth == 5e9
    assert "twice what 2 threads copied; measured, 5 GB/s" in made.sources["dram.bandwidth"]
    assert made.part("nvme") is not None
    assert (made.part("nvme").bandwidth, made.part("nvme").lanes, made.part("nvme").latency) == (4_000_000, 2, 7e-6)
    assert made.part("nvme").overhead == pytest.approx(0.5)
    assert made.gpu is None
    assert made.part("pcie") is None


def test_memory_is_as_fast_as_what_drew_most_from_it() -> None:
    reading = profile_of(box(read={2: timing(1_000_000, 1e-4)}))
    assert (reading.dram.bandwidth, reading.cpu.bandwidth) == (1e10, 1.6e9)
    assert "what 2 threads read" in reading.sources["dram.bandwidth"]
    slow = {1: timing(100, 1.0)}
    computing = profile_of(box(read=slow, copied=slow))
    assert computing.dram.bandwidth == computing.cpu.bandwidth == 1.6e9


TIMES = st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=3).map(tuple)
TIMED = st.builds(Timing, st.integers(4096, 1 << 32), TIMES)
SEVERAL = st.lists(TIMED, min_size=1, max_size=4)


@st.composite
def by_size(draw: st.DrawFn) -> list[Timing]:
    """Copies by size, of some overhead and bandwidth, up to a third apart from them: most reach the bandwidth."""
    overhead, bandwidth = draw(st.floats(0, 1e-4)), draw(st.floats(1e6, 1e13))
    sizes = draw(st.lists(st.integers(4096, 1 << 34), min_size=2, max_size=5, unique=True))
    noise = st.floats(0.75, 1.33)
    return [Timing(size, tuple((overhead + size / bandwidth) * draw(noise) for _ in range(3))) for size in sizes]


COUNTED = st.dictionaries(st.integers(1, 8), TIMED, min_size=1, max_size=3)
COPIES = st.builds(
    CopyTimes,
    pinned=by_size(),
    pageable=SEVERAL,
    bursts=st.dictionaries(st.integers(4096, 1 << 24), st.fixed_dictionaries({1: TIMED, 4: TIMED}), max_size=2),
    streams=COUNTED,
    inside=st.one_of(by_size(), SEVERAL),
)
GPU = st.builds(
    GpuTimes,
    name=st.sampled_from(["NVIDIA H200", "Unknown"]),
    memory=st.just(1 << 30),
    copies=COPIES,
    experts=SEVERAL,
    launch=TIMED,
    multiply=TIMED,
    streamed=SEVERAL,
    launched=TIMED,
)
EXPERTS = st.builds(
    CpuTimes,
    threads=COUNTED,
    best=st.just(1),
    sizes=st.lists(st.tuples(TIMED, TIMED), min_size=1, max_size=3),
)
READS = st.builds(Reads, how=st.just("O_DIRECT"), file_system=st.just("ext4"), sizes=SEVERAL, lanes=COUNTED)


@given(
    st.fixed_dictionaries(
        {"copied": COUNTED, "read": COUNTED, "experts": EXPERTS, "multiply": TIMED, "reads": READS, "gpu": GPU}
    )
)
def test_whatever_was_measured_no_rate_is_above_it(parts: dict[str, Any]) -> None:
    made_of = box(**parts)
    with suppress(ConfigError):  # copies or a GPU's memory that launches bound: then no number is written
        rates_are_measured(made_of, profile_of(made_of))


def rates_are_measured(made_of: Machine, profile: HardwareProfile) -> None:
    """Compare with the definition: over all that is of a kind, the greatest size / median."""

    def best(*timings: Timing) -> float:
        return max(one.size / float(np.median(one.seconds)) for one in timings)

    gpu, experts, reads = made_of.gpu, made_of.experts, made_of.reads
    assert gpu is not None
    assert reads is not None
    cold = [*experts.threads.values(), *(one for _, one in experts.sizes)]
    bursts = [one for burst in gpu.copies.bursts.values() for one in burst.values()]
    known = load_profile("h200").at("gpu.bandwidth")
    limits = {
        "gpu.compute": best(gpu.multiply),
        "pcie.bandwidth": best(*gpu.copies.pinned, *bursts, *gpu.copies.streams.values()),
        "pcie.pageable": best(*gpu.copies.pageable),
        "cpu.compute": best(made_of.multiply),
        "cpu.bandwidth": best(*cold),
        "dram.bandwidth": max(2 * best(*made_of.copied.values()), best(*made_of.read.values(), *cold)),
        "nvme.bandwidth": best(*reads.lanes.values()),
        "gpu.bandwidth": max(2 * best(*gpu.copies.inside), best(*gpu.streamed)),
    }
    for path, limit in limits.items():
        value = profile.at(path)
        assert 0 < value <= limit or (path == "gpu.bandwidth" and value == known), path
    for path in ("pcie.overhead", "pcie.latency", "cpu.overhead", "nvme.overhead", "gpu.overhead"):
        assert profile.at(path) >= 0
    assert toml_of(made_of)


@given(
    st.floats(0, 1e-2),
    st.floats(1e3, 1e12),
    st.lists(st.integers(1, 1 << 30), min_size=2, max_size=6, unique=True),
)
def test_a_line_is_found_again(overhead: float, bandwidth: float, sizes: list[int]) -> None:
    line = fit_line(sizes, [overhead + size / bandwidth for size in sizes])
    for size in sizes:
        assert line.overhead + size / line.bandwidth == pytest.approx(overhead + size / bandwidth, rel=1e-3)


def test_a_line_never_has_a_negative_overhead() -> None:
    assert fit_line([1, 2], [1.0, 3.0]).overhead == 0  # through (1, 1) and (2, 3) it would be -1
    with pytest.raises(ValueError, match="two sizes"):
        fit_line([5, 5], [1.0, 2.0])


def test_repeat_counts_calls() -> None:
    calls: list[int] = []
    found = repeat(10, calls.append, 4, inner=2)
    assert calls == list(range(9))  # one unmeasured, then four times two
    assert len(found.seconds) == 4
    assert len(repeat(10, calls.append, 50, at_most_s=0.0).seconds) == 3


def test_reads_give_the_files_bytes(tmp_path: Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, 64 * KIB, np.uint8).tobytes()
    path = tmp_path / "file"
    path.write_bytes(content)
    for direct in (True, False):
        with UncachedFile(path, direct=direct) as file:
            assert file.how in ("O_DIRECT", "posix_fadvise(DONTNEED)", "F_NOCACHE")
            assert direct or file.how != "O_DIRECT"
            buffers = aligned_buffers(3, 8 * KIB)
            for place, buffer in enumerate(buffers):
                file.read(place * 8 * KIB, buffer)
            assert b"".join(bytes(buffer) for buffer in buffers) == content[: 24 * KIB]
            with pytest.raises(OSError, match="ends at byte"):
                file.read(60 * KIB, buffers[0])


def test_without_o_direct_the_pages_are_thrown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("the system has no O_DIRECT")
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * KIB))
    really = os.open

    def refuse(name: Any, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return really(name, flags, *rest)

    monkeypatch.setattr(measure_files.os, "open", refuse)
    with UncachedFile(path) as file:
        assert file.how == "posix_fadvise(DONTNEED)"


def test_buffers_are_aligned_and_apart() -> None:
    buffers = aligned_buffers(3, 5000)
    starts = [np.frombuffer(buffer, np.uint8).ctypes.data for buffer in buffers]
    assert all(start % 4096 == 0 for start in starts)
    assert all(len(buffer) == 5000 for buffer in buffers)
    assert starts[1] - starts[0] == 8192


def test_the_scratch_file_goes_even_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_file(tmp_path, 10_000) as path:
            assert path.stat().st_size == 10_000
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(ConfigError, match=r"folder .*nowhere: .*can be written to"),
        scratch_file(tmp_path / "nowhere", 1),
    ):
        pass


def test_the_file_system_is_named(tmp_path: Path) -> None:
    name = file_system(tmp_path)
    assert name == "unknown" or " on " in name


def test_experts_are_what_they_claim() -> None:
    hidden, ffn = widths(1 << 20)
    assert ffn == 2 * hidden
    assert abs(12 * hidden * ffn / (1 << 20) - 1) < 0.1
    assert abs(6 * np.prod(widths(1 << 20, width=2)) / (1 << 20) - 1) < 0.1
    random = np.random.default_rng(0)
    gate, up = random.random((2, 8, 4), dtype=np.float32)
    down = random.random((4, 8), dtype=np.float32)
    x, y = random.random(4, dtype=np.float32), np.zeros(4, np.float32)
    before = gate @ x
    expected = down @ (before / (1 + np.exp(-before)) * (up @ x))
    run_expert(np.concatenate([gate, up]), down, x, np.zeros(8, np.float32), y)
    assert np.allclose(y, expected)
    assert read(np.arange(10, dtype=np.float32)) == 45


def test_experts_by_size_run_with_the_threads_that_were_best(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def repeat(size: int, action: Any, repetitions: int, inner: int) -> Timing:
        action(0)
        ran.append(numba.get_num_threads())
        return timing(size, 1.0 * ran[-1])  # two threads take twice as long

    monkeypatch.setattr(compute, "repeat", repeat)
    before = numba.get_num_threads()
    if before < 2:
        pytest.skip("one thread is all there is")
    found = compute.measure_experts([24 * KIB, 96 * KIB], [1, 2], 96 * KIB, 1 << 20, 3, lambda: None)
    assert found.best == 1
    assert ran == [1, 1, 2, 2, 1, 1, 1, 1]  # cached and out of memory: by threads, then by size
    assert numba.get_num_threads() == before


def test_threads_are_tried_in_powers_of_two_up_to_all() -> None:
    assert [thread_counts(most) for most in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_the_last_cache_is_counted_once_for_those_that_share_it(tmp_path: Path) -> None:
    # Two processors share 32 MiB of level 3, a third has its own; level 2 does not count. A damaged entry is passed by.
    for cpu, index, level, shared, size in [
        (0, 2, "2", "0", "1024K"), (0, 3, "3", "0-1", "32768K"), (1, 3, "3", "0-1", "32768K"),
        (2, 3, "3", "2", "32M"), (3, 3, "three", "3", "32M"),
    ]:  # fmt: skip
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("shared_cpu_list", shared), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert last_cache(tmp_path) == 64 << 20
    assert last_cache(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reads": (1000, 4096)}, "a read of 1000 bytes: sizes are multiples of 4096"),
        ({"reads": (4096,)}, "give at least two"),
        ({"repetitions": 2}, "at least 3"),
        ({"file_bytes": 4096}, "larger than the file"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MeasurePlan(**change)


def test_what_was_measured_is_told_though_a_number_is_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = [timing(size, 68e-6) for size in (1 << 20, 1 << 22)]
    gpu = GpuTimes("Unknown", 1 << 30, CopyTimes(pinned=flat), flat, timing(0, 1e-5), timing(10**9, 1e-3))
    monkeypatch.setattr(of_machine, "measure_machine", lambda plan, progress: box(gpu=gpu))
    data = tmp_path / "me.json"
    with pytest.raises(ConfigError, match=r"^gpu\.bandwidth of Unknown is not known: .*leave it out with --no-gpu$"):
        calibrate_machine(tmp_path / "me.toml", str(data))
    assert "expert on the GPU" in capsys.readouterr().out
    assert json.loads(data.read_text())["profile"] is None
    assert json.loads(data.read_text())["gpu"]["expert"][1]["median_s"] == 68e-6
    assert list(tmp_path.iterdir()) == [data]


def test_a_quick_plan_measures_the_same_sizes() -> None:
    plan = MeasurePlan()
    quick = plan.quick()
    assert (quick.reads, quick.experts, quick.copies) == (plan.reads, plan.experts, plan.copies)
    assert quick.file_bytes < plan.file_bytes


def test_the_command_writes_a_profile_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeasurePlan, "quick", lambda self: TINY)
    toml, data = tmp_path / "me.toml", tmp_path / "me.json"
    calibrate_machine(toml, str(data), folder=str(tmp_path), quick=True)
    assert load_profile(toml).name == "me"
    assert list(json.loads(data.read_text()).items())[:2] == [("kind", "calibrate-machine"), ("version", 1)]
    assert json.loads(data.read_text())["profile"] == str(toml)
    assert "file reads past the page cache by" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me.json", "me.toml"]
    calibrate_machine(None, "-", folder=str(tmp_path), quick=True)
    assert json.loads(capsys.readouterr().out)["profile"] is None
    with pytest.raises(ConfigError, match="--sizes"):
        calibrate_machine(None, None, sizes="lots,4KiB")


def test_without_torch_or_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # so that importing it fails
    assert find_torch() is None
    blind = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", blind)
    assert find_torch() is None
    found = measure_machine(replace(TINY, folder=tmp_path))
    assert found.gpu is None
    assert any("no GPU was measured" in note for note in found.notes)
    assert not any("GPU" in note for note in measure_machine(replace(TINY, folder=tmp_path, gpu=None)).notes)
    seeing = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", seeing)
    assert find_torch() is seeing
