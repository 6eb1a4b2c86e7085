"""`lrcsim run --hardware` as a user meets it: the table, the JSON, the files, what is said about wrong options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.simulator import simulate
from lrcsim.simulator.time import ACTIONS
from lrcsim.traces import RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    bundled = RoutingTrace.open()
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(
        bundled.experts[:300],
        num_experts=bundled.num_experts,
        phase=bundled.read("phase", 0, 300),
        expert_bytes=bundled.expert_bytes,
        model=bundled.model,
    ).save(path)
    return str(path)


def test_table(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, err = lrcsim("run", trace_file, "--hardware", "rtx-3090")
    assert (code, err) == (0, "")
    assert "on rtx-3090: lrcsim-toy-baseline" in out
    for line in ("tokens/s", "everything resident", "optimal policy, perfect prefetch", "busiest:", "p50 / p90 / p99"):
        assert line in out


def test_json(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, _ = lrcsim("run", trace_file, "--hardware", "rtx-3090", "--set", "pcie.bandwidth=1GB/s", "--json", "-")
    assert code == 0
    data = json.loads(out)
    assert {"time", "links", "prefetch", "missed"} <= set(data)
    wanted = {
        "total_s", "prefill_s", "decode_s", "decode_tokens_per_s", "decode_ms_per_token", "compute_s", "stall_s",
        "overhead_s",
    }  # fmt: skip
    assert wanted <= set(data["time"])
    assert set(data["links"]["pcie"]) >= {"bytes", "busy_s", "utilization"}
    assert data["config"]["hardware"] == "rtx-3090"
    assert data["links"]["pcie"]["bandwidth"] == 1e9


def test_files(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    timeline, plot = tmp_path / "out.json", tmp_path / "out.png"
    code, _, err = lrcsim(
        "run", trace_file, "--hardware", "rtx-3090", "--scope", "model", "--timeline", timeline, "--plot", plot
    )
    assert (code, err) == (0, "")
    assert json.loads(timeline.read_text())["traceEvents"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png", "t.h5"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--miss", "cpu"], "--miss is about time: name a machine with it, as --hardware rtx-4090"),
        (["--set", "pcie.lanes=2"], "--set is about time"),
        (["--no-overlap"], "--overlap is about time"),
        (["--timeline", "x.json"], "--timeline is about time"),
        (["--plot", "x.gif"], "pictures are .png, .svg, .pdf"),
        (["--hardware", "rtx-3090", "--set", "pcie.bandwith=2GB/s"], "did you mean 'pcie.bandwidth'?"),
        (["--hardware", "rtx-3090", "--set", "pcie.bandwidth=-2GB/s"], "pcie.bandwidth"),
        (["--hardware", "rtx-3090", "--model", "qwen3-30b-a3b"], "the model qwen3-30b-a3b"),
        (["--hardware", "rtx-3090", "--dtype", "q4_k_n"], "did you mean 'q4_k_m'?"),
    ],
    ids=str,
)
def test_one_line_each(refused: Callable[..., None], trace_file: str, options: list[str], said: str) -> None:
    refused(said, "run", trace_file, *options)


def test_a_lossy_rule_says_what_it_gave_up(lrcsim: Callable[..., Any]) -> None:
    machine = ("--hardware", "rtx-4090", "--model", "lrcsim-toy-baseline", "--cache", "1x")
    code, out, err = lrcsim("run", "bundled:teacher-forced", *machine, "--miss", "skip:0.5,keep=0")
    assert (code, err) == (0, "")
    trace = RoutingTrace.open("bundled:teacher-forced")
    result = simulate(trace, "lru", "1x", hardware="rtx-4090", miss="skip:0.5,keep=0", bounds=False)
    counted = result.to_dict()["missed"]
    text, share = " ".join(out.split()), 100 * counted["skipped_weight"]
    assert f"Note: miss action skip:0.5,keep=0 leaves out {share:.1f} % of the router weight, more than a third" in text
    assert f"{counted['skipped']:,} skipped, {share:.2f} % of the router weight skipped" in text


def test_a_rule_that_cannot_be_is_refused_in_one_line(lrcsim: Callable[..., Any]) -> None:
    code, out, err = lrcsim("run", "--hardware", "rtx-4090", "--miss", "skip:0.1,keep=no")
    assert (code, out) == (1, "")
    assert err == (
        "Error: miss action 'skip:0.1,keep=no': keep must be the number of experts that a token never loses, 0 or "
        "more, given 'no'\n"
    )


def test_help_on_misses_comes_from_the_registry(lrcsim: Callable[..., Any]) -> None:
    code, out, err = lrcsim("run", "--miss", "help")
    assert (code, err) == (0, "")
    _, page, _ = lrcsim("run", "--help")
    for action in ACTIONS.values():
        assert f"{action.name}{action.takes}\n    {action.summary}\n" in out
        assert f"{action.name}{action.takes}" in "".join(page.split())
        for param in action.params:
            assert f"    {param.name}: {param.help}" in out


def test_a_users_miss_action(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from lrcsim.simulator.time import MissAction, Outcome\n"
        "class Never(MissAction):\n"
        "    def decide(self, missed, step, residents):\n"
        "        return [Outcome.ON_CPU] * len(missed)\n"
    )
    own = f"{tmp_path}/own.py:Never"
    times = []
    for miss in (own, "cpu"):
        code, out, _ = lrcsim("run", trace_file, "--hardware", "rtx-3090", "--miss", miss, "--json", "-")
        assert code == 0
        times.append(json.loads(out)["time"]["total_s"])
    assert times[0] == pytest.approx(times[1], rel=1e-9)  # in the engine of events, and compiled
