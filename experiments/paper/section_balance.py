"""Local against global load balance: what consistency costs in balance, and which balance it leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper import figures_balance
from lrcsim.experiments.paper.intervals import correlated, correlation_row
from lrcsim.experiments.paper.measure import AT, MeasuredTrace, lacks, teacher_forced
from lrcsim.experiments.paper.report import PaperSection
from lrcsim.experiments.paper.tradeoff import ENOUGH, above_floor, groups_of_variants, layers_of, points_of
from lrcsim.simulator import Balance


def balance_section(found: Sequence[MeasuredTrace]) -> PaperSection:
    """Make the section."""
    having = [one for one in found if AT in one.balance]
    section = PaperSection("balance", lacks(found, "m = 16"))
    section.draw = (lambda path: figures_balance.local_and_global(path, having)) if having else None
    section.table("balance", [_row(one) for one in having])
    every = [_lengths_row(one, result) for one in having for result in one.balance.values()]
    section.table("balance_lengths", every)
    forced = [one for one in teacher_forced(found) if AT in one.balance]
    if len(forced) >= ENOUGH:
        section.table("balance_correlations", _over_variants(forced))
        section.text.append(_at_one_balance(forced))
    else:
        told = f"correlation over variants: it takes {ENOUGH} teacher-forced traces, there are {len(forced)}"
        section.missing.append(told)
    section.table("balance_layers", [row for one in having if (row := _over_layers(one)) is not None])
    return section


def _row(one: MeasuredTrace) -> dict[str, Any]:
    result, within = one.balance[AT], None
    if one.balance_domains is not None and one.balance_domains.groups is not None:
        known = one.balance_domains.groups.global_imbalance
        within = float(np.nanmean(known)) if np.isfinite(known).any() else None
    row = {"trace": one.label, "SRP": one.srp[AT].value, "above floor": above_floor(one.srp[AT])}
    row |= {"local": result.local_imbalance, "local, 95 %": result.interval, "within a domain": within}
    row |= {"global": result.global_imbalance, "global, 95 %": result.global_interval}
    return row | {"local less global": result.above_global, "95 %": result.above_global_interval}


def _lengths_row(one: MeasuredTrace, result: Balance) -> dict[str, Any]:
    row = {"trace": one.label, "m": result.segment, "local": result.local_imbalance, "95 %": result.interval}
    row |= {"global": result.global_imbalance, "local CV": result.local_cv, "local CV, random": result.local_cv_random}
    return row | {"global CV": result.global_cv, "global CV, random": result.global_cv_random}


def _over_variants(forced: Sequence[MeasuredTrace]) -> list[dict[str, Any]]:
    rows = []
    for what, some in groups_of_variants(forced).items():
        x, near, far, rest = points_of(some)
        for name, values in (("local", near), ("global", far), ("local less global", rest)):
            row = correlation_row(what, "", "SRP above its floor", name, x, values)
            rows.append({key: value for key, value in row.items() if key != "cache"})
    return rows


def _over_layers(one: MeasuredTrace) -> dict[str, Any] | None:
    of_layers = layers_of(one)
    if of_layers is None:
        return None
    x, near, far = of_layers
    points, with_local, local_ends = correlated(x, near)
    _, with_global, global_ends = correlated(x, far)
    row: dict[str, Any] = {"layers of": one.label, "layers": points, "with local": with_local, "95 %": local_ends}
    return row | {"with global": with_global, "95 % ": global_ends}


def _at_one_balance(forced: Sequence[MeasuredTrace]) -> str:
    """Say how far SRP differs between the two halves of the traces that are best balanced globally."""
    ordered = sorted(forced, key=lambda one: abs(one.balance[AT].global_imbalance))
    half = ordered[: max(len(ordered) // 2, 2)]
    far = [one.balance[AT].global_imbalance for one in half]
    x = {one.label: above_floor(one.srp[AT]) for one in half}
    low, high = min(x, key=x.__getitem__), max(x, key=x.__getitem__)
    return (
        f"Of the {len(forced)} traces, the {len(half)} best balanced globally (imbalance {min(far):.4f} to "
        f"{max(far):.4f}) have an SRP above its floor from {x[low]:.3f} ({low}) to {x[high]:.3f} ({high})."
    )
