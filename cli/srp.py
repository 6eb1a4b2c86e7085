"""`lrcsim srp`: segment routing best performance, and what the experts specialise in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.text import numbers, score, span
from lrcsim.cli.metrics import handed_out, measured, metric_options, opened_traces, segments_of, segments_option
from lrcsim.cli.output import figure_options, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_table
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.simulator import ExpertMeasures, Srp

Results = Mapping[str, "list[Srp]"]

EXPLAINED = (
    "how well one fixed set of experts, chosen with hindsight, serves m tokens in a row; floor: keeping them all"
)
MEASURES = {
    "activation": "activation rate",
    "domain": "domain specialisation",
    "vocabulary_in": "vocabulary specialisation, routed token",
    "vocabulary_predicted": "vocabulary specialisation, predicted token",
    "vocabulary_out": "vocabulary specialisation, next token",
}


@click.command()
@click.argument("traces", nargs=-1, metavar="[TRACE]...")
@segments_option
@click.option(
    "--by",
    "level",
    default="model",
    show_default=True,
    metavar="model|stack|layer|domain|expert|position",
    help="Also of each of these.",
)
@click.option(
    "--specialisation",
    is_flag=True,
    help="Also how far experts specialise in domains and tokens, how evenly they are used, and how SRP goes with it.",
)
@metric_options
@click.option("--plot", "plot_path", metavar="FILE", help="Draw SRP as --by says: .png, .svg or .pdf.")
@figure_options
def srp(
    traces: tuple[str, ...],
    segment: str | None,
    level: str,
    specialisation: bool,
    bootstrap: int,
    confidence: float,
    seed: int,
    jobs: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
) -> None:
    """Measure local routing consistency: SRP (arXiv 2505.16056).

    SRP is the best F1 of a fixed set of experts per segment. It depends on how sparse the model is: compare it with the
    floor, and across models only at like sparsity. TRACE is an lrcsim file; several are shown together; without any,
    the trace that comes with lrcsim.
    """
    from lrcsim.simulator import expert_measures
    from lrcsim.simulator import srp as measure

    check_picture(plot_path)
    options: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence / 100, "seed": seed}
    experts: dict[str, ExpertMeasures] = {}
    with opened_traces(traces) as opened:
        segments = segments_of(segment, opened.values())
        results: Results = measured(
            opened,
            segments,
            lambda trace, m, progress: [measure(trace, m, level=level, jobs=jobs, progress=progress, **options)],  # type: ignore[arg-type]  # checked there
        )
        for label, trace in opened.items() if specialisation else ():
            with progress_bar(f"{label}, experts") as progress:
                at = 16 if 16 in segments else segments[0]
                experts[label] = expert_measures(trace, at, jobs=jobs, progress=progress)
    data: dict[str, Any] = {"level": level, **options}
    data["results"] = [one.to_dict(label) for label, found in results.items() for one in found]
    if specialisation:
        data["specialisation"] = {label: _specialisation(found) for label, found in experts.items()}

    def plot(path: str) -> None:
        from lrcsim.plots.metrics import plot_srp

        plot_srp(path, results)

    if handed_out("srp", data, _as_rows(results), plot, json_path, csv_path, plot_path):
        _show(results, confidence)
        for label, found in experts.items():
            _show_experts(label, found)


def _as_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row for each value: the pooled one first, then those of the level."""
    import numpy as np

    columns = ("value", "low", "high", "tau", "group_size", "activation", "floor", "windows")
    for label, found in results.items():
        for result in found:
            names = {"expert": ["layer", "expert"], "model": []}.get(result.level, [result.level])
            row: dict[str, Any] = {"trace": label, "segment": result.segment, **dict.fromkeys(names)}
            low, high = result.interval or (None, None)
            yield row | {name: getattr(result, name, None) for name in columns} | {"low": low, "high": high}
            if result.groups is None:
                continue
            for place in np.ndindex(result.groups.value.shape):
                keys: tuple[Any, ...] = place
                if result.labels is not None:
                    keys = (result.labels[place[0]],)
                if result.positions is not None:
                    keys = (int(result.positions[place]),)
                arrays = {name: getattr(result.groups, name) for name in columns}
                values = {name: None if array is None else array[place].item() for name, array in arrays.items()}
                yield row | dict(zip(names, keys, strict=True)) | values


def _specialisation(found: ExpertMeasures) -> dict[str, Any]:
    return {
        "segment": found.segment,
        "load_imbalance": found.load_imbalance,
        "busiest": found.busiest.tolist(),
        "mean": {name: found.mean(name) for name in found.present()},
        "correlation": {name: found.correlation(name) for name in found.present()},
        "missing": found.missing,
        "experts": {"srp": numbers(found.srp)} | {name: numbers(array) for name, array in found.present().items()},
    }


def _show(results: Results, confidence: float) -> None:
    rows = []
    for label, found in results.items():
        for result in found:
            row = {"trace": label} if len(results) > 1 else {}
            rows.append(
                row
                | {
                    "m": f"{result.segment}",
                    "SRP": score(result.value),
                    f"{confidence:g} % interval": span(result.interval),
                    "floor": score(result.floor),
                    "threshold": f"{result.tau} of {result.segment}",
                    "experts kept / active": "–" if math.isnan(result.group_size) else f"{result.group_size:.2f}",
                    "segments": f"{result.windows:,}",
                }
            )
    print_table(", ".join(results) + ": segment routing best performance (SRP)", rows, note=EXPLAINED)
    for label, found in results.items():
        rows = list(_group_rows(found))
        if rows:
            print_table(f"{label}: SRP by {found[0].level}", rows)


def _group_rows(found: list[Srp]) -> Iterator[dict[str, str]]:
    """Yield the rows of a level's table: a column for each m or, by expert and position, a summary."""
    import numpy as np

    first = found[0]
    if first.level in ("stack", "layer", "domain"):
        labels = first.labels or [str(layer) for layer in range(len(first.groups.value))]  # type: ignore[union-attr]
        for i, label in enumerate(labels):
            values = {f"m = {result.segment}": score(result.groups.value[i]) for result in found if result.groups}
            yield {first.level: label} | values
    elif first.level in ("expert", "position"):
        for result in found:
            assert result.groups is not None
            known = result.groups.value[np.isfinite(result.groups.value)]
            if len(known) == 0:
                continue
            yield {
                "m": str(result.segment),
                "experts" if first.level == "expert" else "places": f"{len(known):,}",
                "lowest": score(known.min()),
                "median": score(float(np.median(known))),
                "mean": score(known.mean()),
                "highest": score(known.max()),
                "standard deviation": score(known.std(ddof=1) if len(known) > 1 else 0.0),
            }


def _show_experts(label: str, found: ExpertMeasures) -> None:
    rows = [
        {
            "measure": MEASURES[name],
            "mean over experts": score(found.mean(name)),
            "correlation with SRP": score(found.correlation(name)),
        }
        for name in found.present()
    ]
    load = f"load imbalance {found.load_imbalance:.4f}; the busiest expert has {found.busiest.max():.2f} times the mean"
    print_table(f"{label}: experts, m = {found.segment}", rows, note=load)
    for name, reason in found.missing.items():
        echo(f"{MEASURES[name]}: {reason}")
