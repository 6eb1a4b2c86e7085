"""`lrcsim calibrate --from-run`, from the files an engine leaves to a profile that `lrcsim hardware` reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lrcsim.calibration.from_run.numbers import with_numbers
from lrcsim.calibration.from_run.rerun import Rerun
from lrcsim.cli import output
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.runtimes import load_runtime
from lrcsim.traces import RoutingTrace

TRUTH = {"cpu.bandwidth": 17e9, "nvme.bandwidth": 2.1e9, "expert_overhead": 250e-6}


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    """A made run of OLMoE with the options that name it; its columns have names of their own."""
    geometry = load_geometry("olmoe-1b-7b")
    layers, experts = len(geometry.moe_layers), geometry.experts
    rng = np.random.default_rng(1)
    ids = np.argsort(rng.random((26, layers, experts)) * np.linspace(1, 4, experts), axis=2)[:, :, : geometry.top_k]
    phase = np.array([0] * 2 + [1] * 24, np.uint8)
    trace = RoutingTrace.from_arrays(ids.astype(np.int16), num_experts=experts, phase=phase, model="olmoe")
    trace.save(tmp_path / "route.h5")
    rerun = Rerun(trace, geometry, dtype="q4_k_m", cache="24")
    times = rerun.times(with_numbers(load_profile("phone"), TRUTH))
    with open(tmp_path / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["token", "t_us", "gpu_ms", "wait_ms", "host_ms", "io_mib"])
        for row in zip(range(24), times.wall, times.compute, times.stall, times.overhead, rerun.bytes, strict=True):
            token, wall, compute, stall, overhead, loaded = row
            writer.writerow([token, wall * 1e6, compute * 1e3, stall * 1e3, overhead * 1e3, loaded / 2**20])
    options = {"from-run": "metrics.csv", "trace": "route.h5"}
    named = [part for name, file in options.items() for part in (f"--{name}", str(tmp_path / file))]
    return [*named, "--model", "olmoe-1b-7b", "--dtype", "q4_k_m", "--cache", "24", "--fit-tokens", "12"]


def test_a_run_gives_a_profile_a_table_json_and_a_picture(lrcsim, run: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    profile, result, picture = tmp_path / "p.toml", tmp_path / "p.json", tmp_path / "p.png"
    outcome = lrcsim(
        "calibrate",
        *run,
        "--column",
        "wall=t_us",
        "--overlap",
        "on",
        "-o",
        profile,
        "--json",
        result,
        "--plot",
        picture,
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert "wall = t_us in us" in outcome.out
    assert "held-out tokens" in outcome.out
    found = json.loads(result.read_text())
    assert list(found.items())[:2] == [("kind", "calibrate-run"), ("version", 1)]
    assert found["run"]["columns"]["wall"] == {"name": "t_us", "unit": "us", "guessed": False}
    assert set(found["fit"]["numbers"]) == set(TRUTH)
    assert found["agreement"]["held_out"]["steps"] == 12
    assert abs(found["agreement"]["held_out"]["total_error"]) < 1e-3
    assert found["bytes"]["error"] == pytest.approx(0, abs=1e-9)
    loaded = load_profile(profile)
    assert loaded.cpu.bandwidth == pytest.approx(17e9, rel=1e-3)
    assert loaded.part("nvme") is not None
    assert loaded.part("nvme").bandwidth == pytest.approx(2.1e9, rel=1e-3)
    assert loaded.expert_overhead == pytest.approx(250e-6, rel=1e-3)
    assert "first 12 decoded tokens of metrics.csv" in loaded.sources["cpu.bandwidth"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_to_standard_output_is_all_there_is(lrcsim, run: list[str]) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim(
        *("calibrate", *run, "--column", "wall=t_us", "--fit", "nvme.bandwidth", "--overlap", "off", "--json", "-")
    )
    found = json.loads(outcome.out)
    assert list(found["fit"]["numbers"]) == ["nvme.bandwidth"]
    assert found["fit"]["overlap"] is False


def test_a_fit_without_overlap_says_how_to_replay_it(lrcsim, run: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    given = ["--column", "wall=t_us", "--fit", "nvme.bandwidth", "--overlap", "off", "-o", tmp_path / "p.toml"]
    said = lrcsim("calibrate", *run, *given).out
    assert "Replay this profile with --no-overlap" in said
    how = f"lrcsim run {tmp_path / 'route.h5'} --model olmoe-1b-7b --dtype q4_k_m --cache 24"
    assert f"To use it: {how} --hardware {tmp_path / 'p.toml'} --no-overlap\n" in said


def test_work_of_minutes_says_how_far_it_is_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: now))
    with output.progress_bar("fitting", lines=True) as told, output.progress_bar("reading") as untold:
        for now in (10.0, 31.0, 45.0, 61.5, 100.0):  # the last when it is done
            told(int(now), 100)
            untold(int(now), 100)
    assert capsys.readouterr().err == "fitting: 31 %\nfitting: 61 %\n"


def test_another_tools_trace_is_imported_on_the_way(lrcsim, run: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with RoutingTrace.open(tmp_path / "route.h5") as trace, open(tmp_path / "route.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["turn", "phase", "step", "layer", "slot", "expert"])
        phase = trace.read("phase", 0, trace.num_tokens)
        for (token, layer, slot), expert in np.ndenumerate(trace.read("experts", 0, trace.num_tokens)):
            writer.writerow([0, phase[token], token, layer, slot, expert])
    at = run.index("--trace") + 1
    one, other = (
        json.loads(lrcsim("calibrate", *used, "--column", "wall=t_us", "--fit", "nvme.bandwidth", "--json", "-").out)
        for used in (run, [*run[:at], str(tmp_path / "route.csv"), *run[at + 1 :]])
    )
    assert one["tokens"] == other["tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--overlap", "maybe"], "--overlap 'maybe' is not known, use auto, on or off"),
        (["--loss", "cubes"], "--loss 'cubes' is not known"),
        (["--fit", "nvme.bandwith"], "did you mean 'nvme.bandwidth'"),
        (["--model", "mixtral-8x7b"], "the trace has 16 MoE layers, the model mixtral-8x7b 32"),
        (["--hardware", "fone"], "there is no hardware profile 'fone'"),
        (["--column", "wall=nothing"], "has no column 'nothing'"),
        (["--plot", "x.gif"], "pictures are"),
        (["--fit-tokens", "2"], "at least 4"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(refused, run: list[str], change: list[str], message: str) -> None:  # type: ignore[no-untyped-def]
    wall = [] if change[0] == "--column" else ["--column", "wall=t_us"]
    refused(message, "calibrate", *run, *wall, *change)


def test_a_run_without_its_trace_or_model(lrcsim, run: list[str]) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("calibrate", *run[:2])
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "--from-run needs --trace" in outcome.err


def test_options_of_a_run_without_a_run(lrcsim) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("calibrate", "--cache", "4")
    assert (outcome.code, outcome.err) == (
        1,
        "Error: --cache is for a measured run: name it with --from-run metrics.csv\n",
    )


@pytest.mark.parametrize("option", [["--no-gpu"], ["--quick"], ["--repetitions", "9"], ["--folder", "."]])
def test_options_of_this_machine_with_a_run(lrcsim, run: list[str], option: list[str]) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("calibrate", *run, *option)
    assert outcome.code == 1
    assert outcome.err == f"Error: {option[0]} is for measuring this machine: leave --from-run out, or it\n"


def test_this_machine_is_measured_as_its_options_say(lrcsim, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    told: dict[str, object] = {}

    def measure(output: str | None, json_path: str | None, **options: object) -> None:
        told.update(options, output=output, json_path=json_path)

    monkeypatch.setattr("lrcsim.cli.calibrate.calibrate_machine", measure)
    assert lrcsim("calibrate", "--quick", "--no-gpu", "--sizes", "1MiB", "-o", "p.toml").code == 0
    expected = {"quick": True, "gpu": False, "sizes": "1MiB", "folder": None, "repetitions": 50}
    assert told == {**expected, "output": "p.toml", "json_path": None}


def test_a_runtime_is_written_beside_its_machine(lrcsim, run: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    profile, result = tmp_path / "p.toml", tmp_path / "p.json"
    fit = "cpu.bandwidth,runtime.loads.lane_bandwidth"
    given = ["--runtime", "bigmoeonedge", "--fit", fit, "--overlap", "on", "--column", "wall=t_us"]
    outcome = lrcsim("calibrate", *run, *given, "-o", profile, "--json", result)
    assert (outcome.code, outcome.err) == (0, "")
    assert "base phone, runtime bigmoeonedge" in outcome.out
    found = json.loads(result.read_text())
    assert found["fit"]["runtime"] == "bigmoeonedge"
    assert found["page_fault_tokens"] == 0
    lane = found["fit"]["numbers"]["runtime.loads.lane_bandwidth"]["value"]
    written = load_runtime(tmp_path / "p.runtime.toml").on(load_profile(profile))
    assert written.loads.lane_bandwidth == pytest.approx(lane, rel=1e-4)
    assert written.loads.beside
    assert "first 12 decoded tokens" in written.sources["loads.lane_bandwidth"]
    assert "runtime.loads.lane_bandwidth" not in load_profile(profile).sources


def test_a_runtime_where_it_is_asked_for(lrcsim, run: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    # By default the runtime's numbers: a machine's stay, and without -o no profile is written.
    runtime, before = tmp_path / "mine.toml", {*tmp_path.iterdir()}
    given = ["--runtime", "bigmoeonedge", "--column", "wall=t_us", "--runtime-out", runtime]
    outcome = lrcsim("calibrate", *run, *given)
    assert (outcome.code, outcome.err) == (0, "")
    assert {*tmp_path.iterdir()} - before == {runtime}
    assert "Nothing of the machine is fitted: phone stays as it is." in outcome.out
    assert f" --cache 24 --hardware phone --runtime {runtime}" in outcome.out.replace("\n", " ")
    share = load_runtime(runtime).on(load_profile("phone")).cpu.share
    assert share == pytest.approx(17e9 / load_profile("phone").cpu.bandwidth, rel=0.05)


def test_no_runtime_to_write(lrcsim, run: list[str]) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("calibrate", *run, "--runtime-out", "mine.toml")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "--runtime-out needs --runtime" in outcome.err


def test_page_faults_are_said(lrcsim, run: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    faults = ["majflt", *("9000" if token == 20 else "3" for token in range(24))]
    (tmp_path / "metrics.csv").write_text("\n".join(f"{row},{more}" for row, more in zip(rows, faults, strict=True)))
    outcome = lrcsim("calibrate", *run, "--fit", "cpu.bandwidth", "--overlap", "on", "--column", "wall=t_us")
    assert (outcome.code, outcome.err) == (0, "")
    assert "1 token with page faults is left out: memory is too small for what the run keeps" in outcome.out
