"""Whatever a command writes as JSON says in its first keys what it is."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from lrcsim.base.kinds import VERSION
from lrcsim.cli.main import COMMANDS, Lazy
from lrcsim.traces import RoutingTrace

WRITES = {
    "run": ("run", "t.h5"),
    "run-timed": ("run", "t.h5", "--hardware", "rtx-3090"),
    "curve": ("curve", "t.h5", "--policy", "lru"),
    "compare": ("compare", "t.h5", "--policy", "lru", "--cache", "16"),
    "curve-of-two": ("curve", "t.h5", "t.h5", "--policy", "lru"),
    "srp": ("srp", "t.h5", "-m", "4", "--bootstrap", "0"),
    "sch": ("sch", "t.h5", "-m", "4", "--bootstrap", "0"),
    "balance": ("balance", "t.h5", "-m", "4", "--bootstrap", "0"),
    "predict": ("predict", "t.h5", "--from", "experts", "--bootstrap", "0"),
    "ceilings": ("ceilings", "t.h5", "--from", "experts", "--hardware", "rtx-3090"),
    "trace-info": ("trace", "info", "t.h5"),
    "trace-check": ("trace", "check", "t.h5"),
    "trace-split": ("trace", "split", "t.h5", "--fit", "fit.h5", "--test", "test.h5"),
    "trace-export": ("trace", "export", "t.h5", "-o", "t.npz"),
    "trace-convert": ("trace", "convert", "t.h5", "-o", "second.h5"),
    "trace-select": ("trace", "select", "t.h5", "-o", "some.h5", "--layers", "0"),
    "trace-import": ("trace", "import", "t.npz", "-o", "again.h5"),
    "sweep-dry-run": ("sweep", "s.toml", "--dry-run"),
    "sweep": ("sweep", "s.toml", "--jobs", "1"),
    "results": ("results", "s.parquet"),
    "results-pivot": ("results", "s.parquet", "--pivot", "policy", "cache", "hit_rate"),
    "report": ("report", "run.json", "--without", "all"),
    "plan": ("plan", "--model", "lrcsim-toy-baseline", "--hardware", "rtx-3090"),
    "policies": ("policies",),
    "policies-one": ("policies", "lru"),
    "prefetchers": ("prefetchers",),
    "prefetchers-one": ("prefetchers", "next-gate"),
    "miss-actions": ("miss-actions",),
    "routes": ("routes",),
    "hardware": ("hardware",),
    "hardware-one": ("hardware", "rtx-3090"),
    "runtimes": ("runtimes",),
    "runtimes-one": ("runtimes", "llama.cpp", "--hardware", "rtx-3090"),
    "models": ("models",),
    "models-one": ("models", "mixtral-8x7b"),
}
"""Command lines, each by the kind that it writes, with what tells two of them apart after it."""

ELSEWHERE = {"record", "calibrate", "frontier"}
"""Commands that take more than a moment: tests of their own look at what they write."""


def names(command: click.Command, name: str) -> Iterator[str]:
    """Yield the commands below a command that take ``--json``."""
    if isinstance(command, click.Group):
        for inner in command.commands:
            yield from names(command.commands[inner], f"{name}-{inner}")
    elif any("--json" in parameter.opts for parameter in command.params):
        yield name


def command_of(lazy: Lazy) -> click.Command:
    found: click.Command = getattr(importlib.import_module(lazy.module), lazy.attribute)
    return found


def test_all_commands_are_here() -> None:
    found = [one for name, lazy in COMMANDS.items() for one in names(command_of(lazy), name)]
    assert len(found) == len(COMMANDS) + 5  # trace has seven, completion writes none
    assert set(found) - ELSEWHERE <= set(WRITES)


def test_what_is_written_says_what_it_is(
    lrcsim: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    ids = np.random.default_rng(0).random((24, 8, 64)).argsort(axis=2)[:, :, :8]
    RoutingTrace.from_arrays(ids, num_experts=64, offsets=[0, 12, 24], model="lrcsim-toy-baseline").save("t.h5")
    Path("s.toml").write_text('[grid]\ntrace = "t.h5"\ncache = [8, 16]\n')
    for name, line in WRITES.items():
        done = lrcsim(*line, "--json", f"{name}.json")
        assert done.code == 0, (name, done.err)
        written = json.loads(Path(f"{name}.json").read_text())
        for document in written if isinstance(written, list) else [written]:
            (kind, told), (version, number), *_ = document.items()
            assert (kind, version, number) == ("kind", "version", VERSION), name
            assert name == told or name.startswith(f"{told}-"), name
            assert told in WRITES
