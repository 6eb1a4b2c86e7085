"""What a run of a trace that comes with lrcsim says besides: how much its numbers mean, and what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import human_bytes, quoted
from lrcsim.cli.output import console
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace

REAL = "qwen3-30b-a3b"
"""The model of real size that is proposed to plan for."""

DTYPE = "q4_k_m"
"""The format whose size is said of it."""


def is_bundled(trace: str | None) -> bool:
    """Return whether a TRACE of the command line is one that comes with lrcsim; None: none was given."""
    return trace is None or trace.startswith("bundled:")


def check_model(trace: RoutingTrace, told: Mapping[str, Any]) -> None:
    """Refuse a model that the bundled trace is not of, where ``--model`` names one.

    Raises:
        ConfigError: the model's MoE layers, experts or top-k are not the trace's; or there is no model of that name.
    """
    if told.get("model") is None:
        return
    from lrcsim.models import check_trace, load_geometry

    geometry = load_geometry(told["model"])
    try:
        check_trace(geometry, trace)
    except ConfigError:
        raise ConfigError(
            f"the trace that comes with lrcsim is of {trace.model}, not of {geometry.name}: give a trace of it, "
            f"or plan without one: {_plan(geometry.name, told.get('hardware'))}"
        ) from None


def say_toy(trace: RoutingTrace) -> None:
    """Print that bytes and speeds of the trace are those of a toy, beside the size of a real model."""
    from lrcsim.models import load_geometry
    from lrcsim.models.quantisation import expert_bytes

    real, size = load_geometry(REAL), expert_bytes(load_geometry(REAL), DTYPE)
    experts, sizes = trace.num_layers * trace.num_experts, trace.layers.expert_bytes
    own = "" if sizes is None else f" of {human_bytes(int(sizes.mean()))}"
    console().print(
        f"\n[yellow]Note:[/yellow] {quoted(trace.model)} is a toy, {experts:,} experts{own}: "
        "its hits are as recorded, but its bytes and tokens/s are those of no model in use. "
        f"{REAL} has {len(real.moe_layers) * real.experts:,} of {human_bytes(int(size.mean()))} ({DTYPE})."
    )


def say_next(trace: RoutingTrace, hardware: str | None) -> None:
    """Print, on standard error, commands that answer what comes next, each as it can be typed on this machine.

    Without a machine also what `say_toy` says; with one that stood before its speeds.

    Args:
        trace: the bundled one that was run.
        hardware: the machine of the run; None: there was none, and the plan is for this one.
    """
    sys.stdout.flush()
    here = "on this machine" if hardware is None else "there"
    with redirect_stdout(sys.stderr):
        if hardware is None:
            say_toy(trace)
        console().print("\n[bold]Next[/bold]")
        print_rows(
            ["", ""],
            [
                [quoted(_plan(REAL, hardware)), f"a real model {here}: fits? how fast?"],
                [quoted(_line("curve")), "hits at every cache size"],
                [quoted(_line("trace", "import", "--help")), "your own engine's log"],
            ],
            left=(0, 1),
            whole=(0,),
        )


def program() -> list[str]:
    """Return the words with which lrcsim is called here: ``lrcsim`` where the shell finds this one, else as it was."""
    python, *words = sys.orig_argv
    if words[:2] == ["-m", "lrcsim"]:
        return [python, "-m", "lrcsim"]
    called = Path(sys.argv[0])
    found = shutil.which("lrcsim")
    if called.stem != "lrcsim" or (found is not None and Path(found).resolve() == called.resolve()):
        return ["lrcsim"]
    return [sys.argv[0]]  # .venv/bin/lrcsim, of an environment that is not active


def _line(*words: str) -> str:
    """Return a command line of lrcsim."""
    return shlex.join([*program(), *words])


def _plan(model: str, hardware: str | None) -> str:
    """Return the command that plans a model on a machine; None: on this one."""
    return _line("plan", model, *([] if hardware is None else ["--hardware", hardware]))
