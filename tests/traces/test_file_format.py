"""The HDF5 format: what FORMAT.md promises, what `check` finds, and what happens when things go wrong half-way."""

import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_files import assert_same, make_trace, random_experts, traces

import lrcsim.traces.trace
from lrcsim.base.errors import TraceError
from lrcsim.traces import LayerTable, RoutingTrace, TraceWriter, check_file
from lrcsim.traces.chunks import ChunkedColumn

anywhere = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def snippet() -> str:
    page = Path(lrcsim.traces.trace.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_example_of_the_format_page_is_a_good_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(snippet().splitlines()) <= 18
    exec(snippet(), {})
    assert check_file("example.h5") == []
    with RoutingTrace.open("example.h5") as trace:
        assert (trace.num_tokens, trace.num_layers, trace.num_experts, trace.top_k) == (100, 4, 16, 2)
        assert trace.provenance == {"synthetic": True}


@given(trace=traces(), compression=st.sampled_from(["gzip", "lzf", "none"]))
@anywhere
def test_round_trip(trace: RoutingTrace, compression: str, tmp_path: Path) -> None:
    trace.save(tmp_path / "t.h5", compression=compression)
    assert check_file(tmp_path / "t.h5") == []
    with RoutingTrace.open(tmp_path / "t.h5") as back:
        assert_same(back, trace)
        assert back.provenance == trace.provenance
        assert back.count_unrecorded() == trace.count_unrecorded()


def test_unrecorded_positions_are_counted_by_definition() -> None:
    trace = make_trace(3, tokens=40, layers=4, ragged=True, stacks=True, missing=0.4)
    stack = trace.column("stack")
    count = sum(
        trace.experts[token, layer, rank] < 0
        for token in range(trace.num_tokens)
        for layer in range(trace.num_layers)
        for rank in range(trace.layers.top_k[layer])
        if stack[token] == trace.layers.stack[layer]
    )
    assert trace.count_unrecorded() == count > 0


def test_large_ids_round_trip(tmp_path: Path) -> None:
    trace = RoutingTrace.from_arrays([[[65_533, -1]], [[32_768, 0]]], num_experts=65_535)
    trace.save(tmp_path / "t.h5")
    with RoutingTrace.open(tmp_path / "t.h5") as back:
        assert back.experts.tolist() == [[[65_533, -1]], [[32_768, 0]]]


@pytest.mark.parametrize("version", [1, 2])
def test_router_inputs_round_trip(tmp_path: Path, version: int) -> None:
    inputs = np.random.default_rng(0).normal(size=(2, 1, 7)).astype(np.float16)
    trace = RoutingTrace.from_arrays([[[0]], [[1]]], num_experts=2, router_inputs=inputs)
    trace.save(tmp_path / "t.h5", version=version)
    with RoutingTrace.open(tmp_path / "t.h5") as back:
        assert back.column("router_inputs").dtype == np.float16
        np.testing.assert_array_equal(back.column("router_inputs"), inputs)
        np.testing.assert_array_equal(back.read("router_inputs", 1, 2, layer=0), inputs[1:, :1])


def test_opening_reads_no_routing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trace(1, residency=True, logits=True, predictions=True).save(tmp_path / "t.h5")
    read: list[str] = []
    original, chunk = h5py.Dataset.__getitem__, ChunkedColumn._chunk

    def spy(self: h5py.Dataset, *args: object, **kwargs: object) -> object:
        read.append(self.name)
        return original(self, *args, **kwargs)

    def spy_on_chunks(self: ChunkedColumn, *args: Any, **kwargs: Any) -> object:
        read.append(self._dataset.name)
        return chunk(self, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    monkeypatch.setattr(ChunkedColumn, "_chunk", spy_on_chunks)
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        assert read
        assert not [name for name in read if name.startswith(("/routing", "/tokens"))]
        trace.read("experts", 0, 5)
        assert "/routing/experts" in read


def empty_trace(path: Path, tokens: int) -> None:
    """A trace of nothing but unrecorded positions, which takes little time and space: all chunks are the same one.

    They are stored: a file that claims more than it can hold is refused.
    """
    with h5py.File(path, "w") as file:
        file.attrs.update(format="lrcsim-trace", version=1)
        file["layers/num_experts"] = np.full(8, 64)
        file["layers/top_k"] = np.full(8, 4)
        shape, chunks = (tokens, 8, 4), (16_384, 8, 4)
        data = file.create_dataset("routing/experts", shape, np.uint16, chunks=chunks, compression="gzip")
        packed = zlib.compress(np.full(chunks, 65_535, np.uint16).tobytes(), 1)
        for low in range(0, tokens, chunks[0]):
            data.id.write_direct_chunk((low, 0, 0), packed)
        file["requests/offsets"] = np.array([0, tokens])


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_checking_streams_in_bounded_memory(tmp_path: Path) -> None:
    tokens = 1_000_000  # 64 MB of ids
    empty_trace(tmp_path / "t.h5", tokens)
    assert peak_bytes(lambda: check_file(tmp_path / "t.h5")) < 24e6


def test_writing_streams_in_bounded_memory(tmp_path: Path) -> None:
    block = {"experts": random_experts(np.random.default_rng(0), 2_000, 8, 64, 4)}  # 0.5 MB

    def write(blocks: int) -> None:
        with TraceWriter(tmp_path / "t.h5", LayerTable.build(8, 64, 4)) as writer:
            for _ in range(blocks):
                writer.begin_request()
                writer.append(block)

    assert peak_bytes(lambda: write(100)) < 1.3 * peak_bytes(lambda: write(20))


CRASH = """
import sys, time
import numpy as np
from lrcsim.traces import LayerTable, TraceWriter
with TraceWriter(sys.argv[1], LayerTable.build(2, 8, 2)) as writer:
    for _ in range(20):
        writer.append({"experts": np.tile([0, 1], (9_000, 2, 1))})
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("before", [True, False])
def test_a_killed_writer_leaves_what_was_there(before: bool, tmp_path: Path) -> None:
    target = tmp_path / "t.h5"
    if before:
        make_trace(1).save(target)
    process = subprocess.Popen([sys.executable, "-c", CRASH, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    assert len(os.listdir(tmp_path)) == 1 + before
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if before:
        with RoutingTrace.open(target) as trace:
            assert_same(trace, make_trace(1))
    else:
        assert not target.exists()


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    make_trace(1).save(tmp_path / "t.h5")
    before = (tmp_path / "t.h5").read_bytes()
    with (
        pytest.raises(TraceError, match="token 1, layer 0: expert id 8"),
        TraceWriter(tmp_path / "t.h5", LayerTable.build(1, 8, 1)) as writer,
    ):
        writer.append({"experts": np.array([[[7]], [[8]]])})
    assert (tmp_path / "t.h5").read_bytes() == before
    assert len(os.listdir(tmp_path)) == 1


def test_nothing_is_written_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no tokens"), TraceWriter(tmp_path / "t.h5", LayerTable.build(1, 8, 1)):
        pass
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TraceError, match="No space left"):
        make_trace(1).save(tmp_path / "t.h5")
    assert os.listdir(tmp_path) == []


Damage = Callable[[h5py.File], None]


def put(name: str, index: object, value: object) -> Damage:
    def damage(file: h5py.File) -> None:
        file[name][index] = value

    return damage


def replace(name: str, value: object) -> Damage:
    def damage(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return damage


def attribute(name: str, value: object) -> Damage:
    return lambda file: file.attrs.__setitem__(name, value)


def delete(name: str) -> Damage:
    def damage(file: h5py.File) -> None:
        del file[name]

    return damage


DAMAGES: list[tuple[Damage, str]] = [
    (put("routing/experts", (3, 1, 0), 8), "token 3, layer 1: expert id 8"),
    (put("routing/experts", (3, 1), [5, 5]), "token 3, layer 1: expert 5 stands twice"),
    (put("routing/weights", (4, 2, 1), np.nan), "token 4, layer 2: router weight nan"),
    (put("routing/weights", (4, 2, 1), -np.inf), "router weight -inf"),
    (put("tokens/phase", 2, 2), "token 2: phase 2"),
    (put("routing/residency", (0, 0, 0), 9), "residency 9"),
    (put("requests/offsets", 0, 1), "offsets[0]: is 1"),
    (put("requests/offsets", -1, 11), "must be the number of tokens, 12"),
    (put("requests/offsets", 1, 12), "falls from 12"),
    (replace("requests/offsets", np.array([0])), "needs requests + 1"),
    (replace("requests/offsets", np.array([[0, 12]])), "one dimension"),
    (put("routing/predictions/1", (1, 0, 0), 700), "predicted expert id 700"),
    (replace("routing/experts", np.zeros((12, 3, 2))), "is float64"),
    (replace("routing/experts", np.zeros((12, 2, 2), np.uint16)), "the table has 3 layers"),
    (replace("routing/weights", np.zeros((12, 3, 1), np.float32)), "routing/weights"),
    (replace("tokens/phase", np.zeros(11, np.uint8)), "tokens/phase"),
    (replace("layers/top_k", np.array([2, 2])), "top_k must be a list of 3"),
    (replace("layers/top_k", np.array([2, 2, 99])), "top-99 of only"),
    (replace("layers/num_experts", np.array([8, 8, 0])), "num_experts must be"),
    (delete("layers/top_k"), "damaged"),
    (delete("requests/offsets"), "damaged"),
    (delete("routing/experts"), "no dataset routing/experts"),
    (replace("requests/domain", np.array([0, 0, 77])), "damaged"),
    (replace("requests/domain", np.array([0])), "requests/domain has 1 entries"),
    (attribute("version", 3), "format version 3, this lrcsim reads versions 1 and 2; update lrcsim"),
    (attribute("format", "other"), "no lrcsim trace"),
    (attribute("provenance", "{"), "damaged"),
    (attribute("stack_names", '["a", "b"]'), "has no stack"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message for _, message in DAMAGES])
def test_check_finds_it_and_says_where(damage: Damage, message: str, tmp_path: Path) -> None:
    make_trace(7, residency=True, predictions=True).save(tmp_path / "t.h5", version=1)
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        damage(file)
    found = [str(problem) for problem in check_file(tmp_path / "t.h5")]
    assert any(message in line for line in found), found


def test_check_counts_problems_of_one_kind(tmp_path: Path) -> None:
    make_trace(7).save(tmp_path / "t.h5", version=1)
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["routing/experts"][2:5, 0, 0] = 300
        file["routing/experts"][8, 0, 0] = 400
    problems = check_file(tmp_path / "t.h5", tokens_per_read=3)
    assert [(problem.where, problem.count) for problem in problems] == [("token 2, layer 0", 4)]


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.9, 0.999])
def test_truncated_files_are_found(keep: float, tmp_path: Path) -> None:
    make_trace(7, tokens=200).save(tmp_path / "t.h5")
    whole = (tmp_path / "t.h5").read_bytes()
    (tmp_path / "t.h5").write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    assert check_file(tmp_path / "t.h5")


def test_opening_a_large_trace_is_instant(tmp_path: Path) -> None:
    empty_trace(tmp_path / "t.h5", 100_000_000)
    RoutingTrace.open(tmp_path / "t.h5").close()
    started = time.process_time()
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        assert trace.num_tokens == 100_000_000
    assert time.process_time() - started < 1  # generous: the benchmark measures it
