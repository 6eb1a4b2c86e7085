"""HDF5 of strangers: nothing outside the file is read, nothing is claimed that is not stored, nothing hangs."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from trace_files import make_trace

from lrcsim.base.errors import TraceError
from lrcsim.traces import RoutingTrace, check_file, probe

Change = Callable[[h5py.File], object]


def stored(name: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def external_bytes(file: h5py.File) -> None:
    del file["tokens/phase"]
    file.create_dataset("tokens/phase", (12,), "u1", external=[("secret", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((12,), "u1")
    layout[...] = h5py.VirtualSource("other.h5", "/tokens/phase", (12,))
    del file["tokens/phase"]
    file.create_virtual_dataset("tokens/phase", layout)


def claims(name: str, shape: tuple[int, ...], write: bool) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        data = file.create_dataset(name, shape, "u2", chunks=tuple(min(n, 64) for n in shape), compression="gzip")
        if write:
            data[tuple(slice(0, 1) for _ in shape)] = 1

    return change


def filters(*wanted: int) -> Change:
    def change(file: h5py.File) -> None:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((12,))
        for number in wanted:
            created.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1,) if number == h5py.h5z.FILTER_DEFLATE else ())
        del file["tokens/phase"]
        space = h5py.h5s.create_simple((12,))
        made = h5py.h5d.create(file["tokens"].id, b"phase", h5py.h5t.NATIVE_UINT8, space, created)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(12, np.uint8))

    return change


def cycle(file: h5py.File) -> None:
    del file["layers"]
    file["layers"] = file["/"]


def references(file: h5py.File) -> None:
    del file["tokens/phase"]
    file.create_dataset("tokens/phase", (12,), h5py.ref_dtype)


def ragged(file: h5py.File) -> None:
    del file["tokens/phase"]
    file.create_dataset("tokens/phase", (12,), h5py.vlen_dtype(np.uint8))


def attribute(name: str, value: object) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


CHANGES: dict[str, tuple[Change, str]] = {
    "bytes of another file": (external_bytes, "keeps its bytes in other files"),
    "virtual": (virtual, "keeps its bytes in other files"),
    "external link": (stored("tokens/phase", h5py.ExternalLink("other.h5", "/tokens/phase")), "link"),
    "soft link": (stored("tokens/phase", h5py.SoftLink("/requests/offsets")), "link"),
    "link to a group": (stored("layers", h5py.ExternalLink("other.h5", "/layers")), "link"),
    "a group of itself": (cycle, "no dataset layers/num_experts"),
    "2**40 tokens, nothing stored": (claims("routing/experts", (2**40, 3, 2), False), "the file holds 0 of it"),
    "2**34 tokens, one chunk stored": (claims("routing/experts", (2**34, 3, 2), True), "claims"),
    "2**36 requests": (claims("requests/offsets", (2**36,), True), "claims"),
    "2**30 layers": (claims("layers/num_experts", (2**30,), True), "claims"),
    "unknown filter": (filters(32_008), "filters"),
    "gzip twice": (filters(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_DEFLATE), "filters"),
    "references": (references, "must be numbers"),
    "ragged": (ragged, "must be numbers"),
    "text": (stored("tokens/phase", np.array([b"x"] * 12)), "is"),
    "complex": (stored("routing/weights", np.zeros((12, 3, 2), "c8")), "must be numbers"),
    "no dataspace": (stored("tokens/phase", h5py.Empty("u1")), "is empty"),
    "domain -1": (stored("requests/domain", np.array([0, -1, 0])), "requests/domain has -1 for request 1"),
    "prediction of no distance": (lambda file: file.move("tokens/phase", "routing/predictions/x"), "distance"),
    "nested provenance": (attribute("provenance", "[" * 30_000), "nested too deep"),
    "long number": (attribute("provenance", "1" * 5_000), "no JSON"),
    "provenance a list": (attribute("provenance", "[1]"), "must be a JSON object"),
    "model a number": (attribute("model", 3), "must be text"),
    "model no text": (attribute("model", np.bytes_(b"\xff\xfe")), "damaged"),
    "stack names": (attribute("stack_names", '{"a": 1}'), "list of names"),
    "expert bytes": (stored("layers/expert_bytes", np.full(3, 2**62)), "expert_bytes must be"),
    "layers of floats": (stored("layers/top_k", np.array([2.0, 2.0, 2.0])), "top_k must be"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    (tmp_path / "secret").write_bytes(b"\0\1" * 6)
    make_trace(1, predictions=True).save(tmp_path / "other.h5")
    make_trace(1, predictions=True).save(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        change(file)
    with pytest.raises(TraceError, match=message) as caught:
        RoutingTrace.open(tmp_path / "t.h5")
    assert str(caught.value).startswith(f"{tmp_path / 't.h5'}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert len(check_file(tmp_path / "t.h5")) == 1


def test_what_else_is_in_the_file_is_ignored(tmp_path: Path) -> None:
    make_trace(1).save(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["mine/loop"] = h5py.SoftLink("/mine")
        file["mine/far"] = h5py.ExternalLink("/etc/passwd", "/")
        file.attrs["mine"] = "x"
    assert check_file(tmp_path / "t.h5") == []


def copied(tmp_path: Path) -> Path:
    """A trace that this process did not write."""
    make_trace(1).save(tmp_path / "own.h5")
    (tmp_path / "t.h5").write_bytes((tmp_path / "own.h5").read_bytes())
    return tmp_path / "t.h5"


@pytest.mark.skipif(os.name != "posix", reason="without limits of CPU time there is no child")
@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("p.read_header = None\nwhile True: pass", "does not come to an end"),
        ("import os; os.abort()", "the HDF5 library crashes"),
    ],
)
def test_a_file_on_which_the_library_loops_or_crashes(
    child: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is what would run HDF5; here it loops, or crashes, as HDF5 would on such a file."""
    path = copied(tmp_path)
    loop = (
        "import signal, sys\nimport lrcsim.traces.probe as p\nsignal.signal(signal.SIGPROF, signal.SIG_DFL)\n"
        f"sys.stdin.buffer.readline()\nsignal.setitimer(signal.ITIMER_PROF, 0.2)\n{child}"
    )
    monkeypatch.setattr(probe, "SERVE", loop)
    monkeypatch.setattr(probe, "_child", probe._Child())
    with pytest.raises(TraceError, match=message):
        RoutingTrace.open(path)
    probe._child.stop()


def test_a_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this process and of the package not at all, others once, and again when they have changed."""
    path, asked = copied(tmp_path), []
    monkeypatch.setattr("lrcsim.traces.probe.probe", asked.append)
    for _ in range(2):
        for name in (None, tmp_path / "own.h5", path):
            RoutingTrace.open(name).close()
    assert asked == [path]
    os.utime(path, ns=(1, 1))
    RoutingTrace.open(path).close()
    assert asked == [path, path]


def test_what_hangs_in_the_library(reliability: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TraceError, match="does not come to an end"):
        RoutingTrace.open(reliability / "hangs_libhdf5.h5")
    assert time.monotonic() - began < 60


def test_reproducers(reliability: Path) -> None:
    assert "router weight nan" in str(check_file(reliability / "nan_weights.h5")[0])
    assert "phase -1" in str(check_file(reliability / "phase_minus_one_is_good.h5")[0])


def test_sha256_is_of_the_file_that_was_opened(tmp_path: Path) -> None:
    import hashlib

    make_trace(1).save(tmp_path / "t.h5")
    wanted = hashlib.sha256((tmp_path / "t.h5").read_bytes()).hexdigest()
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        make_trace(2).save(tmp_path / "t.h5")  # another file takes the name
        assert trace.file_sha256() == wanted
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        with open(tmp_path / "t.h5", "ab") as file:
            file.write(b"x")
        with pytest.raises(TraceError, match="was written to"):
            trace.file_sha256()
    with pytest.raises(TraceError, match="no open file"):
        make_trace(1).file_sha256()


def test_a_name_of_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took half a minute to print. The file is named once, though a relative path is given."""
    monkeypatch.chdir(tmp_path)
    make_trace(1).save("t.h5")
    with h5py.File("t.h5", "r+") as file:
        requests = len(file["requests/offsets"]) - 1
        stored("requests/domain_names", np.array(["x" * 100_000], dtype=h5py.string_dtype()))(file)
        stored("requests/domain", np.zeros(requests, np.int32))(file)
    (problem,) = check_file("t.h5")
    assert str(problem).count("t.h5") == 1
    assert "has a name of 100,000 characters, allowed are 65,536" in str(problem)
