"""A disk that is full, or a file that may not grow: one line, nothing half written, no crash; and what kills leave."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trace_files import make_trace

from lrcsim.base.errors import TraceError
from lrcsim.base.files import Sink, clear_abandoned, replacing
from lrcsim.traces import RoutingTrace, TraceWriter

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and mounts are POSIX's")

SAVE = """
import resource, sys
from lrcsim.base.errors import LrcsimError
from lrcsim.traces import RoutingTrace, TraceWriter
out, how, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if how == "import":
        from lrcsim.traces.importers import import_trace
        import_trace(sys.argv[4], out)
    elif how in ("npz", "csv"):
        from lrcsim.traces.exporters import export_trace
        export_trace(RoutingTrace.open(), out, how)
    else:
        RoutingTrace.open().save(out, compression=how)
except LrcsimError as error:
    print(error)
    sys.exit(1)
"""


def refused(folder: Path, how: str, limit: int, source: Path) -> None:
    (folder / "out.h5").write_bytes(b"an older file")
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(folder / "out.h5"), how, str(limit), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr == ""
    assert "cannot be written (" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["out.h5"]
    assert (folder / "out.h5").read_bytes() == b"an older file"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    ids = rng.random((20_000, 2, 64)).argsort(axis=2)[:, :, :4]
    np.savez(tmp_path_factory.mktemp("in") / "a.npz", experts=ids.astype(np.uint8), num_experts=64)
    return next(tmp_path_factory.getbasetemp().glob("in*/a.npz"))


@pytest.mark.parametrize("how", ["none", "gzip", "lzf", "import", "npz", "csv"])
def test_a_file_that_may_not_grow(how: str, tmp_path: Path, source: Path) -> None:
    refused(tmp_path, how, 40_000, source)


def test_limits_at_every_size(tmp_path: Path) -> None:
    """Wherever it hits HDF5: in the header, in the data, at the end."""
    trace = make_trace(1)
    trace.save(tmp_path / "whole.h5")
    size = (tmp_path / "whole.h5").stat().st_size
    code = (
        "import resource, sys\nfrom lrcsim.base.errors import LrcsimError\nfrom lrcsim.traces import RoutingTrace\n"
        "trace, failed = RoutingTrace.open(sys.argv[1]), 0\n"
        "for limit in map(int, sys.argv[3:]):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n        trace.save(sys.argv[2])\n    except LrcsimError:\n        failed += 1\n"
        "print(failed)\n"
    )
    limits = [str(size * part // 40) for part in range(40)]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "whole.h5"), str(tmp_path / "out.h5"), *limits],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "40"
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts file systems")
@pytest.mark.parametrize("how", ["none", "gzip", "lzf", "import", "npz", "csv"])
def test_a_full_file_system(how: str, tmp_path: Path, source: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        refused(small, how, 0, source)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_failed_write_is_told_at_the_next_run_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    trace = make_trace(1)
    ids = rng.random((TraceWriter.BLOCK, 3, 8)).argsort(axis=2)[:, :, :2]
    writer = TraceWriter(tmp_path / "t.h5", trace.layers)

    def fail(_: Sink) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(Sink, "check", fail)
    with pytest.raises(TraceError, match="no space"):
        writer.append({"experts": ids})
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom lrcsim.traces import LayerTable, TraceWriter\n"
        "writer = TraceWriter(sys.argv[1], LayerTable.build(1, 2, 1))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t.h5")], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".t.h5.*.tmp"))) == 1  # the second removed the first's
    running = tmp_path / f".t.h5.{os.getppid()}.tmp"
    running.write_bytes(b"of a process that runs")
    other = tmp_path / ".t.h5.note.tmp"
    other.write_bytes(b"of no process")
    make_trace(1).save(tmp_path / "t.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["t.h5", running.name, other.name])
    RoutingTrace.open(tmp_path / "t.h5").close()


def test_a_file_held_elsewhere_stays(tmp_path: Path) -> None:
    """Of a process that does not run here, but holds the file from another machine."""
    held = Sink(tmp_path / ".a.csv.999999999.tmp")
    clear_abandoned(tmp_path / "a.csv")
    assert list(tmp_path.iterdir())
    held.close()
    with replacing(tmp_path / "a.csv") as partial:
        partial.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
