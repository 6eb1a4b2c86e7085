"""`lrcsim frontier`: run a model with routing rules and a cache in it; quality against speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.tables import Row, write_csv
from lrcsim.base.text import percent, quoted
from lrcsim.cli.options import given, run_options
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar
from lrcsim.cli.record import opened_prompts
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.frontier.measure import Frontier

NOT_HERE = ("prefill", "route", "miss", "prefetch", "model", "dtype")
"""Options of a run that say nothing here, or that are given under other names."""


@click.command()
@click.argument("model")
@click.option(
    "--prompts",
    required=True,
    metavar="FILE|-",
    help="Texts to run: text, or JSON lines with prompt, messages or token_ids, and domain. - is standard input.",
)
@click.option(
    "--rules",
    required=True,
    metavar="RULES",
    help="Rules with ; between: 'prior:0.05,0.1;window:2,12;substitute:0.1;skip:0.1;none', file.py:Class. Where a rule "
    "has one number, several with commas are so many rules.",
)
@click.option("--sample-tokens", type=int, default=512, show_default=True, metavar="N", help="Length of a sample.")
@click.option("--limit", type=int, metavar="N", help="Samples at most.")
@click.option("--device", default="auto", show_default=True, metavar="cuda|cpu|auto", help="Where the model runs.")
@click.option(
    "--dtype", default="auto", show_default=True, metavar="bf16|fp16|fp32|auto", help="auto: as the model's files say."
)
@run_options("cache", "machine", but=NOT_HERE)
@click.option(
    "--timed-model", metavar="NAME|FILE", help="Geometry to take times of.  [default: of the model's own config]"
)
@click.option("--timed-dtype", metavar="NAME", help="How weights are stored on the machine: bf16, q4_k_m ...")
@click.option("--restart", is_flag=True, help="Drop the rules that a stopped run has done.")
@click.option("--plot", metavar="FILE", help="Draw quality against speed (.png, .svg, .pdf).")
@figure_options
@click.option("--csv", "csv_path", metavar="FILE", help="Write a row for each rule as CSV.")
@json_option
def frontier(
    model: str,
    prompts: str,
    rules: str,
    sample_tokens: int,
    limit: int | None,
    device: str,
    dtype: str,
    timed_model: str | None,
    timed_dtype: str | None,
    restart: bool,
    plot: str | None,
    csv_path: str | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Run MODEL on texts with each rule, the cache in the loop: loss, changed tokens, hits, loads, tokens per second.

    MODEL is a local folder or a hub id of a Mixture-of-Experts model in transformers. Its routers prefer residents as a
    rule says, and what they then choose is executed. Stopped, the same command goes on with the rules that are not
    done, if it writes a file. See docs/frontier.md.
    """
    from lrcsim.frontier.rules import parse_rules
    from lrcsim.recorder import read_prompts
    from lrcsim.recorder.model import load, require_torch

    check_picture(plot)
    told = given({**options, "model": timed_model, "dtype": timed_dtype})
    compared = parse_rules(rules)
    require_torch()
    from lrcsim.frontier.measure import finished, measure

    out = next((path for path in (csv_path, json_path, plot) if path not in (None, "-")), None)
    with opened_prompts(prompts) as (lines, _), progress_bar(f"running {len(compared)} rules") as progress:
        found = measure(
            load(model, device=device, dtype=dtype),
            read_prompts(lines, where=prompts, whole=True),
            compared,
            sample_tokens=sample_tokens,
            limit=limit,
            out=out,
            restart=restart,
            progress=progress,
            **told,
        )
    for notice in found.notices:
        echo(f"Note: {notice}", err=True)
    if plot is not None:
        from lrcsim.plots.frontier import plot_frontier

        title = f"{Path(found.about['model']).name}, {found.about['tokens']:,} tokens"
        plot_frontier(plot, found.rows, found.front, found.knee, title)
    if csv_path is not None:
        write_csv(csv_path, [_flat(row, found.front) for row in found.rows])
    if answer(json_path, found.to_dict(), "frontier"):
        _show(found)
    if out is not None:
        finished(out)


def _flat(row: Mapping[str, Any], front: Sequence[str]) -> Row:
    """Return a row with plain cells: the interval in two columns, the open loop's figures in columns of their own."""
    cells = {name: value for name, value in row.items() if name != "open_loop"}
    interval = row["loss_interval"]
    cells["loss_interval"] = (None, None) if interval is None else tuple(interval)
    cells |= {f"open_loop_{name}": value for name, value in row["open_loop"].items()}
    return cells | {"on_front": row["rule"] in front}


def _show(found: Frontier) -> None:
    about, rows = quoted(found.about), found.rows
    out = console()
    out.print(
        f"[bold]{about['model']}[/bold] ({about['dtype']}): {about['tokens']:,} tokens in {about['requests']:,} samples"
    )
    timed = rows[0]["tokens_per_s"] is not None
    headings = ["rule", "loss", "more by", "95 % interval", "changed", "hits", "loads"]
    headings += [*(["tokens/s"] if timed else []), ""]
    cells = []
    for row in rows:
        interval = row["loss_interval"]
        cells.append(
            [
                quoted(row["rule"]),
                f"{row['loss']:.4f}",
                f"{row['loss_difference']:+.4f}",
                "–" if interval is None else f"{interval[0]:+.4f} {interval[1]:+.4f}",
                percent(row["changed_tokens"]),
                percent(row["hit_rate"]),
                f"{row['loads_per_access']:.3f}",
                *([f"{row['tokens_per_s']:,.1f}"] if timed else []),
                "knee" if row["rule"] == found.knee else "front" if row["rule"] in found.front else "",
            ]
        )
    out.print()
    print_rows(headings, cells, whole=range(len(headings)))
    out.print()
    out.print(
        "loss in nats per token; changed: tokens whose most likely next one is another; loads: per access of the "
        "router's choice"
    )
    off = max(abs(row["hit_rate"] - row["open_loop"]["hit_rate"]) for row in rows)
    out.print(f"replaying the rules on what was recorded without them foretells the hits within {100 * off:.2f} points")
    out.print(quoted(found.words))
