"""`lrcsim trace import` and `export`: from and to the formats of other tools."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.cli.output import answer, json_option, progress_bar, server_options
from lrcsim.cli.screen import echo
from lrcsim.cli.trace_words import size_text, trace_argument

if TYPE_CHECKING:
    from lrcsim.traces.importers import ImportReport, Likely


class FormatOption(click.Option):
    """An option that takes a name of a module's FORMATS; they are imported when its help is shown."""

    def __init__(self, *arguments: Any, registry: str, **told: Any) -> None:
        super().__init__(*arguments, **told)
        self._registry = registry

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what help says, with the names."""
        self.help = f"{', '.join(import_module(self._registry).FORMATS)}; guessed from the file when omitted."
        return super().get_help_record(ctx)


@click.command("import")
@click.argument("source", metavar="IN")
@click.option(
    "-o", "--output", "output", required=True, metavar="OUT.h5", help="Trace to write; replaced if it exists."
)
@click.option("--format", "format", metavar="FORMAT", cls=FormatOption, registry="lrcsim.traces.importers")
@click.option(
    "--columns",
    metavar="OURS=THEIRS,...",
    help="For tables, the file's name of columns that go by unusual names, such as request=conv,token=n. "
    "Ours are request, phase, token, layer, rank, expert, weight, logits, residency, expert_bytes, domain, token_id, "
    "prompt_tokens, generated_tokens, cached_tokens. Theirs may be a range (expert=e0-e7), a position in files without "
    "names (layer=2,expert=3-10), or none.",
)
@click.option("--num-experts", type=int, metavar="E", help="Routed experts per layer; else the largest id + 1.")
@click.option(
    "--num-layers", type=int, metavar="L", help="For sglang: layers in the routing (all blocks of the model)."
)
@click.option(
    "--top-k",
    type=int,
    metavar="K",
    help="Experts per token: for sglang, for ranks and router logits, and for logs without token numbers.",
)
@click.option(
    "--prompt-tokens",
    metavar="N|COLUMN",
    help="For files without phases: the first N tokens of each request are prefill, or the column that says how many.",
)
@click.option("--layer-first", is_flag=True, default=None, help="For arrays whose axes are [layers, tokens, k].")
@server_options
@click.option("--keep-zero-layers", is_flag=True, help="For servers, top-1: keep layers whose ids are all 0.")
@click.option("--drop-zero-rows", is_flag=True, help="For servers: tokens with id 0 everywhere are not recorded.")
@click.option("--phase", metavar="PHASE", help="Phase of all tokens of a file without phases: prefill, decode or none.")
@click.option("--expert-bytes", type=int, metavar="BYTES", help="Bytes of one expert.")
@click.option(
    "--model",
    metavar="NAME",
    help="Name of the model; of a known one (lrcsim models) come the experts that the file does not say.",
)
@json_option
def import_(
    source: str, output: str, format: str | None, columns: str | None, json_path: str | None, **given: Any
) -> None:
    """Bring in routing that another tool recorded.

    IN is a file (CSV, TSV, JSON lines, Parquet, npz, npy, JSON responses of vLLM or SGLang, a recording of SGLang's
    expert distribution recorder; gzip and zstd are read as they are), or a folder: of one file per request, of one
    Parquet or text file per layer, or for moe-lrc of safetensors files (or a quoted pattern of them). What `lrcsim
    trace check` would complain of is refused, and nothing is written then. docs/importing.md shows every layout,
    docs/traces.md public traces.
    """
    from lrcsim.traces.importers import Options, import_trace, parse_columns

    options = Options(columns=parse_columns(columns or ""), likely=_likely(given["model"]), **given)
    with progress_bar("importing") as progress:
        report = import_trace(source, output, format, options, progress)
    shown = answer(json_path, {"trace": output, **vars(report)}, "trace-import")
    for notice in report.notices:
        echo(f"Note: {notice}", err=True)
    if shown:
        echo(f"{output}: {size_text(report.tokens, report.requests)} from {report.format}: {_shape(report)}")


@click.command()
@trace_argument
@click.option("-o", "--output", required=True, metavar="OUT", help="File to write; replaced if it exists.")
@click.option("--format", "format", metavar="FORMAT", cls=FormatOption, registry="lrcsim.traces.exporters")
@click.option(
    "--prefill", metavar="HOW", help="For oracleGeneral: steps of prompt tokens, step (default), chunk:N, token."
)
@click.option("--layer", type=int, metavar="N", help="For oracleGeneral: write MoE layer N only (a cache of its own).")
@json_option
def export(
    path: str | None, output: str, format: str | None, prefill: str | None, layer: int | None, json_path: str | None
) -> None:
    """Write a trace in the format of other tools.

    TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
    """
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.exporters import Options, export_trace, guess_format

    name = format or guess_format(Path(output))
    with RoutingTrace.open(path) as opened, progress_bar("exporting") as progress:
        notices = export_trace(opened, output, name, Options(prefill, layer), progress)
    size = Path(output).stat().st_size
    shown = answer(json_path, {"file": output, "format": name, "bytes": size, "notices": notices}, "trace-export")
    for notice in notices:
        echo(f"Note: {notice}", err=True)
    if shown:
        echo(f"{output}: {size:,} bytes of {name}")


def _likely(model: str | None) -> Likely | None:
    """Return what is known of the model that ``--model`` names; None: nothing, as any name may stand there."""
    if model is None:
        return None
    from lrcsim.base.errors import ConfigError
    from lrcsim.models import load_geometry
    from lrcsim.traces.importers import Likely

    try:
        geometry = load_geometry(model)
    except ConfigError:
        return None
    return Likely(geometry.name, geometry.experts, geometry.top_k)


def _shape(report: ImportReport) -> str:
    """Say what was read: layers, experts, phases, and what is not recorded."""
    said = f"{report.layers:,} layer{'s' * (report.layers != 1)} x {report.num_experts:,} experts, top-{report.top_k}"
    if report.prefill is not None:
        said += f"; {report.prefill:,} prefill, {report.decode:,} decode tokens"
    else:
        said += "; no phases"
    if report.not_run:
        said += f"; {report.not_run:,} tokens without routing (not run or not recorded, -1)"
    if report.unrecorded:
        said += f"; {report.unrecorded:,} expert positions not recorded (-1)"
    return said
