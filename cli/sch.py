"""`lrcsim sch`: segment cache best hit rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.text import score, span
from lrcsim.cli.metrics import handed_out, measured, metric_options, opened_traces, segments_of, segments_option
from lrcsim.cli.options import run_options
from lrcsim.cli.output import figure_options
from lrcsim.cli.tables import print_table
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.simulator import Sch

Results = Mapping[str, "list[Sch]"]

EXPLAINED = {
    "static": "accesses that the most used experts of m tokens in a row serve, chosen with hindsight, loaded for free",
    "lookahead": "hit rate of a cache that evicts the fewest uses in the next m tokens, under the paper's rule",
}
NOW = "the paper's current figures (version 2) are --definition lookahead --scope model: one cache for all layers"
LEVELS = ("model", "layer")


@click.command()
@click.argument("traces", nargs=-1, metavar="[TRACE]...")
@segments_option
@click.option(
    "--cache", default="1x,2x", show_default=True, metavar="SIZES", help="2x, 16 (experts), 25%, 4GiB, with commas."
)
@click.option("--definition", default="static", show_default=True, metavar="static|lookahead")
@run_options(only=("expert_bytes", "scope"))
@click.option("--by", "level", default="model", show_default=True, metavar="model|layer", help="Also by layer.")
@metric_options
@click.option(
    "--plot",
    "plot_path",
    metavar="FILE",
    help="Draw SCH against m (of one m: against size), or by layer: .png, .svg or .pdf.",
)
@figure_options
def sch(
    traces: tuple[str, ...],
    segment: str | None,
    cache: str,
    definition: str,
    scope: str | None,
    expert_bytes: str | None,
    level: str,
    bootstrap: int,
    confidence: float,
    seed: int,
    jobs: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
) -> None:
    """Measure local routing consistency: SCH (arXiv 2505.16056), in the definition of its first or its later version.

    The paper's current figures (version 2) are those of --definition lookahead --scope model: one cache for all layers,
    which looks m tokens ahead. The default is static, the definition of version 1, with a cache for each layer.

    TRACE is an lrcsim file; several are shown together; without any, the trace that comes with lrcsim. JSON has the
    rate at every capacity.
    """
    from lrcsim.simulator.metrics.sch_metric import sch_at_sizes
    from lrcsim.simulator.setup.expert_sizes import sizes_from
    from lrcsim.simulator.setup.option_lists import split_list

    check_picture(plot_path)
    scope = scope or "layer"
    if level not in LEVELS or (level == "layer" and scope == "model"):
        if level in LEVELS:
            raise ConfigError("--by layer needs --scope layer: with scope 'model' all layers share one cache")
        raise ConfigError(f"--by {level!r} is not known, use 'model' or 'layer'" + did_you_mean(level, LEVELS))
    options: dict[str, Any] = {"definition": definition, "scope": scope}
    options |= {"bootstrap": bootstrap, "confidence": confidence / 100, "seed": seed}
    sizes = split_list("cache", cache)
    with opened_traces(traces) as opened:
        for trace in opened.values() if expert_bytes is not None else ():
            trace.layers = trace.layers.with_expert_bytes(sizes_from("--expert-bytes", expert_bytes))
        results: Results = measured(
            opened,
            segments_of(segment, opened.values(), fits=definition == "static"),
            lambda trace, m, progress: sch_at_sizes(trace, m, sizes, jobs=jobs, progress=progress, **options),
        )
    listed = [one.to_dict(label) for label, found in results.items() for one in found]
    data = options | {"results": listed}

    def plot(path: str) -> None:
        from lrcsim.plots.metrics import plot_sch

        plot_sch(path, results, by_layer=level == "layer")

    if handed_out("sch", data, _as_rows(results, level), plot, json_path, csv_path, plot_path):
        _show(results, definition, scope, level, confidence)


def _as_rows(results: Results, level: str) -> Iterator[dict[str, Any]]:
    for label, found in results.items():
        for result in found:
            row: dict[str, Any] = {"trace": label, "definition": result.definition, "scope": result.scope}
            row |= {"segment": result.segment, "cache": result.cache, "slots": float(result.slots.mean())}
            low, high = result.interval or (None, None)
            if level == "model":
                yield row | {"value": result.value, "low": low, "high": high}
                continue
            yield row | {"layer": None, "value": result.value, "low": low, "high": high}
            for layer, value in enumerate([] if result.by_layer is None else result.by_layer.tolist()):
                yield row | {"layer": layer, "value": value, "low": None, "high": None}


def _show(results: Results, definition: str, scope: str, level: str, confidence: float) -> None:
    rows = []
    for label, found in results.items():
        for result in found:
            row = {"trace": label} if len(results) > 1 else {}
            slots = sorted(set(result.slots.tolist()))
            rows.append(
                row
                | {
                    "m": str(result.segment),
                    "cache": result.cache,
                    "experts" if scope == "model" else "experts per layer": "–".join(map(str, slots[:1] + slots[-1:]))
                    if len(slots) > 1
                    else str(slots[0]),
                    "SCH": score(result.value),
                    f"{confidence:g} % interval": span(result.interval),
                }
            )
    title = f"segment cache best hit rate (SCH), {definition}, scope {scope}"
    note = EXPLAINED[definition]
    if (definition, scope) != ("lookahead", "model"):
        note += f"; {NOW}"
    print_table(f"{', '.join(results)}: {title}", rows, note=note)
    if level == "layer":
        for label, found in results.items():
            print_table(f"{label}: SCH by layer", list(_layer_rows(found)))


def _layer_rows(found: list[Sch]) -> Iterator[dict[str, str]]:
    for layer in range(len(found[0].slots)):
        values = {f"m {r.segment}, {r.cache}": score(r.by_layer[layer]) for r in found if r.by_layer is not None}
        yield {"layer": str(layer)} | values
