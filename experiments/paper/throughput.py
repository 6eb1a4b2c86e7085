"""Throughput under offloading: simulated on a machine at 1, 2, 3 times the active experts and with all resident."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from lrcsim.errors import ConfigError, LrcsimError
from lrcsim.experiments.paper import figures
from lrcsim.experiments.paper.inputs import requests_of
from lrcsim.experiments.paper.measure import Measured, Options
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.section import Section, Table
from lrcsim.experiments.paper.sections_srp import theirs
from lrcsim.models import Geometry, check_trace, load_geometry
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

__all__ = ["geometry_for", "throughput_section", "toy_geometry"]

SIZES = ("1x", "2x", "3x", "100%")
PAPER_LINK = "pcie.bandwidth=5.2GB/s"
"""What the paper's baseline implies: 0.91 to 0.98 ms per missed expert of 4.9 MB, from its overheads and LRU misses."""


def toy_geometry(key: str) -> Geometry:
    """Build the shape of one of the paper's toy models (the toy_model folder of its code)."""
    toy = published().toy[key]
    return Geometry(
        name=f"the paper's {key}",
        source="arXiv 2505.16056, toy models",
        layers=8,
        moe_layers=tuple(toy["moe_layers"]),
        experts=toy["experts"],
        top_k=toy["top_k"],
        shared_experts=toy.get("shared_width", 0) // toy["expert_width"],
        hidden=1280,
        expert_width=toy["expert_width"],
        shared_width=toy.get("shared_width", 0),
        dense_width=toy.get("dense_width", 0),
        matrices=3,
        heads=10,
        kv_heads=5,
        head_dim=128,
        vocab=50304,
        tied=False,
        qk_norm=True,
    )


def geometry_for(one: Measured, options: Options) -> Geometry:
    """Choose the model that a trace's routing is run on.

    The one asked for; else the toy model that the trace is a variant of, or the toy baseline, if the trace has its
    layers, experts and top-k; else the model that the trace names.

    Raises:
        ConfigError: none fits.
    """
    trace = one.source.trace
    if options.model is not None:
        geometry = load_geometry(options.model)
        check_trace(geometry, trace)
        return geometry
    group, _, key = (one.source.paper or "").partition(".")
    for toy in [key] if group == "toy" else ["baseline"] if not group else []:
        geometry = toy_geometry(toy)
        try:
            check_trace(geometry, trace)
        except ConfigError:
            continue
        return geometry
    geometry = load_geometry(trace.model)
    check_trace(geometry, trace)
    return geometry


def throughput_section(found: Sequence[Measured], options: Options) -> Section:
    """Make the section on throughput."""
    section = Section(
        "throughput",
        "Throughput under offloading",
        "D0 to D3: tokens per second of the toy models with a cache of 1, 2, 3 times the active experts, and all resident",
        [
            "Simulated, not measured: LRU, a cache for each layer, misses loaded on demand with overlap, one request at a "
            "time. Where a trace has the layers, experts and top-k of one of the paper's toy models, its routing is run on "
            "that shape (1.4 B parameters); the machine is not the paper's, which is not published. The second machine has "
            "the host link that the paper's baseline implies.",
            "The paper's absolute numbers are hard to reconcile with its models: all resident is 18.5 to 19.1 tokens/s for "
            "eight variants of different work (a host-bound executor), and `sparse2` has the overhead of `baseline` at half "
            "the accesses. So compare the overhead per token, 1 / rate - 1 / rate resident, and its change with size.",
        ],
    )
    if options.hardware is None:
        section.missing.append("left out (--hardware none)")
        return section
    rows: list[dict[str, Any]] = []
    for one in found:
        try:
            geometry = geometry_for(one, options)
            for overrides in (options.overrides, (*options.overrides, PAPER_LINK)):
                rows += _rows(one, geometry, options, overrides)
        except LrcsimError as error:
            section.missing.append(f"{one.label}: {error}")
    section.add(Table("throughput", "", rows, published().source("throughput"), digits=2))
    data = published()
    rows_published = [
        {"paper's model": key}
        | {f"{mode} {size}": rate for mode in ("prefill", "decode") for size, rate in zip(SIZES, toy[mode], strict=True)}
        for key, toy in data.toy.items()
    ]
    section.add(
        Table("throughput_published", "The paper's tokens/s.", rows_published, data.source("throughput"), digits=1)
    )
    if rows:
        section.draw = lambda path: figures.throughput(path, rows)
    return section


def _rows(one: Measured, geometry: Geometry, options: Options, overrides: tuple[str, ...]) -> list[dict[str, Any]]:
    trace = _part(one.source.trace, options.tokens)
    rates = {}
    for size in SIZES:
        machine: dict[str, Any] = {"model": geometry, "dtype": options.dtype, "overrides": overrides}
        result = simulate(trace, cache=size, hardware=options.hardware, bounds=False, **machine)
        time = result.to_dict()["time"]
        rates[size] = (result.hit_rate, time["decode_tokens_per_s"])
    resident = rates[SIZES[-1]][1]
    paper = theirs(one).get("decode")
    rows = []
    for i, size in enumerate(SIZES):
        hit, rate = rates[size]
        row = {
            "trace": one.label,
            "model": geometry.name,
            "machine": ", ".join([str(options.hardware), *overrides]),
            "cache": "all" if i == 3 else size,
            "hit rate": hit,
            "decode tokens/s": rate,
            "overhead [ms/token]": 1e3 * (1 / rate - 1 / resident),
            "paper tokens/s": paper[i] if paper else None,
            "paper overhead [ms/token]": 1e3 * (1 / paper[i] - 1 / paper[3]) if paper else None,
        }
        rows.append(row)
    return rows


def _part(trace: RoutingTrace, tokens: int) -> RoutingTrace:
    """Return the first requests, until they have so many tokens."""
    count = int((trace.offsets[1:] < tokens).sum()) + 1
    if count >= trace.num_requests:
        return copy(trace)
    columns = ["experts", *(["phase"] if "phase" in trace.columns else [])]
    return requests_of(trace, range(count), columns)
