"""The parts of a page that one run's JSON has: hit rates, time, configuration."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import capacity_text, human_bytes, percent
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import COLOURS
from lrcsim.reports.marks import Axis, Bars, FigureView
from lrcsim.reports.verdict import cache_text

GIVEN = ("policy", "profile", "model", "overrides")
"""Options of the command line of which the configuration has only what they came to."""


def hits_section(run: dict[str, Any], name: str) -> Section:
    """Return hit rates beside their bounds, and by layer."""
    config, cache = run["config"], run["cache"]
    mine = (cache["hit_rate"], cache["prefill"]["hit_rate"], cache["decode"]["hit_rate"])
    rows, lru = [(str(config["policy"]), *map(percent, mine))], run["baseline"]["lru"]
    bounds = ([("lru", lru)] if lru is not None else []) + list(run["bounds"].items())
    for key, bound in bounds:
        if key.replace("_", "-") == config["policy"]:
            continue
        rates = (bound["hit_rate"], bound["prefill_hit_rate"], bound["decode_hit_rate"])
        rows.append((f"{key.replace('_', '-')} ({bound['note']})", *map(percent, rates)))
    counts = [
        f"{cache['accesses']:,} accesses, {cache['misses']:,} misses ({cache['cold_misses']:,} of experts never used "
        f"before), {cache['evictions']:,} evictions."
    ]
    if cache["bytes_loaded"] is not None:
        counts.append(f"{human_bytes(cache['bytes_loaded'])} loaded.")
    blocks: list[Figure | TableBlock] = [TableBlock("hit rate", ("", "overall", "prefill", "decode"), rows, marked=0)]
    layers = cache.get("per_layer_hit_rate") or []
    if len(layers) > 1:
        blocks.append(_by_layer(layers, f"{name}-layers"))
    return Section(f"{name}-hits", "Hit rate", [" ".join(counts)], blocks)


def _by_layer(rates: list[float | None], name: str) -> Figure:
    known = [rate for rate in rates if rate is not None]
    text = f"From {percent(min(known))} to {percent(max(known))}." if known else "No layer was accessed."
    if known and min(known) < max(known):
        low, high = rates.index(min(known)), rates.index(max(known))
        text = f"From {percent(min(known))} in layer {low} to {percent(max(known))} in layer {high}."
    layers = [str(layer) for layer in range(len(rates))]
    view = FigureView(
        "",
        x=Axis("MoE layer", names=layers),
        y=Axis("hit rate", "percent", low=0),
        marks=[Bars("", layers, rates, COLOURS[0])],
        height=240,
        legend=False,
    )
    rows = [(layer, percent(rate)) for layer, rate in zip(layers, rates, strict=True)]
    table = TableBlock("hit rate", ("layer", "hit rate"), rows)
    return Figure(name, "Hit rate by layer", text, [view], table)


def config_section(run: dict[str, Any], name: str, source: str) -> Section:
    """Return what was run, under which rules, on what, and from where it is known."""
    trace, config, known = run["trace"], run["config"], run.get("provenance", {})
    options = known.get("options", {})
    facts = [
        ("model", str(trace["model"])),
        ("trace", str(trace.get("path") or "in memory")),
        ("SHA-256 of the trace", str(known.get("trace_sha256") or "not in the result")),
        ("tokens, requests", f"{trace['tokens']:,} in {trace['requests']:,} requests"),
        ("MoE layers, experts, top-k", f"{trace['num_layers']:,} x {trace['num_experts']:,}, top-{trace['top_k']:,}"),
        ("result", source),
        ("lrcsim", str(known.get("lrcsim") or "version not in the result")),
        *((f"given: {key}", _setting(options[key])) for key in GIVEN if key in options),
    ]
    rules = [("cache", f"{cache_text(config['cache'])} = {capacity_text(config)}")]
    skipped = ("cache", "capacity", "capacity_unit", "expert_bytes")
    rules += [(key, _setting(value)) for key, value in config.items() if key not in skipped and value is not None]
    given = config.get("expert_bytes") or trace.get("expert_bytes") or []
    sizes = sorted({size for row in given for size in (row if isinstance(row, list) else [row]) if size})
    if sizes:
        rules.append(("bytes of an expert", "–".join(human_bytes(size) for size in sorted({sizes[0], sizes[-1]}))))
    blocks = [
        TableBlock("configuration", ("option", "value"), rules, words=True),
        TableBlock("provenance", ("what", "value"), facts, words=True),
    ]
    return Section(f"{name}-config", "Configuration and provenance", [], blocks)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
