"""Throughput under offloading: simulated on a machine at 1, 2, 3 times the active experts and with all resident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.experiments.paper import figures_models
from lrcsim.experiments.paper.inputs import requests_of
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.report import PaperSection
from lrcsim.models import Geometry, check_trace, geometry_of, load_geometry
from lrcsim.simulator import simulate
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

SIZES = ("1x", "2x", "3x")
NAMES = (*SIZES, "all")
MODES = {"prefill": PREFILL, "decode": DECODE}

PAPER_LINK = "pcie.bandwidth=5.2GB/s"
"""What the paper's baseline implies: 0.91 to 0.98 ms per missed expert of 4.9 MB, from its overheads and LRU misses."""

TOY_SOURCE = "arXiv 2505.16056, toy models"
PROMPT = 480 / 512
"""Share of a request that is the prompt in the paper's runs: 480 tokens, then 32 steps of decoding."""


def toy_geometry(key: str) -> Geometry:
    """Build the shape of one of the paper's toy models (the toy_model folder of its code)."""
    toy = published().toy[key]
    shared = toy.get("shared_width", 0)
    return Geometry(
        name=f"the paper's {key}",
        source=TOY_SOURCE,
        layers=8,
        moe_layers=tuple(toy["moe_layers"]),
        experts=toy["experts"],
        top_k=toy["top_k"],
        shared_experts=shared // toy["expert_width"],
        hidden=1280,
        expert_width=toy["expert_width"],
        shared_width=shared,
        dense_width=toy.get("dense_width", 0),
        matrices=3,
        heads=10,
        kv_heads=5,
        head_dim=128,
        vocab=50304,
        tied=False,
        qk_norm=True,
    )


def geometry_for(one: MeasuredTrace, options: PaperOptions) -> Geometry:
    """Choose the model that a trace's routing is run on.

    The one asked for; else the toy model that the trace is a variant of, or (for a trace of no published model) the toy
    baseline, if the trace has its layers, experts and top-k; else the model that the trace names.

    Raises:
        ConfigError: none fits.
    """
    trace, paper = one.source.trace, one.source.paper
    group, _, key = (paper or "toy.baseline").partition(".")
    if options.model is not None:
        geometry = load_geometry(options.model)
    elif group != "toy":
        geometry = geometry_of(trace)
    else:
        geometry = toy_geometry(key)
        try:
            check_trace(geometry, trace)
        except ConfigError as error:
            if paper is not None:
                raise
            why = str(error)
            try:
                geometry = geometry_of(trace)
            except ConfigError:
                why = f"no shape to run it on: give one with --model (not the toy baseline's: {why})"
                raise ConfigError(why) from None
    check_trace(geometry, trace)
    return geometry


def throughput_section(found: Sequence[MeasuredTrace], options: PaperOptions) -> PaperSection:
    """Make the section on throughput."""
    section = PaperSection("throughput")
    if options.hardware is None:
        section.missing.append("left out (--hardware none)")
        return section
    rows: list[dict[str, Any]] = []
    for one in found:
        try:
            geometry = geometry_for(one, options)
            rows += _rows(one, geometry, options, options.overrides)
            if geometry.source == TOY_SOURCE:
                rows += _rows(one, geometry, options, (*options.overrides, PAPER_LINK))
        except LrcsimError as error:
            section.missing.append(f"{one.label}: {error}")
    overhead, speed = _wide(rows)
    section.table("throughput_overhead", overhead)
    section.table("throughput_speed", speed)
    section.table("throughput", rows)
    theirs = [
        {"paper's model": key}
        | {f"{mode} {size}": rate for mode in MODES for size, rate in zip(NAMES, toy[mode], strict=True)}
        for key, toy in published().toy.items()
    ]
    section.table("throughput_published", theirs)
    if rows:
        section.draw = lambda path: figures_models.throughput(path, rows, found)
    return section


def _rows(
    one: MeasuredTrace, geometry: Geometry, options: PaperOptions, overrides: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Simulate one trace at every size; a row each."""
    trace = prompted(one.source.trace, options.tokens)
    machine: dict[str, Any] = {"model": geometry, "dtype": options.dtype, "overrides": overrides}
    tokens = np.array([_tokens(trace, PREFILL), _tokens(trace, DECODE)])
    hits: list[float | None] = []
    rates = []
    for size in SIZES:
        result = simulate(trace, cache=size, hardware=options.hardware, bounds=False, **machine)
        assert result.timed is not None
        assert result.timed.limits is not None
        hits.append(result.phase_rate(DECODE))
        with np.errstate(invalid="ignore"):  # NaN in prefill where there are no prompts
            rates.append(tokens / result.timed.limits.measured)
            resident = tokens / result.timed.limits.compute_only  # the same at every size: all experts resident
    rates.append(resident)
    hits.append(1.0)
    theirs = {mode: one.theirs.get(mode) for mode in MODES}
    paper = theirs["decode"]
    name = ", ".join([str(options.hardware), *overrides])
    rows = []
    for i, size in enumerate(NAMES):
        row: dict[str, Any] = {"trace": one.label, "shape": geometry.name, "machine": name, "cache": size}
        row["decode hit rate"] = hits[i]
        row |= {f"{mode} tokens/s": float(rates[i][phase]) for mode, phase in MODES.items()}
        row["overhead [ms/token]"] = 1e3 * float(1 / rates[i][DECODE] - 1 / rates[-1][DECODE])
        row |= {f"paper: {mode} tokens/s": values and values[i] for mode, values in theirs.items()}
        rows.append(row | {"paper: overhead [ms/token]": paper and 1e3 * (1 / paper[i] - 1 / paper[-1])})
    return rows


def _wide(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make a row for each trace and machine: the overhead while decoding, and tokens/s in both phases."""
    overhead: dict[tuple[str, str], dict[str, Any]] = {}
    speed: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key, size = (row["trace"], row["machine"]), row["cache"]
        start = {name: row[name] for name in ("trace", "shape", "machine")}
        cells = speed.setdefault(key, dict(start))
        cells |= {f"decode {size}": row["decode tokens/s"], f"prefill {size}": row["prefill tokens/s"]}
        cells = overhead.setdefault(key, dict(start))
        if size != "all":
            cells |= {f"decode hit rate {size}": row["decode hit rate"], f"overhead {size}": row["overhead [ms/token]"]}
            cells[f"paper: overhead {size}"] = row["paper: overhead [ms/token]"]
    return list(overhead.values()), list(speed.values())


def prompted(trace: RoutingTrace, tokens: int) -> RoutingTrace:
    """Return the first requests, up to so many tokens, with phases: the trace's own, or as in the paper's runs.

    Raises:
        ConfigError: no request has a token to decode.
    """
    count = min(int((trace.offsets[1:] < tokens).sum()) + 1, trace.num_requests)
    part = requests_of(trace, range(count), ["experts", *(["phase"] if "phase" in trace.columns else [])])
    if "phase" not in part.columns or not _tokens(part, DECODE):
        lengths = np.diff(part.offsets)
        place = np.arange(part.num_tokens) - np.repeat(part.offsets[:-1], lengths)
        part.columns["phase"] = (place >= np.floor(PROMPT * np.repeat(lengths, lengths))).astype(np.uint8)
    if not _tokens(part, DECODE):
        raise ConfigError("its requests have nothing after the prompt: throughput takes tokens that are decoded")
    return part


def _tokens(trace: RoutingTrace, phase: int) -> int:
    return int((trace.read("phase", 0, trace.num_tokens) == phase).sum())
