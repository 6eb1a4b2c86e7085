"""`lrcsim.plan`: a plan by names, as `lrcsim plan` is asked for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrcsim.base.progress import Progress
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import Geometry, load_geometry
from lrcsim.planner.memory import with_memory
from lrcsim.planner.plan import Plan, make_plan
from lrcsim.runtimes import RuntimeDocument, load_runtime
from lrcsim.simulator.cache.capacity import bytes_from
from lrcsim.traces import RoutingTrace

Size = int | str
"""Bytes, or with a unit: ``"24GiB"``."""


def plan(
    model: str | Path | Geometry,
    hardware: str | Path | HardwareProfile = "auto",
    *,
    vram: Size | None = None,
    ram: Size | None = None,
    reserve: Size | None = None,
    dtype: str | None = None,
    context: int = 8192,
    kv_dtype: str = "f16",
    prompt: int = 2048,
    runtime: str | RuntimeDocument | None = None,
    trace: RoutingTrace | None = None,
    folders: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Plan:
    """Say whether a model fits a machine, how to divide memory, how fast it decodes, and what would make it faster.

    Args:
        model: a name, a GGUF file, a config.json (`lrcsim.models.load_geometry`), or a geometry.
        hardware: a machine's name or file (`lrcsim.hardware.load_profile`), or a profile; ``"auto"``: this one.
        vram: GPU memory, where it is not the card's own.
        ram: main memory; with ``vram`` as `lrcsim.planner.memory.with_memory` says.
        reserve: kept free on the device; None: 1 GiB, without a GPU a tenth of main memory.
        dtype: of the weights; None: as the file is stored, or the finest published format that fits.
        context: tokens of a request that the KV cache has room for.
        kv_dtype: of the KV cache.
        prompt: tokens of a prompt to time.
        runtime: what runs the model, a name or a document; None: for each row what really does.
        trace: routing of the model, or of one like it; None: published hit rates.
        folders: where to look for more traces.
        progress: told runs done and runs in all.

    Raises:
        ConfigError: a name is unknown, or an option is not allowed.
    """
    geometry = model if isinstance(model, Geometry) else load_geometry(model)
    card = hardware if isinstance(hardware, HardwareProfile) else load_profile(hardware)
    profile = with_memory(card, _bytes("vram", vram), _bytes("ram", ram))
    unused = 0 if card.gpu is None or profile.gpu is None else max(0, int(card.gpu.memory - profile.gpu.memory))
    return make_plan(
        geometry,
        profile,
        dtype=dtype,
        context=context,
        kv_dtype=kv_dtype,
        reserve=_bytes("reserve", reserve),
        unused=unused,
        runtime=load_runtime(runtime) if isinstance(runtime, str) else runtime,
        prompt=prompt,
        traces=() if trace is None else ((str(trace.path or trace.model), trace),),
        folders=folders,
        progress=progress,
    )


def _bytes(name: str, given: Size | None) -> int | None:
    """Return bytes; None where nothing was given, 0 for ``0`` and ``"0B"``.

    Raises:
        ConfigError: it is no size.
    """
    return None if given is None else 0 if given in (0, "0B") else bytes_from(name, given)
