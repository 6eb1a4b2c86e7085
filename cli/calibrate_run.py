"""`lrcsim calibrate --from-run`: fit a profile to a measured run, and say how well it foretells the rest of it."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.text import human_bytes, percent, quoted
from lrcsim.cli.output import answer, console, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.calibration.from_run.calibrate import Calibration
    from lrcsim.calibration.from_run.measured import MeasuredRun
    from lrcsim.calibration.from_run.rerun import Rerun
    from lrcsim.hardware import HardwareProfile
    from lrcsim.runtimes import Runtime
    from lrcsim.traces import RoutingTrace

LABELS = {
    "fitted": "fitted tokens",
    "held_out": "held-out tokens",
    "undisturbed": "  of them undisturbed",
    "given_compute": "  given their compute",
    "compute": "  their compute",
    "stall": "  their stall, given compute",
    "overhead": "  their overhead",
    "mean": "baseline: mean of the fitted",
    "linear": "baseline: line in the misses",
}


def calibrate_run(
    *,
    from_run: str,
    trace: str | None,
    model: str | None,
    dtype: str | None,
    hardware: str,
    runtime: str,
    overrides: Sequence[str],
    fit_tokens: int,
    fit: str | None,
    overlap: str,
    loss: Any,
    column: Sequence[str],
    plot: str | None,
    output: str | None,
    runtime_out: str | None,
    json_path: str | None,
    **cache: Any,
) -> None:
    """Fit, predict, compare, and write what was asked for; ``cache``: the options of the engine's own."""
    from lrcsim.base.errors import ConfigError, did_you_mean
    from lrcsim.base.files import write_text
    from lrcsim.calibration.from_run.calibrate import calibrate
    from lrcsim.calibration.from_run.measured import parse_mapping, read_measured
    from lrcsim.calibration.from_run.rerun import Rerun
    from lrcsim.hardware import load_profile, to_toml
    from lrcsim.models import load_geometry
    from lrcsim.runtimes import load_runtime
    from lrcsim.runtimes.load import to_toml as runtime_toml

    if runtime_out is not None and runtime.lower() == "ideal":
        raise ConfigError("--runtime-out needs --runtime, the runtime to fit: ideal has no numbers; as --runtime eager")
    if trace is None or model is None:
        raise ConfigError("--from-run needs --trace, the run's own routing, and --model, the model that ran")
    beside = {"auto": None, "on": True, "off": False}
    if overlap not in beside:
        raise ConfigError(f"--overlap {overlap!r} is not known, use auto, on or off{did_you_mean(overlap, beside)}")
    if loss not in ("huber", "squares"):
        raise ConfigError(f"--loss {loss!r} is not known, use huber or squares")
    if plot is not None:
        from lrcsim.plots.calibration import picture_ending

        picture_ending(plot)  # before the work
    run = read_measured(from_run, parse_mapping(column))
    base = load_profile(hardware, overrides)
    geometry = load_geometry(model)
    with open_or_import(trace) as routing:
        told = {name: value for name, value in cache.items() if value is not None}
        rerun = Rerun(routing, geometry, dtype=dtype, **told)
    with progress_bar("fitting", lines=True) as progress:
        found = calibrate(
            rerun,
            run,
            base,
            runtime=load_runtime(runtime).on(base),
            fit_tokens=fit_tokens,
            paths=None if fit is None else [path.strip() for path in fit.split(",")],
            overlap=beside[overlap],
            loss=loss,
            progress=progress,
        )
    profile = sourced(found, run)
    if output is not None:
        write_text(output, to_toml(profile))
    if found.best.fit.runtime.name != "ideal":
        if runtime_out is None and output is not None:
            runtime_out = str(runtime_file(output))
        if runtime_out is not None:
            write_text(runtime_out, runtime_toml(sourced_runtime(found, run)))
    if plot is not None:
        from lrcsim.plots.calibration import plot_calibration

        plot_calibration(plot, found, f"{geometry.name}, {run.name}")
    result = document(found, run, rerun, base, profile)
    if answer(json_path, result, "calibrate-run"):
        _print(found, run, result)
        if output is not None or runtime_out is not None:
            machine = [output] if output is not None else [hardware, *overrides]
            given = {"model": model, "dtype": dtype, **cache}
            _say_use(trace, given, machine, runtime_out, overlap=not _without_overlap(found))


def _say_use(
    trace: str, given: Mapping[str, Any], machine: Sequence[str], runtime: str | None, *, overlap: bool
) -> None:
    """Say the command that runs the same trace through the same cache on what was fitted.

    Args:
        trace: the run's own routing.
        given: options of the command line by name, None where they were not given.
        machine: the machine, and what was set of it.
        runtime: the file of the fitted runtime.
        overlap: False: the profile is to be told that transfers do not run beside compute.
    """
    if not _is_ours(trace):
        ours = f"{Path(trace).stem}.h5"
        echo(f"First: lrcsim trace import {quoted(shlex.quote(trace))} -o {quoted(shlex.quote(ours))}", whole=True)
        trace = ours
    words = [trace]
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(f"--{name if value else 'cold'}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    words += ["--hardware", machine[0]]
    words += [word for one in machine[1:] for word in ("--set", one)]
    words += [] if runtime is None else ["--runtime", runtime]
    words += [] if overlap else ["--no-overlap"]
    echo(f"To use it: lrcsim run {quoted(shlex.join(words))}", whole=True)


def _is_ours(path: str) -> bool:
    """Return whether a trace is opened as it is, and not imported."""
    source = Path(path)
    return path.startswith("bundled:") or source.suffix in (".h5", ".hdf5") or not source.exists()


@contextmanager
def open_or_import(path: str) -> Iterator[RoutingTrace]:
    """Open an lrcsim trace, or import another tool's into a temporary file first."""
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.importers import import_trace

    source = Path(path)
    is_ours = _is_ours(path)
    with tempfile.TemporaryDirectory() as folder:
        if not is_ours:
            target = Path(folder, "trace.h5")
            with progress_bar(f"importing {source.name}") as progress:
                import_trace(source, target, progress=progress)
        with RoutingTrace.open(path if is_ours else target) as opened:
            yield opened


def sourced(found: Calibration, run: MeasuredRun) -> HardwareProfile:
    """Return the fitted profile with its fitted numbers saying where they are from."""
    from dataclasses import replace

    profile, said = found.best.fit.profile, _said(found, run)
    own = {path: text for path, text in said.items() if not path.startswith("runtime.")}
    return replace(
        profile,
        description=f"{profile.name}, {len(own)} numbers fitted to {run.name}" if own else profile.description,
        sources=dict(profile.sources) | own,
    )


def sourced_runtime(found: Calibration, run: MeasuredRun) -> Runtime:
    """Return the fitted runtime likewise."""
    from dataclasses import replace

    runtime, said = found.best.fit.runtime, _said(found, run)
    own = {path.removeprefix("runtime."): text for path, text in said.items() if path.startswith("runtime.")}
    return replace(
        runtime,
        description=f"{runtime.name}, {len(own)} numbers fitted to {run.name}",
        sources=dict(runtime.sources) | own,
    )


def runtime_file(output: str) -> Path:
    """Return where the runtime of a fitted profile is written: ``mine.toml`` goes with ``mine.runtime.toml``."""
    return Path(output).with_suffix(".runtime.toml")


def _said(found: Calibration, run: MeasuredRun) -> dict[str, str]:
    return {
        path: f"fitted to the first {found.fitted} decoded tokens of {run.name}, +- {value.spread:.1%}"
        for path, value in found.best.fit.numbers.items()
    }


def document(
    found: Calibration, run: MeasuredRun, rerun: Rerun, base: HardwareProfile, profile: HardwareProfile
) -> dict[str, Any]:
    """Return everything as JSON values: seconds and bytes."""
    from dataclasses import asdict

    from lrcsim.hardware import to_toml
    from lrcsim.runtimes.load import to_toml as runtime_toml

    return {
        "run": {
            "file": run.name,
            "steps": len(found.measured["wall"]),
            "prefill_rows": run.prefill_rows,
            "columns": {
                role: {"name": c.name, "unit": c.unit, "guessed": c.guessed} for role, c in run.columns.items()
            },
            "unused": run.unused,
        },
        "model": {"name": rerun.geometry.name, "top_k": rerun.geometry.top_k, "dtype": rerun.dtype},
        "fit": {
            "base": base.name,
            "runtime": found.best.fit.runtime.name,
            "tokens": found.fitted,
            "columns": list(found.columns),
            "overlap": found.best.overlap,
            "numbers": {
                path: asdict(value) | {"determined": value.determined} for path, value in found.best.fit.numbers.items()
            },
            "residual": found.best.fit.residual,
            "score": found.best.fit.score,
            "tried": [
                {
                    "overlap": choice.overlap,
                    "score": choice.fit.score,
                    "numbers": {path: value.value for path, value in choice.fit.numbers.items()},
                }
                for choice in found.tried
            ],
        },
        "agreement": {name: asdict(value) for name, value in found.agreement.items()},
        "page_fault_tokens": int(found.faulting.sum()),
        "disturbed_tokens": None if found.disturbed is None else int(found.disturbed[found.fitted :].sum()),
        "bytes": found.bytes,
        "tokens": {
            "measured_s": found.measured["wall"].tolist(),
            "predicted_s": found.predicted.wall.tolist(),
            "given_compute_s": None if found.given_compute is None else found.given_compute.wall.tolist(),
            "misses": found.misses.tolist(),
        },
        "notes": [*run.notes, *found.notes],
        "profile": to_toml(profile),
        "runtime": runtime_toml(sourced_runtime(found, run)),
    }


def _print(found: Calibration, run: MeasuredRun, result: dict[str, Any]) -> None:
    from lrcsim.calibration.from_run.numbers import shown

    out = console()
    out.print(f"[bold]{quoted(run.name)}[/bold]: {quoted(run.understood())}", soft_wrap=True)
    model, fit = result["model"], result["fit"]
    out.print(
        f"{model['name']}, top-{model['top_k']}, {model['dtype']}; base {fit['base']}, runtime {fit['runtime']}; "
        f"transfers {'overlap' if fit['overlap'] else 'do not overlap'} compute; fitted {', '.join(fit['columns'])} "
        f"of {fit['tokens']} tokens\n",
        soft_wrap=True,
    )
    rows = []
    for path, value in found.best.fit.numbers.items():
        fitted, before = (shown(path, float(f"{amount:.4g}")) for amount in (value.value, value.base))
        spread = f"{100 * value.spread:.1f} %" if value.determined else "not determined"
        owner = f"runtime {fit['runtime']}" if path.startswith("runtime.") else f"machine {fit['base']}"
        rows.append((path, fitted, spread, before, owner))
    print_rows(("number", "fitted", "+-", "base", "of"), rows, gap=3)
    if all(path.startswith("runtime.") for path in fit["numbers"]):
        out.print(f"Nothing of the machine is fitted: {quoted(fit['base'])} stays as it is.", soft_wrap=True)
    out.print()
    compared = []
    for name, label in LABELS.items():
        if name in found.agreement:
            of = found.agreement[name]
            errors = (f"{100 * of.total_error:+.1f} %", percent(of.mean_error), percent(of.relative_error))
            compared.append((label, str(of.steps), *errors))
    print_rows(("predicted against measured", "tokens", "total", "mean |error|", "per token"), compared, gap=3)
    for line in _bytes(found.bytes):
        out.print(line, soft_wrap=True)
    if _without_overlap(found):
        out.print(
            "Replay this profile with --no-overlap: a profile does not say whether transfers run beside compute.",
            soft_wrap=True,
        )
    for note in result["notes"]:
        out.print(f"[yellow]Note:[/yellow] {quoted(note)}", soft_wrap=True)
    if "held_out" not in found.agreement:
        echo("No token was held out: nothing says how well this foretells.")


def _without_overlap(found: Calibration) -> bool:
    """Return whether a run is to be told that transfers do not run beside compute: what was fitted does not say so."""
    return not found.best.overlap and found.best.fit.runtime.loads.overlap != "none"


def _bytes(of: dict[str, Any]) -> list[str]:
    lines = []
    if of["recorded_exact_steps"] is not None:
        lines.append(
            f"loaded bytes: as the engine recorded them in {of['recorded_exact_steps']} of {of['steps']} tokens"
        )
    if of["measured"] is not None:
        lines.append(
            f"held-out bytes: simulated {human_bytes(of['simulated'])}, measured {human_bytes(of['measured'])} "
            f"({100 * of['error']:+.2f} %); with {of['extra_per_load']:,} bytes more per load, as in the fitted "
            f"tokens, {of['exact_steps']} of {of['steps']} tokens are exact"
        )
    return lines
