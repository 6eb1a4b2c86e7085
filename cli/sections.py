"""Help of commands with many options: in sections."""

from __future__ import annotations

from typing import Any

import click

SECTIONS = {
    "compared": "Compared: lists, with commas between",
    "cache": "Cache",
    "serving": "Several requests",
    "machine": "Machine and time, with --hardware",
    "": "Output",
}
"""Headings, in this order; the last holds what has no section."""


class SectionOption(click.Option):
    """An option that says in which section of the help it stands."""

    def __init__(self, *names: Any, section: str = "", **told: Any) -> None:
        """Take the section's name, a key of `SECTIONS`, and all that `click.Option` takes."""
        super().__init__(*names, **told)
        self.section = section


class Sections(click.Command):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section that has options."""
        found: dict[str, list[tuple[str, str]]] = {name: [] for name in SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and record[1]:
                found[getattr(param, "section", "")].append(record)
        for name, records in found.items():
            if records:
                with formatter.section(SECTIONS[name]):
                    formatter.write_dl(records)
