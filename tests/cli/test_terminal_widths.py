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
    "curve t.h5 --policy lru,lfu,belady,s3-fifo --json k.json",
    "sch t.h5 -m 4 --bootstrap 10",
    "srp t.h5 -m 4 --bootstrap 10",
    "balance t.h5 -m 4 --bootstrap 10",
    "compare t.h5 --policy lru --cache 2x --batch 1,2 --draft 0,2 --hardware rtx-3090,rtx-4090",
    "curve t.h5 --policy lru,belady --allocate 2x",
    "predict p.h5 --top 12 --hardware rtx-3090",
    "ceilings p.h5 --hardware rtx-3090 --cache 2x --from experts",
    "trace info t.h5",
    "trace check t.h5",
    "trace import r.csv -o imported.h5",
    "trace export t.h5 -o exported.npz",
    "trace select t.h5 -o selected.h5 --layers 0-3",
    "trace convert t.h5 -o converted.h5 --compression zstd",
    "trace split t.h5 --fit fit.h5 --test test.h5",
    "report k.json -o report.html",
    "!frontier",
    "!calibrate",
    "sweep s.toml --jobs 1",
    "results s.parquet",
    "results s.parquet --columns policy,cache,hit_rate,bytes_loaded,trace_sha256",
    "prefetchers",
    "miss-actions",
    "plan --model gpt-oss-120b --hardware rtx-3090",
    "plan --model gpt-oss-20b --hardware phone",
    "policies",
    "policies s3-fifo",
    "hardware",
    "hardware rtx-3090",
    "runtimes",
    "runtimes llama.cpp --hardware rtx-3090",
    "models",
    "models mixtral-8x7b",
]

FAKES = """
from types import SimpleNamespace as Box
from lrcsim.cli import calibrate_machine, frontier

RULE = Box(loss=2.0312, loss_difference=0.0123, loss_interval=(-0.0011, 0.0257), changed_tokens=0.0312, hit_rate=0.6012,
           loads_per_access=0.398, tokens_per_s=1234.5, on_front=True, open_loop={"hit_rate": 0.598})
ROWS = [vars(RULE) | {"rule": rule} for rule in ("none", "substitute:threshold=0.1,keep=2", "mine.py:Mine:share=0.25")]
ABOUT = {"model": "lrcsim-toy-baseline", "dtype": "bfloat16", "tokens": 12_345, "requests": 67}
FOUND = Box(words="An access is a hit if it is there.", about=ABOUT, rows=ROWS, knee="none", front=[ROWS[2]["rule"]])

def timing(size, rate):
    return Box(size=size, rate=rate, median=size / rate, percentile=lambda q: size / rate * (1 + q / 1000))

SOME = [timing(1 << power, 12.5e9) for power in (16, 22, 28)]
EXPERTS = Box(threads={1: SOME[0], 16: SOME[1]}, sizes=[(SOME[0], SOME[1])])
READS = Box(sizes=SOME, lanes={4: SOME[2]}, how="O_DIRECT", file_system="ext4 on /dev/nvme0n1p2")
MACHINE = Box(name="this", processor="AMD Ryzen 9 7950X 16-Core Processor", memory=64 << 30, copies=SOME,
              copied={2: SOME[1]}, read={8: SOME[2]}, experts=EXPERTS, reads=READS, gpu=None,
              notes=["No GPU was found: CPU and files only."])
SHOW = {"!frontier": lambda: frontier._show(FOUND), "!calibrate": lambda: calibrate_machine._show(MACHINE)}
"""
"""What takes a model, or a machine's time, is shown with numbers made up."""

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
            SHOW[line]() if line in SHOW else main(line.split())
        except SystemExit as stop:
            if stop.code:
                sys.stdout.write(f"FAILED {{stop.code}}\\n")
"""

UNKNOWN = {"–", "mass"}
"""What a stacked row leaves out: dashes, which say that nothing is known, and headings of columns of nothing else."""

COPIED = ("  llama-", "  vllm ", "  python ")
"""Beginnings of lines that are commands to copy, which are never broken."""

STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(folder: Path, program: str, **environment: str) -> str:
    """Return what a Python program writes to a pseudo-terminal, without what steers it."""
    pty = pytest.importorskip("pty", reason="there are pseudo-terminals on POSIX systems only")
    master, slave = pty.openpty()
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    known |= {"TERM": "xterm-256color", **environment}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=slave, stdout=slave, stderr=errors, cwd=folder, env=known
        )
        os.close(slave)
        parts = list(_read(master))
        os.close(master)
        code = child.wait(60)
        errors.seek(0)
        assert code == 0, errors.read().decode()
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
    hidden = np.arange(40) % 7
    RoutingTrace.from_arrays(
        ids[hidden], num_experts=64, offsets=range(0, 41, 5), phase=phase, token_ids=hidden, expert_bytes=196608,
        model="lrcsim-toy-baseline", predictions={1: ids[hidden]},
    ).save(folder / "p.h5")  # fmt: skip
    rows = [f"{n // 20},{n % 20},{layer},{e}" for n in range(40) for layer in range(8) for e in ids[n, layer]]
    (folder / "r.csv").write_text("\n".join(["request,token,layer,expert", *rows]) + "\n")
    grid = 'trace = "t.h5"\nhardware = ["rtx-3090", "rtx-4090"]\npolicy = ["lru", "s3-fifo:share=0.2,threshold=1"]\n'
    (folder / "s.toml").write_text(f'[grid]\n{grid}cache = [8, 16]\nprefetch = ["none", "popularity"]\n')
    return folder


@pytest.fixture(scope="module")
def shown(folder: Path) -> dict[tuple[int, int], str]:
    """What each command shows at each width."""
    text = on_a_terminal(folder, FAKES + DRIVER.format(widths=(WIDE, *NARROW), lines=LINES))
    assert re.findall(r"<<<500 (\d+)>>>\n(?:(?!<<<).*\n)*?FAILED", text) == []
    assert "FAILED" not in text
    parts = re.split(r"<<<(\d+) (\d+)>>>\n", STEERING.sub("", text))[1:]
    return {(int(parts[i]), int(parts[i + 1])): parts[i + 2] for i in range(0, len(parts), 3)}


@pytest.mark.parametrize("number", range(len(LINES)), ids=LINES)
@pytest.mark.parametrize("width", NARROW)
def test_no_word_and_no_number_is_cut(shown: dict[tuple[int, int], str], number: int, width: int) -> None:
    wide, narrow = shown[WIDE, number], shown[width, number]
    assert wide.strip()
    assert "…" not in narrow
    missing = set(wide.split()) - set(narrow.split()) - UNKNOWN
    if LINES[number].startswith("sweep"):  # the second time all rows are there already
        return
    assert not missing
    longer = [line for line in narrow.splitlines() if len(line.rstrip()) > width and not line.startswith(COPIED)]
    assert [line for line in longer if max(map(len, line.split())) <= width] == []  # a word, a digest, stays whole
    split = [line for line in narrow.splitlines() if re.search(r"\d$", line) and f"{line.split()[-1]} %" in wide]
    assert [line for line in split if f"{line.split()[-1]} %" not in narrow] == []


def test_a_comparison_shows_every_number_of_its_json(shown: dict[tuple[int, int], str], folder: Path) -> None:
    number = next(i for i, line in enumerate(LINES) if line.startswith("compare"))
    rows = json.loads((folder / "c.json").read_text())["rows"]
    numbers = [CELLS[name](row[name]) for row in rows for name in CELLS if row[name] is not None]
    assert len(numbers) > 100
    for width in NARROW:
        assert [one for one in numbers if one not in shown[width, number]] == []


def test_errors_are_broken_between_words(folder: Path) -> None:
    code = "from lrcsim.cli import main as m; m.sys.stderr = m.sys.stdout; m.main(['run', 't.h5', '--policy', 'lrx'])"
    code = code.replace("m.main(", "import contextlib\nwith contextlib.suppress(SystemExit): m.main(")
    text = on_a_terminal(folder, code, COLUMNS="60")
    assert "there is no policy 'lrx'; did you mean 'lru'?" in text
    assert text.count("\n") > 1
    assert all(len(line) <= 60 for line in text.splitlines())


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
