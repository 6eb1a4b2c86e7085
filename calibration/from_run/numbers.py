"""The numbers that a fit may change: those of a machine, and those of the runtime on it.

A path names one: ``"nvme.bandwidth"`` of the profile, ``"runtime.loads.byte"`` of the runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware import HardwareProfile
from lrcsim.hardware.document import PARTS, schema, written
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.load import written as written_of_runtime
from lrcsim.runtimes.runtime import PARTS as RUNTIME_PARTS
from lrcsim.runtimes.runtime import keys

OF_RUNTIME = "runtime."
FITTED_KINDS = ("bytes/s", "FLOP/s", "seconds", "share", "seconds/byte")


@final
@dataclass(frozen=True)
class Setting:
    """What the times of a run depend on besides its routing.

    Attributes:
        profile: the machine, without what the runtime makes of it.
        runtime: what runs the model there.
    """

    profile: HardwareProfile
    runtime: Runtime = IDEAL


Given = TypeVar("Given", HardwareProfile, Setting)
"""A machine alone, or with its runtime."""


def fittable(links: Iterable[str] = ()) -> list[str]:
    """Return the paths of a machine's numbers that can be fitted, rates and times, with those of further links."""
    paths = [path for path, key in schema([*PARTS, *links]).items() if key.kind in ("bytes/s", "FLOP/s", "seconds")]
    return sorted(paths, key=lambda path: "." not in path)  # those of no part last


FITTABLE = fittable()
"""Of machines with the usual links."""

FITTABLE_OF_RUNTIMES = [
    f"{OF_RUNTIME}{part}.{name}"
    for part in RUNTIME_PARTS
    for name, key in keys(part).items()
    if key.kind in FITTED_KINDS
]
"""Of runtimes: shares, times and rates."""


def number(of: HardwareProfile | Setting, path: str) -> float:
    """Return the number at a path, in SI base units.

    Raises:
        ConfigError: it is none that can be fitted, or the profile does not have its part, or the runtime leaves it out.
    """
    profile, runtime = (of, None) if isinstance(of, HardwareProfile) else (of.profile, of.runtime)
    known = fittable(link.name for link in profile.links)
    if runtime is not None:
        known += FITTABLE_OF_RUNTIMES
    if path not in known:
        raise ConfigError(f"{path!r} cannot be fitted, use {', '.join(known)}{did_you_mean(path, known)}")
    if runtime is not None and path.startswith(OF_RUNTIME):
        value = runtime.at(path.removeprefix(OF_RUNTIME))
        if value is None:
            raise ConfigError(
                f"{path!r} cannot be fitted: runtime {runtime.name} leaves it to the machine: give a start in a file"
            )
        return float(value)
    value = profile.at(path)
    if value is None:
        raise ConfigError(f"{path!r} cannot be fitted: hardware {profile.name} has no {path.partition('.')[0]}")
    return float(value)


def with_numbers(of: Given, numbers: Mapping[str, float]) -> Given:
    """Return the same with other numbers at these paths."""
    if isinstance(of, HardwareProfile):
        return _in_profile(of, numbers)
    profile = {path: value for path, value in numbers.items() if not path.startswith(OF_RUNTIME)}
    runtime = of.runtime
    for path in numbers.keys() - profile.keys():
        runtime = runtime.with_number(path.removeprefix(OF_RUNTIME), numbers[path])
    return Setting(_in_profile(of.profile, profile), runtime)


def _in_profile(profile: HardwareProfile, numbers: Mapping[str, float]) -> HardwareProfile:
    for path, value in numbers.items():
        part, _, key = path.rpartition(".")
        change: dict[str, Any] = {key: value}
        profile = profile.with_part(part, **change) if part else replace(profile, **change)
    return profile


def shown(path: str, value: float) -> str:
    """Return a number at a path as people read it: ``"0.12 ms/MB"``."""
    if path.startswith(OF_RUNTIME):
        return written_of_runtime(path.removeprefix(OF_RUNTIME), value)
    return written(path, value)
