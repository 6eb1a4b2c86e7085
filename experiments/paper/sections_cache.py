"""SCH and hit rates: against cache size and segment length, by layer, policies beside each other with correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_cache
from lrcsim.experiments.paper.correlation import correlation_row
from lrcsim.experiments.paper.measure import AT, Measured, Options
from lrcsim.experiments.paper.published import GRID, SEGMENTS, published
from lrcsim.experiments.paper.section import Section, Table
from lrcsim.experiments.paper.sections_srp import lacks, theirs

__all__ = ["POLICIES", "cache_sections", "published_rate"]

POLICIES = ("lru", "lfu", "belady")
SCH = f"sch-lookahead:{AT}"


def cache_sections(found: Sequence[Measured], options: Options) -> list[Section]:
    """Make the sections on caches."""
    return [_sch(found, options), _sch_layers(found), _policies(found), _correlations(found)]


def published_rate(one: Measured, policy: str, size: float) -> float | None:
    """Return the published hit rate in one pool, of SCH (look-ahead) or a policy, or None where it is not at hand."""
    values = theirs(one)
    name, _, m = policy.partition(":")
    if policy == SCH and "sch16" in values:
        places = np.flatnonzero(np.isclose(GRID, size))
        return float(values["sch16"][places[0]]) if len(places) else None
    if name == "sch-lookahead" and size in (1, 2):
        found = values.get("sch", {}).get(f"m{m}")
        return float(found[int(size) - 1]) if found else None
    if policy in values.get("policies", {}) and size in (1, 2):
        return float(values["policies"][policy][int(size) - 1])
    if policy == "lru" and "lru" in values and size in (1, 2, 3):
        return float(values["lru"][int(size) - 1])
    return None


def _sch(found: Sequence[Measured], options: Options) -> Section:
    section = Section(
        "sch",
        "SCH against cache size and segment length",
        "msch.pdf and toy_msch.pdf (later definition, look-ahead); msch.pdf of the first commit (static)",
        [
            "Two metrics have this name. **Look-ahead** is the hit rate of a cache that evicts what the next m "
            "tokens use least, under the paper's rule; it is no upper bound. **Static** is the share that the best "
            "fixed set of each segment serves. Only published values of the first are shown beside it. One pool of "
            "all layers; sizes are times the active experts, between whole experts on a straight line."
        ],
        missing=lacks(found, "segments"),
        draw=lambda path: figures_cache.sch_by_size(path, found),
    )
    rows, every = [], []
    for one in found:
        for (policy, scope), curve in one.curves.items():
            name, _, m = policy.partition(":")
            if not name.startswith("sch"):
                continue
            rates = curve.rate(GRID)
            every += [
                {"trace": one.label, "definition": name[4:], "m": int(m), "scope": scope, "size": s, "SCH": r}
                for s, r in zip(GRID.tolist(), rates.tolist(), strict=True)
            ]
            if scope == "model":
                row = {"trace": one.label, "definition": name[4:], "m": int(m)}
                for size in (1.0, 2.0):
                    row[f"{size:g}x"] = one.at(policy, scope, size)
                    row[f"{size:g}x, 95 %"] = (
                        curve.interval(size, options.draws, options.seed) if options.draws else None
                    )
                    row[f"{size:g}x, paper"] = published_rate(one, policy, size) if name == "sch-lookahead" else None
                rows.append(row | {"2x, layer by layer": one.at(policy, "layer", 2.0)})
    section.add(Table("sch_summary", "", rows, published().source("sch16", "sch")))
    section.add(Table("sch", "All sizes.", every, shown=False))
    data = published()
    rows = [
        {"paper's model": key}
        | {f"{size:g}x": value for size, value in zip(GRID[3::2], model["sch16"][3::2], strict=False)}
        for key, model in [*data.real.items(), *((f"toy {key}", model) for key, model in data.toy.items())]
    ]
    section.add(Table("sch_published", f"The paper's SCH (look-ahead, m = {AT}).", rows, data.source("sch16")))
    return section


def _sch_layers(found: Sequence[Measured]) -> Section:
    section = Section(
        "sch_layer",
        "SCH by layer",
        "lsch.pdf: every layer with a cache of its own",
        draw=lambda path: figures_cache.sch_layers(path, found),
    )
    every, rows = [], []
    for one in found:
        for m in one.srp:
            curve = one.curves[f"sch-lookahead:{m}", "layer"]
            for size in (1.0, 2.0):
                values = curve.layers_at(size)
                assert values is not None
                every += [
                    {"trace": one.label, "m": m, "size": size, "layer": layer, "SCH": value}
                    for layer, value in enumerate(values.tolist())
                ]
                if m == AT:
                    row = {"trace": one.label, "size": f"{size:g}x", "lowest": values.min(), "highest": values.max()}
                    pool = one.at(f"sch-lookahead:{m}", "model", size)
                    mean = one.at(f"sch-lookahead:{m}", "layer", size)
                    rows.append(row | {"all layers' caches": mean, "one pool": pool})
    section.add(Table("sch_layer_range", f"m = {AT}, look-ahead.", rows))
    section.add(Table("sch_layer", "SCH of every layer.", every, shown=False))
    section.missing.append("published values by layer of the toy models: the paper does not show them")
    return section


def _policies(found: Sequence[Measured]) -> Section:
    section = Section(
        "policies",
        "LRU, LFU and Belady against SCH",
        "mchr.pdf",
        [
            "Under the paper's rule of counting. Its Belady is not optimal in batches (it may evict what the same "
            "token still needs); lrcsim's `belady` under this rule is the same algorithm. For a proven optimum see "
            "`lrcsim curve --policy belady`. LRU in one pool smaller than a token's experts depends wholly on the "
            "rule."
        ],
        draw=lambda path: figures_cache.policies(path, found),
    )
    rows, every = [], []
    for one in found:
        for policy in (*POLICIES, SCH):
            for scope in ("model", "layer"):
                curve = one.curves.get((policy, scope))
                if curve is None:
                    continue
                every += [
                    {"trace": one.label, "policy": policy, "scope": scope, "size": s, "hit rate": r}
                    for s, r in zip(GRID.tolist(), curve.rate(GRID).tolist(), strict=True)
                ]
                if scope == "model":
                    row: dict[str, Any] = {"trace": one.label, "policy": policy}
                    for size in (1.0, 2.0, 3.0):
                        row |= {f"{size:g}x": one.at(policy, scope, size)}
                        row |= {f"{size:g}x, paper": published_rate(one, policy, size)}
                    rows.append(row)
    section.add(Table("policies_summary", "One pool.", rows, published().source("policies", "lru")))
    section.add(Table("policies", "All sizes.", every, shown=False))
    data = published()
    rows = [
        {"paper's model": key}
        | {f"{policy} {i + 1}x": model["policies"][policy][i] for i in (0, 1) for policy in POLICIES}
        | {f"SCH {i + 1}x": model["sch16"][4 * i + 3] for i in (0, 1)}
        for key, model in data.real.items()
    ]
    section.add(Table("policies_published", "The paper's real models.", rows, data.source("policies", "sch16")))
    section.missing.append("published LFU and Belady of the toy models: the paper does not show them")
    return section


def _correlations(found: Sequence[Measured]) -> Section:
    section = Section(
        "correlations",
        "Does one measure stand for another?",
        "the claim that SRP and SCH tell how well a real cache does; correlations over the published models beside it",
        [
            "Pearson's correlation, with Fisher's 95 % interval, which takes the points as independent. Over "
            "layers: every layer with a cache of its own. Over variants: teacher-forced traces, one pool, each "
            "variant a point."
        ],
        draw=lambda path: figures_cache.scatter(path, found),
    )
    rows = []
    for one in found:
        if AT not in one.srp:
            continue
        groups = one.srp[AT].groups
        assert groups is not None
        for size in (1.0, 2.0):
            layers = {p: one.curves[p, "layer"].layers_at(size) for p in (*POLICIES, SCH)}
            values = {p: v for p, v in layers.items() if v is not None}
            rows += _pairs(f"layers of {one.label}", size, groups.value, values)
    forced = [one for one in found if one.source.kind == "teacher-forced" and AT in one.srp]
    if len(forced) >= 4:
        for size in (1.0, 2.0):
            values = {p: np.array([one.at(p, "model", size) for one in forced], float) for p in (*POLICIES, SCH)}
            rows += _pairs("variants", size, np.array([one.srp[AT].value for one in forced]), values)
    else:
        section.missing.append(f"correlation over variants: it takes 4 teacher-forced traces, there are {len(forced)}")
    section.add(Table("correlations", f"m = {AT}.", rows))
    data = published()
    rows = []
    for size in (1.0, 2.0):
        i = int(size) - 1
        models = list(data.real.values())
        values = {p: np.array([model["policies"][p][i] for model in models]) for p in POLICIES}
        values[SCH] = np.array([model["sch16"][4 * i + 3] for model in models])
        srp = np.array([model["srp"][SEGMENTS.index(AT)] for model in models])
        rows += _pairs("the paper's 22 rows of real models", size, srp, values)
        toys = list(data.toy.values())
        values = {"lru": np.array([toy["lru"][i] for toy in toys])}
        values[SCH] = np.array([toy["sch16"][4 * i + 3] for toy in toys])
        rows += _pairs("the paper's 10 toy models", size, np.array([toy["srp16"] for toy in toys]), values)
    caption = "The same over published values. The 22 rows count encoder and decoder of Switch and NLLB apart."
    section.add(Table("correlations_published", caption, rows, data.source("srp", "sch16", "policies", "lru")))
    return section


def _pairs(over: str, size: float, srp: np.ndarray, values: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """Correlate SRP with SCH, and SRP and SCH with each policy."""
    rows = [correlation_row(over, f"{size:g}x", "SRP", "SCH", srp, values[SCH])]
    for policy in POLICIES:
        if policy in values:
            rows.append(correlation_row(over, f"{size:g}x", "SCH", policy, values[SCH], values[policy]))
            rows.append(correlation_row(over, f"{size:g}x", "SRP", policy, srp, values[policy]))
    return rows
