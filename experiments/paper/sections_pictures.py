"""Sections that are a figure alone; the numbers stand in the tables of the sections before them."""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.experiments.paper import figures_domains, figures_experts, figures_sample, figures_srp
from lrcsim.experiments.paper.measure import MeasuredTrace
from lrcsim.experiments.paper.report import PaperSection


def group_picture(found: Sequence[MeasuredTrace]) -> PaperSection:
    """Make the section of msrp."""
    having = [one for one in found if one.srp]
    section = PaperSection("srp_group")
    section.draw = (lambda path: figures_srp.group_sizes(path, having)) if having else None
    return section


def domain_pictures(found: Sequence[MeasuredTrace]) -> list[PaperSection]:
    """Make the sections of mactdr and msrpdr."""
    sections = []
    for name, what in (("domain_activation", "activation"), ("domain_consistency", "srp")):
        having = [one for one in found if what in one.pairs]
        section = PaperSection(name)
        if having:
            section.draw = lambda path, what=what, having=having: figures_domains.domain_pairs(path, having, what)
        else:
            section.missing.append("it takes a trace of two domains")
        sections.append(section)
    return sections


def specialisation_pictures(found: Sequence[MeasuredTrace]) -> list[PaperSection]:
    """Make the sections of esrpivs, esrppvs, esrpovs and msrpsc; esrpds stands with the tables."""
    having = [one for one in found if one.experts is not None]
    sections = []
    for measure in figures_experts.SPECIALISATIONS:
        if measure == "domain":
            continue
        section = PaperSection(measure)
        if any(one.experts is not None and measure in one.experts.present() for one in having):
            section.draw = lambda path, measure=measure: figures_experts.specialisation(path, having, measure)
        else:
            reasons = {one.experts.missing.get(measure) for one in having if one.experts is not None}
            section.missing += sorted(filter(None, reasons)) or ["no trace here has this measure"]
        sections.append(section)
    section = PaperSection("specialisation_models")
    section.draw = (lambda path: figures_experts.specialisation_of_models(path, having)) if having else None
    return [*sections, section]


def sample_picture(found: Sequence[MeasuredTrace]) -> PaperSection:
    """Make the section of router scores in one text."""
    having = [one for one in found if one.case is not None]
    section = PaperSection("sample")
    section.draw = (lambda path: figures_sample.sample(path, having)) if having else None
    for one, _ in figures_sample.chosen(having):
        if not {"weights", "logits"} & set(one.source.trace.columns):
            section.missing.append(
                f"{one.label}: router scores (columns `weights` or `logits`); chosen experts are drawn"
            )
    return section
