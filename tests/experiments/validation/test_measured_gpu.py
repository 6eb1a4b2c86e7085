"""An eager engine on an H200: the table by hand, and where the measurements are at hand, how close it comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lrcsim.calibration.from_run.calibrate import Calibration
from lrcsim.experiments.validation.measured_gpu.__main__ import (
    CELLS,
    MODELS,
    Compared,
    compare,
    fit,
    machine,
    paced,
    routing,
    table,
)
from lrcsim.runtimes import load_runtime


def test_the_table_by_hand() -> None:
    # 127 tokens of 50 ms measured and 60 predicted; of 45 ms at the pace of its own host.
    found = {"qwen.all": Compared(6.35, 7.62, 0.8, 5.715, True)}
    assert table(found).lines()[2:] == ["| qwen.all | 50.0 | 60.0 | +20.0 | 0.80 | 45.0 | -10.0 | exact |"]


def test_a_pace_is_of_all_that_the_host_launches() -> None:
    eager = load_runtime("eager").on(machine())
    slow = paced(eager, 2.0)
    for path in ("device.layer", "device.kernel", "loads.miss"):
        assert slow.at(path) == 2 * eager.at(path)
    assert (slow.cpu, slow.loads.overlap, slow.device.ahead) == (eager.cpu, "expert", True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, dict[str, Compared]]:
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[4] / "shared"))
    runs = shared / "measured" / "h200"
    if not runs.is_dir():
        pytest.skip(f"the shared measurements are not here ({runs})")
    scratch = tmp_path_factory.mktemp("h200")
    traces = {model: routing(model, shared / "traces", scratch) for model in MODELS}
    base = machine()
    fitted = fit(traces["qwen"], runs, base)
    runtime = fitted.best.fit.runtime
    return fitted, {cell: compare(cell, runs, traces[cell.partition(".")[0]], base, runtime) for cell in CELLS}


def test_launches_are_fitted_and_nothing_of_the_machine(found: tuple[Calibration, dict[str, Compared]]) -> None:
    fitted, _ = found
    assert fitted.best.paths == ("runtime.device.layer", "runtime.device.kernel")
    assert fitted.best.overlap
    assert fitted.best.fit.profile == machine()
    assert fitted.columns == ("wall",)  # host_wait_ms is no stall
    numbers = fitted.best.fit.numbers
    assert [numbers[path].determined for path in fitted.best.paths] == [False, True]
    assert numbers["runtime.device.kernel"].value == pytest.approx(122e-6, rel=0.02)


def test_loads_are_exact(found: tuple[Calibration, dict[str, Compared]]) -> None:
    assert all(one.exact for one in found[1].values())


def test_other_runs_of_the_model_at_the_pace_of_their_host(found: tuple[Calibration, dict[str, Compared]]) -> None:
    # Sums over tokens 2 to 128. The same dense part took 0.80 to 1.06 times as long per token as in the run fitted.
    for cell, one in found[1].items():
        if cell.startswith("qwen"):
            assert abs(one.at_pace / one.measured - 1) < 0.12, cell
            assert 0.75 < one.pace < 1.1


def test_another_model_and_plain_totals(found: tuple[Calibration, dict[str, Compared]]) -> None:
    errors = {cell: one.predicted / one.measured - 1 for cell, one in found[1].items()}
    assert abs(errors["gptoss.lru-8"]) < 0.25
    serial = errors.pop("qwen.lru-12-serial")  # its host was the quickest of all: no total can say that
    assert max(map(abs, errors.values())) < 0.15
    assert serial < 0.30
