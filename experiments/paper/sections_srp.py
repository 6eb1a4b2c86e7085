"""SRP: against segment length, by layer, by domain, by position, by expert, and the case study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_srp
from lrcsim.experiments.paper.measure import AT, Measured
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.experiments.paper.section import Section, Table

__all__ = ["srp_sections"]

PLACES = (8, 64, 256, 496)
"""Middles of segments whose published SRP is at hand, in tokens."""


def srp_sections(found: Sequence[Measured]) -> list[Section]:
    """Make the sections on SRP."""
    return [_length(found), _layers(found), _domains(found), _positions(found), _experts(found), _case(found)]


def theirs(one: Measured) -> dict[str, Any]:
    """Return what is published of the model that a trace is compared with, or nothing."""
    group, _, key = (one.source.paper or "").partition(".")
    return dict(getattr(published(), group)[key]) if group else {}


def published_srp(one: Measured, m: int) -> float | None:
    """Return the published SRP of the model that a trace is compared with, or None."""
    values = theirs(one)
    if "srp16" in values:
        return float(values["srp16"]) if m == AT else None
    return float(values["srp"][SEGMENTS.index(m)]) if "srp" in values and m in SEGMENTS else None


def lacks(found: Sequence[Measured], *names: str) -> list[str]:
    """Say of each trace what it lacks of some things, and why."""
    return [f"{one.label}: {one.missing[name]}" for one in found for name in names if name in one.missing]


def _length(found: Sequence[Measured]) -> Section:
    section = Section(
        "srp",
        "SRP against segment length",
        "msrp.pdf and toy_msrpls.pdf",
        [
            "SRP depends on how sparse a model is: it cannot fall below its floor, 2r / (1 + r) at r = k / E. "
            "Intervals resample whole requests (95 %, basic)."
        ],
        missing=lacks(found, "segments"),
        draw=lambda path: figures_srp.srp_by_length(path, found),
    )
    rows = [
        {
            "trace": one.label,
            "E": one.source.trace.num_experts,
            "k": one.source.trace.top_k,
            "m": m,
            "SRP": result.value,
            "95 %": result.interval,
            "floor": result.floor,
            "kept / active": result.group_size,
            "paper": published_srp(one, m),
            "paper's model": one.source.paper,
        }
        for one in found
        for m, result in one.srp.items()
    ]
    section.add(Table("srp", "Pooled over layers, experts and requests.", rows, published().source("srp", "srp16")))
    data = published()
    rows = [
        {"paper's model": key, "E": model["experts"], "k": model["top_k"]}
        | {f"m = {m}": value for m, value in zip(SEGMENTS, model["srp"], strict=True)}
        for key, model in sorted(data.real.items(), key=lambda item: -item[1]["srp"][1])
    ]
    section.add(Table("srp_published", "The paper's real models.", rows, data.source("srp")))
    return section


def _layers(found: Sequence[Measured]) -> Section:
    section = Section(
        "srp_layer",
        "SRP by layer",
        "lsrp.pdf",
        draw=lambda path: figures_srp.heat_by_layer(path, found),
    )
    rows, every = [], []
    for one in found:
        for m, result in one.srp.items():
            groups = result.groups
            assert groups is not None
            low, high = (
                np.full(len(groups.value), np.nan) if ends is None else ends for ends in (groups.low, groups.high)
            )
            every += [
                {"trace": one.label, "m": m, "layer": layer, "SRP": value, "95 %": (low[layer], high[layer])}
                for layer, value in enumerate(groups.value.tolist())
            ]
            if m == AT:
                rows.append(
                    {
                        "trace": one.label,
                        "lowest": groups.value.min(),
                        "in layer": int(groups.value.argmin()),
                        "highest": groups.value.max(),
                        "in layer ": int(groups.value.argmax()),
                        "first": groups.value[0],
                        "last": groups.value[-1],
                        "paper: lowest, highest": tuple(theirs(one)["layers"]) if "layers" in theirs(one) else None,
                    }
                )
    section.add(Table("srp_layer_range", f"Range over layers at m = {AT}.", rows, published().source("layers")))
    section.add(Table("srp_layer", "SRP of every layer.", every, shown=False))
    section.missing.append("published values by layer of the toy models: the paper does not show them")
    return section


def _domains(found: Sequence[Measured]) -> Section:
    having = [one for one in found if one.domains is not None]
    section = Section(
        "srp_domain",
        "SRP by domain",
        "the notebooks 34_srp_domain: SRP of a dataset over that of all, less 1",
        ["The paper's datasets are others than a trace's domains, so only the spread can be compared."],
        missing=lacks(found, "domains", "domain pairs", "m = 16"),
        draw=(lambda path: figures_srp.domains(path, having)) if having else None,
    )
    rows, spread = [], []
    for one in having:
        result = one.domains
        assert result is not None
        assert result.groups is not None
        groups = result.groups
        difference = groups.value / result.value - 1
        for i, name in enumerate(result.domains or ()):
            ends = None if groups.low is None or groups.high is None else (groups.low[i], groups.high[i])
            rows.append(
                {"trace": one.label, "domain": name, "SRP": groups.value[i], "95 %": ends, "against all": difference[i]}
            )
        lowest, highest = theirs(one).get("domain_range", (None, None))
        row = {"trace": one.label, "lowest": np.nanmin(difference), "highest": np.nanmax(difference)}
        spread.append(row | {"paper's lowest": lowest, "paper's highest": highest})
    section.add(Table("srp_domain", f"m = {AT}.", rows))
    section.add(
        Table("srp_domain_range", "Range of the difference from all.", spread, published().source("domain_range"))
    )
    pairs = [
        {"trace": one.label, "what": what, "domains": f"{names[i]}, {names[j]}", "correlation": matrix[i, j]}
        for one in having
        for names in [one.domains.domains or () if one.domains else ()]
        for what, matrix in one.pairs.items()
        for i in range(len(matrix))
        for j in range(i)
    ]
    section.add(Table("domain_pairs", "Correlation over experts between domains.", pairs, shown=False))
    rows = []
    for one in having:
        for what, matrix in one.pairs.items():
            inner = matrix[np.tril_indices(len(matrix), -1)]
            rows.append(
                {
                    "trace": one.label,
                    "of the experts'": {"activation": "activation rate", "srp": "SRP"}[what],
                    "median correlation": float(np.nanmedian(inner)),
                    "range": (float(np.nanmin(inner)), float(np.nanmax(inner))),
                }
            )
    caption = (
        "Do two domains use the same experts, and the same experts consistently? (mactdr, msrpdr: Pearson over all"
    )
    section.add(Table("domain_pairs_range", caption + " experts, by pair of domains.)", rows))
    section.missing.append("published correlations between datasets: not among the values at hand")
    return section


def _positions(found: Sequence[Measured]) -> Section:
    section = Section(
        "srp_position",
        "SRP by position",
        "msrpp.pdf",
        [
            "Each position has a threshold of its own. With few requests a position has few windows: short-term "
            "ups and downs are noise; the spread is given with the number of requests."
        ],
        missing=lacks(found, "m = 16"),
        draw=lambda path: figures_srp.positions(path, found),
    )
    rows, every = [], []
    for one in found:
        for m, result in one.positions.items():
            assert result.groups is not None
            assert result.positions is not None
            values, places = result.groups.value, result.positions
            every += [
                {"trace": one.label, "m": m, "position": int(p), "SRP": v, "windows": int(w)}
                for p, v, w in zip(places, values, result.groups.windows, strict=True)
            ]
            if m == AT:
                half = len(values) // 2
                row: dict[str, Any] = {
                    "trace": one.label,
                    "requests": one.source.trace.num_requests,
                    "first half, mean": float(np.nanmean(values[:half])) if half else None,
                    "second half, mean": float(np.nanmean(values[half:])),
                    "std over positions": float(np.nanstd(values)),
                }
                known = dict(zip(places.tolist(), values.tolist(), strict=True))
                rows.append(row | {f"at {place}": known.get(place) for place in PLACES})
    section.add(Table("srp_position_summary", f"m = {AT}; the middle of a segment is at the token given.", rows))
    section.add(Table("srp_position", "SRP of every position.", every, shown=False))
    rows = [
        {"paper's model": key} | {f"at {place}": value for place, value in zip(PLACES, model["position"], strict=True)}
        for key, model in published().real.items()
        if "position" in model
    ]
    section.add(
        Table("srp_position_published", "The paper's real models, m = 16.", rows, published().source("position"))
    )
    section.missing.append("published positions of the toy models: not among the values at hand")
    return section


def _experts(found: Sequence[Measured]) -> Section:
    having = [one for one in found if one.experts is not None]
    section = Section(
        "srp_expert",
        "SRP of single experts against their activation",
        "esrp.pdf",
        ["An expert's SRP has the floor 2a / (1 + a) at its own activation rate a."],
        missing=lacks(found, "m = 16"),
        draw=(lambda path: figures_srp.experts(path, having)) if having else None,
    )
    rows, every = [], []
    for one in having:
        measures = one.experts
        assert measures is not None
        activation, value = measures.activation, measures.srp
        floor = 2 * activation / (1 + activation)
        every += [
            {
                "trace": one.label,
                "layer": i,
                "expert": j,
                "activation": activation[i, j],
                "SRP": v,
                "floor": floor[i, j],
            }
            for (i, j), v in np.ndenumerate(value)
        ]
        row = {"trace": one.label, "experts": int(np.isfinite(value).sum()), "mean SRP": float(np.nanmean(value))}
        row["highest"] = float(np.nanmax(value))
        row["mean above floor"] = float(np.nanmean(value - floor))
        rows.append(row | {"never used": int((activation == 0).sum()), "load imbalance": measures.load_imbalance})
    caption = f"m = {AT}. Load imbalance: standard deviation of the experts' activation rates."
    section.add(Table("srp_expert_summary", caption, rows, digits=4))
    section.add(Table("srp_expert", "Every expert.", every, shown=False))
    section.missing.append("published points of single experts: the figure has thousands, none is at hand as a number")
    return section


def _case(found: Sequence[Measured]) -> Section:
    having = [one for one in found if one.case is not None]
    section = Section(
        "case",
        "Case study: experts in one text",
        "A0 to A3: SRP of every expert in the first 256 tokens of one prompt",
        [
            "The first request of 256 tokens (or the longest); the paper's prompt is another, so its figure has no "
            "counterpart."
        ],
        draw=(lambda path: figures_srp.case(path, having)) if having else None,
    )
    rows = [
        {"trace": one.label, "layer": i, "expert": j, "SRP": v}
        for one in having
        for (i, j), v in np.ndenumerate(one.case if one.case is not None else np.zeros((0, 0)))
    ]
    section.add(Table("case", "SRP of every expert.", rows, shown=False))
    return section
