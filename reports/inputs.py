"""Read what the commands wrote, and tell by its contents which command it was."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Inputs", "read_inputs"]

KINDS = {
    "run": ("trace.model", "trace.tokens", "config.policy", "config.cache", "config.capacity", "config.capacity_unit",
            "config.scope", "config.access", "config.prefill", "config.warm", "cache.hit_rate",
            "cache.prefill.hit_rate", "cache.decode.hit_rate", "bounds", "baseline", "warnings"),
    "curve": ("trace", "capacities", "relative", "hit_rate", "knee"),
    "sch": ("definition", "scope", "results"),
    "srp": ("level", "results"),
}  # fmt: skip
"""What the JSON of a command has, from which it is known; with dots inside one another."""

HDF5, PARQUET = b"\x89HDF\r\n\x1a\n", b"PAR1"
"""How files of these formats begin."""


@dataclass
class Inputs:
    """What was read, by the command that wrote it, each with the file's name.

    Attributes:
        runs: JSON of ``lrcsim run``.
        curves: JSON of ``lrcsim curve``, an entry for each trace.
        srps: JSON of ``lrcsim srp``.
        schs: JSON of ``lrcsim sch``.
        tables: of ``lrcsim sweep``.
    """

    runs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    curves: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    srps: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    schs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tables: list[tuple[str, pa.Table]] = field(default_factory=list)


def read_inputs(paths: Sequence[str | Path]) -> Inputs:
    """Read files; ``-`` is JSON on standard input.

    Raises:
        ConfigError: there is no such file, or it is none that these commands write.
    """
    inputs = Inputs()
    for given in paths:
        path = Path(given)
        if str(given) == "-":
            _add(inputs, "standard input", sys.stdin.buffer.read())
        elif Path(f"{given}.parts").is_dir():
            from lrcsim.sweeps import read_table

            inputs.tables.append((str(given), read_table(path)))
        else:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"{given} cannot be read ({error.strerror}): give what lrcsim run, curve, srp or sch wrote with "
                    "--json, or a table of lrcsim sweep"
                ) from None
            _add(inputs, str(given), content)
    return inputs


def _add(inputs: Inputs, name: str, content: bytes) -> None:
    if content.startswith(HDF5):
        raise ConfigError(f"{name} is a trace: run it first, lrcsim run {name} --json result.json, and give the result")
    if content.startswith(PARQUET):
        from lrcsim.sweeps import read_table

        inputs.tables.append((name, read_table(name)))
        return
    try:
        value = json.loads(content, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # half a pair of surrogates is no text
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is neither JSON nor a table of lrcsim sweep: {error}") from None
    several = value.get("traces") if isinstance(value, dict) else None
    for one in several if isinstance(several, list) else [value]:
        kind = next((kind for kind, keys in KINDS.items() if all(_has(one, key) for key in keys)), None)
        if kind is None:
            raise ConfigError(_unknown(name, one))
        getattr(inputs, f"{kind}s").append((name, one))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no JSON number that fits 64 bits")
    return number


def _has(value: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _unknown(name: str, value: Any) -> str:
    """Say what is missing of the kind that the value is nearest to."""
    nearest = max(KINDS, key=lambda kind: sum(_has(value, key) for key in KINDS[kind]) / len(KINDS[kind]))
    lacks = [key for key in KINDS[nearest] if not _has(value, key)]
    if len(lacks) == len(KINDS[nearest]):
        return f"{name} is no JSON of lrcsim run, curve, srp or sch: make one with --json {name}"
    return f"{name} is no JSON of lrcsim {nearest}: it has no {', '.join(lacks)}"
