"""The same table from one process, from several, from Dask, and when processes are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from watched import alive, logged

from lrcsim.base.errors import ConfigError
from lrcsim.sweeps import divide, in_processes, on_dask, read_spec, read_table, run_sweep

RUNS = 12
LRCSIM = [sys.executable, "-c", "from lrcsim.cli.main import main; main()"]
AT_ONCE = [*LRCSIM[:2], f"from lrcsim.sweeps import store; store.WRITING = 1; {LRCSIM[2]}"]
"""The same, but rows are written as they finish, however long a slow disk takes, not only a twentieth of the time."""
SPEC = f"""
[defaults]
trace = "round.h5"
bounds = false

[[grid]]
policy = ["lru", "s3-fifo"]
cache = [1, 2, 3]

[[grid]]
policy = "mine.py:Watched"
cache = {list(range(1, RUNS + 1))}
"""


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def spec(folder: Path) -> Path:
    (folder / "s.toml").write_text(SPEC)
    return folder / "s.toml"


@pytest.fixture
def expected(spec: Path) -> bytes:
    """The table of a sweep in this process."""
    run_sweep(divide(read_spec(spec)), spec.parent / "expected.parquet")
    (spec.parent / "log").unlink()
    return (spec.parent / "expected.parquet").read_bytes()


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([str(argument) for argument in arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_started_again_it_does_only_what_is_missing(spec: Path, expected: bytes, jobs: int) -> None:
    folder, table = spec.parent, spec.with_suffix(".parquet")
    with started(*AT_ONCE, "sweep", spec, "--jobs", jobs) as process:
        wait_for(lambda: len(list((folder / "s.parquet.parts").glob("*.parquet"))) > 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(alive(worker) for _, worker in logged(folder)))  # its workers end with it
    assert not table.exists()
    before = read_table(table)
    done = [int(row["cache"]) for row in before.to_pylist() if row["policy"] == "mine.py:Watched"]
    assert 0 < len(done) < RUNS
    (folder / "log").unlink()
    again = subprocess.run([*LRCSIM, "sweep", spec, "--jobs", str(jobs)], capture_output=True, text=True, check=True)
    assert f"{len(before)} were there already" in again.stdout
    assert sorted(capacity for capacity, _ in logged(folder)) == sorted(set(range(1, RUNS + 1)) - set(done))
    assert table.read_bytes() == expected
    assert not (folder / "s.parquet.parts").exists()


def test_a_run_that_takes_its_process_down_is_a_row(folder: Path) -> None:
    table: dict[str, Any] = {
        "defaults": {"trace": "round.h5", "bounds": False},
        "grid": {"policy": ["mine.py:Watched", "mine.py:Deadly", "lru"], "cache": [1, 2]},
    }
    outcome = run_sweep(divide(read_spec(table, folder)), folder / "t.parquet", workers=in_processes(2))
    died = "the process that ran it died (killed, or out of memory?)"
    assert outcome.table["error"].to_pylist() == [None, None, died, died, None, None]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A Dask scheduler in a process of its own."""
    pytest.importorskip("distributed")
    where = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", where]
    with started(sys.executable, "-m", "distributed.cli.dask_scheduler", *options):
        wait_for(where.exists)
        yield json.loads(where.read_text())["address"]


def worker(address: str, folder: Path) -> Any:
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", folder]
    return started(sys.executable, "-m", "distributed.cli.dask_worker", address, *options)


def test_dask_with_a_worker_killed_on_the_way(spec: Path, expected: bytes, scheduler: str) -> None:
    """Two workers in processes of their own, the command in a third; what the killed one had goes to the other."""
    folder = spec.parent
    with worker(scheduler, folder / "a"), worker(scheduler, folder / "b"):
        with started(*LRCSIM, "sweep", spec, "--scheduler", scheduler) as process:
            wait_for(lambda: len({process for _, process in logged(folder)}) == 2)
            first = logged(folder)[0][1]
            os.kill(first, signal.SIGKILL)
            error = process.communicate(timeout=60)[1]
        assert process.returncode == 0, error
        assert sorted({capacity for capacity, _ in logged(folder)}) == list(range(1, RUNS + 1))
        assert any(process != first for _, process in logged(folder)[-3:])
    assert spec.with_suffix(".parquet").read_bytes() == expected


def test_no_scheduler_there(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("lrcsim.sweeps.workers.ANSWER", "1s")
    plan = divide(read_spec(spec))
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run_sweep(plan, spec.with_suffix(".parquet"), workers=on_dask("tcp://127.0.0.1:9"))
