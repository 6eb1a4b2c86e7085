"""Read what the commands wrote; each document says which command's it is."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.kinds import VERSION, kind_of
from lrcsim.base.reprs import short

if TYPE_CHECKING:
    import pyarrow as pa

NEEDED = {
    "run": ("run.options", "trace.model", "trace.tokens",
            "config.policy", "config.cache", "config.capacity", "config.capacity_unit", "config.scope",
            "config.access", "config.prefill", "config.warm", "cache.hit_rate",
            "cache.prefill.hit_rate", "cache.decode.hit_rate", "bounds", "baseline", "warnings"),
    "curve": ("trace", "capacities", "relative", "hit_rate", "knee"),
    "compare": ("config.trace", "config.model", "config.hardware", "by", "compared", "rows", "recommended", "why"),
    "sch": ("definition", "scope", "results"),
    "srp": ("level", "results"),
}  # fmt: skip
"""What a page needs of the JSON of a command; with dots inside one another."""

COMMANDS = "run, compare, curve, srp or sch"
"""Of `NEEDED`, in words."""

HDF5, PARQUET = b"\x89HDF\r\n\x1a\n", b"PAR1"
"""How files of these formats begin."""


@dataclass
class Inputs:
    """What was read, by the command that wrote it, each with the file's name.

    Attributes:
        runs: JSON of ``lrcsim run``.
        curves: JSON of ``lrcsim curve``, an entry for each trace.
        compares: JSON of ``lrcsim compare``.
        srps: JSON of ``lrcsim srp``.
        schs: JSON of ``lrcsim sch``.
        tables: of ``lrcsim sweep``.
    """

    runs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    curves: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    compares: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
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
                    f"{given} cannot be read ({error.strerror}): give what lrcsim {COMMANDS} wrote with "
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
    kind = _kind(name, value)
    several = value.get("traces") if kind == "curve" else None
    for one in several if isinstance(several, list) else [value]:
        lacks = [key for key in NEEDED[kind] if not _has(one, key)]
        if lacks:
            raise ConfigError(f"{name} is no JSON of lrcsim {kind}: it has no {', '.join(lacks)}")
        getattr(inputs, f"{kind}s").append((name, one))


def _kind(name: str, value: Any) -> str:
    """Return which of `NEEDED` a document says that it is.

    Raises:
        ConfigError: it does not say, is something else, or of another version.
    """
    kind, make = kind_of(value), "make one with --json FILE"
    if kind is None and isinstance(value, dict):
        raise ConfigError(
            f'{name} does not say what it is (it has no "kind"): written by an older lrcsim it is to be run again, '
            f"else it is no JSON of lrcsim {COMMANDS}: {make}"
        )
    if not isinstance(value, dict) or kind not in NEEDED:
        what = "" if kind is None else f" (it says that it is of {short(kind)})"
        raise ConfigError(f"{name} is no JSON of lrcsim {COMMANDS}{what}: {make}")
    if value.get("version") != VERSION:
        written = short(value.get("version"))
        raise ConfigError(f"{name} is of lrcsim {kind} in version {written}, this lrcsim reads {VERSION}: {make}")
    return kind


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
