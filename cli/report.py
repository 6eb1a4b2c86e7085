"""`lrcsim report`: results on one page."""

from __future__ import annotations

import click

from lrcsim.base.text import human_bytes
from lrcsim.cli.output import answer, json_option, progress_bar
from lrcsim.cli.screen import echo


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option("-o", "--output", metavar="FILE", help="The page, .html.  [default: the first RESULT's name with .html]")
@click.option("--trace", "trace_path", metavar="FILE", help="Where the trace of the run is now.")
@click.option("--profile", "profile_path", metavar="TRACE|self", help="Where the trace of its popularity is now.")
@click.option(
    "--allow-code",
    is_flag=True,
    help="Run policies that a RESULT names as file.py:Class or package.module:Class: code of whoever wrote it.",
)
@click.option("--policies", metavar="NAMES", help="Policies to compare a run with, commas between.  [default: seven]")
@click.option("--request", type=int, metavar="N", help="Request of the residency map.  [default: of middling length]")
@click.option(
    "--without",
    "unwanted",
    metavar="PARTS",
    help="Do not work these out from the trace: curve, policies, map, locality, or all; commas between.",
)
@json_option
def report(
    results: tuple[str, ...],
    output: str | None,
    trace_path: str | None,
    profile_path: str | None,
    allow_code: bool,
    policies: str | None,
    request: int | None,
    unwanted: str | None,
    json_path: str | None,
) -> None:
    """Write one page of results: the answer first, then interactive figures. It needs no network.

    RESULT is what lrcsim run, compare, curve, srp or sch wrote with --json (- for standard input), or the table of a
    sweep; several are put on one page. What the JSON of a run does not have is worked out from its trace, if that is
    still there and the same.
    """
    from dataclasses import asdict
    from pathlib import Path

    from lrcsim.base.errors import ConfigError
    from lrcsim.base.files import write_text
    from lrcsim.reports import make_page, page_html, read_inputs
    from lrcsim.reports.from_trace import COMPARED, parts_but
    from lrcsim.reports.page import check_installed
    from lrcsim.simulator.setup.option_lists import split_list

    check_installed()
    parts = parts_but(unwanted)
    if output is None:
        if results[0] == "-":
            raise ConfigError("a page of standard input has no name: give one with -o report.html")
        output = str(Path(results[0]).with_suffix(".html"))
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"-o {output}: a page is HTML, name it .html")
    inputs = read_inputs(results)
    page = make_page(
        inputs,
        progress_bar,
        trace_path=trace_path,
        parts=parts,
        policies=COMPARED if policies is None else split_list("policies", policies),
        request=request,
        profile_path=profile_path,
        allow_code=allow_code,
    )
    text = page_html(page)
    write_text(output, text)
    said = {
        "file": output,
        "bytes": len(text.encode()),
        "title": page.title,
        "answer": page.answer,
        "notes": page.notes,
        "sections": [section.title for section in page.sections],
        "left_out": [asdict(part) for part in page.left_out],
    }
    if answer(json_path, said, "report"):
        for sentence in page.answer:
            echo(sentence)
        for part in page.left_out:
            echo(f"Not on the page, {part.what}: {part.why}")
        echo(f"{output}: {len(page.figures)} figures, {human_bytes(len(text.encode()))}")
