"""SRP: against segment length, by layer, by domain, by position, by expert, and the case study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_domains, figures_experts, figures_sample, figures_srp
from lrcsim.experiments.paper.measure import AT, MeasuredTrace, lacks
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.experiments.paper.report import PaperSection
from lrcsim.experiments.paper.sections_pictures import domain_pictures, group_picture, sample_picture

PLACES = (8, 64, 256, 496)
"""Middles of segments whose published SRP is at hand, in tokens."""


def srp_sections(found: Sequence[MeasuredTrace]) -> list[PaperSection]:
    """Make the sections on SRP."""
    domains = [_domains(found), *domain_pictures(found)]
    experts = [_experts(found), _case(found), sample_picture(found)]
    return [_length(found), group_picture(found), _layers(found), *domains, _positions(found), *experts]


def _length(found: Sequence[MeasuredTrace]) -> PaperSection:
    section = PaperSection("srp", lacks(found, "segments"))
    section.draw = lambda path: figures_srp.srp_by_length(path, found)
    rows: list[dict[str, Any]] = []
    for one in found:
        trace = one.source.trace
        for m, result in one.srp.items():
            row = {"trace": one.label, "E": trace.num_experts, "k": trace.top_k, "m": m, "SRP": result.value}
            row |= {"95 %": result.interval, "floor": result.floor, "kept / active": result.group_size}
            rows.append(row | {"paper": one.published_srp(m), "paper's model": one.source.paper})
    section.table("srp", rows)
    models = sorted(published().real.items(), key=lambda item: -item[1]["srp"][1])
    rows = [
        {"paper's model": key, "E": model["experts"], "k": model["top_k"]}
        | {f"m = {m}": value for m, value in zip(SEGMENTS, model["srp"], strict=True)}
        for key, model in models
    ]
    section.table("srp_published", rows)
    return section


def _layers(found: Sequence[MeasuredTrace]) -> PaperSection:
    section = PaperSection("srp_layer", draw=lambda path: figures_srp.by_layer(path, found))
    rows, every = [], []
    for one in found:
        for m, result in one.srp.items():
            groups = result.groups
            assert groups is not None
            values, nothing = groups.value, np.full(len(groups.value), np.nan)
            ends = zip(*(nothing if end is None else end for end in (groups.low, groups.high)), strict=True)
            every += [
                {"trace": one.label, "m": m, "layer": layer, "SRP": value, "95 %": interval}
                for layer, (value, interval) in enumerate(zip(values.tolist(), ends, strict=True))
            ]
            if m == AT:
                row = {"trace": one.label, "lowest": values.min(), "in layer": int(values.argmin())}
                row |= {"highest": values.max(), "in layer ": int(values.argmax())}
                row |= {"first": values[0], "last": values[-1]}
                theirs = one.theirs.get("layers")
                rows.append(row | {"paper: lowest, highest": theirs and tuple(theirs)})
    section.table("srp_layer_range", rows)
    section.table("srp_layer", every)
    return section


def _domains(found: Sequence[MeasuredTrace]) -> PaperSection:
    having = [one for one in found if one.domains is not None]
    section = PaperSection("srp_domain", lacks(found, "domains", "domain pairs", "m = 16"))
    section.draw = (lambda path: figures_domains.domains(path, having)) if having else None
    rows, spread, pairs, ranges = [], [], [], []
    for one in having:
        assert one.domains is not None
        assert one.domains.groups is not None
        names, groups = one.domains.domains or (), one.domains.groups
        difference = groups.value / one.domains.value - 1
        for i, name in enumerate(names):
            ends = None if groups.low is None or groups.high is None else (groups.low[i], groups.high[i])
            row = {"trace": one.label, "domain": name, "SRP": groups.value[i], "95 %": ends}
            rows.append(row | {"against all": difference[i]})
        lowest, highest = one.theirs.get("domain_range", (None, None))
        row = {"trace": one.label, "lowest": np.nanmin(difference), "highest": np.nanmax(difference)}
        spread.append(row | {"paper's lowest": lowest, "paper's highest": highest})
        for what, matrix in one.pairs.items():
            pairs += [
                {"trace": one.label, "what": what, "domains": f"{names[i]}, {names[j]}", "correlation": matrix[i, j]}
                for i in range(len(matrix))
                for j in range(i)
            ]
            inner = matrix[np.tril_indices(len(matrix), -1)]
            row = {"trace": one.label, "of the experts'": {"activation": "activation rate", "srp": "SRP"}[what]}
            row["median correlation"] = float(np.nanmedian(inner))
            ranges.append(row | {"range": (float(np.nanmin(inner)), float(np.nanmax(inner)))})
    section.table("srp_domain", rows)
    section.table("srp_domain_range", spread)
    section.table("domain_pairs", pairs)
    section.table("domain_pairs_range", ranges)
    return section


def _positions(found: Sequence[MeasuredTrace]) -> PaperSection:
    section = PaperSection("srp_position", lacks(found, "m = 16"))
    section.draw = lambda path: figures_srp.positions(path, found)
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
                row: dict[str, Any] = {"trace": one.label, "requests": one.source.trace.num_requests}
                row["first half, mean"] = float(np.nanmean(values[:half])) if half else None
                row["second half, mean"] = float(np.nanmean(values[half:]))
                row["std over positions"] = float(np.nanstd(values))
                known = dict(zip(places.tolist(), values.tolist(), strict=True))
                rows.append(row | {f"at {place}": known.get(place) for place in PLACES})
    section.table("srp_position_summary", rows)
    section.table("srp_position", every)
    rows = [
        {"paper's model": key} | {f"at {place}": value for place, value in zip(PLACES, model["position"], strict=True)}
        for key, model in published().real.items()
        if "position" in model
    ]
    section.table("srp_position_published", rows)
    return section


def _experts(found: Sequence[MeasuredTrace]) -> PaperSection:
    having = [one for one in found if one.experts is not None]
    section = PaperSection("srp_expert", lacks(found, "m = 16"))
    section.draw = (lambda path: figures_experts.experts(path, having)) if having else None
    rows, every = [], []
    for one in having:
        assert one.experts is not None
        activation, value = one.experts.activation, one.experts.srp
        floor = 2 * activation / (1 + activation)
        for (i, j), v in np.ndenumerate(value):
            row = {"trace": one.label, "layer": i, "expert": j, "activation": activation[i, j]}
            every.append(row | {"SRP": v, "floor": floor[i, j]})
        row = {"trace": one.label, "experts": int(np.isfinite(value).sum()), "mean SRP": float(np.nanmean(value))}
        row |= {"highest": float(np.nanmax(value)), "mean above floor": float(np.nanmean(value - floor))}
        rows.append(row | {"never used": int((activation == 0).sum()), "load imbalance": one.experts.load_imbalance})
    section.table("srp_expert_summary", rows)
    section.table("srp_expert", every)
    return section


def _case(found: Sequence[MeasuredTrace]) -> PaperSection:
    having = [(one, one.case) for one in found if one.case is not None]
    section = PaperSection("case")
    section.draw = (lambda path: figures_sample.case(path, [one for one, _ in having])) if having else None
    rows = [
        {"trace": one.label, "layer": i, "expert": j, "SRP": v}
        for one, values in having
        for (i, j), v in np.ndenumerate(values)
    ]
    section.table("case", rows)
    return section
