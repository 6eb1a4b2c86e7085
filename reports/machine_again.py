"""The machine of a run, from what its JSON says: only what lrcsim itself knows by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lrcsim.base.plugins import Registry
from lrcsim.hardware.load import AUTO
from lrcsim.policies.registry import POLICIES
from lrcsim.reports.allowed import Unavailable
from lrcsim.simulator.setup.miss_actions import REGISTRY as ACTIONS
from lrcsim.simulator.setup.options import declared
from lrcsim.simulator.setup.prefetchers import REGISTRY as PREFETCHERS

HITS_ONLY = {name: option.default for name, option in declared().items() if option.group == "machine"}
"""Options of a machine, as they are where hits alone are counted; what a result names for them is not opened."""

CLASSES: Mapping[str, Registry[Any]] = {"miss": ACTIONS, "prefetch": PREFETCHERS, "dram_policy": POLICIES}
"""Options that name a class, which may be somebody's code."""


def machine_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the machine, with its defaults where the result has none.

    Args:
        options: of a run's JSON, ``run.options``.

    Raises:
        Unavailable: one of them names a file or a user's class, or is the machine that a run was on.
    """
    if options.get("low_copy") is not None:
        raise Unavailable("with experts in a second precision a run in time is not made again")
    found = dict(HITS_ONLY)
    for name in found:
        value = options.get(name)
        if value is None:
            continue
        if name in CLASSES and not (isinstance(value, str) and CLASSES[name].is_built_in(value)):
            raise Unavailable(f"its {name} {value} is a class of the user's, and what a result names is not run")
        for text in value if isinstance(value, list) else [value]:
            _refuse_files(name, text)
        found[name] = value
    return found


def _refuse_files(name: str, value: object) -> None:
    """Refuse what may be a file, or asks this machine what it is."""
    if isinstance(value, bool | int | float):
        return
    text = value if isinstance(value, str) else ""
    for part in (text, text.partition("=")[2], *text.split("+")):
        wrong = not text or "\0" in part or "/" in part or "\\" in part or part.lower().endswith((".toml", ".json"))
        if (name != "overrides" and wrong) or (part and os.path.lexists(part)):
            raise Unavailable(f"its {name} {value} may be a file, and no file that a result names is opened")
    if name == "hardware" and text.lower() == AUTO:
        raise Unavailable("its hardware is auto, the machine it ran on, and this may be another")
