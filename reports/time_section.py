"""What a token's time goes to, and what it could not be shorter than."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import human_bytes, percent, seconds
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import COLOURS, MUTED
from lrcsim.reports.marks import Axis, Bars, FigureView
from lrcsim.reports.verdict import SPENT, speed
from lrcsim.simulator.setup.outcomes import NOT_LOADED

BOUNDS = {"optimum": "fewest loads, prefetched", "compute_only": "compute alone", "link_bound": "transfers alone"}
THIS = "this run"
SPENT_COLOURS = {"compute": COLOURS[0], "overhead": COLOURS[5], "stall": COLOURS[1]}


def time_section(run: dict[str, Any], name: str) -> Section:
    """Return a token's time beside its bounds, waits, links and prefetches of a run on a machine.

    Args:
        run: JSON of ``lrcsim run --hardware``.
        name: unique on the page.
    """
    time, config = run["time"], run["config"]
    runtime = config.get("runtime", "ideal")
    under = "" if runtime == "ideal" else f" under {runtime}"
    text = [
        f"On {config['hardware']}{under}, {config['model']} as {config['dtype']}; misses: {config['miss']}; prefetch: "
        f"{config['prefetch']}; {seconds(time['total_s'])} in all, {seconds(time['prefill_s'])} of it prefill."
    ]
    blocks: list[Figure | TableBlock] = []
    if time["decode_tokens_per_s"] is not None:
        blocks.append(_token(run, f"{name}-token"))
    waits = [("first token", time["ttft_ms"]), ("each further token", time["tpot_ms"])]
    rows = [
        (label, *(f"{wait[part]:,.2f}" for part in ("mean", "p50", "p90", "p99", "max")))
        for label, wait in waits
        if wait is not None
    ]
    if rows:
        blocks.append(TableBlock("how long a request waits, ms", ("", "mean", "p50", "p90", "p99", "most"), rows))
    rows = []
    for link, use in run["links"].items():
        if use["bytes"]:
            busy = f"{use['bytes'] / use['busy_s'] / 1e9:,.2f}" if use["busy_s"] else "–"
            most = f"{use['bandwidth'] / 1e9:,.2f}"
            rows.append((link, human_bytes(use["bytes"]), percent(use["utilization"]), busy, most))
    if rows:
        blocks.append(TableBlock("links", ("", "moved", "busy", "GB/s while busy", "GB/s at most"), rows))
    blocks += _extras(run)
    return Section(f"{name}-time", "Time", text, blocks)


def _token(run: dict[str, Any], name: str) -> Figure:
    """Draw the run's parts of a token's time, and each bound as a bar of its own."""
    time = run["time"]
    per_token, source = time["decode_ms_per_token"], time.get("decode")
    whole = time["decode_s"] if source else time["compute_s"] + time["stall_s"] + time["overhead_s"]
    parts = {part: per_token * (source or time)[f"{part}_s"] / whole for part in SPENT_COLOURS}
    marks = [Bars(SPENT[part], [THIS], [value], SPENT_COLOURS[part]) for part, value in parts.items()]
    given = {label: time.get("bounds", {}).get(key, {}) for key, label in BOUNDS.items()}
    bounds = {label: bound for label, bound in given.items() if bound.get("decode_tokens_per_s") is not None}
    least = [1e3 / bound["decode_tokens_per_s"] for bound in bounds.values()]
    if bounds:
        marks.append(Bars("cannot be shorter", list(bounds), least, MUTED))
    view = FigureView(
        "",
        x=Axis("ms per decoded token", low=0),
        y=Axis(names=[THIS, *bounds]),
        marks=marks,
        height=60 + 36 * (1 + len(bounds)),
    )
    rows = [(SPENT[part], f"{value:,.4g} ms", percent(value / per_token)) for part, value in parts.items()]
    rows.append(("a token", f"{per_token:,.4g} ms", speed(time["decode_tokens_per_s"])))
    for (label, bound), value in zip(bounds.items(), least, strict=True):
        rows.append((label, f"{value:,.4g} ms", speed(bound["decode_tokens_per_s"])))
    spent = ", ".join(f"{value:,.3g} ms {SPENT[part]}" for part, value in parts.items())
    of = "" if source else " (prefill and decode have the same shares here: the result does not tell them apart)"
    text = (
        f"A decoded token takes {per_token:,.3g} ms: {spent}{of}. Below, what it could not be shorter than: with the "
        f"fewest loads that any policy can do with, all ahead of their use; with compute and bookkeeping alone; with "
        f"{(time.get('bounds', {}).get('link_bound') or {}).get('link') or 'the link'} as the only thing at work."
    )
    table = TableBlock("a token's time", ("part", "time", "share or speed"), rows)
    return Figure(name, "A token's time", text, [view], table)


def _extras(run: dict[str, Any]) -> list[TableBlock]:
    """Return what became of prefetches and of misses that were not simply loaded."""
    tables, ahead, missed = [], run["prefetch"], run["missed"]
    if ahead["issued_bytes"]:
        rows = [
            (kind, human_bytes(ahead[f"{kind}_bytes"]), percent(ahead[f"{kind}_bytes"] / ahead["issued_bytes"]))
            for kind in ("issued", "useful", "late", "wasted")
        ]
        rows.append(("experts put out for them", f"{ahead['displaced']:,}", ""))
        rows.append(("of these missed when next used", f"{ahead['displaced_missed']:,}", ""))
        tables.append(TableBlock("prefetches", ("", "bytes", "share"), rows))
    for name in ("admitted", "repinned"):
        use = run.get(name)  # earlier versions wrote none
        if use is not None and use["issued_bytes"]:
            rows = [
                (kind, human_bytes(use[f"{kind}_bytes"]), percent(use[f"{kind}_bytes"] / use["issued_bytes"]))
                for kind in ("issued", "useful", "wasted")
            ]
            rows.append(("uses while under way", f"{use['late_uses']:,}", ""))
            tables.append(TableBlock({"repinned": "pinned anew"}.get(name, name), ("", "bytes", "share"), rows))
    labels = [outcome.label for outcome in NOT_LOADED]
    rows = [
        (label.replace("_", " "), f"{missed[label]:,}", percent(missed.get(f"{label}_weight"), 2))
        for label in labels
        if missed[label]
    ]
    if rows:
        tables.append(TableBlock("misses not loaded whole", ("", "experts", "of the router weight"), rows))
    return tables
