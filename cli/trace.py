"""``lrcsim trace``: look at routing traces, check them, bring them in and take them out."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.base.text import human_bytes, percent, quoted
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar, server_options
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.importers import ImportReport


class FormatOption(click.Option):
    """An option that takes a name of a module's FORMATS; they are imported when its help is shown."""

    def __init__(self, *arguments: Any, registry: str, **told: Any) -> None:
        super().__init__(*arguments, **told)
        self._registry = registry

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what help says, with the names."""
        self.help = f"{', '.join(import_module(self._registry).FORMATS)}; guessed from the file when omitted."
        return super().get_help_record(ctx)


trace_argument = click.argument("path", metavar="[TRACE]", required=False)


@click.group()
def trace() -> None:
    """Look at, check, import and export routing traces."""


@trace.command()
@trace_argument
@click.option("--quick", is_flag=True, help="Read the header only: no counts of unrecorded positions or recorded hits.")
@click.option(
    "--routing/--no-routing",
    default=None,
    help="Look at the routing itself, or not.  [default: up to 17 million expert ids]",
)
@click.option("--plot", "plot_path", metavar="FILE", help="Draw how often each expert is used: .png, .svg or .pdf.")
@figure_options
@json_option
def info(path: str | None, quick: bool, routing: bool | None, plot_path: str | None, json_path: str | None) -> None:
    """Show what a trace holds, and what its routing is like (docs/traces.md says what each line means).

    TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
    """
    from lrcsim.cli.trace_routing import print_routing, routing_facts
    from lrcsim.traces import RoutingTrace

    if quick and routing:
        raise ConfigError("--quick reads the header only, --routing the whole trace: leave out one of them")
    if quick and plot_path is not None:
        raise ConfigError("--quick reads the header only, --plot the whole trace: leave out one of them")
    check_picture(plot_path)
    with RoutingTrace.open(path) as opened:
        with progress_bar("reading") as progress:
            facts = _facts(opened, quick, progress)
        facts["routing"] = None if quick else routing_facts(opened, routing)
        if plot_path is not None:
            from lrcsim.plots.shown import draw_trace

            draw_trace(plot_path, opened)
    if answer(json_path, facts, "trace-info"):
        _print_facts(facts)
        if facts["routing"] is not None:
            print_routing(facts["routing"])
        elif not quick and routing is None:
            echo("routing: not looked at, the trace is large; --routing does")


@trace.command()
@trace_argument
@json_option
def check(path: str | None, json_path: str | None) -> None:
    """Read a trace from beginning to end and list what is wrong with it; exit code 1 if anything is.

    Warnings are about what a model hardly ever does and a recorder that reads the wrong memory does: rows that repeat,
    experts that never come twice, layers that never change. The trace is good all the same; exit code 0.

    TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
    """
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.examine import examine_file

    if path is None or path.startswith("bundled:"):
        with RoutingTrace.open(path) as opened:
            path = str(opened.path)
    with progress_bar("checking") as progress:
        problems, warnings = examine_file(path, progress=progress)
    listed = {
        kind: [{"where": one.where, "what": one.what, "count": one.count} for one in found]
        for kind, found in (("problems", problems), ("warnings", warnings))
    }
    shown = answer(json_path, {"trace": path, "good": not problems, **listed}, "trace-check")
    if not problems:
        if shown:
            with RoutingTrace.open(path) as opened:
                looks = f", with {len(warnings)} warning{'s' * (len(warnings) != 1)}:" if warnings else ""
                echo(f"{path}: good, {_size(opened.num_tokens, opened.num_requests)}{looks}")
            for warning in warnings:
                echo(f"Warning: {warning}")
        return
    if len(problems) == 1:
        first = str(problems[0])
        raise TraceError(first if first.startswith(path) else f"{path}: {first}")
    if shown:
        for problem in problems:
            echo(str(problem))
    raise TraceError(f"{path}: {len(problems)} kinds of problem, the first at {problems[0]}")


@trace.command("import")
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
@click.option("--model", metavar="NAME", help="Name of the model.")
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

    options = Options(columns=parse_columns(columns or ""), **given)
    with progress_bar("importing") as progress:
        report = import_trace(source, output, format, options, progress)
    shown = answer(json_path, {"trace": output, **vars(report)}, "trace-import")
    for notice in report.notices:
        echo(f"Note: {notice}", err=True)
    if shown:
        echo(f"{output}: {_size(report.tokens, report.requests)} from {report.format}: {_shape(report)}")


@trace.command()
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


@trace.command()
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


@trace.command()
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
            f"{output}: {_size(tokens, requests)}, version {format_version}, {sizes[1]:,} bytes (before: {sizes[0]:,})"
        )


@trace.command()
@trace_argument
@click.option("--fit", required=True, metavar="FIT.h5", help="Trace to write: requests to fit on, as for --profile.")
@click.option("--test", required=True, metavar="TEST.h5", help="Trace to write: the other requests, to test on.")
@click.option("--share", type=float, default=0.5, show_default=True, metavar="S", help="Of the prompts, to fit on.")
@json_option
def split(path: str | None, fit: str, test: str, share: float, json_path: str | None) -> None:
    """Make two traces of one, so that nothing is tested on the requests that it is made of.

    Each domain is divided alike, every second prompt to either part at a share of 0.5; requests with the same prompt
    stay together. TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
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
            echo(f"{part['file']}: {_size(part['tokens'], part['requests'])}")


def _facts(opened: RoutingTrace, quick: bool, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Collect what `info` shows, as JSON values."""
    import numpy as np

    layers = opened.layers
    sizes = layers.expert_bytes
    facts: dict[str, Any] = {
        "trace": str(opened.path),
        "model": opened.model,
        "tokens": opened.num_tokens,
        "prefill_tokens": None,
        "decode_tokens": None,
        "requests": opened.num_requests,
        "domains": None if opened.domains is None else sorted(set(opened.domains)),
        "layers": len(layers),
        "stacks": {name: int((layers.stack == at).sum()) for at, name in enumerate(layers.stack_names)},
        "num_experts": _same_or_list(layers.num_experts),
        "top_k": _same_or_list(layers.top_k),
        "num_shared": _same_or_list(layers.num_shared),
        "expert_bytes": None if sizes is None else _same_or_list(sizes),
        "all_experts_bytes": None if layers.layer_bytes is None else int(layers.layer_bytes.sum()),
        "dense_bytes": None if layers.dense_bytes is None else _same_or_list(layers.dense_bytes),
        "columns": list(opened.columns),
        "positions": None,
        "unrecorded": None,
        "tokens_without_routing": None,
        "recorded_hit_rate": None,
        "file_bytes": opened.path.stat().st_size if opened.path else None,
        "provenance": opened.provenance,
    }
    if quick:
        return facts
    from lrcsim.traces.columns import mark_missing
    from lrcsim.traces.trace import DECODE

    wanted = [name for name in ("experts", "stack", "phase", "residency") if name in opened.columns]
    missing = recorded = without = decoded = hits = looked_up = 0
    for low, high in opened.blocks():
        block: dict[str, Any] = {name: opened.read(name, low, high) for name in wanted}
        missing += int(np.count_nonzero(mark_missing(block, layers)))
        held = block["experts"] >= 0
        recorded += int(np.count_nonzero(held))
        without += int(np.count_nonzero(~held.any(axis=(1, 2))))
        decode = block["phase"] == DECODE if "phase" in block else np.ones(high - low, bool)
        decoded += int(decode.sum())
        if "residency" in block:  # a prompt is looked up in one batch, so only decoded tokens have one look-up per row
            residency = block["residency"][decode][block["experts"][decode] >= 0]
            hits += int(np.count_nonzero((residency == 1) | (residency == 2)))
            looked_up += int(np.count_nonzero(residency != 255))
        progress(high, opened.num_tokens)
    facts["positions"], facts["unrecorded"] = recorded + missing, missing
    facts["tokens_without_routing"] = without
    if "phase" in opened.columns:
        facts["prefill_tokens"], facts["decode_tokens"] = opened.num_tokens - decoded, decoded
    if looked_up:
        facts["recorded_hit_rate"] = hits / looked_up
    return facts


def _size(tokens: int, requests: int) -> str:
    return f"{tokens:,} token{'s' * (tokens != 1)} in {requests:,} request{'s' * (requests != 1)}"


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


def _same_or_list(values: Any) -> int | list[int] | list[list[int]]:
    if values.ndim == 2:
        by_expert: list[list[int]] = values.tolist()
        return by_expert
    listed = [int(value) for value in values]
    return listed[0] if len(set(listed)) == 1 else listed


def _info_shape(facts: dict[str, Any]) -> str:
    """Say the shape in one line, as an import does."""
    largest = {
        name: max(value) if isinstance(value := facts[name], list) else value for name in ("num_experts", "top_k")
    }
    layers = facts["layers"]
    mixed = ", not the same in all" if any(isinstance(facts[name], list) for name in largest) else ""
    return f"{layers:,} layer{'s' * (layers != 1)} x {largest['num_experts']:,} experts, top-{largest['top_k']}{mixed}"


def _print_facts(facts: dict[str, Any]) -> None:
    def span(value: int | list[int], show: Callable[[int], str] = "{:,}".format) -> str:
        return show(value) if isinstance(value, int) else f"{show(min(value))} to {show(max(value))}, by layer"

    def of_experts(value: int | list[int] | list[list[int]]) -> str:
        if isinstance(value, int) or not isinstance(value[0], list):
            return span(value, human_bytes)
        sizes = {size for row in value for size in row if size}
        return f"{human_bytes(min(sizes))} to {human_bytes(max(sizes))}, by expert"

    facts = quoted(facts)
    tokens = f"{facts['tokens']:,}"
    if facts["decode_tokens"] is not None:
        tokens += f" ({facts['prefill_tokens']:,} prefill, {facts['decode_tokens']:,} decode)"
    if facts["tokens_without_routing"]:
        tokens += f", {facts['tokens_without_routing']:,} of them without routing"
    requests = f"{facts['requests']:,}"
    if facts["domains"] is not None:
        names = ", ".join(facts["domains"][:8]) + (", ..." if len(facts["domains"]) > 8 else "")
        requests += f" in {len(facts['domains'])} domains: {names}"
    rows = [("model", facts["model"]), ("tokens", tokens), ("requests", requests), ("shape", _info_shape(facts))]
    if len(facts["stacks"]) > 1:
        rows.append(("MoE layers", ", ".join(f"{name} {count}" for name, count in facts["stacks"].items())))
    for name, key in (("experts per layer", "num_experts"), ("top-k", "top_k")):
        if isinstance(facts[key], list):
            rows.append((name, span(facts[key])))
    if facts["num_shared"] != 0:
        rows.append(("shared experts", span(facts["num_shared"])))
    if facts["expert_bytes"] is None:
        rows.append(("bytes per expert", "not recorded"))
    else:
        rows.append(("bytes per expert", of_experts(facts["expert_bytes"])))
        rows.append(("all experts", human_bytes(facts["all_experts_bytes"])))
    if facts["dense_bytes"] is not None:
        rows.append(("dense bytes per layer", span(facts["dense_bytes"], human_bytes)))
    if facts["unrecorded"] is not None:
        share = facts["unrecorded"] / facts["positions"] if facts["positions"] else 0.0
        rows.append(
            ("not recorded", f"{facts['unrecorded']:,} of {facts['positions']:,} expert positions ({share:.2%})")
        )
    if facts["recorded_hit_rate"] is not None:
        rows.append(("hits of the engine's cache", f"{percent(facts['recorded_hit_rate'])} in decode"))
    rows.append(("columns", ", ".join(facts["columns"])))
    if facts["file_bytes"] is not None:
        rows.append(("file", human_bytes(facts["file_bytes"])))
    for key, value in facts["provenance"].items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        rows.append((key, text if len(text) <= 200 else text[:197] + "..."))
    console().print(f"[bold]{facts['trace']}[/bold]")
    print_rows(("", ""), [(f"[bold]{name}[/bold]", value) for name, value in rows], left=(0, 1), whole=(0,))
