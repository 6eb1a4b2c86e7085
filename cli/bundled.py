"""What a run of a trace that comes with lrcsim says besides: what its numbers are good for, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
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
    from lrcsim.models import load_geometry
    from lrcsim.models.geometry import check_trace

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


def say_next(hardware: str | None) -> None:
    """Print commands that answer what comes next, each as it can be typed on this machine.

    Args:
        hardware: the machine of the run; None: there was none, and the plan is for this one.
    """
    here = "on this machine" if hardware is None else "there"
    console().print("\n[bold]Next[/bold]")
    print_rows(
        ["", ""],
        [
            [quoted(_plan(REAL, hardware)), f"a real model {here}: fits? how fast?"],
            ["lrcsim curve", "hits at every cache size"],
            ["lrcsim trace import --help", "your own engine's log"],
        ],
        left=(0, 1),
        whole=(0,),
    )


def _plan(model: str, hardware: str | None) -> str:
    """Return the command that plans a model on a machine; None: on this one."""
    words = ["lrcsim", "plan", model, *([] if hardware is None else ["--hardware", hardware])]
    return shlex.join(words)
