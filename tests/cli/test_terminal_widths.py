"""On terminals of 60, 80 and 120 columns every command shows every word and every number that a wide one shows.

The terminal is a pseudo-terminal. One process runs all commands at all widths and sets the width itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lrcsim.cli.compare import CELLS
from lrcsim.traces import RoutingTrace

WIDE, NARROW = 500, (60, 80, 120)

LINES = [
    "run t.h5",
    "run t.h5 --hardware rtx-3090 --miss split",
    "compare t.h5 --cache 2x,4x --prefetch none,popularity --miss load,split --hardware rtx-3090 --json c.json",
    "curve t.h5 --policy lru,lfu,belady,s3-fifo",
    "sch t.h5 -m 4 --bootstrap 10",
    "srp t.h5 -m 4 --bootstrap 10",
    "balance t.h5 -m 4 --bootstrap 10",
    "trace info t.h5",
    "sweep s.toml --jobs 1",
    "results s.parquet",
    "results s.parquet --columns policy,cache,hit_rate,bytes_loaded,trace_sha256",
    "prefetchers",
    "miss-actions",
    "plan --model gpt-oss-120b --hardware rtx-3090",
    "policies",
    "policies s3-fifo",
    "hardware",
    "hardware rtx-3090",
    "runtimes",
    "runtimes llama.cpp --hardware rtx-3090",
    "models",
    "models mixtral-8x7b",
]

DRIVER = """
import fcntl, struct, sys, termios
from lrcsim.base import compiling
from lrcsim.cli.main import main
compiling.AFTER = float("inf")
for width in {widths}:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    for number, line in enumerate({lines}):
        sys.stdout.write(f"<<<{{width}} {{number}}>>>\\n")
        sys.stdout.flush()
        try:
            main(line.split())
        except SystemExit as stop:
            if stop.code:
                sys.stdout.write(f"FAILED {{stop.code}}\\n")
"""

STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(folder: Path, code: str, **environment: str) -> str:
    """Return what a Python program writes to a pseudo-terminal, without what steers it."""
    pty = pytest.importorskip("pty", reason="there are pseudo-terminals on POSIX systems only")
    master, slave = pty.openpty()
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    known |= {"TERM": "xterm-256color", **environment}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=errors, cwd=folder, env=known
        )
        os.close(slave)
        parts = list(_read(master))
        os.close(master)
        assert child.wait(60) == 0, errors
    return b"".join(parts).decode().replace("\r\n", "\n")


def _read(master: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not part:
            return
        yield part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    ids = np.random.default_rng(0).random((40, 8, 64)).argsort(axis=2)[:, :, :8]
    phase = np.arange(40) % 20 >= 6
    RoutingTrace.from_arrays(
        ids, num_experts=64, offsets=[0, 20, 40], phase=phase, expert_bytes=196608, model="lrcsim-toy-baseline"
    ).save(folder / "t.h5")
    grid = 'trace = "t.h5"\nhardware = ["rtx-3090", "rtx-4090"]\npolicy = ["lru", "s3-fifo:share=0.2,threshold=1"]\n'
    (folder / "s.toml").write_text(f'[grid]\n{grid}cache = [8, 16]\nprefetch = ["none", "popularity"]\n')
    return folder


@pytest.fixture(scope="module")
def shown(folder: Path) -> dict[tuple[int, int], str]:
    """What each command shows at each width."""
    text = on_a_terminal(folder, DRIVER.format(widths=(WIDE, *NARROW), lines=LINES))
    assert "FAILED" not in text
    parts = re.split(r"<<<(\d+) (\d+)>>>\n", STEERING.sub("", text))[1:]
    return {(int(parts[i]), int(parts[i + 1])): parts[i + 2] for i in range(0, len(parts), 3)}


@pytest.mark.parametrize("number", range(len(LINES)), ids=LINES)
@pytest.mark.parametrize("width", NARROW)
def test_no_word_and_no_number_is_cut(shown: dict[tuple[int, int], str], number: int, width: int) -> None:
    wide, narrow = shown[WIDE, number], shown[width, number]
    assert wide.strip()
    assert "…" not in narrow
    missing = set(wide.split()) - set(narrow.split()) - {"–"}  # a stacked row leaves out what is not known
    if LINES[number].startswith("sweep"):  # the second time all rows are there already
        return
    assert not missing
    tables = [line for line in narrow.splitlines() if len(line.rstrip()) > width and "  " in line.strip()]
    assert not tables


def test_a_comparison_shows_every_number_of_its_json(shown: dict[tuple[int, int], str], folder: Path) -> None:
    number = next(i for i, line in enumerate(LINES) if line.startswith("compare"))
    rows = json.loads((folder / "c.json").read_text())["rows"]
    numbers = [CELLS[name](row[name]) for row in rows for name in CELLS if row[name] is not None]
    assert len(numbers) > 100
    for width in NARROW:
        assert [one for one in numbers if one not in shown[width, number]] == []


def test_without_colours_there_are_none(folder: Path) -> None:
    code = "from lrcsim.cli.main import main; main(['trace', 'info', 't.h5'])"
    plain = on_a_terminal(folder, code, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "ascii"])
def test_columns_stand_where_the_terminal_has_few_characters(folder: Path, encoding: str) -> None:
    code = "from lrcsim.cli.main import main; main(['compare', 't.h5', '--cache', '2x', '--policy', 'lru,belady'])"
    text = STEERING.sub("", on_a_terminal(folder, code, PYTHONIOENCODING=encoding, PYTHONUTF8="0"))
    assert "belady" in text
    assert all(len(line) <= 80 for line in text.splitlines())
