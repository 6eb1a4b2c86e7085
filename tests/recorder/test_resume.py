"""A recording killed at any point goes on, and ends with the trace of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.recorder import Prompt, Settings, record, store
from lrcsim.recorder.model import Loaded
from lrcsim.traces import RoutingTrace, check_file

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

PROMPTS = [Prompt(token_ids=tuple(range(3, 8 + at % 5)), domain="even" if at % 2 else "odd") for at in range(12)]
SETTINGS = Settings(max_new_tokens=4, batch=2, predict_next=True)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    import tiny

    return Loaded(tiny.tiny_model("olmoe"), None, "tiny")


@pytest.fixture(autouse=True)
def every_batch_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PART_SECONDS", 0.0)


def assert_same(one: Path, two: Path) -> None:
    with RoutingTrace.open(one) as first, RoutingTrace.open(two) as second:
        assert first.columns.keys() == second.columns.keys()
        for name in first.columns:
            assert (first.column(name) == second.column(name)).all(), name
        assert first.offsets.tolist() == second.offsets.tolist()
        assert first.domains == second.domains
        timeless = [{k: v for k, v in t.provenance.items() if k != "date"} for t in (first, second)]
        assert timeless[0] == timeless[1]


class StopError(Exception):
    """What ends a recording in the middle."""


def stop_after(requests: int) -> Any:
    def progress(done: int, _tokens: int) -> None:
        if done >= requests:
            raise StopError

    return progress


def test_stopped_and_resumed_at_every_batch(loaded: Loaded, tmp_path: Path) -> None:
    record(loaded, PROMPTS, tmp_path / "whole.h5", SETTINGS)
    out = tmp_path / "out.h5"
    for requests in (2, 4, 8):
        with pytest.raises(StopError):
            record(loaded, PROMPTS, out, SETTINGS, progress=stop_after(requests))
        assert not out.exists()
    result = record(loaded, PROMPTS, out, SETTINGS)
    assert (result.requests, result.resumed) == (12, 8)
    assert_same(out, tmp_path / "whole.h5")
    assert check_file(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "whole.h5"]


def test_stopped_before_the_parts_were_joined(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.h5"
    with monkeypatch.context() as patched:
        patched.setattr(store.Recall, "add", lambda *_: stop_after(0)(0, 0))
        with pytest.raises(StopError):
            record(loaded, PROMPTS, out, SETTINGS)
    assert not out.exists()
    assert record(loaded, PROMPTS, out, SETTINGS).resumed == 12
    record(loaded, PROMPTS, tmp_path / "whole.h5", SETTINGS)
    assert_same(out, tmp_path / "whole.h5")


def test_another_recording_is_not_taken_for_this_one(loaded: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(StopError):
        record(loaded, PROMPTS, out, SETTINGS, progress=stop_after(4))
    with pytest.raises(ConfigError, match=r"begun with other settings \(seed 0, now 1\); finish it .* --restart"):
        record(loaded, PROMPTS, out, Settings(max_new_tokens=4, batch=2, predict_next=True, seed=1))
    with pytest.raises(ConfigError, match="unfinished recording of other prompts"):
        record(loaded, PROMPTS[1:], out, SETTINGS)
    with pytest.raises(ConfigError, match="unfinished recording of more prompts"):
        record(loaded, PROMPTS[:2], out, SETTINGS)
    assert record(loaded, PROMPTS[1:], out, SETTINGS, restart=True).resumed == 0


def test_one_process_at_a_time(loaded: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"

    def again(*_: int) -> None:
        record(loaded, PROMPTS, out, SETTINGS)

    with pytest.raises(TraceError, match="another process is recording to the same file"):
        record(loaded, PROMPTS, out, SETTINGS, progress=again)


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch, tiny
torch.set_num_threads(1)
from lrcsim.recorder import record, store
from lrcsim.recorder.model import Loaded
from test_resume import PROMPTS, SETTINGS
store.PART_SECONDS = 0.0
def slow(done, tokens):
    print(done, flush=True)
    time.sleep(0.05)
record(Loaded(tiny.tiny_model("olmoe"), None, "tiny"), PROMPTS, sys.argv[2], SETTINGS, progress=slow)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on this system")
def test_kill_9(loaded: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(Path(__file__).parent), str(out)]
    for requests in ("4", "8"):  # killed in the middle of the second batch of each run
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == requests:
                    break
            time.sleep(0.055)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    assert (tmp_path / ".out.h5.recording").is_dir()
    assert record(loaded, PROMPTS, out, SETTINGS).resumed >= 8
    record(loaded, PROMPTS, tmp_path / "whole.h5", SETTINGS)
    assert_same(out, tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "whole.h5"]
