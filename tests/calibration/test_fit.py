"""The fit of a machine to a measured run: runs made with known numbers, and one that an engine measured."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.from_run.calibrate import Calibration, agreement, calibrate
from lrcsim.calibration.from_run.fit import Loss, fit_best, fit_numbers
from lrcsim.calibration.from_run.measured import TIMES, MeasuredColumn, MeasuredRun, read_measured
from lrcsim.calibration.from_run.numbers import FITTABLE, Setting, number, with_numbers
from lrcsim.calibration.from_run.rerun import Rerun
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import Geometry, expert_bytes, load_geometry, matching_dtype
from lrcsim.runtimes import Runtime, load_runtime
from lrcsim.runtimes.runtime import LoadUse
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace

SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))
FloatArray = npt.NDArray[np.float64]
SIZE = 1_000_000
TRUTH = {"cpu.bandwidth": 17e9, "nvme.bandwidth": 2.1e9, "expert_overhead": 250e-6}


def small_model(layers: int) -> Geometry:
    return replace(
        load_geometry("olmoe-1b-7b"), name="small", layers=layers, moe_layers=tuple(range(layers)), experts=16, top_k=2
    )


def sticky_trace(steps: int, layers: int = 6, *, seed: int = 0, residency: bool = False) -> RoutingTrace:
    """Four prompt tokens and some decoded ones; a layer's experts stay from token to token with probability 0.7."""
    rng = np.random.default_rng(seed)
    experts = np.empty((4 + steps, layers, 2), np.int16)
    for layer in range(layers):
        pair = rng.choice(16, 2, replace=False)
        for token in range(4 + steps):
            if rng.random() > 0.7:
                pair = rng.choice(16, 2, replace=False)
            experts[token, layer] = pair
    phase = np.array([0] * 4 + [1] * steps, np.uint8)
    return RoutingTrace.from_arrays(experts, num_experts=16, phase=phase, expert_bytes=SIZE, model="small")


def small_rerun(steps: int = 48, **options: object) -> Rerun:
    return Rerun(sticky_trace(steps), small_model(6), dtype="q4_k", cache="4", **options)  # type: ignore[arg-type]


def as_measured(
    rerun: Rerun, machine: HardwareProfile, columns: tuple[str, ...] = TIMES, *, overlap: bool = True
) -> MeasuredRun:
    times = rerun.times(machine, overlap=overlap)
    values = {name: times.column(name) for name in columns} | {"bytes": rerun.bytes.astype(float)}
    return MeasuredRun("made.csv", {name: MeasuredColumn(name, name, "s", False) for name in values}, values)


# ------------------------------------------------------------------------------------------------ the caches run once


def test_a_rerun_is_worked_out_by_hand() -> None:
    # One layer, experts 0-3, top-1, cache of 2, three decoded tokens after one prompt token: prompt 0 (loaded), then
    # 1 (loaded), 0 (hit), 2 (loaded, evicts 1).
    experts = np.array([0, 1, 0, 2], np.int16).reshape(4, 1, 1)
    trace = RoutingTrace.from_arrays(
        experts, num_experts=4, phase=np.array([0, 1, 1, 1], np.uint8), expert_bytes=SIZE, model="one"
    )
    rerun = Rerun(trace, replace(small_model(1), experts=4, top_k=1), dtype="q4_k", cache="2")
    assert rerun.steps == 3
    assert rerun.misses.tolist() == [1, 0, 1]
    assert rerun.bytes.tolist() == [SIZE, 0, SIZE]
    assert rerun.recorded_bytes is None
    machine = load_profile(
        "phone",
        ["nvme.bandwidth=1GB/s", "nvme.latency=0", "nvme.overhead=0", "expert_overhead=2ms", "layer_overhead=1ms"],
    )
    times = rerun.times(machine)
    np.testing.assert_allclose(times.overhead, [3e-3, 1e-3, 3e-3], rtol=1e-12)
    np.testing.assert_allclose(times.stall, [1e-3, 0, 1e-3], rtol=1e-9, atol=1e-15)  # one expert, nothing beside it
    np.testing.assert_allclose(times.wall, times.compute + times.stall + times.overhead, rtol=1e-12)


def test_some_steps_take_what_they_take_among_all() -> None:
    rerun, machine = small_rerun(), load_profile("phone")
    np.testing.assert_allclose(rerun.times(machine, slice(10, 20)).wall, rerun.times(machine).wall[10:20], rtol=1e-9)


def test_with_compute_given_each_step_computes_that_long() -> None:
    rerun, machine = small_rerun(), load_profile("phone")
    compute = np.linspace(0.01, 0.5, rerun.steps)
    times = rerun.times(machine, compute=compute)
    np.testing.assert_allclose(times.compute, compute, rtol=1e-9)
    assert (times.stall <= rerun.times(machine).stall + 1e-12).all()  # a slower device hides more


def test_the_format_is_found_from_the_sizes_of_experts() -> None:
    geometry = load_geometry("qwen3-30b-a3b")
    experts = np.tile(np.arange(8, dtype=np.int16), (3, 48, 1))
    for dtype in ("q4_k_m", "bf16", "q8_0"):
        sizes = expert_bytes(geometry, dtype)
        trace = RoutingTrace.from_arrays(experts, num_experts=128, expert_bytes=sizes, model="q")
        assert (expert_bytes(geometry, matching_dtype(geometry, trace)) == sizes).all()
    assert matching_dtype(geometry, RoutingTrace.from_arrays(experts, num_experts=128, model="q")) == geometry.dtype


def traced(model: str, geometry: Geometry, sizes: object) -> RoutingTrace:
    experts = np.tile(np.arange(geometry.top_k, dtype=np.int16), (2, len(geometry.moe_layers), 1))
    return RoutingTrace.from_arrays(experts, num_experts=geometry.experts, expert_bytes=sizes, model=model)


def test_of_formats_with_the_same_experts_the_one_that_the_file_is_named_after() -> None:
    oss = load_geometry("gpt-oss-20b")
    for sizes in (expert_bytes(oss, "q4_k_m"), expert_bytes(oss, "q4_k_m", biases=False)):
        assert matching_dtype(oss, traced("gpt-oss-20b-Q4_K_M.gguf", oss, sizes)) == "q4_k_m"
        assert matching_dtype(oss, traced("gpt-oss-20b.Q8_0.gguf", oss, sizes)) == "q8_0"
    # nothing says more than the matrices: as released; with biases in f32 it is a GGUF file, whichever
    assert matching_dtype(oss, traced("gpt-oss", oss, expert_bytes(oss, biases=False))) == "mxfp4"
    assert matching_dtype(oss, traced("gpt-oss", oss, expert_bytes(oss))) == "mxfp4"


def test_what_the_sizes_say_exactly_counts_before_a_name_and_a_name_before_what_is_near() -> None:
    qwen = load_geometry("qwen3-30b-a3b")
    mix, plain = expert_bytes(qwen, "q4_k_m"), expert_bytes(qwen, "mxfp4")
    assert matching_dtype(qwen, traced("qwen3-30b-a3b-MXFP4.gguf", qwen, mix)) == "q4_k_m"
    # the mean of both formats of the mix in every layer, and sizes a little beside it
    assert matching_dtype(qwen, traced("qwen3", qwen, np.full(48, int(mix.mean())))) == "q4_k_m"
    between = plain + 256  # closest to mxfp4 and iq4_xs, which are 4.25 bits both
    assert matching_dtype(qwen, traced("qwen3", qwen, between)) in ("iq4_xs", "mxfp4")
    assert matching_dtype(qwen, traced("qwen3-30b-a3b-Q4_K_M.gguf", qwen, between)) == "q4_k_m"


RECORDED = SHARED / "traces/qwen3-30b-a3b.route.csv"


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded trace is not here")
def test_the_format_of_the_recorded_trace_is_found_from_its_header() -> None:
    qwen = load_geometry("qwen3-30b-a3b:top_k=6")
    with RECORDED.open(encoding="utf-8") as file:
        header = [line for line in (next(file) for _ in range(60)) if line.startswith("# layer=")]
    sizes = np.array([int(line.split("expert_bytes=")[1].split()[0]) for line in header])
    assert sorted(set(sizes)) == [2_654_208, 3_059_712]
    assert matching_dtype(qwen, traced("unnamed", qwen, sizes)) == "q4_k_m"


def test_policies_that_know_the_future_or_weigh_can_be_rerun() -> None:
    optimum, lru = small_rerun(policy="belady"), small_rerun()
    assert optimum.misses.sum() < lru.misses.sum()


def test_a_machine_without_a_link_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither pcie nor nvme"):
        small_rerun().times(load_profile("phone", ["nvme=none"]))


# ------------------------------------------------------------------------------------------------------------ the fit


@pytest.mark.parametrize("overlap", [True, False])
def test_known_numbers_are_found_from_all_columns(overlap: bool) -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH), overlap=overlap)
    found = calibrate(rerun, run, load_profile("phone"))
    assert found.best.overlap is overlap
    assert set(found.best.paths) == set(TRUTH)
    for path, value in TRUTH.items():
        assert number(found.best.fit.profile, path) == pytest.approx(value, rel=1e-3)
    assert found.fitted == 32
    assert found.agreement["held_out"].steps == rerun.steps - 32
    assert abs(found.agreement["held_out"].total_error) < 1e-3
    assert found.agreement["held_out"].mean_error < 1e-3
    assert found.notes == []


@pytest.mark.parametrize("base", ["desktop-cpu", "phone-ufs"])
def test_the_start_does_not_matter_where_the_run_determines_the_numbers(base: str) -> None:
    rerun = small_rerun()
    truth = with_numbers(load_profile(base), TRUTH)
    found = calibrate(rerun, as_measured(rerun, truth), load_profile(base), paths=tuple(TRUTH), overlap=True)
    for path, value in TRUTH.items():
        assert number(found.best.fit.profile, path) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("loss", ["huber", "squares"])
def test_a_base_far_from_the_truth_is_left_even_with_few_steps(loss: Loss) -> None:
    # From so far away the residuals pass for noise of that size, under which the prior outweighs five steps: a fit that
    # held the base in full from the beginning would stay.
    rerun, base = small_rerun(), load_profile("phone", ["expert_overhead=5us", "layer_overhead=5us"])
    truth = {"expert_overhead": 2e-3, "layer_overhead": 4e-3}

    def wall(machine: HardwareProfile) -> dict[str, FloatArray]:
        return {"wall": rerun.times(machine, slice(0, 5)).wall}

    fit = fit_numbers(wall, base, tuple(truth), wall(with_numbers(base, truth)), loss)
    for path, value in truth.items():
        assert number(fit.profile, path) == pytest.approx(value, rel=0.01)


def test_wall_time_alone_foretells_wall_time() -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH), ("wall",))
    found = calibrate(rerun, run, load_profile("phone"))
    assert found.columns == ("wall",)
    assert abs(found.agreement["held_out"].total_error) < 0.01
    assert found.agreement["held_out"].mean_error < 0.02
    assert found.given_compute is None
    assert found.disturbed is None


def test_what_the_run_does_not_determine_stays_near_the_base() -> None:
    # Without overlap each miss takes bytes / bandwidth on the link and so much bookkeeping: the time of a token gives
    # their sum alone. The prior keeps both near the base, and the fit says that neither is determined.
    rerun, base = small_rerun(), load_profile("phone")
    truth = with_numbers(base, {"expert_overhead": 100e-6})

    def wall(machine: HardwareProfile) -> dict[str, FloatArray]:
        return {"wall": rerun.times(machine, slice(0, 32), overlap=False).wall}

    fit = fit_numbers(wall, base, ("nvme.bandwidth", "expert_overhead"), wall(truth))
    assert fit.residual["wall"] < 1e-3
    assert not fit.numbers["expert_overhead"].determined
    for path, value in fit.numbers.items():
        assert 1 / 4 < value.value / number(base, path) < 4


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_disturbed_tokens_move_the_numbers_little(seed: int) -> None:
    rerun = small_rerun(96)
    truth = with_numbers(load_profile("phone"), TRUTH)
    run = as_measured(rerun, truth)
    rng = np.random.default_rng(seed)
    for name in TIMES[1:]:
        run.values[name] = run.values[name] * rng.normal(1, 0.03, rerun.steps)
    run.values["compute"][[3, 17, 29]] *= 4  # something else ran
    run.values["wall"] = sum(run.values[name] for name in TIMES[1:])  # type: ignore[assignment]
    found = calibrate(rerun, run, load_profile("phone"), paths=tuple(TRUTH), overlap=True)
    for path, value in TRUTH.items():
        assert number(found.best.fit.profile, path) == pytest.approx(value, rel=0.03)
        assert found.best.fit.numbers[path].spread < 0.05
    assert found.disturbed is not None
    assert np.flatnonzero(found.disturbed).tolist() == [3, 17, 29]
    assert abs(found.agreement["held_out"].total_error) < 0.02
    squares = calibrate(rerun, run, load_profile("phone"), paths=tuple(TRUTH), overlap=True, loss="squares")
    slower = number(squares.best.fit.profile, "cpu.bandwidth")  # least squares believes in the disturbance
    assert slower < number(found.best.fit.profile, "cpu.bandwidth")


def test_the_held_out_tokens_do_not_reach_the_fit() -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH))
    other = MeasuredRun("o", run.columns, {name: values.copy() for name, values in run.values.items()})
    for name in TIMES:
        other.values[name][32:] *= 7
    one, two = (calibrate(rerun, each, load_profile("phone"), paths=tuple(TRUTH)) for each in (run, other))
    assert one.best == two.best
    assert two.agreement["held_out"].total_error == pytest.approx(1 / 7 - 1, abs=1e-3)


def test_the_same_run_gives_the_same_fit() -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH))
    first, second = (calibrate(rerun, run, load_profile("phone"), paths=tuple(TRUTH)) for _ in range(2))
    assert first.best == second.best


def test_a_gpu_behind_pcie_is_fitted_by_its_own_numbers() -> None:
    rerun, base = small_rerun(), load_profile("rtx-4090")
    truth = {"gpu.bandwidth": 400e9, "pcie.bandwidth": 9e9, "layer_overhead": 90e-6}
    found = calibrate(rerun, as_measured(rerun, with_numbers(base, truth)), base)
    assert set(found.best.paths) == set(truth)
    for path, value in truth.items():
        assert number(found.best.fit.profile, path) == pytest.approx(value, rel=1e-3)


def test_the_best_choice_of_numbers_comes_first() -> None:
    rerun, base = small_rerun(), load_profile("phone")
    measured = {"wall": rerun.times(with_numbers(base, {"nvme.bandwidth": 1e9})).wall}
    choices = [("cpu.bandwidth",), ("nvme.bandwidth",)]
    ranked = fit_best(lambda machine: {"wall": rerun.times(machine).wall}, base, choices, measured)
    assert [paths for paths, _ in ranked] == [("nvme.bandwidth",), ("cpu.bandwidth",)]


# ---------------------------------------------------------------------------------------------------------- runtimes


def flash(**loads: object) -> Runtime:
    """A runtime that reads by tensor on four lanes, with bookkeeping by the byte beside the reads."""
    given = {"overlap": "tensor", "lanes": 4, "lane_bandwidth": 0.5e9, "byte": 0.2e-9, "beside": True, "miss": 0.0}
    return Runtime("flash", loads=LoadUse(**{**given, **loads}))  # type: ignore[arg-type]


RUNTIME_TRUTH = {"runtime.cpu.share": 0.9, "runtime.loads.byte": 0.25e-9, "runtime.loads.lane_bandwidth": 0.45e9}


def test_numbers_of_a_runtime_are_found() -> None:
    rerun, base = small_rerun(), load_profile("phone")
    truth = with_numbers(Setting(base, flash()), RUNTIME_TRUTH)
    times = rerun.times(truth.profile, runtime=truth.runtime)
    run = MeasuredRun("made.csv", {}, {name: times.column(name) for name in TIMES})
    found = calibrate(rerun, run, base, runtime=flash(), overlap=True)
    assert found.best.paths == ("runtime.cpu.share", "runtime.loads.lane_bandwidth", "runtime.loads.byte")  # chosen so
    assert found.best.fit.profile == base  # nothing of the machine
    setting = Setting(found.best.fit.profile, found.best.fit.runtime)
    for path, value in RUNTIME_TRUTH.items():
        assert number(setting, path) == pytest.approx(value, rel=1e-3)
    assert abs(found.agreement["held_out"].total_error) < 1e-3


def test_a_runtime_without_overlap_is_not_tried_with_it() -> None:
    rerun, base = small_rerun(), load_profile("phone")
    serial = flash(overlap="none")
    times = rerun.times(base, runtime=serial, overlap=True)
    assert times.wall.tolist() == rerun.times(base, runtime=serial, overlap=False).wall.tolist()
    run = MeasuredRun("made.csv", {}, {name: times.column(name) for name in TIMES})
    found = calibrate(rerun, run, base, runtime=serial, paths=("cpu.bandwidth",))
    assert [choice.overlap for choice in found.tried] == [False]


# ------------------------------------------------------------------------------------------------------- page faults


def test_tokens_with_page_faults_are_left_out_and_said() -> None:
    # A token takes some 10 ms: 5 % of it are 17 faults of 30 us. Three tokens have 1,000 and take 50 ms longer; others
    # have a few, as every run does, and stay.
    rerun, base = small_rerun(), load_profile("phone")
    run = as_measured(rerun, with_numbers(base, TRUTH))
    plain = calibrate(rerun, run, base, paths=tuple(TRUTH), overlap=True)
    faults = np.zeros(rerun.steps)
    faults[::4] = 2.0
    slow = [2, 9, 40]
    faults[slow] = 1000.0
    values = {name: column.copy() for name, column in run.values.items()}
    for name in ("wall", "compute"):
        values[name][slow] += 0.05
    found = calibrate(
        rerun, replace(run, values=values | {"faults": faults}), base, paths=tuple(TRUTH), overlap=True, loss="squares"
    )
    assert np.flatnonzero(found.faulting).tolist() == slow
    assert found.disturbed is not None
    assert np.flatnonzero(found.disturbed).tolist() == slow
    for path, value in TRUTH.items():  # least squares would believe in them
        assert number(found.best.fit.profile, path) == pytest.approx(value, rel=1e-3)
    (note,) = [note for note in found.notes if "page faults" in note]
    assert note.startswith("3 tokens with page faults are left out: memory is too small for what the run keeps (tokens")
    assert "tokens 3, 10, 41; 1,000 faults each in the median" in note
    assert "+0.15 s against the prediction" in note
    assert not plain.faulting.any()
    assert not any("page faults" in note for note in plain.notes)


def test_a_run_that_faults_in_every_token_is_not_fitted() -> None:
    rerun, base = small_rerun(), load_profile("phone")
    run = as_measured(rerun, base)
    run.values["faults"] = np.full(rerun.steps, 6000.0)
    with pytest.raises(ConfigError, match="32 of the 32 tokens to fit have page faults: memory is too small"):
        calibrate(rerun, run, base)


def test_without_compute_tokens_with_page_faults_are_the_disturbed_ones() -> None:
    rerun, base = small_rerun(), load_profile("phone")
    run = as_measured(rerun, base, ("wall",))
    run.values["faults"] = np.where(np.arange(rerun.steps) == 40, 1e4, 0.0)
    found = calibrate(rerun, run, base, paths=("cpu.bandwidth",), overlap=True)
    assert found.disturbed is not None
    assert found.agreement["undisturbed"].steps == rerun.steps - 32 - 1


# -------------------------------------------------------------------------------------------- rows, parts, comparison


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_row_more_or_less_is_aligned_by_the_bytes(shift: int) -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH))
    for name, values in run.values.items():
        run.values[name] = values[-shift:] if shift < 0 else np.concatenate([np.full(shift, values.max()), values])
    found = calibrate(rerun, run, load_profile("phone"), paths=tuple(TRUTH), overlap=True)
    assert abs(found.agreement["held_out"].total_error) < 1e-3
    assert any("is taken for step" in note for note in found.notes)


def test_parts_that_are_no_parts_of_the_wall_time_are_not_fitted() -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH))
    run.values["compute"] = 3 * run.values["wall"]
    found = calibrate(rerun, run, load_profile("phone"), paths=("nvme.bandwidth",), overlap=True)
    assert found.columns == ("wall",)
    assert any("no parts of it" in note for note in found.notes)


def test_agreement_by_hand() -> None:
    # predicted 1 and 4 where 2 and 2 were measured: total 5/4 - 1, mean error (1 + 2)/2 over 2, relative (1/2 + 1)/2
    found = agreement(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    assert (found.steps, found.total_error, found.mean_error, found.relative_error) == (2, 0.25, 0.75, 0.75)


def test_bytes_that_engines_read_beyond_the_expert_are_found() -> None:
    rerun = small_rerun()
    run = as_measured(rerun, with_numbers(load_profile("phone"), TRUTH))
    run.values["bytes"] = rerun.bytes + 4096.0 * rerun.misses
    found = calibrate(rerun, run, load_profile("phone"), paths=tuple(TRUTH), overlap=True).bytes
    assert found["extra_per_load"] == 4096
    assert found["exact_steps"] == rerun.steps
    assert found["error_without_extra"] == 0
    assert found["error"] == pytest.approx(1 / 1.004096 - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_tokens": 3}, "at least 4"),
        ({"fit_tokens": 49}, "at most 48"),
        ({"paths": ("gpu.bandwidth",)}, "has no gpu"),
        ({"paths": ("nvme.bandwith",)}, "did you mean 'nvme.bandwidth'"),
        ({"paths": ("nvme.lanes",)}, "cannot be fitted"),
        ({"paths": ()}, "one to 3"),
        ({"paths": ("nvme.bandwidth", "nvme.bandwidth")}, "different"),
        ({"paths": FITTABLE[-4:]}, "one to 3"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    rerun = small_rerun()
    run = as_measured(rerun, load_profile("phone"))
    with pytest.raises(ConfigError, match=message) as caught:
        calibrate(rerun, run, load_profile("phone"), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_number_that_is_zero_has_no_logarithm() -> None:
    rerun, base = small_rerun(), load_profile("phone", ["expert_overhead=0"])
    run = as_measured(rerun, load_profile("phone"))
    with pytest.raises(ConfigError, match="is 0 in hardware phone"):
        calibrate(rerun, run, base, paths=("expert_overhead",))
    assert "expert_overhead" not in calibrate(rerun, run, base, overlap=True).best.paths  # left out of the choices


def test_a_run_of_another_trace_is_refused() -> None:
    rerun = small_rerun()
    run = as_measured(small_rerun(40), load_profile("phone"))
    with pytest.raises(ConfigError, match="40 decode rows, the trace 48"):
        calibrate(rerun, run, load_profile("phone"))


# ------------------------------------------------------------------------------------------- a run that was measured


@pytest.fixture(scope="module")
def measured_qwen3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rerun, MeasuredRun]:
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared")) / "traces"
    if not shared.is_dir():
        pytest.skip(f"the shared traces are not here ({shared})")
    path = tmp_path_factory.mktemp("qwen3") / "q.h5"
    import_trace(shared / "qwen3-30b-a3b.route.csv", path)
    with RoutingTrace.open(path) as trace:
        rerun = Rerun(trace, load_geometry("qwen3-30b-a3b:top_k=6"), cache="4000MiB", scope="model")
    return rerun, read_measured(shared / "qwen3-30b-a3b.metrics.csv")


@pytest.fixture(scope="module")
def qwen3(measured_qwen3: tuple[Rerun, MeasuredRun]) -> Calibration:
    rerun, run = measured_qwen3
    return calibrate(
        rerun, run, load_profile("phone"), paths=("cpu.bandwidth", "nvme.bandwidth", "expert_overhead"), overlap=False
    )


def test_qwen3_undisturbed_tokens_by_the_mechanisms_of_its_engine(measured_qwen3: tuple[Rerun, MeasuredRun]) -> None:
    # Three numbers from the first 32 tokens, dense bytes from the trace's header; the start is off by a third or more.
    rerun, run = measured_qwen3
    base = load_profile("phone")
    start = load_runtime("bigmoeonedge").on(base)
    for path, value in {"cpu.share": 1.0, "loads.byte": 0.2e-9, "loads.lane_bandwidth": 0.6e9}.items():
        start = start.with_number(path, value)
    paths = ("runtime.cpu.share", "runtime.loads.byte", "runtime.loads.lane_bandwidth")
    found = calibrate(rerun, run, base, runtime=start, paths=paths, overlap=True, loss="squares")
    calm = found.agreement["undisturbed"]
    assert calm.steps == 32
    assert abs(calm.total_error) < 0.04
    assert calm.mean_error < 0.05
    # The built-in numbers are these; the lanes' is what the lanes' own busy time says of the fitted tokens.
    built_in = load_runtime("bigmoeonedge").on(base)
    for path in paths:
        inner = path.removeprefix("runtime.")
        assert found.best.fit.runtime.at(inner) == pytest.approx(built_in.at(inner), rel=0.005)
    busy = run.values["bytes"][:32] / run.values["io"][:32]
    assert np.median(busy) == pytest.approx(built_in.loads.lane_bandwidth, rel=0.01)
    # As bookkeeping that comes before the reads the same engine's stall would be a quarter too long.
    assert abs(found.predicted.stall[:32].sum() / run.values["stall"][:32].sum() - 1) < 0.02
    before = rerun.times(base, slice(0, 32), runtime=built_in.with_number("loads.beside", False))
    assert before.stall.sum() / run.values["stall"][:32].sum() > 1.2
    # Every fourth token has some 50 page faults, which cost next to nothing; they stay.
    assert (run.values["faults"][32:] > 40).sum() == 24
    assert not found.faulting.any()


def test_qwen3_bytes_are_exact(qwen3: Calibration) -> None:
    assert qwen3.bytes["recorded_exact_steps"] == 128  # experts that the engine's own cache missed, byte for byte
    # the engine counts what it reads: whole pages of 4 KiB, one more for each of an expert's three matrices
    assert qwen3.bytes["extra_per_load"] == 3 * 4096
    assert qwen3.bytes["exact_steps"] == 127  # in one token one page less
    assert abs(qwen3.bytes["error_without_extra"]) < 1e-6


def test_qwen3_held_out_tokens_given_how_long_each_computed(qwen3: Calibration) -> None:
    # Fitted on 32 tokens; what the phone's cores did to each held-out token is taken from its compute column, all that
    # the cache causes (stall and bookkeeping) is predicted.
    held = qwen3.agreement["given_compute"]
    assert held.steps == 96
    assert abs(held.total_error) < 0.05
    assert held.mean_error < 0.12
    for part in ("stall", "overhead"):  # within the bounds of the whole token even by themselves
        assert abs(qwen3.agreement[part].total_error) < 0.05
        assert qwen3.agreement[part].mean_error < 0.12


def test_qwen3_undisturbed_tokens_from_the_routing_alone(qwen3: Calibration) -> None:
    calm = qwen3.agreement["undisturbed"]
    assert calm.steps == 32
    assert abs(calm.total_error) < 0.04
    assert calm.mean_error < 0.05


def test_qwen3_time_cannot_be_foretold_from_routing_alone(qwen3: Calibration) -> None:
    # Even the best line in the misses, fitted to the held-out tokens themselves, is off by more than the 12 % asked
    # for: 22 tokens took up to 480 ms longer to compute, and 42 some 10 ms, for reasons outside the cache.
    wall, misses = qwen3.measured["wall"][32:], qwen3.misses[32:]
    level = np.linspace(0.05, 0.2, 151)
    per_miss = np.linspace(0, 3e-3, 151)
    lines = level[:, None, None] + per_miss[None, :, None] * misses
    assert (np.abs(lines - wall).mean(axis=2) / wall.mean()).min() > 0.18
    assert qwen3.disturbed is not None
    assert qwen3.disturbed[32:].sum() == 64
    assert qwen3.agreement["held_out"].total_error == pytest.approx(-0.228, abs=0.01)  # said, not hidden
    assert any("compute took +47% in the held-out tokens" in note for note in qwen3.notes)
