"""`lrcsim run` and its neighbours as a user meets them: output, exit codes, one line of error, nothing half written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.cli.main import COMMANDS
from lrcsim.traces import RoutingTrace

LRCSIM = [sys.executable, "-c", "from lrcsim.cli.main import main; main()"]


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    experts = np.random.default_rng(0).random((60, 3, 8)).argsort(axis=2)[:, :, :2]
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(experts, num_experts=8, phase=[0] * 20 + [1] * 40, model="toy").save(path)
    return str(path)


def test_table(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, err = lrcsim("run", trace_file, "--policy", "fifo", "--cache", "2x")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "toy: 60 tokens in 1 request, 3 MoE layers x 8 experts, top-2"
    assert [line.split()[0] for line in lines[3:7]] == ["hit", "fifo", "lru", "belady"]
    assert "(optimum)" in out
    assert any(line.startswith("fifo ") and "gap between LRU and the optimum" in line for line in lines)
    assert "accesses" in out


def test_json_alone_on_standard_output(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, err = lrcsim("run", trace_file, "--json", "-")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert list(data)[:3] == ["kind", "version", "run"]
    assert set(data) - {"kind", "version", "run"} == {
        "trace", "config", "cache", "bounds", "baseline", "warnings", "provenance",
    }  # fmt: skip
    assert data["config"]["policy"] == "lru"


def test_json_to_a_file(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    code, out, _ = lrcsim("run", trace_file, "--json", str(target))
    assert code == 0
    assert "hit rate" in out
    assert json.loads(target.read_text())["cache"]["accesses"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "t.h5"]


def test_expert_bytes_can_be_given(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, _ = lrcsim(
        "run", trace_file, "--expert-bytes", "1KiB", "--cache", "12KiB", "--scope", "model", "--json", "-"
    )
    data = json.loads(out)
    assert code == 0
    assert data["config"]["capacity"] == [12]
    assert data["cache"]["bytes_loaded"] == 1024 * data["cache"]["misses"]


def test_profile_self(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, _ = lrcsim("run", trace_file, "--policy", "static", "--profile", "self")
    assert code == 0
    assert "Note:" in out
    assert "loaded ahead" in " ".join(out.split())


BAD = [
    (["run", "absent.h5"], "absent.h5: there is no such file"),
    (["run", "."], "is not a file"),
    (["run", "TEXT"], "is not an HDF5 file"),
    (["run", "TRUNCATED"], "is truncated"),
    (["run", "bundled:generate"], "did you mean 'bundled:generated'"),
    (["run", "T", "--policy", "lruu"], "did you mean 'lru'"),
    (["run", "T", "--policy", "mrs"], "needs router weights"),
    (["run", "T", "--policy", "static"], "needs a profile"),
    (["run", "T", "--policy", "nowhere.py:Mine"], "does not exist"),
    (["run", "T", "--policy", "sch-lookahead:0"], "m must be at least 1"),
    (["run", "T", "--policy", "sch-lookahead:x"], "m must be a whole number"),
    (["run", "T", "--cache", "2y"], "not understood"),
    (["run", "T", "--cache", "-3"], "not understood"),
    (["run", "T", "--cache", "0%"], "out of range"),
    (["run", "T", "--cache", "4GiB"], "--expert-bytes"),
    (["run", "T", "--cache", "1,2"], "has 2 entries"),
    (["run", "T", "--cache", "1,2,3", "--scope", "model"], "one pool"),
    (["run", "T", "--scope", "global"], "use 'layer' or 'model'"),
    (["run", "T", "--access", "strict"], "use coresident, sequential, paper"),
    (["run", "T", "--access", "paper", "--warm"], "starts cold"),
    (["run", "T", "--prefill", "all"], "use 'step', 'chunk:N'"),
    (["run", "T", "--profile", "absent.h5"], "there is no such file"),
    (["run", "T", "--expert-bytes", "0"], "is not a size"),
    (["run", "T", "--expert-bytes", "big"], "is not a size"),
    (["run", "T", "--json", "absent/out.json"], "cannot be written"),
    (["policies", "lfuu"], "did you mean"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_clear_line(
    arguments: list[str], message: str, refused: Callable[..., None], trace_file: str, tmp_path: Path
) -> None:
    (tmp_path / "TEXT").write_text("turn,layer\n")
    (tmp_path / "TRUNCATED").write_bytes(Path(trace_file).read_bytes()[:3000])
    (tmp_path / "T").write_bytes(Path(trace_file).read_bytes())
    refused(message, *arguments)


@pytest.mark.parametrize("arguments", [["run", "--cach", "2x"], ["runn"], [], ["run", "a", "b"]])
def test_wrong_usage_is_exit_2(arguments: list[str], lrcsim: Callable[..., Any]) -> None:
    code, _, err = lrcsim(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_unknown_command_suggests(lrcsim: Callable[..., Any]) -> None:
    assert "did you mean 'policies'" in lrcsim("polices")[2]


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run([*LRCSIM, "run", "absent.h5", "--debug"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_policies_lists_all(lrcsim: Callable[..., Any]) -> None:
    from lrcsim.policies import BUILT_IN

    code, out, _ = lrcsim("policies", "--json", "-")
    assert code == 0
    listed = {row["name"]: row for row in json.loads(out)}
    assert set(listed) >= set(BUILT_IN)
    assert listed["mrs"]["needs"] == ["weights"]
    code, out, _ = lrcsim("policies")
    assert all(name in out for name in BUILT_IN)


def test_describe_a_policy(lrcsim: Callable[..., Any]) -> None:
    _, out, _ = lrcsim("policies", "lfu-decay")
    assert "half_life = 64.0" in out
    assert "source:" in out


def test_help_imports_nothing_heavy() -> None:
    """`lrcsim --help` must answer at once, so it must not import numpy, h5py, numba, rich ..."""
    code = (
        "import sys\nfrom lrcsim.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('numpy', 'h5py', 'numba', 'rich', 'pyarrow', 'matplotlib', 'simpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_nothing_in_the_core_imports_torch() -> None:
    code = (
        "import sys, lrcsim.cli.run, lrcsim.simulator, lrcsim.policies\n"
        "import lrcsim.traces.importers, lrcsim.traces.exporters\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_output_into_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -c 'from lrcsim.cli.main import main; main()' policies | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
