"""Measuring the machine: what is measured, its shapes and units, the profile it becomes. No time is asserted."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine import (
    Machine,
    MeasurePlan,
    Timing,
    fit_line,
    measure_machine,
    profile_of,
    repeat,
    toml_of,
)
from lrcsim.calibration.of_machine import files as measure_files
from lrcsim.calibration.of_machine import gpu as measure_gpu
from lrcsim.calibration.of_machine.compute import run_expert, widths
from lrcsim.calibration.of_machine.files import UncachedFile, aligned_buffers, file_system, scratch_file
from lrcsim.cli.calibrate_machine import calibrate_machine
from lrcsim.hardware import load_profile
from lrcsim.hardware.document import SCHEMA

KIB = 1024
TINY = MeasurePlan(
    copies=(4 * KIB, 64 * KIB),
    reads=(4 * KIB, 16 * KIB, 64 * KIB),
    experts=(24 * KIB, 96 * KIB),
    lanes=(1, 2),
    repetitions=3,
    file_bytes=1 << 20,
    working_set=1 << 20,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("storage")
    from dataclasses import replace

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
    sizes = [cold.size for _, cold in machine.experts]
    assert sizes == sorted(set(sizes))
    assert [warm.size for warm, _ in machine.experts] == sizes
    assert machine.multiply.size == 2 * 1024**3
    everything = [*machine.copies, machine.together, machine.hand_over, *machine.reads.sizes]
    everything += [one for pair in machine.experts for one in pair]
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


def test_numbers_of_the_profile_by_hand() -> None:
    # Experts of 1 and 3 MB in 2 and 4 ms: 1 ms and 1 GB/s. Reads of 4 and 8 MB in 3 and 5 s: 1 s and 2 MB/s for one
    # thread; two threads read 4 MB/s, four 4.1 MB/s: two are within 5 % of the best. Copies: 10 B/s, 20 through DRAM.
    from lrcsim.calibration.of_machine.machine import Reads

    reads = Reads(
        "O_DIRECT",
        "ext4 on disk",
        [timing(4_000_000, 3, 3, 3), timing(8_000_000, 5, 5, 5)],
        {1: timing(8_000_000, 5), 2: timing(8_000_000, 2), 4: timing(8_200_000, 2)},
    )
    made = profile_of(
        Machine(
            name="box",
            date="2026-01-02T03:04:05+00:00",
            processor="cpu",
            memory=1 << 30,
            threads=3,
            copies=[timing(100, 10.0)],
            together=timing(100, 10.0),
            experts=[
                (timing(1_000_000, 1e-3), timing(1_000_000, 2e-3)),
                (timing(3_000_000, 1e-3), timing(3_000_000, 4e-3)),
            ],
            multiply=timing(1000, 2.0),
            hand_over=timing(0, 5e-6, 7e-6, 9e-6),
            reads=reads,
            gpu=None,
            notes=[],
        )
    )
    assert made.cpu.bandwidth == pytest.approx(1e9)
    assert made.cpu.overhead == pytest.approx(1e-3)
    assert (made.cpu.compute, made.cpu.cores) == (500, 3)
    assert made.dram.bandwidth == 20
    assert made.part("nvme") is not None
    assert (made.part("nvme").bandwidth, made.part("nvme").lanes, made.part("nvme").latency) == (4_000_000, 2, 7e-6)
    assert made.part("nvme").overhead == pytest.approx(1.0)
    assert made.gpu is None
    assert made.part("pcie") is None


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
    random = np.random.default_rng(0)
    gate, up = random.random((2, 8, 4), dtype=np.float32)
    down = random.random((4, 8), dtype=np.float32)
    x = random.random(4, dtype=np.float32)
    before = gate @ x
    expected = down @ (before / (1 + np.exp(-before)) * (up @ x))
    assert np.allclose(run_expert((gate, up, down), x), expected)


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


class FakeTorch:
    """As much of torch as is asked of it, on numpy; remembers what was done."""

    uint8, bfloat16 = "uint8", "bfloat16"

    def __init__(self) -> None:
        self.pinned: list[bool] = []
        self.waits = 0
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            current_device=lambda: 0,
            get_device_properties=lambda _: SimpleNamespace(name="Fake GPU", total_memory=8 << 30),
            synchronize=self._wait,
        )
        self.nn = SimpleNamespace(functional=SimpleNamespace(silu=lambda x: x))

    def _wait(self) -> None:
        self.waits += 1

    def empty(self, size: int, dtype: str, device: str = "cpu", pin_memory: bool = False) -> Any:
        if device == "cpu":
            self.pinned.append(pin_memory)
        return SimpleNamespace(copy_=lambda source, non_blocking: None)

    def rand(self, *shape: int, dtype: str, device: str) -> Any:
        return np.zeros(tuple(min(width, 4) for width in shape), np.float32)

    def zeros(self, size: int, device: str) -> Any:
        return SimpleNamespace(add_=lambda _: None)


def test_a_gpu_is_measured_with_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    torch = FakeTorch()
    monkeypatch.setattr(measure_gpu.importlib, "import_module", lambda name: torch)
    found = measure_machine(replace(TINY, folder=tmp_path))
    assert found.gpu is not None
    assert [one.size for one in found.gpu.pinned] == [one.size for one in found.gpu.pageable] == list(TINY.copies)
    assert torch.pinned == [True, False] * len(TINY.copies)
    assert torch.waits >= 4 * (2 * len(TINY.copies) + len(TINY.experts) + 2)  # one unmeasured, three measured, of each
    assert [one.size for one in found.gpu.experts] == [cold.size // 2 for _, cold in found.experts]
    profile = profile_of(found)
    assert profile.gpu is not None
    assert profile.part("pcie") is not None
    assert profile.gpu.memory == 8 << 30
    assert "pageable memory" in profile.sources["pcie.bandwidth"]
    path = tmp_path / "gpu.toml"
    path.write_text(toml_of(found), encoding="utf-8")
    assert load_profile(path).part("pcie") == profile.part("pcie")


def test_without_torch_or_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(measure_gpu.importlib, "import_module", missing)
    found = measure_machine(replace(TINY, folder=tmp_path))
    assert found.gpu is None
    assert any("no GPU was measured" in note for note in found.notes)
    assert not any("GPU" in note for note in measure_machine(replace(TINY, folder=tmp_path, gpu=False)).notes)
