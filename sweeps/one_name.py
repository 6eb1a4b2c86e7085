"""One thing, one name: machines, runtimes and models of a sweep by the name that `lrcsim run` gives them too.

``4090`` and ``rtx-4090`` are one machine, and so one run; a file keeps the name that was typed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrcsim.base.errors import LrcsimError
from lrcsim.hardware import load_profile
from lrcsim.hardware.load import AUTO
from lrcsim.models import full_name, load_geometry
from lrcsim.runtimes import load_runtime
from lrcsim.sweeps.files import file_in
from lrcsim.sweeps.spec import Values

FOUND: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    "hardware": (load_profile, lambda profile: str(profile.name)),
    "runtime": (load_runtime, lambda runtime: str(runtime.name)),
    "model": (load_geometry, full_name),
}
"""How what a value names is found, by option, and what it is called."""


def one_name(option: str, value: Any, folder: Path) -> Any:
    """Return the name of what a value names; the value itself where that name would find anything else.

    Args:
        option: of a run.
        value: its value, checked (`lrcsim.sweeps.checks`).
        folder: where relative paths start.
    """
    if option not in FOUND or not isinstance(value, str) or value.lower() == AUTO or file_in(value, folder):
        return value
    find, name_of = FOUND[option]
    found = find(value)
    name = name_of(found)
    try:
        return name if name == value or find(name) == found else value
    except LrcsimError:
        return value


def with_one_name(runs: list[Values], folder: Path) -> list[Values]:
    """Return the values of runs, each thing in them by its one name."""
    known: dict[tuple[str, str], Any] = {}

    def named(option: str, value: Any) -> Any:
        if option not in FOUND:
            return value
        if (option, str(value)) not in known:
            known[option, str(value)] = one_name(option, value, folder)
        return known[option, str(value)]

    return [{option: named(option, value) for option, value in run.items()} for run in runs]
