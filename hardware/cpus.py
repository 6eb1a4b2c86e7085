"""Processors by name: `data/components/cpu.toml` read, compute worked out by one rule."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from lrcsim.hardware.document import Entry, Flat

VECTORS = {"avx2": "AVX2 FMA", "avx512": "AVX-512 FMA", "neon": "NEON FMA", "": "SIMD"}
"""What computes, by instruction set."""


class Processor(NamedTuple):
    """A processor as a component.

    Attributes:
        entries: of the part ``cpu``.
        dram: the main memory of its platform, a component; "": it brings none.
        others: other names of it.
        family: of its data file, for lists.
    """

    entries: Flat
    dram: str
    others: tuple[str, ...]
    family: str


@cache
def processors() -> dict[str, Processor]:
    """Return all processors, by name."""
    text = resources.files("lrcsim.hardware").joinpath("data", "components", "cpu.toml").read_text("utf-8")
    found = {}
    for family, table in tomllib.loads(text).items():
        shared = {key: value for key, value in table.items() if key != "processors"}
        for name, own in table["processors"].items():
            said: dict[str, Any] = shared | own
            others = (f"{said['source'].split()[0]} {name}", *said.get("aka", ()))
            found[name] = Processor(cpu_entries(**_numbers(said)), said.get("dram", ""), others, family)
    return found


def _numbers(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in ("dram", "aka")}


def cpu_entries(
    cores: int,
    ghz: float,
    flop: int,
    isa: str,
    compute: str,
    bandwidth: str,
    overhead: str,
    source: str,
    kind: str = "",
) -> Flat:
    """Return the entries of a processor: cores x clock x FLOP per cycle, times the share that is reached, two digits.

    Args:
        cores: that compute experts.
        ghz: their clock, GHz.
        flop: FLOP of a core in a cycle, single precision.
        isa: vector instructions.
        compute: share of the peak that is reached, ``"50 %"``.
        bandwidth: share of ``dram.bandwidth`` that products draw, ``"88 %"``.
        overhead: per expert.
        source: where cores and clock are from.
        kind: class of the machine that main memory does not tell.
    """
    peak = cores * ghz * flop / 1e3
    share = float(compute.removesuffix("%"))
    vectors = VECTORS[isa]
    made = {
        "cpu.compute": Entry(
            f"{peak * share / 100:.2g} TFLOP/s",
            f"estimate: {cores} cores x {ghz:.1f} GHz x {flop} FLOP per cycle ({vectors}, float32), "
            f"{compute} of it reached",
        ),
        "cpu.bandwidth": Entry(
            bandwidth,
            f"estimate: {bandwidth} of dram.bandwidth, what matrix-vector products of quantised experts reach",
        ),
        "cpu.overhead": Entry(overhead, "estimate: waking and joining the threads, per expert"),
        "cpu.cores": Entry(cores, source),
        "cpu.isa": Entry(isa, ""),
    }
    return made | ({"cpu.kind": Entry(kind, "")} if kind else {})
