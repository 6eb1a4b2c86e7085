"""Published decode speeds as typed data: ``points.toml``, or a table of the same columns as people collect them."""

from __future__ import annotations

import csv
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError


@dataclass(frozen=True)
class Point:
    """A published speed.

    Attributes:
        name: short, unique.
        source: where it stands.
        setting: one of the planner's `SETTINGS`.
        machine: in the words of the source.
        box: machines of one name are left out together when errors are taken out of sample.
        model: in the words of the source.
        weights: how they were stored, likewise.
        engine: what ran it, likewise.
        context: tokens of context.
        tokens_per_s: decoded, measured.
        row: the strategy of the plan that this is.
        plan: options of `lrcsim plan`, by name; ``set`` is a list.
        full_context: whether the plan's column of full context says it.
        hit_rate: of the cache, where it was measured.
        flags: how the engine was started.
        note: what else is known.
    """

    name: str
    source: str
    setting: str
    machine: str
    box: str
    model: str
    weights: str
    engine: str
    context: int
    tokens_per_s: float
    row: str
    plan: Mapping[str, Any] = field(hash=False)  # the name tells it
    full_context: bool = False
    hit_rate: float | None = None
    flags: str = ""
    note: str = ""

    @property
    def overrides(self) -> tuple[str, ...]:
        """What of the machine's profile is replaced: ``--set``."""
        return tuple(self.plan.get("set", ()))

    def option(self, name: str, default: str | None = None) -> str | None:
        """Return an option of the plan."""
        value: str | None = self.plan.get(name, default)
        return value


def published() -> list[Point]:
    """Return the points that are shipped."""
    text = resources.files("lrcsim.experiments.validation.published_speeds").joinpath("points.toml").read_text("utf-8")
    return [Point(name, **table) for name, table in tomllib.loads(text).items()]


def read_table(path: str | Path) -> list[Point]:
    """Read points from a CSV table.

    Columns: id, source_url, class, hardware, model, quant, engine, flags, context, measured_tps, lrcsim_command (an
    ``lrcsim plan`` command, a ``#``, and ``row NAME, tokens_per_s`` or ``tokens_per_s_full_context``), note.

    Raises:
        ConfigError: it cannot be read, a column is missing, or a command is none.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [_of_row(row, number) for number, row in enumerate(csv.DictReader(file), start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a table of published speeds: {error}") from None
    except KeyError as error:
        raise ConfigError(f"{path}: column {error} is missing: see read_table for those that are needed") from None


def _of_row(row: dict[str, str], line: int) -> Point:
    command, _, asked = row["lrcsim_command"].partition("#")
    wanted = re.search(r"row ([\w-]+), (\w+)", asked)
    words = shlex.split(command)
    if words[:2] != ["lrcsim", "plan"] or wanted is None:
        raise ConfigError(f"line {line}: {row['lrcsim_command']!r} is no command: lrcsim plan ...  # row NAME, KEY")
    plan: dict[str, Any] = {}
    for flag, value in zip(words[2::2], words[3::2], strict=False):
        name = flag.removeprefix("--").replace("-", "_")
        if name == "set":
            plan.setdefault("set", []).append(value)
        elif name != "json":
            plan[name] = value
    hit = re.search(r"measured hit rate ([\d.]+) %", row["note"])
    return Point(
        name=row["id"],
        source=row["source_url"],
        setting=row["class"],
        machine=row["hardware"],
        box=row["hardware"],
        model=row["model"],
        weights=row["quant"],
        engine=row["engine"],
        context=int(row["context"] or 0),
        tokens_per_s=float(row["measured_tps"]),
        row=wanted[1],
        plan=plan,
        full_context="full_context" in wanted[2],
        hit_rate=float(hit[1]) / 100 if hit else None,
        flags=row["flags"],
        note=row["note"],
    )
