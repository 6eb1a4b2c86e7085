"""From what was read to a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, LrcsimError, brief
from lrcsim.base.text import percent
from lrcsim.reports.blocks import Page, Section, TableBlock
from lrcsim.reports.compare_section import compare_section
from lrcsim.reports.curve_section import curve_section, curve_sentence
from lrcsim.reports.from_trace import COMPARED, PARTS, Rebuilt, Watcher, rebuild
from lrcsim.reports.inputs import Inputs
from lrcsim.reports.locality_section import sch_section, srp_section, srp_sentence
from lrcsim.reports.map_section import map_section
from lrcsim.reports.run_sections import config_section, hits_section
from lrcsim.reports.sweep_section import sweep_answer, sweep_section
from lrcsim.reports.time_section import time_section
from lrcsim.reports.verdict import answer_of, numbers_of, run_name, speed

__all__ = ["make_page"]


def make_page(
    inputs: Inputs,
    watcher: Watcher,
    *,
    trace_path: str | None = None,
    parts: Collection[str] = tuple(PARTS),
    policies: Sequence[str] = COMPARED,
    request: int | None = None,
    profile_path: str | None = None,
    allow_code: bool = False,
) -> Page:
    """Return the page of some results.

    Args:
        inputs: what the commands wrote.
        watcher: shows progress of what is worked out from the traces of runs.
        trace_path: where the trace of the runs is now; None: where their JSON says.
        parts: what to work out (`lrcsim.reports.from_trace.PARTS`).
        policies: to compare runs with.
        request: whose residency to map; None: one of middling length.
        profile_path: where the trace is that the runs took popularity from; None: where their JSON says.
        allow_code: whether a policy that a JSON names may be code of somebody's.

    Raises:
        ConfigError: there is no such request, or a file is not as its command writes it.
        PolicyError: there is no such policy to compare with.
    """
    with _of(_sources(inputs), "a command"):
        page = Page(_title(inputs))
        alone = len(inputs.runs) == 1
        if len(inputs.runs) > 1:
            page.sections.append(_side_by_side(inputs))
    for number, (source, run) in enumerate(inputs.runs, start=1):
        with _of(source, "run"):
            found = rebuild(
                run,
                watcher,
                trace_path=trace_path,
                parts=[part for part in parts if not _given(part, run, inputs)],
                policies=policies,
                request=request,
                profile_path=profile_path,
                allow_code=allow_code,
                beside=(Path.cwd(), Path(source).parent),
            )
            _add_run(page, run, found, f"run{number}", source, alone=alone)
    for number, (source, curve) in enumerate(inputs.curves, start=1):
        with _of(source, "curve"):
            page.sections.append(curve_section(curve, f"curve{number}"))
            page.answer += [] if inputs.runs else [f"{curve['trace']}: {curve_sentence(curve)}"]
    for number, (source, srp) in enumerate(inputs.srps, start=1):
        with _of(source, "srp"):
            page.sections.append(srp_section(srp, f"srp{number}"))
            page.answer += [] if inputs.runs else [srp_sentence(srp)]
    for number, (source, sch) in enumerate(inputs.schs, start=1):
        with _of(source, "sch"):
            page.sections.append(sch_section(sch, f"sch{number}"))
    for number, (source, table) in enumerate(inputs.tables, start=1):
        with _of(source, "sweep"):
            page.sections.append(sweep_section(table, f"sweep{number}", source))
            page.answer += sweep_answer(table, source)
    return page


def _sources(inputs: Inputs) -> str:
    results = [*inputs.runs, *inputs.curves, *inputs.srps, *inputs.schs]
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


def _run_sections(run: dict[str, Any], found: Rebuilt, name: str, source: str) -> list[Section]:
    sections = [hits_section(run, name)]
    if "time" in run:
        sections.append(time_section(run, name))
    if found.curve is not None:
        sizes, active = run["config"]["capacity"], _active(found.curve)
        here = sum(sizes) / len(sizes) / active
        sections.append(curve_section(found.curve, f"{name}-curve", here=here, own=run["config"]["policy"]))
    if found.compared:
        sections.append(compare_section(found.compared, name))
    if found.residents is not None:
        sections.append(map_section(found.residents, name))
    if found.srp is not None:
        sections.append(srp_section(found.srp, f"{name}-srp"))
    if found.sch is not None:
        sections.append(sch_section(found.sch, f"{name}-sch"))
    return [*sections, config_section(run, name, source)]


def _active(curve: dict[str, Any]) -> float:
    """Return what one token uses (experts per layer or in all, or bytes) as the curve's relative sizes have it."""
    return float(curve["capacities"][-1] / curve["relative"][-1])


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
    names = {str(curve["trace"]) for _, curve in inputs.curves}
    names |= {str(one["trace"]) for _, metric in [*inputs.srps, *inputs.schs] for one in metric["results"]}
    return f"Results of {', '.join(sorted(names))}" if names else "Results"
