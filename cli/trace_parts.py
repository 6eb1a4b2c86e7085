"""`lrcsim trace select`, `convert` and `split`: a trace, or some of it, in other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lrcsim.cli.output import answer, json_option, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.trace_words import size_text, trace_argument


@click.command()
@trace_argument
@click.option("-o", "--output", required=True, metavar="OUT.h5", help="Trace to write; replaced if it exists.")
@click.option(
    "--layers",
    required=True,
    metavar="WHICH",
    help="MoE layers to keep, with commas: numbers from 0 (0-11); where the trace names its modules also ffn or "
    "attention (experts of feed-forward networks, inside attention) and patterns of names ('*.mlp.*').",
)
@json_option
def select(path: str | None, output: str, layers: str, json_path: str | None) -> None:
    """Write a trace of some of the MoE layers of another.

    TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
    """
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.select import select_layers

    with RoutingTrace.open(path) as opened, progress_bar("selecting") as progress:
        kept = select_layers(opened, output, layers, progress)
        tokens, there = opened.num_tokens, len(opened.layers)
    facts = {"trace": output, "tokens": tokens, "layers": len(kept), "selected": kept}
    if answer(json_path, facts, "trace-select"):
        echo(f"{output}: {tokens:,} tokens, {len(kept):,} of {there:,} MoE layers")


@click.command()
@click.argument("path", metavar="IN")
@click.option("-o", "--output", required=True, metavar="OUT.h5", help="Trace to write; replaced if it exists.")
@click.option(
    "--format-version",
    type=click.IntRange(1, 2),
    default=2,
    show_default=True,
    help="2: fast to read; 1: for older lrcsim, and other tools without HDF5's plug-in of Zstandard.",
)
@click.option(
    "--compression",
    metavar="HOW",
    help="fast (expert ids packed only where that halves them), zstd (smallest), gzip, lzf or none.  [default: fast; "
    "gzip in version 1]",
)
@json_option
def convert(path: str, output: str, format_version: int, compression: str | None, json_path: str | None) -> None:
    """Write a trace in another version of the trace format, or otherwise compressed.

    IN is an lrcsim trace file. All that it holds stays the same; the new file names the SHA-256 of the old one, so that
    reports take it for the trace of earlier results.
    """
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.convert import convert as write

    with RoutingTrace.open(path) as opened, progress_bar("converting") as progress:
        write(opened, output, format_version, compression, progress)
        tokens, requests, before = opened.num_tokens, opened.num_requests, opened.path
    sizes = [Path(str(file)).stat().st_size for file in (before, output)]
    facts = {"trace": output, "format_version": format_version, "bytes": sizes[1], "bytes_before": sizes[0]}
    if answer(json_path, facts, "trace-convert"):
        echo(
            f"{output}: {size_text(tokens, requests)}, version {format_version}, "
            f"{sizes[1]:,} bytes (before: {sizes[0]:,})"
        )


@click.command()
@trace_argument
@click.option("--fit", required=True, metavar="FIT.h5", help="Trace to write: requests to fit on, as for --profile.")
@click.option("--test", required=True, metavar="TEST.h5", help="Trace to write: the other requests, to test on.")
@click.option("--share", type=float, default=0.5, show_default=True, metavar="S", help="Of the prompts, to fit on.")
@json_option
def split(path: str | None, fit: str, test: str, share: float, json_path: str | None) -> None:
    """Make two traces of one, so that nothing is tested on the requests that it is made of.

    Each domain is divided alike, every second prompt to either part at a share of 0.5; requests with the same prompt,
    and the turns of one chat, stay together. TRACE is an lrcsim trace file; without it, the trace that comes with
    lrcsim.
    """
    import numpy as np

    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.split import fit_part, save_part

    with RoutingTrace.open(path) as opened:
        fits = fit_part(opened, share)
        parts: dict[str, dict[str, Any]] = {}
        for name, file, chosen in (("fit", fit, fits), ("test", test, ~fits)):
            requests = np.flatnonzero(chosen)
            parts[name] = {"file": file, "requests": len(requests), "tokens": save_part(opened, file, requests, name)}
    if answer(json_path, {"share": share, **parts}, "trace-split"):
        for part in parts.values():
            echo(f"{part['file']}: {size_text(part['tokens'], part['requests'])}")
