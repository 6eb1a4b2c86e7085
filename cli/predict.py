"""`lrcsim predict`: how well a linear predictor foretells experts, and its predictions as a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.tables import write_csv
from lrcsim.base.text import human_bytes, percent, quoted, seconds
from lrcsim.cli.options import given, run_options
from lrcsim.cli.output import answer, console, json_option, options, progress_bar
from lrcsim.cli.provenance import provenance
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.prediction.held_out import HeldOut
    from lrcsim.prediction.predict import Predicted
    from lrcsim.traces import RoutingTrace

predictor_options = options(
    click.option(
        "--from",
        "sources",
        metavar="SOURCES",
        help="What it looks at, with commas between: token (its id), experts (those of the layer so far ahead, with "
        "their weights), previous (those of the token before), logits, inputs (of that router).  "
        "[default: token,experts; experts without ids]",
    ),
    click.option("--ahead", default=1, show_default=True, type=int, metavar="N", help="Layers ahead."),
    click.option(
        "--hold-out",
        "share",
        default=0.25,
        show_default=True,
        type=float,
        metavar="SHARE",
        help="Of the requests, drawn, that it is tested on and never sees; of a single one, its end.",
    ),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw and resamples."),
)


@click.command()
@click.argument("trace", required=False)
@predictor_options
@click.option(
    "--top", type=int, metavar="N", help="Experts fetched for each layer, besides top-k.  [default: twice top-k]"
)
@click.option(
    "--bootstrap",
    default=1000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Resamples of requests for the interval (95 %); 0: none.",
)
@click.option("-o", "output", metavar="FILE", help="Write the held-out requests with the predictions: for run.")
@run_options(only=("expert_bytes", "hardware", "model", "overrides", "runtime", "dtype"))
@json_option
@click.option("--csv", "csv_path", metavar="FILE", help="Write all rows as CSV.")
def predict(
    trace: str | None,
    sources: str | None,
    ahead: int,
    share: float,
    seed: int,
    top: int | None,
    bootstrap: int,
    output: str | None,
    json_path: str | None,
    csv_path: str | None,
    **options: Any,
) -> None:
    """Learn which experts a layer will use, a linear predictor for each, and test it on requests it never saw.

    Beside it stand what takes no learning: the most used experts, those of the token before, those that follow the
    experts in use, and predictions that the trace has. With -o FILE the predictions take the place of recorded ones:
    lrcsim run FILE --prefetch next-gate --hardware NAME says what they are worth.
    """
    from lrcsim.prediction.held_out import held_out_trace
    from lrcsim.simulator.setup.expert_sizes import with_expert_bytes
    from lrcsim.traces import RoutingTrace

    asked, told = dict(click.get_current_context().params), given(options)
    with RoutingTrace.open(trace) as opened:
        sized = with_expert_bytes(opened, told.get("expert_bytes"))
        width = min(2 * sized.top_k, sized.num_experts) if top is None else top
        found = fitted(sized, sources, ahead, width, share, seed)
        own = held_out_trace(sized, found.parts, {ahead: found.ids})
        lead = None
        if "hardware" in told:
            from lrcsim.prediction.lead import lead_of

            lead = lead_of(own, ahead, **{name: value for name, value in told.items() if name != "expert_bytes"})
        if output is not None:
            own.provenance["predictor"] = {"from": list(found.sources), "ahead": ahead, "seed": seed, "hold_out": share}
            own.save(output)
        rows = found.rows(bootstrap, 0.95, seed)
        if csv_path is not None:
            write_csv(csv_path, rows)
        data = {
            "model": sized.model,
            "from": list(found.sources),
            "ahead": ahead,
            "held_out": found.parts.to_dict(),
            "ridge": {str(layer): ridge for layer, ridge in found.ridge.items()},
            "predictors": [
                row | {"layer_recall": _by_layer(one.by_layer)} for row, one in zip(rows, found.recalls, strict=True)
            ],
            "lead": None if lead is None else lead.to_dict(),
        }
        if not answer(json_path, lambda: data | {"provenance": provenance(opened, asked)}, "predict"):
            return
        out = console()
        out.print(f"[bold]{quoted(sized.model)}[/bold]: {ahead} layer{'s' * (ahead > 1)} ahead, learned from "
                  f"{', '.join(found.sources)}")  # fmt: skip
        out.print(parts_text(found.parts))
        out.print()
        _show(rows)
        out.print()
        out.print("recall: experts used that were fetched; mass: their router weight; bytes as if none were resident")
        if lead is not None:
            out.print(
                f"lead {seconds(lead.seconds)} on {quoted(lead.hardware)} where nothing waits: its link carries "
                f"{lead.experts:,.1f} experts meanwhile"
            )


def fitted(trace: RoutingTrace, sources: str | None, ahead: int, width: int, share: float, seed: int) -> Predicted:
    """Fit and test as the options say.

    Raises:
        ConfigError: one of them is not allowed, or the trace lacks what it needs.
    """
    from lrcsim.prediction.predict import predict as fit
    from lrcsim.prediction.sources import sources_named

    by_default = "token,experts" if "token_ids" in trace.columns else "experts"
    names = sources_named(by_default if sources is None else sources, trace)
    with progress_bar(f"fitting {trace.num_layers - ahead:,} layers") as progress:
        return fit(trace, names, ahead=ahead, top=width, share=share, seed=seed, progress=progress)


def parts_text(parts: HeldOut) -> str:
    """Say what was fitted on and what was tested on."""
    fit, counted = int(parts.fit.sum()), int(parts.counted.sum())
    if parts.by == "time":
        return f"fitted on {fit:,} tokens, tested on the last {counted:,}: one prompt, divided in time"
    requests = len(parts.requests)
    return f"fitted on {fit:,} tokens, tested on {counted:,} of {requests:,} request{'s' * (requests > 1)} never seen"


def _by_layer(counts: dict[int, tuple[int, int]]) -> dict[str, float | None]:
    return {str(layer): found / used if used else None for layer, (found, used) in counts.items()}


def _show(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        interval = "–" if row["low"] is None else f"{100 * row['low']:.1f}–{100 * row['high']:.1f}"
        cells.append(
            [
                row["predictor"],
                str(row["fetched"]),
                percent(row["recall"]),
                interval,
                percent(row["mass_recall"]),
                human_bytes(row["useful_bytes_per_token"]),
                human_bytes(row["wasted_bytes_per_token"]),
            ]
        )
    print_rows(["predictor", "N", "recall", "95 %", "mass", "used/token", "wasted"], cells)
