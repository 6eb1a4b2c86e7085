"""From what was read to a page."""

from __future__ import annotations

from typing import Any

from lrcsim.reports.answer import answer_of, numbers_of, run_name
from lrcsim.reports.curve_section import curve_section, curve_sentence
from lrcsim.reports.parts import Page
from lrcsim.reports.read import Inputs
from lrcsim.reports.run_sections import config_section, hits_section

__all__ = ["make_page"]


def make_page(inputs: Inputs) -> Page:
    """Return the page of some results."""
    page = Page(_title(inputs))
    for number, (source, run) in enumerate(inputs.runs, start=1):
        name = f"run{number}"
        page.answer += answer_of(run)
        page.numbers += numbers_of(run)
        page.notes += [str(warning) for warning in run["warnings"]]
        page.sections += [hits_section(run, name), config_section(run, name, source)]
    for number, (_, curve) in enumerate(inputs.curves, start=1):
        page.sections.append(curve_section(curve, f"curve{number}"))
        if not inputs.runs:
            page.answer.append(f"{curve['trace']}: {curve_sentence(curve)}")
    return page


def _title(inputs: Inputs) -> str:
    if len(inputs.runs) == 1:
        run: dict[str, Any] = inputs.runs[0][1]
        return f"{run['trace']['model']}: {run_name(run)}"
    if inputs.runs:
        return f"{len(inputs.runs)} runs"
    return "Results"
