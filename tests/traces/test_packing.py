"""Chunks packed and unpacked outside HDF5: what HDF5 itself writes and reads, and what damaged files claim."""

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_files import assert_same, make_trace, random_experts, traces

from lrcsim.base.errors import TraceError
from lrcsim.traces import LayerTable, RoutingTrace, TraceWriter, check_file
from lrcsim.traces.chunks import ChunkedColumn, column_of
from lrcsim.traces.packing import GZIP, SHUFFLE, ZSTD, filters, pack, unpack

anywhere = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = ["u1", "<u2", ">u2", "<f2", "<i4", ">f4", "<i8"]


def shuffled(data: bytes, size: int) -> bytes:
    """HDF5's shuffle, by definition: the first bytes of all elements, then the second ones."""
    return bytes(data[at] for first in range(size) for at in range(first, len(data), size))


@given(values=st.lists(st.integers(0, 255), max_size=40), dtype=st.sampled_from(TYPES), repeated=st.integers(1, 60))
@anywhere
def test_what_is_packed_is_what_the_filters_of_hdf5_write(values: list[int], dtype: str, repeated: int) -> None:
    array = np.array(values * repeated, dtype)
    stored, mask = pack(array)
    codes = filters(array.dtype)
    if mask:
        assert bytes(stored) == array.tobytes()
    else:
        plain = pa.decompress(stored, array.nbytes, "zstd", asbytes=True)
        assert plain == shuffled(array.tobytes(), array.itemsize)
    back = unpack(np.frombuffer(stored, np.uint8), codes, mask, array.size, array.dtype)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_datasets_of_hdf5_read_alike(compression: str | None, shuffle: bool, dtype: str, tmp_path: Path) -> None:
    # Chunks of 4 x 2 x 3 over 11 x 3 x 5: every edge has chunks that go over it. The second last was never written.
    values = np.random.default_rng(1).integers(0, 200, (11, 3, 5)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        told: dict[str, Any] = {"compression": compression, "shuffle": shuffle, "fillvalue": 7}
        whole = file.create_dataset("a", (16, 3, 5), dtype, chunks=(4, 2, 3), maxshape=(None, 3, 5), **told)
        whole[:8], whole[12:15] = values[:8], values[8:]
    with h5py.File(tmp_path / "a.h5") as file:
        column, wanted = column_of(file["a"]), file["a"][()]
        assert isinstance(column, ChunkedColumn)
        for low in range(17):
            for high in range(low, 17):
                np.testing.assert_array_equal(column[low:high], wanted[low:high])
                np.testing.assert_array_equal(column[low:high, 1:2], wanted[low:high, 1:2])
        assert len(column) == 16
        assert np.array_equal(column, wanted)
        for key in (3, -1, slice(2, 14, 5), slice(None, None, -1), [1, 9], (slice(4), 2), (slice(1, 9, 3), slice(1))):
            np.testing.assert_array_equal(column[key], wanted[key])
        np.testing.assert_array_equal(column[3:10000, 0:2], wanted[3:, :2])
        assert wanted[9, 0, 0] == 7


def test_what_only_hdf5_can_read_is_left_to_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("lzf", (9,), "u1", compression="lzf")
        file.create_dataset("sum", (9,), "u1", fletcher32=True, chunks=(9,))
        file["contiguous"] = np.arange(9)
        kind = h5py.h5t.NATIVE_UINT16.copy()
        kind.set_precision(9)  # seven bits of each number are padding
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((9,))
        h5py.h5d.create(file.id, b"bits", kind, h5py.h5s.create_simple((9,)), made)
        made.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(file.id, b"packed", kind, h5py.h5s.create_simple((9,)), made)
        for name in ("lzf", "sum", "contiguous", "bits"):
            assert column_of(file[name]) is not None
            assert not isinstance(column_of(file[name]), ChunkedColumn)
        with pytest.raises(TraceError, match="/packed is of a type that cannot be read with the filter 32015"):
            column_of(file["packed"])


@pytest.mark.parametrize(
    ("codes", "stored", "said"),
    [
        ((ZSTD,), pa.compress(b"a" * 99, "zstd", asbytes=True), "ZSTD"),
        ((ZSTD,), pa.compress(b"a" * 101, "zstd", asbytes=True), "ZSTD"),
        ((ZSTD,), pa.compress(bytes(1 << 30), "zstd", asbytes=True), "ZSTD"),
        ((ZSTD,), b"no frame", "ZSTD"),
        ((GZIP,), zlib.compress(b"a" * 99), "another size"),
        ((GZIP,), zlib.compress(bytes(1 << 27)), "another size"),
        ((GZIP,), zlib.compress(b"a" * 100)[:-2], "damaged"),
        ((GZIP,), zlib.compress(b"a" * 100)[:-1] + b"\0", "incorrect data check"),
        ((GZIP,), b"no stream", "header"),
        ((), b"a" * 99, "has 99 bytes, must have 100"),
        ((SHUFFLE,), b"a" * 99, "must be a multiple of 2"),
    ],
)
def test_damaged_chunks_are_refused(codes: tuple[int, ...], stored: bytes, said: str) -> None:
    with pytest.raises(OSError, match=said):
        unpack(np.frombuffer(stored, np.uint8), codes, 0, 50, np.dtype("<u2"))


@given(trace=traces(), compression=st.sampled_from(["fast", "zstd", "gzip", "lzf", "none"]), block=st.integers(1, 9))
@anywhere
def test_files_of_many_chunks(trace: RoutingTrace, compression: str, block: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TraceWriter, "BLOCK", block)
        trace.save(tmp_path / "t.h5", compression=compression)
    assert check_file(tmp_path / "t.h5", tokens_per_read=4) == []
    with RoutingTrace.open(tmp_path / "t.h5") as back:
        for low in range(0, trace.num_tokens, 4):  # some of a chunk at a time
            for name in trace.columns:
                if name not in ("weights", "residency"):
                    read, wanted = back.read(name, low, low + 4), trace.column(name)[low : low + 4]
                    np.testing.assert_array_equal(read, wanted)
                    assert (read.dtype, read.flags.c_contiguous) == (wanted.dtype, True)
        assert_same(back, trace)


@pytest.mark.parametrize(("experts", "stored"), [(2, "u1"), (128, "u1"), (255, "u1"), (256, "u2"), (40_000, "u2")])
def test_ids_take_a_byte_up_to_255_experts(experts: int, stored: str, tmp_path: Path) -> None:
    # The largest id and "not recorded" (255 or 65,535 in the file) stay apart.
    ids = [[[experts - 1, 0]], [[0, -1]], [[-1, experts - 1]]]
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, predictions={1: ids})
    trace.save(tmp_path / "t.h5", compression="gzip")
    with h5py.File(tmp_path / "t.h5") as file:
        for place in ("routing/experts", "routing/predictions/1"):
            assert file[place].dtype == stored
            assert file[place][1, 0, 1] == np.iinfo(stored).max
    with RoutingTrace.open(tmp_path / "t.h5") as back:
        assert back.experts.tolist() == back.column("predictions/1").tolist() == ids
    trace.save(tmp_path / "t.h5", version=1)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["routing/experts"].dtype == "u2"


def test_fast_packs_ids_only_where_that_halves_them(tmp_path: Path) -> None:
    # Two chunks: routing at random (about 0.75 of a byte at 64 experts), then always the same.
    ids = random_experts(np.random.default_rng(0), 2 * TraceWriter.BLOCK, 1, 64, 8)
    ids[TraceWriter.BLOCK :] = np.arange(8)
    trace = RoutingTrace.from_arrays(ids, num_experts=64)
    for compression, masks in (("fast", [1, 0]), ("zstd", [0, 0])):
        trace.save(tmp_path / "t.h5", compression=compression)
        with h5py.File(tmp_path / "t.h5") as file:
            data = file["routing/experts"]
            found = [data.id.read_direct_chunk((low, 0, 0))[0] for low in (0, TraceWriter.BLOCK)]
            assert found == masks
        with RoutingTrace.open(tmp_path / "t.h5") as back:
            np.testing.assert_array_equal(back.experts, ids)


def first_version(path: Path) -> np.ndarray:
    """A trace as the first version of FORMAT.md says, with nothing but h5py."""
    ids = random_experts(np.random.default_rng(5), 50, 3, 16, 4)
    ids[7, 1, 2:] = -1
    with h5py.File(path, "w") as file:
        file.attrs.update(format="lrcsim-trace", version=1)
        file["layers/num_experts"], file["layers/top_k"] = np.full(3, 16), np.full(3, 4)
        told: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        file.create_dataset("routing/experts", data=ids.astype(np.uint16), chunks=(20, 1, 4), **told)
        file["requests/offsets"] = np.array([0, 50])
    return ids


def test_the_first_version_is_read_for_ever(tmp_path: Path) -> None:
    ids = first_version(tmp_path / "t.h5")
    assert check_file(tmp_path / "t.h5") == []
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        np.testing.assert_array_equal(trace.experts, ids)


@pytest.mark.parametrize(
    ("version", "place", "dtype", "said"),
    [
        (1, "routing/experts", "u1", "must be uint16$"),
        (2, "routing/experts", "i1", "must be uint16 or uint8$"),
        (2, "routing/experts", "u4", "must be uint16 or uint8$"),
        (1, "tokens/phase", "zstd", "filters .* each once$"),
        (2, "layers/num_experts", "zstd", "filters .* each once$"),
        (2, "tokens/phase", "zstd twice", "or Zstandard, alone or after shuffle$"),
        (2, "tokens/phase", "claims", "claims"),
    ],
)
def test_what_each_version_allows(version: int, place: str, dtype: str, said: str, tmp_path: Path) -> None:
    first_version(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file.attrs["version"] = version
        old = file[place][()] if place in file else np.zeros(50, np.uint8)
        if place in file:
            del file[place]
        if dtype[0] in "iu":
            file[place] = old.astype(dtype)
        else:
            shape = (2**40,) if dtype == "claims" else old.shape
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_chunk(old.shape)
            for _ in range(1 + dtype.count("twice")):
                created.set_filter(ZSTD, h5py.h5z.FLAG_OPTIONAL, (1,))
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            kind, space = h5py.h5t.py_create(old.dtype), h5py.h5s.create_simple(shape)
            made = h5py.h5d.create(file.id, place.encode(), kind, space, created, links)
            made.write_direct_chunk((0,), pa.compress(old.tobytes(), "zstd", asbytes=True))
    with pytest.raises(TraceError, match=said) as caught:
        RoutingTrace.open(tmp_path / "t.h5")
    assert len(str(caught.value).splitlines()) == 1


def test_more_than_255_experts_do_not_fit_a_byte(tmp_path: Path) -> None:
    first_version(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file.attrs["version"] = 2
        file["layers/num_experts"][1] = 256
        ids = file["routing/experts"][()].astype(np.uint8)
        del file["routing/experts"]
        file["routing/experts"] = ids
    with pytest.raises(TraceError, match=r"uint8, must be uint16$"):
        RoutingTrace.open(tmp_path / "t.h5")


@pytest.mark.parametrize("spoilt", [b"\0", b"no frame", bytes(64), pa.compress(bytes(1 << 24), "zstd", asbytes=True)])
def test_a_damaged_chunk_ends_in_one_line(spoilt: bytes, tmp_path: Path) -> None:
    make_trace(1, tokens=40).save(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["routing/experts"].id.write_direct_chunk((0, 1, 0), spoilt)
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        trace.read("experts", 0, 9, layer=0)
        with pytest.raises(TraceError, match=r"t\.h5: experts cannot be read at tokens 3\.\.8: ") as caught:
            trace.read("experts", 3, 9)
        assert len(str(caught.value).splitlines()) == 1
    assert len(check_file(tmp_path / "t.h5")) == 1


def test_a_chunk_that_takes_more_than_it_may_is_not_read(tmp_path: Path) -> None:
    make_trace(1, tokens=40).save(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["routing/experts"].id.write_direct_chunk((0, 1, 0), bytes(1 << 20), 1)
    with RoutingTrace.open(tmp_path / "t.h5") as trace, pytest.raises(TraceError, match="cannot be read"):
        trace.read("experts", 3, 9)


def test_a_chunk_is_unpacked_once_for_who_reads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 90 tokens of three layers in chunks of 30 tokens of one: 9 chunks, read seven tokens at a time.
    monkeypatch.setattr(TraceWriter, "BLOCK", 30)
    make_trace(1, tokens=90).save(tmp_path / "t.h5")
    unpacked: list[int] = []
    monkeypatch.setattr("lrcsim.traces.chunks.unpack", lambda *told: unpacked.append(1) or unpack(*told))
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        for low in range(0, 90, 7):
            trace.read("experts", low, min(low + 7, 90))
        assert len(unpacked) == 9
        column = trace.columns["experts"]
        assert isinstance(column, ChunkedColumn)
        assert column._kept == {}


def test_little_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrcsim.traces.chunks.KEPT_BYTES", 2 * 8)  # of chunks of four tokens, two ranks, a byte each
    with TraceWriter(tmp_path / "t.h5", LayerTable.build(5, 9, 2)) as writer:
        monkeypatch.setattr(TraceWriter, "BLOCK", 4)
        ids = random_experts(np.random.default_rng(0), 12, 5, 9, 2)
        writer.append({"experts": ids})
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        column = trace.columns["experts"]
        assert isinstance(column, ChunkedColumn)
        for low in range(0, 12, 3):
            np.testing.assert_array_equal(trace.read("experts", low, low + 3), ids[low : low + 3])
            assert len(column._kept) <= 2
