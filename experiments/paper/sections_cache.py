"""SCH and hit rates: against cache size and segment length, by layer, policies beside each other with correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_cache, figures_models
from lrcsim.experiments.paper.intervals import correlation_row
from lrcsim.experiments.paper.measure import AT, SCH, MeasuredTrace, PaperOptions, lacks, teacher_forced
from lrcsim.experiments.paper.published import GRID, SEGMENTS, published
from lrcsim.experiments.paper.report import PaperSection

POLICIES = ("lru", "lfu", "belady")


def cache_sections(found: Sequence[MeasuredTrace], options: PaperOptions) -> list[PaperSection]:
    """Make the sections on caches."""
    return [_sch(found, options), _sch_layers(found), _policies(found), _correlations(found)]


def published_rate(one: MeasuredTrace, policy: str, size: float) -> float | None:
    """Return the published hit rate in one pool, of SCH (look-ahead) or a policy, or None where it is not at hand."""
    name, _, m = policy.partition(":")
    values, sizes = one.theirs, [1.0, 2.0]
    if policy == SCH and "sch16" in values:
        rates, sizes = values["sch16"], GRID.tolist()
    elif name == "sch-lookahead":
        rates = values.get("sch", {}).get(f"m{m}")
    elif policy == "lru" and "lru" in values:
        rates, sizes = values["lru"], [1.0, 2.0, 3.0]
    else:
        rates = values.get("policies", {}).get(policy)
    return float(rates[sizes.index(size)]) if rates and size in sizes else None


def _sch(found: Sequence[MeasuredTrace], options: PaperOptions) -> PaperSection:
    section = PaperSection("sch", lacks(found, "segments"), lambda path: figures_cache.sch_by_size(path, found))
    rows, every = [], []
    for one in found:
        for (policy, scope), curve in one.curves.items():
            name, _, m = policy.partition(":")
            if not name.startswith("sch"):
                continue
            start: dict[str, Any] = {"trace": one.label, "definition": name[4:], "m": int(m)}
            sizes = zip(GRID.tolist(), curve.rate(GRID).tolist(), strict=True)
            every += [start | {"scope": scope, "size": s, "SCH": r} for s, r in sizes]
            if scope == "model":
                row = dict(start)
                for size in (1.0, 2.0):
                    ends = curve.interval(size, options.draws, options.seed) if options.draws else None
                    row |= {f"{size:g}x": one.at(policy, scope, size), f"{size:g}x, 95 %": ends}
                    row[f"{size:g}x, paper"] = published_rate(one, policy, size)
                rows.append(row | {"2x, layer by layer": one.at(policy, "layer", 2.0)})
    section.table("sch_summary", rows)
    section.table("sch", every)
    models = published().real | {f"toy {key}": model for key, model in published().toy.items()}
    rows = [
        {"paper's model": key}
        | {f"{size:g}x": value for size, value in zip(GRID[3::2], model["sch16"][3::2], strict=False)}
        for key, model in models.items()
    ]
    section.table("sch_published", rows)
    return section


def _sch_layers(found: Sequence[MeasuredTrace]) -> PaperSection:
    section = PaperSection("sch_layer", draw=lambda path: figures_cache.sch_layers(path, found))
    every, rows = [], []
    for one in found:
        for m in one.srp:
            policy = f"sch-lookahead:{m}"
            for size in (1.0, 2.0):
                values = one.curves[policy, "layer"].layers_at(size)
                assert values is not None
                start = {"trace": one.label, "m": m, "size": size}
                every += [start | {"layer": layer, "SCH": value} for layer, value in enumerate(values.tolist())]
                if m == AT:
                    row = {"trace": one.label, "size": f"{size:g}x", "lowest": values.min(), "highest": values.max()}
                    pool, mean = (one.at(policy, scope, size) for scope in ("model", "layer"))
                    rows.append(row | {"all layers' caches": mean, "one pool": pool})
    section.table("sch_layer_range", rows)
    section.table("sch_layer", every)
    return section


def _policies(found: Sequence[MeasuredTrace]) -> PaperSection:
    section = PaperSection("policies", draw=lambda path: figures_cache.policies(path, found))
    rows, every = [], []
    for one in found:
        for policy, scope in [(p, s) for p in (*POLICIES, SCH) for s in ("model", "layer") if (p, s) in one.curves]:
            start: dict[str, Any] = {"trace": one.label, "policy": policy}
            sizes = zip(GRID.tolist(), one.curves[policy, scope].rate(GRID).tolist(), strict=True)
            every += [start | {"scope": scope, "size": s, "hit rate": r} for s, r in sizes]
            if scope == "model":
                for size in (1.0, 2.0, 3.0):
                    start |= {f"{size:g}x": one.at(policy, scope, size)}
                    start |= {f"{size:g}x, paper": published_rate(one, policy, size)}
                rows.append(start)
    section.table("policies_summary", rows)
    section.table("policies", every)
    rows = [
        {"paper's model": key}
        | {f"{policy} {i + 1}x": model["policies"][policy][i] for i in (0, 1) for policy in POLICIES}
        | {f"SCH {i + 1}x": model["sch16"][4 * i + 3] for i in (0, 1)}
        for key, model in published().real.items()
    ]
    section.table("policies_published", rows)
    return section


def _correlations(found: Sequence[MeasuredTrace]) -> PaperSection:
    section = PaperSection("correlations", draw=lambda path: figures_models.hit_rates(path, found))
    rows = []
    for one in found:
        if AT not in one.srp:
            continue
        groups = one.srp[AT].groups
        assert groups is not None
        for size in (1.0, 2.0):
            layers = {p: one.curves[p, "layer"].layers_at(size) for p in (*POLICIES, SCH)}
            rows += _pairs(f"layers of {one.label}", size, groups.value, layers)
    forced = teacher_forced(found)
    if len(forced) >= 4:
        for size in (1.0, 2.0):
            values = {p: [one.at(p, "model", size) for one in forced] for p in (*POLICIES, SCH)}
            rows += _pairs("variants", size, [one.srp[AT].value for one in forced], values)
    else:
        section.missing.append(f"correlation over variants: it takes 4 teacher-forced traces, there are {len(forced)}")
    section.table("correlations", rows)
    rows, real, toys = [], list(published().real.values()), list(published().toy.values())
    for i, size in enumerate((1.0, 2.0)):
        values = {p: [model["policies"][p][i] for model in real] for p in POLICIES}
        values[SCH] = [model["sch16"][4 * i + 3] for model in real]
        srp = [model["srp"][SEGMENTS.index(AT)] for model in real]
        rows += _pairs("the paper's 22 rows of real models", size, srp, values)
        values = {"lru": [toy["lru"][i] for toy in toys], SCH: [toy["sch16"][4 * i + 3] for toy in toys]}
        rows += _pairs("the paper's 10 toy models", size, [toy["srp16"] for toy in toys], values)
    section.table("correlations_published", rows)
    return section


def _pairs(over: str, size: float, srp: Any, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Correlate SRP with SCH, and SRP and SCH with each policy: numbers of each point, in their order."""
    x, known = np.array(srp, float), {name: np.array(of, float) for name, of in values.items() if of is not None}
    rows = [correlation_row(over, f"{size:g}x", "SRP", "SCH", x, known[SCH])]
    for policy in [name for name in POLICIES if name in known]:
        rows.append(correlation_row(over, f"{size:g}x", "SCH", policy, known[SCH], known[policy]))
        rows.append(correlation_row(over, f"{size:g}x", "SRP", policy, x, known[policy]))
    return rows
