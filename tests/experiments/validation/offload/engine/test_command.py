"""`offload --gpu` from beginning to end on the stub, as CI can: what it writes, and what stays when it is cut off."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from lrcsim.base.errors import ConfigError  # noqa: E402
from lrcsim.experiments.validation.offload.__main__ import main  # noqa: E402
from lrcsim.experiments.validation.offload.engine import bench, command  # noqa: E402
from lrcsim.experiments.validation.offload.engine.calibrated import CalibrationError, calibrate_here  # noqa: E402
from lrcsim.experiments.validation.offload.engine.engine import COLUMNS, Engine  # noqa: E402
from lrcsim.experiments.validation.offload.engine.folder import read_folder  # noqa: E402
from lrcsim.hardware import load_profile  # noqa: E402
from lrcsim.traces import RoutingTrace  # noqa: E402

QUICK = ["--gpu", "--stub", "--no-calibrate", "--hardware", "h200", "--models", "gpt-oss-20b", "--unique", "8"]
LONG = ["--seconds", "3600"]


def run(folder: Path, *more: str) -> str:
    """Run the command on two steps of each cell; return the page it wrote."""
    main([*QUICK, *LONG, "--out", str(folder), "--tokens", "2", *more])
    return (folder / "results.md").read_text("utf-8")


def test_one_command_writes_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    page = run(folder)
    cells = ["lru-8", "all", "lru-16", "lru-8-oracle1", "static-16-cpu", "lru-8-serial", "lru-16-batch4"]
    files = {f"gpt-oss-20b.{cell}{more}.csv" for cell in cells for more in ("", ".2")}
    files |= {"gpt-oss-20b.json", "gpt-oss-20b.h5", "gpt-oss-20b.batched.h5", "results.json", "results.md", "simulated"}
    assert {path.name for path in folder.iterdir()} == files
    assert {path.name for path in (folder / "simulated").iterdir()} == {
        f"gpt-oss-20b.{cell}.h200.csv" for cell in cells
    }
    with (folder / "gpt-oss-20b.lru-8.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["step"] for row in rows] == ["1", "2"]
    info = json.loads((folder / "gpt-oss-20b.json").read_text("utf-8"))
    assert info["cells"] == cells
    assert info["way"] in info["ways"]
    assert info["micro"]["burst_s"].keys() == {"1", "2", "3", "4", "6", "8", "16"}
    assert "synthetic" in info["routing"]
    for text in ("| lru-16-batch4 |", "synthetic", "the times say nothing", "h200, error"):
        assert text in page
    results = json.loads((folder / "results.json").read_text("utf-8"))
    for row in results["cells"]:
        assert row["measured_ms"] > 0
        assert row["h200_ms"] > 0
        assert row["repetitions"] == 2


def test_a_folder_is_read_and_simulated_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run(folder, "--cells", "lru-8,lru-8-oracle1", "--repetitions", "1")
    [model] = read_folder(folder)
    assert [cell.name for cell in model.runs] == ["lru-8", "lru-8-oracle1"]
    assert model.geometry.hidden == 64
    assert model.trace is not None
    main(["--gpu", "--again", str(folder), "--hardware", "h100-sxm", "--hardware", "h200"])
    assert "h100-sxm, ms" in (folder / "results.md").read_text("utf-8")
    path = folder / "gpt-oss-20b.lru-8.csv"
    path.write_text(path.read_text("utf-8").replace(",96,", ",95,"), encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"lru-8: accesses 19\d measured, 192 simulated"):
        main(["--gpu", "--again", str(folder), "--hardware", "h200"])


def test_the_runtime_reaches_the_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrcsim.experiments.validation.offload.engine import predicted

    run(tmp_path / "out", "--cells", "lru-8", "--repetitions", "1")
    seen: list[Any] = []
    real = predicted.simulate

    def simulate(*arguments: Any, **options: Any) -> Any:
        seen.append(options.pop("runtime", None))
        return real(*arguments, **options)

    monkeypatch.setattr(predicted, "simulate", simulate)
    again = ["--gpu", "--again", str(tmp_path / "out"), "--hardware", "h200"]
    main(again)
    main([*again, "--runtime", "mine.toml"])
    assert seen == [None, "mine.toml"]


def test_a_trace_of_the_model_is_taken(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = np.stack([[random.permutation(32)[:3] for _ in range(24)] for _ in range(9)])
    phase = np.array([0, 0, 0, *[1] * 6], np.uint8)
    path = tmp_path / "mine.h5"
    RoutingTrace.from_arrays(rows, num_experts=32, phase=phase, model="recorded").save(path)
    run(tmp_path / "out", "--trace", str(path), "--cells", "lru-6,lru-4-batch4", "--repetitions", "1")
    info = json.loads((tmp_path / "out" / "gpt-oss-20b.json").read_text("utf-8"))
    assert (info["k"], info["routing"]) == (3, "recorded")
    with RoutingTrace.open(tmp_path / "out" / "gpt-oss-20b.h5") as kept:
        assert (np.asarray(kept.read("experts", 0, 2)) == rows[3:5]).all()
    with pytest.raises(ConfigError, match="has the shape of none of qwen3-30b-a3b"):
        run(tmp_path / "other", "--trace", str(path), "--models", "qwen3-30b-a3b")


def test_cells_are_dropped_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 240 s less 40 to simulate, and a clock that jumps by 90 with each cell: after two, a third would not fit.
    now, ran, real, clock = [0.0], [0], bench.Bench.run, time.perf_counter

    def run_cell(self: bench.Bench, cell: Any, rows: list[dict[str, Any]], until: float) -> bool:
        ended = real(self, cell, rows, float("inf"))
        ran[0] += 1
        now[0] += 90.0
        return ended

    monkeypatch.setattr(bench.Bench, "run", run_cell)
    monkeypatch.setattr("time.perf_counter", lambda: clock() + now[0])
    page = run(tmp_path / "out", "--cells", "lru-8,all,lru-16", "--seconds", "240")
    assert ran[0] == 2
    assert "gpt-oss-20b, for want of time left out: lru-16" in page
    assert not (tmp_path / "out" / "gpt-oss-20b.lru-16.csv").exists()


def test_what_was_measured_stays_when_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = Engine.step, [0]

    def step(self: Engine) -> Any:
        steps[0] += self.cell.name == "all"
        if steps[0] == 6:  # three to warm up
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Engine, "step", step)
    page = run(tmp_path / "out", "--cells", "lru-8,all,lru-16", "--tokens", "4")
    names = {path.name for path in (tmp_path / "out").glob("*.csv")}
    assert names == {"gpt-oss-20b.lru-8.csv", "gpt-oss-20b.all.csv"}
    [model] = read_folder(tmp_path / "out")
    assert [len(runs[0]["wall_ms"]) for runs in model.runs.values()] == [4, 2]
    assert "stopped by hand" in page
    assert "all, repetition 1: ended after 2 steps" in page
    assert "| all | 2 |" in page


def test_a_cell_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.Bench.run

    def run_cell(self: bench.Bench, cell: Any, *more: Any) -> bool:
        if cell.name == "all":
            raise RuntimeError("CUDA out of memory\nand more")
        return real(self, cell, *more)

    monkeypatch.setattr(bench.Bench, "run", run_cell)
    with pytest.raises(SystemExit, match=r"^gpt-oss-20b, all failed: CUDA out of memory$"):
        run(tmp_path / "out", "--cells", "lru-8,all,lru-16", "--repetitions", "1")
    page = (tmp_path / "out" / "results.md").read_text("utf-8")
    assert "| lru-16 |" in page
    assert "all failed: CUDA out of memory" in page


def test_disagreement_ends_the_command_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Engine.step

    def step(self: Engine) -> Any:
        counts = real(self)
        counts.loads += self.cell.name == "all"
        return counts

    monkeypatch.setattr(Engine, "step", step)
    with pytest.raises(SystemExit, match="the engine and lrcsim disagree: all, step 1: loads"):
        run(tmp_path / "out", "--cells", "lru-8,all,lru-16")
    assert "disagree" in (tmp_path / "out" / "results.md").read_text("utf-8")


def test_wrong_input_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty: name a new folder"):
        run(tmp_path / "full")
    with pytest.raises(ConfigError, match="cell 'fifo-3' is not understood"):
        run(tmp_path / "a", "--cells", "fifo-3")
    with pytest.raises(ConfigError, match="cell 'static-3' is none"):
        run(tmp_path / "b", "--cells", "static-3")
    with pytest.raises(ConfigError, match="has no JSON of a measured model"):
        main(["--gpu", "--again", str(tmp_path)])
    with pytest.raises(ConfigError, match="has shared experts"):
        run(tmp_path / "c", "--models", "deepseek-v3")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="torch is not installed: install it"):
        main(["--gpu", "--out", str(tmp_path / "d")])
    assert not (tmp_path / "d").exists()


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="torch sees no GPU: leave out --gpu, or use --stub"):
        main(["--gpu", "--out", str(tmp_path / "out")])


def test_the_machine_is_measured_by_lrcsim_calibrate(tmp_path: Path) -> None:
    path = calibrate_here(tmp_path, 300, gpu=False)
    assert path == tmp_path / "calibrated.toml"
    assert load_profile(path).cpu.bandwidth > 0
    assert json.loads((tmp_path / "calibrate.json").read_text("utf-8"))["kind"] == "calibrate-machine"


def test_a_calibration_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CalibrationError, match="was stopped after 0 s"):
        calibrate_here(tmp_path, 0.01, gpu=False)

    def failing(*_: Any, **__: Any) -> Path:
        raise CalibrationError("lrcsim calibrate failed: no")

    monkeypatch.setattr(command, "calibrate_here", failing)
    arguments = [one for one in QUICK if one != "--no-calibrate"]
    main([*arguments, "--out", str(tmp_path / "out"), "--tokens", "2", "--cells", "lru-8", "--repetitions", "1"])
    page = (tmp_path / "out" / "results.md").read_text("utf-8")
    assert "lrcsim calibrate failed: no: nothing is simulated with a calibrated profile" in page
