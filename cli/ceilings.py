"""`lrcsim ceilings`: what prediction, eviction and the link could give at most, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.tables import write_csv
from lrcsim.base.text import human_bytes, percent, quoted
from lrcsim.cli.bundled import is_bundled, say_toy
from lrcsim.cli.options import given, refuse_without_machine, run_options
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar
from lrcsim.cli.predict import fitted, parts_text, predictor_options
from lrcsim.cli.provenance import provenance
from lrcsim.cli.tables import print_rows
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.prediction.ceilings import Ceiling


@click.command()
@click.argument("trace", required=False)
@predictor_options
@click.option("--top", type=int, metavar="N", help="Predictions fetched for each layer.  [default: top-k]")
@run_options("cache", "machine", but=("access", "route", "bounds", "miss", "prefetch"))
@json_option
@click.option("--csv", "csv_path", metavar="FILE", help="Write all rows as CSV.")
@click.option("--plot", "plot_path", metavar="FILE", help="Draw tokens/s of every row: .png, .svg or .pdf.")
@figure_options
def ceilings(
    trace: str | None,
    sources: str | None,
    ahead: int,
    share: float,
    seed: int,
    top: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
    **options: Any,
) -> None:
    """Say what perfect, learned and recorded prediction, optimal eviction, and a link without limits would give.

    All rows run the requests that the learned predictor never saw; with --from none nothing is learned, and the whole
    trace is run. Of decode alone. What each row bounds: docs/prediction.md.
    """
    from lrcsim.prediction.ceilings import ceilings as work_out
    from lrcsim.prediction.held_out import held_out_trace
    from lrcsim.simulator.setup.expert_sizes import with_expert_bytes
    from lrcsim.traces import RoutingTrace

    check_picture(plot_path)
    asked, told = dict(click.get_current_context().params), given(options)
    if "hardware" not in told:
        refuse_without_machine("ceilings")
    with RoutingTrace.open(trace) as opened:
        own, learned, parts = with_expert_bytes(opened, told.pop("expert_bytes", None)), None, None
        if sources != "none":
            width = own.top_k if top is None else top
            found = fitted(own, sources, ahead, width, share, seed)
            parts = found.parts
            replayed = held_out_trace(own, parts, {ahead: found.ids})
            prefetch = f"next-gate:distance={ahead},width={width}"
            own = held_out_trace(own, parts, {})
            learned = (replayed, prefetch)
        recorded = f"next-gate:{ahead}" if f"predictions/{ahead}" in own.columns else None
        with progress_bar("working out ceilings") as progress:
            rows = work_out(own, recorded=recorded, learned=learned, progress=progress, **told)
        if csv_path is not None:
            write_csv(csv_path, [row.to_dict() for row in rows])
        policy, cache = told.get("policy", "lru"), told.get("cache", "2x")
        if plot_path is not None:
            from lrcsim.plots.ceilings import plot_ceilings

            plot_ceilings(plot_path, rows, f"{own.model} on {told['hardware']}, cache {cache}, {policy}")
        data = {
            "model": own.model,
            "ahead": ahead,
            "from": None if parts is None else list(found.sources),
            "held_out": None if parts is None else parts.to_dict(),
            "rows": [row.to_dict() for row in rows],
        }
        if not answer(json_path, lambda: data | {"provenance": provenance(opened, asked)}, "ceilings"):
            return
        out = console()
        out.print(
            f"[bold]{quoted(own.model)}[/bold] on {quoted(told['hardware'])}, cache {quoted(cache)}, {quoted(policy)}"
        )
        if parts is None:
            out.print("decode of all requests, no predictor learned")
        else:
            out.print(parts_text(parts))
            out.print(f"learned from {', '.join(found.sources)}, {ahead} layer{'s' * (ahead > 1)} ahead")
        out.print()
        _show(rows)
        out.print()
        out.print("* proven: nothing of that kind is faster; other rows are runs. Prefetched: hits")
        if is_bundled(trace):
            say_toy(opened)


def _show(rows: list[Ceiling]) -> None:
    cells = [
        [
            quoted(row.name) + "*" * row.proven,
            "–" if row.tokens_per_s is None else f"{row.tokens_per_s:,.1f}",
            percent(row.hit_rate),
            human_bytes(row.bytes_per_token),
            percent(row.stall),
            row.bounds,
        ]
        for row in rows
    ]
    print_rows(["", "tokens/s", "hits", "a token", "stall", "bounds"], cells, left=(0, 5))
