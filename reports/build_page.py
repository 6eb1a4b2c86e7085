"""From what was read to a page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, LrcsimError, brief
from lrcsim.base.text import percent
from lrcsim.reports.blocks import Page, Section, TableBlock
from lrcsim.reports.compare_section import compare_section
from lrcsim.reports.comparison_section import comparison_section, comparison_sentences
from lrcsim.reports.curve_section import curve_section, curve_sentence
from lrcsim.reports.from_trace import PARTS, Rebuilt, rebuild
from lrcsim.reports.inputs import Inputs
from lrcsim.reports.locality_section import sch_section, srp_section, srp_sentence
from lrcsim.reports.map_section import map_section
from lrcsim.reports.policies_again import Watcher
from lrcsim.reports.run_sections import config_section, hits_section
from lrcsim.reports.sweep_section import sweep_answer, sweep_section
from lrcsim.reports.time_section import time_section
from lrcsim.reports.verdict import answer_of, numbers_of, run_name, speed


def make_page(inputs: Inputs, watcher: Watcher, *, parts: Collection[str] = tuple(PARTS), **options: Any) -> Page:
    """Return the page of some results.

    Args:
        inputs: what the commands wrote.
        watcher: shows progress of what is worked out from the traces of runs.
        parts: what to work out (`lrcsim.reports.from_trace.PARTS`), of each run what was not given by itself.
        options: of `rebuild`, for all runs.

    Raises:
        ConfigError: there is no such request, or a file is not as its command writes it.
        PolicyError: there is no such policy to compare with.
    """
    alone = len(inputs.runs) == 1
    with _of(_sources(inputs), "a command"):
        page = Page(_title(inputs))
        if len(inputs.runs) > 1:
            page.sections.append(_side_by_side(inputs))
    for number, (source, run) in enumerate(inputs.runs, start=1):
        with _of(source, "run"):
            wanted = [part for part in parts if not _given(part, run, inputs)]
            found = rebuild(run, watcher, parts=wanted, beside=(Path.cwd(), Path(source).parent), **options)
            _add_run(page, run, found, f"run{number}", source, alone=alone)
    for kind, section_of, sentence_of in OTHERS:
        for number, (source, one) in enumerate(getattr(inputs, f"{kind}s"), start=1):
            with _of(source, kind):
                page.sections.append(section_of(one, f"{kind}{number}"))
                page.answer += [] if inputs.runs else sentence_of(one)
    for number, (source, table) in enumerate(inputs.tables, start=1):
        with _of(source, "sweep"):
            page.sections.append(sweep_section(table, f"sweep{number}", source))
            page.answer += sweep_answer(table, source)
    return page


OTHERS: tuple[tuple[str, Callable[[Any, str], Section], Callable[[Any], list[str]]], ...] = (
    ("compare", comparison_section, comparison_sentences),
    ("curve", curve_section, lambda curve: [f"{curve['trace']}: {curve_sentence(curve)}"]),
    ("srp", srp_section, lambda srp: [srp_sentence(srp)]),
    ("sch", sch_section, lambda _: []),
)
"""What is no run: its section, and its sentences where there is no run to speak of."""


def _sources(inputs: Inputs) -> str:
    results = [*inputs.runs, *inputs.compares, *inputs.curves, *inputs.srps, *inputs.schs]
    return ", ".join(dict.fromkeys([*(source for source, _ in results), *(source for source, _ in inputs.tables)]))


@contextmanager
def _of(source: str, command: str) -> Iterator[None]:
    """Say of which file it is that something in it is not what it should be."""
    try:
        yield
    except LrcsimError:
        raise
    except Exception as error:  # whatever a wrong value leads to
        raise ConfigError(
            f"{source} is not as lrcsim {command} writes it ({brief(error)}): make it again with --json"
        ) from error


def _add_run(page: Page, run: dict[str, Any], found: Rebuilt, name: str, source: str, *, alone: bool) -> None:
    label, answer = run_name(run), answer_of(run)
    page.answer += answer if alone else [f"{label}: {' '.join(answer)}"]
    page.numbers += numbers_of(run) if alone else []
    page.notes += [str(warning) if alone else f"{label}: {warning}" for warning in run["warnings"]]
    for section in _run_sections(run, found, name, source):
        title = section.title if alone else f"{section.title}: {label}"
        page.sections.append(Section(section.name, title, section.text, section.blocks))
    page.left_out += found.left_out


def _run_sections(run: dict[str, Any], found: Rebuilt, name: str, source: str) -> Iterator[Section]:
    yield hits_section(run, name)
    if "time" in run:
        yield time_section(run, name)
    if found.curve is not None:
        sizes, curve = run["config"]["capacity"], found.curve
        active = float(curve["capacities"][-1] / curve["relative"][-1])  # what one token uses, in the curve's unit
        here = sum(sizes) / len(sizes) / active
        yield curve_section(curve, f"{name}-curve", here=here, own=run["config"]["policy"])
    if found.compared:
        yield compare_section(found.compared, name)
    if found.residents is not None:
        yield map_section(found.residents, name)
    if found.srp is not None and found.sch is not None:
        yield srp_section(found.srp, f"{name}-srp")
        yield sch_section(found.sch, f"{name}-sch")
    yield config_section(run, name, source)


def _given(part: str, run: dict[str, Any], inputs: Inputs) -> bool:
    """Return whether a part of a run was given as a result of its own."""
    model = run["trace"]["model"]
    if part == "curve":
        return any(curve["trace"] == model for _, curve in inputs.curves)
    if part == "locality":
        return any(one["trace"] == model for _, metric in [*inputs.srps, *inputs.schs] for one in metric["results"])
    return False


def _side_by_side(inputs: Inputs) -> Section:
    timed = any("time" in run for _, run in inputs.runs)
    rows = []
    for _, run in inputs.runs:
        best = run["bounds"].get("belady")
        row = [run_name(run), str(run["trace"]["model"]), percent(run["cache"]["hit_rate"])]
        row += [percent(run["cache"]["decode"]["hit_rate"]), percent(None if best is None else best["hit_rate"])]
        if timed:
            fast = run.get("time", {}).get("decode_tokens_per_s")
            row.append("–" if fast is None else speed(fast))
        rows.append(row)
    head = ("run", "model", "hit rate", "in decode", "optimum", *(("decode",) if timed else ()))
    return Section("runs", "Runs side by side", [], [TableBlock("runs", head, rows)])


def _title(inputs: Inputs) -> str:
    if len(inputs.runs) == 1:
        run: dict[str, Any] = inputs.runs[0][1]
        return f"{run['trace']['model']}: {run_name(run)}"
    if inputs.runs:
        return f"{len(inputs.runs)} runs"
    if len(inputs.tables) == 1:
        return f"Sweep {inputs.tables[0][0]}"
    if len(inputs.compares) == 1 and not inputs.tables:
        config = inputs.compares[0][1]["config"]
        return f"Comparison of runs of {config['model'] or config['trace']}"
    names = {str(curve["trace"]) for _, curve in inputs.curves}
    names |= {str(one["trace"]) for _, metric in [*inputs.srps, *inputs.schs] for one in metric["results"]}
    return f"Results of {', '.join(sorted(names))}" if names else "Results"
