"""`lrcsim report`: results on one page."""

from __future__ import annotations

import click

__all__ = ["report"]


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option("-o", "--output", required=True, metavar="FILE", help="The page, .html.")
def report(results: tuple[str, ...], output: str) -> None:
    """Write one page of results: the answer first, then interactive figures. It needs no network.

    RESULT is what lrcsim run, curve, srp or sch wrote with --json (- for standard input), or the table of a sweep;
    several are put on one page.
    """
    from lrcsim.reports import make_page, page_html, read_inputs
    from lrcsim.traces.atomic import replacing

    text = page_html(make_page(read_inputs(results)))
    with replacing(output) as partial:
        partial.write_text(text, encoding="utf-8")
