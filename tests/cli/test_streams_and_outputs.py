"""Where output goes: closed, full, narrow, of a small character set; files that cannot be, or must not be, written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.cli.failure import one_line
from lrcsim.cli.screen import DEGRADE
from lrcsim.traces import RoutingTrace

LRCSIM = f"{sys.executable} -c 'from lrcsim.cli.main import main; main()'"

unix = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("lrcsim", LRCSIM)],
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )


@unix
@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("lrcsim policies --json - | true", 1, b""),  # the reader leaves
        ("lrcsim policies --json - > /dev/full", 1, b"No space left on device: make room"),
        ("lrcsim policies > /dev/full", 1, b"No space left on device: make room"),
        ("lrcsim policies --json /dev/full", 1, b"No space left on device: make room"),
        ("lrcsim policies >&-", 0, b""),
        ("lrcsim policies --json - >&-", 1, b"--json - writes to standard output, which is closed: give a file"),
        ("lrcsim policies lruu 2>&-", 1, b""),
        ("lrcsim policies lruu 2> /dev/full", 1, b""),
    ],
)
def test_streams(line: str, code: int, says: bytes) -> None:
    done = shell(line)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert done.stderr.count(b"\n") == bool(says)
    assert says in done.stderr
    assert done.returncode == code


@pytest.mark.parametrize(
    ("environment", "steers"),
    [({}, False), ({"TERM": "dumb"}, False), ({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1", "LC_ALL": "C"}, False)],
)
def test_colours_in_a_pipe_are_those_asked_for(environment: dict[str, str], steers: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lrcsim", "routes"],
        capture_output=True,
        env={name: value for name, value in os.environ.items() if not name.endswith("_COLOR")} | environment,
        check=True,
    )
    assert (b"\x1b[" in done.stdout) is steers
    assert done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_outputs_of_small_character_sets(encoding: str) -> None:
    done = shell("lrcsim policies", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"lru" in done.stdout
    done.stdout.decode(encoding)


@given(st.text(), st.sampled_from(["ascii", "latin-1", "cp437", "utf-8", "koi8-r"]))
def test_any_text_can_be_written_in_any_encoding(text: str, encoding: str) -> None:
    written = text.encode(encoding, DEGRADE).decode(encoding)
    assert text.encode("ascii", "ignore").decode() in written or not text.isascii()
    assert "–×…".encode("ascii", DEGRADE) == b"-x..."


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    ids = np.random.default_rng(0).random((20, 2, 8)).argsort(axis=2)[:, :, :2]
    RoutingTrace.from_arrays(ids, num_experts=8).save(tmp_path / "t.h5")
    return tmp_path / "t.h5"


@pytest.mark.parametrize("option", ["--json", "--csv", "--plot"])
@pytest.mark.parametrize(
    "path", ["/", ".", "..", "", "folder", "absent/x.png", "folder/../../nowhere/x.png", "a\0.png"]
)
def test_what_is_no_file(option: str, path: str, trace: Path, lrcsim: Callable[..., Any]) -> None:
    Path("folder").mkdir()
    code, out, err = lrcsim("curve", trace, "--policy", "lru", option, path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("Error: ")
    assert sorted(file.name for file in trace.parent.rglob("*")) == ["folder", "t.h5"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["curve", "t.h5", "--json", "x.csv", "--csv", "./x.csv"],
        ["curve", "t.h5", "--csv", "x.svg", "--plot", "x.svg"],
        ["run", "t.h5", "--json", "t.h5"],
        ["run", "--profile", "t.h5", "--policy", "static", "--json", "t.h5"],
        ["trace", "export", "t.h5", "-o", "./t.h5", "--format", "npz"],
        ["run", "t.h5", "--policy", "mine.py:Mine", "--json", "mine.py"],
        ["report", "r.json", "--json", "r.json", "-o", "r.html"],
    ],
    ids=" ".join,
)
def test_what_is_written_twice_or_read(arguments: list[str], trace: Path, lrcsim: Callable[..., Any]) -> None:
    Path("mine.py").write_text("x = 1\n")
    Path("r.json").write_text("{}")
    before = trace.read_bytes()
    code, out, err = lrcsim(*arguments)
    assert (code, out) == (1, "")
    assert "give two names" in err or "would write over what is read" in err or "cannot be" in err
    assert trace.read_bytes() == before
    assert Path("mine.py").read_text() == "x = 1\n"
    assert Path("r.json").read_text() == "{}"


@pytest.mark.parametrize(
    "arguments",
    [["curve", "t.h5", "--csv", "-"], ["srp", "t.h5", "--plot", "-"], ["trace", "export", "t.h5", "-o", "-"]],
)
def test_only_json_goes_to_standard_output(arguments: list[str], trace: Path, lrcsim: Callable[..., Any]) -> None:
    """A file named - would be written without a word."""
    code, out, err = lrcsim(*arguments)
    assert (code, out) == (1, "")
    assert "only --json writes to standard output" in err
    assert not Path("-").exists()


@unix
def test_devices_stay_devices(trace: Path, lrcsim: Callable[..., Any]) -> None:
    assert lrcsim("curve", trace, "--policy", "lru", "--csv", "/dev/null").code == 1
    assert lrcsim("policies", "--json", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_json_alone_though_a_policy_prints(trace: Path, lrcsim: Callable[..., Any]) -> None:
    Path("mine.py").write_text(
        "from lrcsim.policies import ScorePolicy\nprint('at import')\n"
        "class Mine(ScorePolicy):\n    def score(self, key):\n        print('scoring')\n        return key\n"
    )
    code, out, err = lrcsim("run", trace, "--policy", "mine.py:Mine", "--json", "-")
    assert code == 0
    assert json.loads(out)["config"]["policy"] == "Mine"
    assert "at import" in err
    assert "scoring" in err


@pytest.mark.parametrize("columns", ["1", "20", "40"])
def test_narrow_terminals(columns: str, trace: Path) -> None:
    done = shell(f"lrcsim run {trace} && lrcsim policies", COLUMNS=columns, TERM="dumb", NO_COLOR="1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TraceError("a\nb"), "a b"),
        (OSError(28, "No space left on device", "x.h5"), "x.h5: No space left on device: make room"),
        (OSError(5, "Input/output error", "x.h5"), "x.h5: Input/output error: the device"),
        (OSError("odd"), "odd"),
        (MemoryError(), "more memory than there is"),
        (RecursionError(), "nested too deeply"),
        (KeyError("x"), "KeyError: 'x'; this is a bug in lrcsim if what was given is good: run again with --debug"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), "UnicodeEncodeError: "),
        (OverflowError("too\nlarge"), "OverflowError: too; this is a bug"),
    ],
)
def test_any_error_is_one_line(error: BaseException, said: str) -> None:
    assert said in one_line(error)
    assert "\n" not in one_line(error)


@pytest.mark.parametrize("kind", [KeyError, RecursionError, MemoryError, OverflowError, AssertionError, OSError])
def test_what_nobody_foresaw(
    kind: type[Exception], trace: Path, lrcsim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise kind("odd \x1b[31m")

    monkeypatch.setattr(RoutingTrace, "open", fails)
    code, out, err = lrcsim("run", trace)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("Error: ")
    assert "\x1b" not in err
    code, out, err = lrcsim("run", trace, "--debug")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "\x1b" not in err
