"""The columns of a table of results: the configuration of a run, and what was measured.

A value that the spec gives stands there as it was given, machines and models by their one name; what it leaves open is
filled with what the run settled on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from lrcsim.base.documents import parse_json
from lrcsim.base.errors import ConfigError
from lrcsim.base.kinds import named
from lrcsim.hardware.document import LINKS
from lrcsim.simulator import Result, resolve_capacity
from lrcsim.simulator.cache.capacity import bytes_of
from lrcsim.simulator.setup.options import Kind
from lrcsim.simulator.setup.outcomes import LOSSY, NOT_LOADED, OTHER_MODEL
from lrcsim.simulator.setup.run import Run
from lrcsim.sweeps.options import as_text, options
from lrcsim.sweeps.spec import Values
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

Row = dict[str, Any]
Better = Literal["more", "less", ""]

KIND = "sweep"
"""Of a table, in the metadata of its schema."""

TYPES: dict[Kind, pa.DataType] = {"text": pa.string(), "flag": pa.bool_(), "count": pa.int64(), "number": pa.float64()}


class ResultColumn(NamedTuple):
    """A measured column.

    Attributes:
        name: in the table.
        kind: its type.
        better: whether more or less of it is better; empty where neither is.
        path: where it stands in ``result.timed.to_dict()``, with dots; empty for those that are worked out here.
    """

    name: str
    kind: Kind
    better: Better = ""
    path: str = ""


def _of_time(better: Better, path: str, *names: str) -> list[ResultColumn]:
    return [ResultColumn(name, "number", better, f"{path}.{name}") for name in names]


def _link(name: str) -> list[ResultColumn]:
    parts: list[tuple[str, Kind, Better]] = [
        ("bytes", "count", "less"),
        ("busy_s", "number", "less"),
        ("utilization", "number", ""),
        ("bandwidth", "number", ""),
    ]
    return [ResultColumn(f"{name}_{part}", kind, better, f"links.{name}.{part}") for part, kind, better in parts]


MEASURED = [
    ResultColumn("hit_rate", "number", "more"),
    ResultColumn("prefill_hit_rate", "number", "more"),
    ResultColumn("decode_hit_rate", "number", "more"),
    ResultColumn("hits", "count", "more"),
    ResultColumn("misses", "count", "less"),
    ResultColumn("accesses", "count"),
    ResultColumn("bytes_loaded", "count", "less"),
    ResultColumn("decode_bytes_per_token", "number", "less"),
    ResultColumn("loads_per_access", "number", "less"),
    ResultColumn("route_agreement", "number", "more"),
    ResultColumn("route_mass_kept", "number", "more"),
    ResultColumn("route_kl_nats", "number", "less"),
    ResultColumn("lru_hit_rate", "number"),
    ResultColumn("belady_hit_rate", "number"),
    ResultColumn("belady_bypass_hit_rate", "number"),
    ResultColumn("upper_hit_rate", "number"),
    ResultColumn("gap_closed", "number", "more"),
    ResultColumn("cache_slots", "count", "less"),
    ResultColumn("cache_bytes", "count", "less"),
    ResultColumn("gpu_bytes", "count", "less"),
    *_of_time("more", "time", "decode_tokens_per_s"),
    *_of_time("less", "time", "decode_ms_per_token", "total_s", "prefill_s", "decode_s"),
    *_of_time("less", "time", "compute_s", "stall_s", "overhead_s", "idle_s", "cpu_s"),
    *(
        ResultColumn(f"{wait}_{part}", "number", "less", f"time.{wait}.{part}")
        for wait in ("ttft_ms", "tpot_ms")
        for part in ("p50", "p90", "p99")
    ),
    ResultColumn("optimum_decode_tokens_per_s", "number", "more", "time.bounds.optimum.decode_tokens_per_s"),
    ResultColumn("compute_only_decode_tokens_per_s", "number", "more", "time.bounds.compute_only.decode_tokens_per_s"),
    ResultColumn("binds", "text", "", "time.binds.resource"),
    *(column for link in reversed(LINKS) for column in _link(link)),
    *(
        ResultColumn(
            f"prefetch_{part}_bytes", "count", "more" if part == "useful" else "less", f"prefetch.{part}_bytes"
        )
        for part in ("issued", "useful", "late", "wasted")
    ),
    *(
        ResultColumn(f"{kind}_{part}_bytes", "count", "more" if part == "useful" else "less", f"{kind}.{part}_bytes")
        for kind in ("admitted", "repinned")
        for part in ("issued", "useful", "wasted")
    ),
    *(ResultColumn(f"{kind}_late_uses", "count", "less", f"{kind}.late_uses") for kind in ("admitted", "repinned")),
    *(ResultColumn(f"missed_{one.label}", "count", "", f"missed.{one.label}") for one in NOT_LOADED),
    *(ResultColumn(f"{one.label}_weight", "number", "less", f"missed.{one.label}_weight") for one in LOSSY),
    *(
        ResultColumn(f"{phase}_{one.label}_weight", "number", "less", f"missed.{phase}.{one.label}_weight")
        for phase in ("prefill", "decode")
        for one in OTHER_MODEL
    ),
]
"""What is measured, in the order of the columns. Seconds, bytes, rates from 0 to 1; null where it is not known."""


def schema(hardware_keys: Iterable[str]) -> pa.Schema:
    """Return the columns of a table.

    Args:
        hardware_keys: the single values of hardware profiles that the sweep sets, each a column of text.
    """
    fields = [("run", pa.string()), ("trace", pa.string()), ("trace_sha256", pa.string()), ("lrcsim", pa.string())]
    fields += [(option.name, TYPES[option.kind]) for option in options().values() if option.name != "trace"]
    fields += [(name, pa.string()) for name in hardware_keys]
    fields += [("files", pa.string()), ("options", pa.string())]
    fields += [(column.name, TYPES[column.kind]) for column in MEASURED]
    return pa.schema([*fields, ("error", pa.string())], {name: str(value) for name, value in named(KIND, {}).items()})


def better(column: str) -> Better:
    """Return whether more or less of a column is better, empty when that is not known."""
    return next((known.better for known in MEASURED if known.name == column), "")


def failed_row(identity: Row, values: Values, error: str) -> Row:
    """Return the row of a run that failed: its values as they were asked for, defaults filled in, and why."""
    return identity | _asked(values) | {"error": error}


def row_of(identity: Row, values: Values, trace: RoutingTrace, result: Result) -> Row:
    """Return the row of a run.

    Args:
        identity: the columns that say which run it is.
        values: what the run was told.
        trace: the trace it was told to run; a server's order of it, with sizes of a dtype, is in the result.
        result: what came of it.
    """
    asked = _asked(values)
    settled = {"model": trace.model} | result.config
    row = identity | {n: _typed(n, settled.get(n)) if value is None else value for n, value in asked.items()}
    counts = result.counts
    accesses, misses = int(counts.accesses.sum()), int(counts.misses.sum())
    bounds = {name: bound.hit_rate for name, bound in result.bounds.items()}
    pools = resolve_capacity(str(row["cache"]), result.trace.layers, result.config["scope"])
    in_slots = result.config["capacity_unit"] == "experts"
    row |= {
        "options": json.dumps(result.run.to_dict()["options"]),
        "hit_rate": result.hit_rate,
        "prefill_hit_rate": result.phase_rate(PREFILL),
        "decode_hit_rate": result.phase_rate(DECODE),
        "hits": accesses - misses,
        "misses": misses,
        "accesses": accesses,
        "bytes_loaded": result.bytes_loaded(),
        "decode_bytes_per_token": result.bytes_per_token(DECODE),
        "loads_per_access": result.loads_per_access,
        **_of_rule(result),
        "lru_hit_rate": None if result.lru is None else result.lru.hit_rate,
        "belady_hit_rate": bounds.get("belady"),
        "belady_bypass_hit_rate": bounds.get("belady-bypass"),
        "upper_hit_rate": bounds.get("upper"),
        "gap_closed": result.gap_closed,
        "cache_slots": sum(pool.capacity for pool in pools) if in_slots else None,
        "cache_bytes": bytes_of(pools, result.trace.layers),
    }
    if result.timed is not None:
        from lrcsim.simulator.setup.platform import memory_needed

        row["gpu_bytes"] = sum(memory_needed(result.timed.platform, trace, pools, int(row["batch"])))
        measured = result.timed.to_dict()
        row |= {column.name: _at(measured, column.path) for column in MEASURED if column.path}
    return row


def _of_rule(result: Result) -> Row:
    """Return what a routing rule's choice is against the router's own, nothing without a rule."""
    found = {} if result.routing is None else result.routing.found.to_dict()
    return {f"route_{name}": found.get(name) for name in ("agreement", "mass_kept", "kl_nats")}


def run_of(row: Mapping[str, Any], trace: RoutingTrace, **instead: Any) -> Run:
    """Settle the run of a row again, on its trace.

    Args:
        row: of a table of results.
        trace: the trace; that it is the same is for the caller to check (``trace_sha256``).
        instead: options in place of those that the row has.

    Raises:
        ConfigError: the row does not say what its run was told.
        PolicyError: as `Run.of`.
    """
    text = row.get("options")
    if not isinstance(text, str):
        raise ConfigError("the row has no options: its run failed, or an older lrcsim wrote it; run the sweep again")
    options = parse_json(text, "options of the row", ConfigError)
    return Run.from_dict(named("run", {"options": options}), trace, **instead)


def _asked(values: Values) -> Row:
    """Return a run's values with defaults filled in; without hardware those about time are null."""
    known = [option for option in options().values() if not option.timed or "hardware" in values]
    filled = dict.fromkeys(options()) | {option.name: option.default for option in known} | values
    return {name: _typed(name, value) for name, value in filled.items()}


def _typed(name: str, value: Any) -> Any:
    option = options().get(name)
    text = option is None or option.kind == "text"
    return as_text(value) if text and value is not None else value


def _at(measured: Mapping[str, Any], path: str) -> Any:
    value: Any = measured
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def identity(key: str, trace_sha256: str, lrcsim: str, files: Mapping[str, str]) -> Row:
    """Return the columns that say which run a row is of."""
    return {
        "run": key,
        "trace_sha256": trace_sha256,
        "lrcsim": lrcsim,
        "files": json.dumps(dict(files), sort_keys=True) if files else None,
    }
