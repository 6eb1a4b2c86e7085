"""`python -m lrcsim.experiments.paper TRACE... -o out`: everything in one command."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lrcsim.base.errors import ConfigError, LrcsimError, did_you_mean
from lrcsim.base.tables import Table
from lrcsim.cli.output import write_json
from lrcsim.experiments.paper.claims import claims_section
from lrcsim.experiments.paper.figures import MOST
from lrcsim.experiments.paper.inputs import Asked, Input, asked_for, in_order, opened
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions, measure
from lrcsim.experiments.paper.names import models_in, short_name
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.report import PaperSection, as_dict, write_folder
from lrcsim.experiments.paper.section_balance import balance_section
from lrcsim.experiments.paper.section_pairs import pairs_section
from lrcsim.experiments.paper.section_series import series_section
from lrcsim.experiments.paper.section_two_x import two_x_section
from lrcsim.experiments.paper.sections_cache import cache_sections
from lrcsim.experiments.paper.sections_models import model_sections
from lrcsim.experiments.paper.sections_srp import srp_sections
from lrcsim.experiments.paper.throughput import throughput_section
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.plots.figure import PICTURES


def main(arguments: list[str] | None = None) -> None:
    """Measure the traces and write the folder; errors about the input are one line, exit 1."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen = _parser().parse_args(given)
    options = PaperOptions(
        **{name: value for name, value in vars(chosen).items() if name in PaperOptions.__dataclass_fields__}
    )
    if options.hardware == "none":
        options = replace(options, hardware=None)
    if chosen.quick:
        options = replace(options, draws=min(options.draws, 50), segments=(4, 16), tokens=min(options.tokens, 300))
    command = shlex.join(["python", "-m", "lrcsim.experiments.paper", *given])
    try:
        if options.hardware is not None:  # before the work: a wrong name is found at once
            load_profile(options.hardware, options.overrides)
        if options.model is not None:
            load_geometry(options.model)
        asked = asked_for(chosen.traces, chosen.pair, chosen.series)
        with opened(asked.specs) as inputs:
            traces, sections = reproduce(inputs, asked, options)
            _draw_only(sections, chosen.figures)
            with _told("figures and tables") as progress:
                how = chosen.size, chosen.formats
                write_folder(chosen.output, command, traces, sections, progress, *how)
            if chosen.json is not None:
                write_json(chosen.json, as_dict(command, traces, sections), "paper")
    except LrcsimError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if chosen.json != "-":
        print(chosen.output / "results.md")


def reproduce(inputs: list[Input], asked: Asked, options: PaperOptions) -> tuple[Table, list[PaperSection]]:
    """Measure every trace and make all sections."""
    by_label: dict[str, MeasuredTrace] = {}
    for one in inputs:
        with _told(one.label) as progress:
            by_label[one.label] = measure(one, options, progress)
    found = [one for label, one in by_label.items() if label not in asked.apart]
    pairs = [(by_label[base], by_label[post]) for base, post in asked.pairs]
    series = [in_order([by_label[label].source for label in labels]) for labels in asked.series]
    measured_series = [[by_label[one.label] for one in ordered] for ordered in series]
    makers: list[Callable[[], list[PaperSection]]] = [
        lambda: [two_x_section(found, options)],
        lambda: srp_sections(found),
        lambda: cache_sections(found, options),
        lambda: [balance_section(found)],
        lambda: model_sections(found),
        lambda: [pairs_section(pairs, options), series_section(measured_series, options)],
        lambda: [throughput_section(found, options)],
    ]
    sections: list[PaperSection] = []
    with _told("intervals and throughput") as progress:
        for done, make in enumerate(makers, start=1):
            sections += make()
            progress(done, len(makers))
    sections.insert(0, claims_section(found, pairs, measured_series, options))
    foot = (
        "Teacher-forced traces are the paper's setting. In figures their lines are solid and their marks filled, those "
    )
    foot += "of generated tokens dashed and hollow; names are the paper's."
    models = len(models_in(found))
    if models > MOST:
        foot += f" Figures with a panel for each model show {MOST} of {models}, other seeds last."
    return Table("traces", "## Traces", [_about(one) for one in inputs], foot), sections


def _about(one: Input) -> dict[str, object]:
    """Describe a trace, and name the published model, with its sparsity where the trace has another."""
    trace, theirs, compared = one.trace, published().of(one.paper), one.paper
    if theirs and (theirs["experts"], theirs["top_k"]) != (trace.num_experts, trace.top_k):
        compared = f"{one.paper}, which has E = {theirs['experts']}, k = {theirs['top_k']}: another sparsity"
    row: dict[str, object] = {"trace": one.label, "in figures": short_name(one, kind=False), "tokens are": one.kind}
    row |= {"model": trace.model}
    row |= {"tokens": f"{trace.num_tokens:,}", "requests": trace.num_requests}
    row |= {"domains": None if trace.domains is None else len(set(trace.domains)), "L": trace.num_layers}
    return row | {"E": str(trace.num_experts), "k": str(trace.top_k), "compared with": compared}


def _draw_only(sections: Sequence[PaperSection], names: Sequence[str] | None) -> None:
    """Leave out all figures but those of some sections; None: leave out none.

    Raises:
        ConfigError: no section with a figure has such a name.
    """
    drawn = [section.name for section in sections if section.draw is not None]
    for name in names or ():
        if name not in drawn:
            known = f"these are: {', '.join(drawn)}{did_you_mean(name, drawn)}"
            raise ConfigError(f"--figures: there is no figure {name!r}, {known}")
    for section in sections:
        if names is not None and section.name not in names:
            section.draw = None


@contextmanager
def _told(what: str) -> Iterator[Callable[[int, int], None]]:
    """Say on standard error what is being done, how far it is, and how long it took."""
    begun, live = time.monotonic(), sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if live:
            print(f"\r{what}: {done} of {total}   ", end="", file=sys.stderr, flush=True)

    if not live:
        print(f"{what} ...", file=sys.stderr, flush=True)
    yield progress
    print(f"{chr(13) if live else ''}{what}: {time.monotonic() - begun:.1f} s        ", file=sys.stderr, flush=True)


def _formats(text: str) -> tuple[str, ...]:
    """Read formats as typed, each once."""
    known = [ending[1:] for ending in PICTURES]
    given = tuple(dict.fromkeys(text.split(",")))
    if wrong := [name for name in given if name not in known]:
        message = f"{wrong[0]!r} is no format of figures, these are: {', '.join(known)}{did_you_mean(wrong[0], known)}"
        raise argparse.ArgumentTypeError(message)
    return given


def _parser() -> argparse.ArgumentParser:
    about = "Every figure and table of arXiv 2505.16056 on any routing traces, published numbers beside them."
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.paper", description=about)
    option = parser.add_argument
    traces = (
        "lrcsim traces, as FILE, NAME=FILE or FOLDER; named after the paper's toy models (baseline, share1, ... "
        "-seed1, .generated) or real ones they are compared with these; none: the traces that come with lrcsim"
    )
    option("traces", nargs="*", metavar="TRACE", help=traces)
    option("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results.md goes")
    pair = "traces before and after post-training: files, or names of traces given"
    option("--pair", action="append", default=[], nargs="+", metavar="BASE POST", help=pair)
    series = "traces of one model over its training: files, a folder, or names of traces given"
    option("--series", action="append", default=[], nargs="+", metavar="TRACE", help=series)
    draws = "draws of requests (default: 1000, as the paper)"
    option("--bootstrap", dest="draws", metavar="BOOTSTRAP", type=int, default=1000, help=draws)
    option("--seed", type=int, default=0, help="of the draws and of random order")
    option("--hardware", default="rtx-4090", help="profile for throughput, or none")
    overrides = "single values of the profile"
    option("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help=overrides)
    option("--dtype", default="bf16", help="of the experts, for throughput")
    option("--model", help="whose shape throughput has: a name or config.json (default: the paper's toy's)")
    option("--tokens", type=int, default=16384, help="of each trace that are run for throughput")
    option("--jobs", type=int, help="threads; the result does not depend on it (default: all cores)")
    option("--quick", action="store_true", help="m = 4 and 16, 50 draws, 300 tokens: to try things")
    figures = "sections whose figures are drawn, as two_x,srp (default: all)"
    option("--figures", type=lambda text: text.split(","), metavar="NAMES", help=figures)
    sizes = "width of the figures in print: column (3.3 in) or page (7 in, default)"
    option("--size", choices=("column", "page"), default="page", help=sizes)
    formats = "of the figures, any of png,pdf,svg (default: png); results.md shows the first that a page can show"
    option("--format", dest="formats", type=_formats, default=("png",), metavar="FORMATS", help=formats)
    option("--json", metavar="FILE", help="also write all results as JSON; with - to standard output")
    return parser


if __name__ == "__main__":
    main()
