"""How true speeds of this kind have been: measured over predicted tokens/s, by class of setting and by runtime."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes.machine_kinds import device_kind

Setting = Literal["resident-gpu", "gb10-unified", "apple-unified", "cpu-experts", "cpu-only", "pcie-cache", "flash"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
MEANING: dict[Setting, str] = {
    "resident-gpu": "everything in the memory of a card of its own",
    "gb10-unified": "everything in memory that a GPU shares, not Apple's",
    "apple-unified": "everything in an Apple GPU's share of memory",
    "cpu-experts": "experts beside a GPU, computed on the CPU",
    "cpu-only": "everything in main memory, no GPU",
    "pcie-cache": "experts loaded over the link to a GPU",
    "flash": "experts read from flash where the model computes",
}

HELD: dict[Setting, tuple[str, ...]] = {
    "resident-gpu": ("all-resident",),
    "gb10-unified": ("all-resident",),
    "apple-unified": ("all-resident",),
    "cpu-experts": ("n-cpu-moe",),
    "cpu-only": ("all-resident",),
    "pcie-cache": ("lru",),
    "flash": ("lru",),
}
"""Ways of running a model that the points of a class were measured in; rows of others are held against nothing."""

FEW = 5
"""Points below which a class is said to rest on few."""


@dataclass(frozen=True)
class Accuracy:
    """Measured over predicted tokens/s of a class's points, by numbers that these were not fitted to.

    Attributes:
        setting: the class.
        low: low end of what a new machine is within, nine times in ten.
        high: high end.
        median: of the points.
        points: how many.
        runtimes: those that they were measured with.
    """

    setting: Setting
    low: float
    high: float
    median: float
    points: int
    runtimes: tuple[str, ...] = field(default=())

    def around(self, central: float, spread: tuple[float, float]) -> tuple[float, float]:
        """Return low and high of a row: what it is spread by and how true such rows are, together.

        Both are independent, so that their logarithms add in squares; never narrower than either.

        Args:
            central: tokens/s.
            spread: low and high tokens/s over other requests, or other ways to carry hit rates over.
        """
        below = math.hypot(max(math.log(central / spread[0]), 0.0), max(-math.log(self.low), 0.0))
        above = math.hypot(max(math.log(spread[1] / central), 0.0), max(math.log(self.high), 0.0))
        return central * math.exp(-below), central * math.exp(above)


def setting_of(strategy: str, profile: HardwareProfile) -> Setting:
    """Return the class of setting that a way of running a model falls into, on a machine.

    Args:
        strategy: its name, as in `lrcsim.planner.strategies`.
        profile: the machine.
    """
    own = profile.gpu is not None and not profile.unified
    if strategy == "all-resident":
        if profile.gpu is None:
            return "cpu-only"
        if own:
            return "resident-gpu"
        return "apple-unified" if device_kind(profile) == "metal" else "gb10-unified"
    if not own:
        return "flash"
    return "cpu-experts" if strategy in ("n-cpu-moe", "popular") else "pcie-cache"


def accuracy_of(setting: Setting, runtime: str) -> Accuracy:
    """Return how true rows of a class have been: of the runtime itself where its points are told apart."""
    table = _tables()[setting]
    return table.get(runtime, table[""])


def measured(strategy: str, accuracy: Accuracy, runtime: str) -> Setting | None:
    """Return the class of measured points that such a row was held against; None: nobody measured any."""
    held = strategy in HELD[accuracy.setting] and runtime in accuracy.runtimes and accuracy.points > 0
    return accuracy.setting if held else None


@cache
def _tables() -> dict[Setting, dict[str, Accuracy]]:
    text = resources.files("lrcsim.planner").joinpath("data/accuracy.toml").read_text("utf-8")
    return read_accuracy(tomllib.loads(text))


def read_accuracy(document: Mapping[str, Any]) -> dict[Setting, dict[str, Accuracy]]:
    """Read tables of accuracy.

    Args:
        document: by class ``low``, ``high``, ``median``, ``points``, ``runtimes``, and tables of the same by runtime.

    Returns:
        By class and runtime; ``""`` is the class as a whole.

    Raises:
        ConfigError: a class is missing or unknown, or a number.
    """
    if set(document) != set(SETTINGS):
        raise ConfigError(f"accuracy: there are {', '.join(document)}; needed are {', '.join(SETTINGS)}")
    return {setting: _read_class(setting, document[setting]) for setting in SETTINGS}


def _read_class(setting: Setting, table: Mapping[str, Any]) -> dict[str, Accuracy]:
    inner = {name: one for name, one in table.items() if isinstance(one, Mapping)}
    found = {"": _read(setting, table, tuple(table.get("runtimes", ())))}
    return found | {name: _read(setting, one, (name,)) for name, one in inner.items()}


def _read(setting: Setting, table: Mapping[str, Any], runtimes: tuple[str, ...]) -> Accuracy:
    try:
        low, high, median = (float(table[key]) for key in ("low", "high", "median"))
        points = int(table["points"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"accuracy: [{setting}] needs low, high, median and points ({error})") from None
    if not 0 < low <= high:
        raise ConfigError(f"accuracy: [{setting}] low {low:g} and high {high:g}: above 0, and low not above high")
    return Accuracy(setting, low, high, median, points, runtimes)
