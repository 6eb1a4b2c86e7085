"""What can be told about a sweep's values before anything runs: each value by itself, not its combinations.

A combination that cannot be run (a cache larger than the machine's memory) is a row with its error; a value that no run
could use is refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, LrcsimError, check_choice
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.models.quantisation import parse_dtype
from lrcsim.policies import make_policy
from lrcsim.policies.routing import make_rule
from lrcsim.runtimes import load_runtime
from lrcsim.simulator.cache.capacity import SCOPES, parse_bytes, resolve_capacity
from lrcsim.simulator.setup.expert_sizes import FILES, sizes_from
from lrcsim.simulator.setup.low_copy import parse_low_copy
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.options import ACCESS
from lrcsim.simulator.setup.platform import ENGINES
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.sweeps.files import located, trace_path
from lrcsim.sweeps.options import hardware_key, options
from lrcsim.sweeps.spec import Spec
from lrcsim.traces import LayerTable, RoutingTrace
from lrcsim.traces.schedule import parse_prefill


def check_values(spec: Spec) -> None:
    """Check every value of a sweep once.

    Raises:
        ConfigError: one is wrong, or needs hardware that its run has not; the message says which.
    """
    checked: set[tuple[str, ...]] = set()
    for run in spec.runs:
        machine = run.get("hardware")
        for name, value in run.items():
            single = hardware_key(name)
            if machine is None and (single or options()[name].timed):
                raise ConfigError(
                    f'{spec.source}: {name} is about time: name a machine with it, as hardware = "rtx-4090" '
                    "(runs with and without one go into two tables, [[grid]] and [[grid]])"
                )
            key = (name, str(value), str(machine)) if single or name == "miss" else (name, str(value))
            if key in checked:
                continue
            checked.add(key)
            try:
                if single:
                    load_profile(located(machine, spec.folder), [f"{name}={value}"])
                elif name == "miss":
                    make_action(located(value, spec.folder), load_profile(located(machine, spec.folder)))
                elif name in CHECKS:
                    CHECKS[name](trace_path(value, spec.folder) if name in TRACES else located(value, spec.folder))
            except LrcsimError as error:
                raise ConfigError(f"{spec.source}: {name}: {error}") from None


def _trace(path: str) -> None:
    RoutingTrace.open(path).close()


def _profile(path: str) -> None:
    if Path(path).name != "self":
        _trace(path)


def _size(size: Any) -> None:
    """Read a cache size, or each of one per layer, for a model with one expert of one byte."""
    for entry in str(size).split(","):
        resolve_capacity(entry, LayerTable.build(1, 1, 1, expert_bytes=1), "model")


def _bytes(size: Any) -> None:
    """Read bytes of an expert, a list of one per layer, or a file of sizes."""
    if isinstance(size, str) and Path(size).suffix in FILES:
        sizes_from("expert_bytes", size)
        return
    for text in map(str, size if isinstance(size, list) else [size]):
        if not (text.isdecimal() and int(text)) and not parse_bytes(text):
            raise ConfigError(f"{text!r} is no size: write bytes as 2752512 or with a unit, 2.5MiB")


def _rule(spec: Any) -> None:
    if spec != "none":
        make_rule(spec)


TRACES = ("trace", "profile")

CHECKS: dict[str, Callable[[Any], object]] = {
    "trace": _trace,
    "profile": _profile,
    "expert_bytes": _bytes,
    "low_copy": parse_low_copy,
    "policy": make_policy,
    "cache": _size,
    "scope": partial(check_choice, "scope", allowed=SCOPES),
    "access": partial(check_choice, "access", allowed=ACCESS),
    "prefill": parse_prefill,
    "route": _rule,
    "hardware": load_profile,
    "runtime": load_runtime,
    "model": load_geometry,
    "dtype": parse_dtype,
    "prefetch": make_prefetcher,
    "dram": _size,
    "dram_policy": make_policy,
    "engine": partial(check_choice, "engine", allowed=ENGINES),
}
"""How a value is checked by itself; an option that is not here is checked by the run."""
