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
from lrcsim.experiments.paper.inputs import Input, opened, pairs_of
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions, measure
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.report import PaperSection, as_dict, write_folder
from lrcsim.experiments.paper.section_balance import balance_section
from lrcsim.experiments.paper.section_two_x import two_x_section
from lrcsim.experiments.paper.sections_cache import cache_sections
from lrcsim.experiments.paper.sections_models import model_sections
from lrcsim.experiments.paper.sections_srp import srp_sections
from lrcsim.experiments.paper.throughput import throughput_section
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry


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
        with opened(chosen.traces) as inputs:
            traces, sections = reproduce(inputs, pairs_of(chosen.pair, inputs), options)
            _draw_only(sections, chosen.figures)
            with _told("figures and tables") as progress:
                write_folder(chosen.output, command, traces, sections, progress)
            if chosen.json is not None:
                write_json(chosen.json, as_dict(command, traces, sections), "paper")
    except LrcsimError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if chosen.json != "-":
        print(chosen.output / "results.md")


def reproduce(
    inputs: list[Input], pairs: list[tuple[Input, Input]], options: PaperOptions
) -> tuple[Table, list[PaperSection]]:
    """Measure every trace and make all sections."""
    found: list[MeasuredTrace] = []
    for one in inputs:
        with _told(one.label) as progress:
            found.append(measure(one, options, progress))
    makers: list[Callable[[], list[PaperSection]]] = [
        lambda: [two_x_section(found, options)],
        lambda: srp_sections(found),
        lambda: cache_sections(found, options),
        lambda: [balance_section(found)],
        lambda: model_sections(found, pairs),
        lambda: [throughput_section(found, options)],
    ]
    sections: list[PaperSection] = []
    with _told("intervals and throughput") as progress:
        for done, make in enumerate(makers, start=1):
            sections += make()
            progress(done, len(makers))
    by_label = {one.label: one for one in found}
    measured_pairs = [(by_label[a.label], by_label[b.label]) for a, b in pairs]
    sections.insert(0, claims_section(found, measured_pairs, options))
    foot = "Teacher-forced traces are the paper's setting; figures show only those, where there are any."
    return Table("traces", "## Traces", [_about(one) for one in inputs], foot), sections


def _about(one: Input) -> dict[str, object]:
    """Describe a trace, and name the published model, with its sparsity where the trace has another."""
    trace, theirs, compared = one.trace, published().of(one.paper), one.paper
    if theirs and (theirs["experts"], theirs["top_k"]) != (trace.num_experts, trace.top_k):
        compared = f"{one.paper}, which has E = {theirs['experts']}, k = {theirs['top_k']}: another sparsity"
    row: dict[str, object] = {"trace": one.label, "variant": one.variant, "tokens are": one.kind, "model": trace.model}
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


def _parser() -> argparse.ArgumentParser:
    about = "Every figure and table of arXiv 2505.16056 on any routing traces, published numbers beside them."
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.paper", description=about)
    option = parser.add_argument
    traces = (
        "lrcsim traces, as FILE or NAME=FILE; named after the paper's toy models (baseline, share1, ... -seed1, "
        ".generated) or real ones they are compared with these; none: the traces that come with lrcsim"
    )
    option("traces", nargs="*", metavar="TRACE", help=traces)
    option("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results.md goes")
    pair = "names of traces before and after post-training"
    option("--pair", action="append", default=[], metavar="BASE:POST", help=pair)
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
    option("--json", metavar="FILE", help="also write all results as JSON; with - to standard output")
    return parser


if __name__ == "__main__":
    main()
