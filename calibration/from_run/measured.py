"""Read what an engine measured of its own run: a CSV with a row per token (or per forward pass).

Engines name their columns as they like. A column's *role* is guessed from its name, its unit from the name's ending,
and both are said; ``wall=total_ms`` or ``wall=total:ms`` states what the guess gets wrong. Only ``wall`` must be there.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError, did_you_mean

FloatArray = npt.NDArray[np.float64]

TIMES = ("wall", "compute", "stall", "overhead")
"""Roles that are times and that a fit compares; ``wall`` is the whole step, the others parts of it."""

# Names that engines give, most specific first; a name fits when it is one of these or has it as one of its words.
ROLES: dict[str, tuple[str, ...]] = {
    "wall": (
        "wall",
        "total",
        "elapsed",
        "latency",
        "tpot",
        "itl",
        "token",
        "duration",
        "decode",
        "step",
        "time",
        "rate",
    ),
    "compute": ("compute", "comp", "kernel", "gpu", "exec", "forward"),
    "stall": ("stall", "stalled", "wait", "waiting", "blocked"),
    "overhead": ("overhead", "mgmt", "management", "bookkeeping", "host", "sync", "sched"),
    "io": ("io", "transfer", "copy", "h2d", "fetch", "load", "read"),
    "bytes": ("bytes", "read", "loaded", "transferred", "io"),
    "phase": ("phase", "stage"),
    "faults": ("majflt", "faults", "page_faults"),
}
"""What a column can be. ``io`` is shown and not fitted: some engines add it up over lanes, others do not. ``faults``
counts major page faults: pages read from storage because memory was too small to keep them."""

DURATIONS = {"wall", "elapsed", "latency", "tpot", "itl", "duration", "time"}
"""Words that make a column a time even where it names no unit."""

SECONDS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
BYTES = {"bytes": 1, "byte": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
RATES = {"tok/s": 1.0, "tps": 1.0}  # a rate of tokens: its inverse is the wall time
PHASES = {"0": 0, "prefill": 0, "prompt": 0, "pp": 0, "1": 1, "decode": 1, "generation": 1, "gen": 1, "tg": 1}


@dataclass(frozen=True)
class MeasuredColumn:
    """How a column was understood: its name in the file, its role, its unit, and whether that was guessed."""

    name: str
    role: str
    unit: str
    guessed: bool

    def __str__(self) -> str:
        """Say it."""
        unit = f" in {self.unit}" if self.unit else ""
        return f"{self.role} = {self.name}{unit}"


@dataclass
class MeasuredRun:
    """A measured run, decode steps only, in order.

    Attributes:
        name: of the file.
        columns: how each used column was understood, by role.
        values: float64 [steps] by role: times in seconds, bytes in bytes, faults as counted.
        unused: names of the columns that were not understood, or are not needed.
        notes: what the reader should know.
        prefill_rows: rows left out because they were prefill.
    """

    name: str
    columns: dict[str, MeasuredColumn]
    values: dict[str, FloatArray]
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prefill_rows: int = 0

    @property
    def steps(self) -> int:
        """Rows that are decode steps."""
        return len(self.values["wall"])

    def understood(self) -> str:
        """Say in one line how the file was read."""
        text = "; ".join(str(column) for column in self.columns.values())
        return text + (f"; not used: {', '.join(self.unused)}" if self.unused else "")


def parse_mapping(pairs: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Read ``role=column`` and ``role=column:unit``, as ``--column`` takes them.

    Raises:
        ConfigError: a pair is malformed, or its role or unit is unknown.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for pair in pairs:
        role, equals, rest = (part.strip() for part in pair.partition("="))
        if not equals or not rest:
            raise ConfigError(f"column {pair!r} is not understood: write ROLE=NAME or ROLE=NAME:UNIT, as wall=total_ms")
        if role not in ROLES:
            raise ConfigError(
                f"column {pair!r}: {role!r} is no role, use {', '.join(ROLES)}{did_you_mean(role, ROLES)}"
            )
        name, colon, unit = rest.rpartition(":")
        if not colon:
            name, unit = rest, ""
        if unit and unit.lower() not in _units(role):
            allowed = ", ".join(_units(role)) or "none"
            raise ConfigError(f"column {pair!r}: {unit!r} is no unit of {role}, use {allowed}")
        found[role] = name, unit.lower() or None
    return found


def read_measured(path: str | Path, mapping: Mapping[str, tuple[str, str | None]] | None = None) -> MeasuredRun:
    """Read a metrics file: comma, semicolon or tab, lines that start with # left out, the first other is the header.

    Args:
        path: the file.
        mapping: by role the column's name and its unit (None: from the name), instead of the guess.

    Raises:
        TraceError: it cannot be read, has no time per token, or a value is no number.
        ConfigError: the mapping names a column that is not there.
    """
    path = Path(path)
    header, rows = _table(path)
    columns, notes = _understand(path, header, dict(mapping or {}))
    places = {role: header.index(column.name) for role, column in columns.items()}
    keep, prefill = _decode_rows(path, columns, places, rows)
    values: dict[str, FloatArray] = {}
    for role, column in columns.items():
        if role == "phase":
            continue
        numbers = np.array([_number(path, line, row[places[role]], column.name) for line, row in keep])
        if column.unit in RATES:
            with np.errstate(divide="ignore"):  # no tokens per second: an infinite time, refused below
                values[role] = 1.0 / numbers
        else:
            values[role] = numbers * _units(role).get(column.unit, 1.0)
    wall = values["wall"]
    if not (np.isfinite(wall) & (wall > 0)).all():
        raise TraceError(f"{path}: column {columns['wall'].name!r} has values that are not above 0: it is no time")
    if len(wall) > 8 and (np.diff(wall) > 0).all():
        raise TraceError(
            f"{path}: column {columns['wall'].name!r} grows in every row, so it is a clock and no time per token: "
            "name another with --column wall=NAME"
        )
    used = {column.name for column in columns.values()}
    return MeasuredRun(path.name, columns, values, [name for name in header if name not in used], notes, prefill)


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is no text in UTF-8: give a CSV with a row per token") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    if len(lines) < 2:
        raise TraceError(f"{path}: has no rows: give a CSV with a header and a row per token")
    delimiter = max(",;\t", key=lines[0][1].count)
    parsed = csv.reader(io.StringIO("\n".join(line for _, line in lines)), delimiter=delimiter)
    rows = [(number, [cell.strip() for cell in row]) for (number, _), row in zip(lines, parsed, strict=False)]
    header = rows[0][1]
    for name in header:
        if header.count(name) > 1:
            raise TraceError(f"{path}: the column {name!r} stands twice in the header")
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise TraceError(f"{path}:{number}: has {len(row)} values, the header {len(header)}")
    return header, rows[1:]


def _understand(
    path: Path, header: list[str], mapping: dict[str, tuple[str, str | None]]
) -> tuple[dict[str, MeasuredColumn], list[str]]:
    columns: dict[str, MeasuredColumn] = {}
    notes: list[str] = []
    for role, (name, unit) in mapping.items():
        if name not in header:
            raise ConfigError(f"{path} has no column {name!r}{did_you_mean(name, header)}; it has {', '.join(header)}")
        columns[role] = MeasuredColumn(name, role, unit or _split(name, role)[1], guessed=False)
    taken = {column.name for column in columns.values()}
    for role in ROLES:
        if role in columns:
            continue
        best = _guess([name for name in header if name not in taken], role)
        if best is not None:
            columns[role] = MeasuredColumn(best, role, _split(best, role)[1], guessed=True)
            taken.add(best)
    if "wall" not in columns:
        raise TraceError(
            f"{path}: no column looks like the time of a token (wall_ms, total_s, latency_us ...), there are "
            f"{', '.join(header)}: name it with --column wall=NAME, or wall=NAME:ms"
        )
    for role in (*TIMES, "io"):
        if role in columns and not columns[role].unit:
            columns[role] = MeasuredColumn(columns[role].name, role, "ms", columns[role].guessed)
            notes.append(
                f"{columns[role].name} names no unit: taken as ms (else --column {role}={columns[role].name}:s)"
            )
    return {role: columns[role] for role in ROLES if role in columns}, notes


def _units(role: str) -> Mapping[str, float]:
    if role == "bytes":
        return BYTES
    if role in ("phase", "faults"):
        return {}
    return SECONDS | RATES if role == "wall" else SECONDS


def _split(name: str, role: str) -> tuple[list[str], str]:
    """Return the words of a column's name, and its unit where the last word is one of the role's, else ''."""
    text = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    if role == "wall" and re.search(r"tok(en)?s?(_per_|/| per )s|(^|[^a-z])tps$", text):
        return ["rate"], "tok/s"
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word]
    units = _units(role)
    if len(words) > 1 and words[-1] in units:
        return words if role == "bytes" else words[:-1], words[-1]
    return words, "bytes" if role == "bytes" and "bytes" in words else ""


def _guess(header: list[str], role: str) -> str | None:
    """Return the column whose name fits best: alone before one word of several, earlier aliases before later ones."""
    ranked: list[tuple[bool, int, int, str]] = []
    for place, name in enumerate(header):
        words, unit = _split(name, role)
        last = re.split(r"[^a-z0-9]+", name.lower())[-1]
        if role == "bytes" and not unit:
            continue
        plain = (len(words) == 1 and words[0] not in ("step", "token")) or not DURATIONS.isdisjoint(words)
        if role in TIMES and {"host", "wait"} <= {*words}:
            continue  # the host waits for the device: no wait for experts, nor work of the host
        if role in (*TIMES, "io") and not unit and (last in BYTES or not plain):
            continue  # cache_hit_pct, read_bytes, step, total_tokens: no times
        if role == "phase" and len(words) > 1:
            continue
        for order, alias in enumerate(ROLES[role]):
            if alias in words:
                ranked.append((len(words) > 1, order, place, name))
                break
    return min(ranked)[3] if ranked else None


def _decode_rows(
    path: Path, columns: dict[str, MeasuredColumn], places: dict[str, int], rows: list[tuple[int, list[str]]]
) -> tuple[list[tuple[int, list[str]]], int]:
    if "phase" not in columns:
        return rows, 0
    keep = []
    for line, row in rows:
        phase = PHASES.get(row[places["phase"]].lower())
        if phase is None:
            raise TraceError(
                f"{path}:{line}: {row[places['phase']]!r} in column {columns['phase'].name!r} is no phase: "
                "0 or prefill, 1 or decode"
            )
        if phase == 1:
            keep.append((line, row))
    if not keep:
        raise TraceError(f"{path}: no row is decode in column {columns['phase'].name!r}")
    return keep, len(rows) - len(keep)


def _number(path: Path, line: int, text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{path}:{line}: {text!r} in column {column!r} is no number") from None
    if not np.isfinite(value) or value < 0:
        raise TraceError(
            f"{path}:{line}: {text!r} in column {column!r} is no amount: it must be finite and not negative"
        )
    return value
