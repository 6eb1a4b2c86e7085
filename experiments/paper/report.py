"""The report: sections of tables and figures, and a run's folder: results.md, results.json, data/, figures/."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lrcsim.base.files import replacing
from lrcsim.base.tables import Row, Table, plain
from lrcsim.cli.output import write_json
from lrcsim.experiments.paper.measure import AT
from lrcsim.experiments.paper.published import published
from lrcsim.plots.settings import Size, sized

INTRO = """# The paper's figures and tables on these traces

Every figure and table of arXiv 2505.16056 (local routing consistency of Mixture-of-Experts models), measured on the
traces below with lrcsim's own metrics, the published numbers beside them. This file is wholly generated:

    {command}

Columns named *paper* hold values that the paper published, never measured here; where they come from and how exact they
are stands below each table. "–" is not known, "beyond" is past the end of the range."""


@cache
def words() -> dict[str, Any]:
    """Read what the report says, by section (report.toml says what is in it)."""
    text = resources.files("lrcsim.experiments.paper").joinpath("report.toml").read_text("utf-8")
    return tomllib.loads(text.replace("{AT}", str(AT)))


@dataclass
class PaperSection:
    """A figure or table of the paper, with what report.toml says of it.

    Attributes:
        name: of its files.
        missing: what could not be made, and why.
        draw: draws the figure to a path, or None.
        text: paragraphs.
        tables: the numbers.
    """

    name: str
    missing: list[str] = field(default_factory=list)
    draw: Callable[[str], None] | None = None
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Look its words up."""
        self.words = words()[self.name]
        self.text = [*self.words.get("text", []), *self.text]

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Add one of its tables, unless it has no rows; the foot names the sources of published quantities."""
        said = dict(self.words["tables"][name])
        caption, foot = said.pop("caption", ""), published().source(*said.pop("sources", ()))
        if rows:
            self.tables.append(Table(name, caption, rows, foot, **said))

    def not_there(self) -> list[str]:
        """Return what is missing here, then what always is."""
        return list(dict.fromkeys([*self.missing, *self.words.get("absent", [])]))

    def markdown(self, figures: str, ending: str = "png") -> str:
        """Return the section as Markdown; ``figures`` is the folder of the figures, relative to the report."""
        title, missing = self.words["title"], self.not_there()
        parts = [f"## {title}", f"In the paper: {self.words['paper']}.", *self.text]
        if self.draw is not None:
            shown = "" if ending == "pdf" else "!"  # pages show no PDF: a link to it
            parts.append(f"{shown}[{title}]({figures}/{self.name}.{ending})")
            parts += [f"*{line}*" for line in self.words.get("figure", [])]
        parts += [table.markdown() for table in self.tables if table.shown]
        if missing:
            parts.append("Not there:\n\n" + "\n".join(f"* {line}" for line in missing))
        files = ", ".join(f"`data/{table.name}.csv`" for table in self.tables)
        data = f"Data: {files}." if files else "" if self.draw is not None else "No data."
        return "\n\n".join(filter(None, [*parts, data]))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        said = {"title": self.words["title"], "paper": self.words["paper"], "text": self.text}
        tables = {table.name: table.to_dict() for table in self.tables}
        return said | {"missing": self.not_there(), "tables": tables}


def as_dict(command: str, traces: Table, sections: Sequence[PaperSection]) -> dict[str, Any]:
    """Return everything as JSON values."""
    every = {section.name: section.to_dict() for section in sections}
    return {"command": command, "traces": plain(traces.rows), "sections": every}


def write_folder(
    folder: Path,
    command: str,
    traces: Table,
    sections: Sequence[PaperSection],
    progress: Callable[[int, int], None],
    size: Size = "page",
    formats: Sequence[str] = ("png",),
) -> None:
    """Write all files; results.md last, so that a report is there only when what it points to is.

    Args:
        folder: made where it is not there.
        command: that made the report.
        traces: the table of traces.
        sections: in their order.
        progress: told the sections done, and all.
        size: of the figures in print.
        formats: of the figures, ``png``, ``pdf``, ``svg``; the report shows the first that a page can show.

    Raises:
        TraceError: something cannot be written.
    """
    for part in ("data", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for done, section in enumerate(sections, start=1):
        for table in section.tables:
            table.write_csv(folder / "data")
        if section.draw is not None:
            with sized(size):
                for ending in formats:
                    section.draw(str(folder / "figures" / f"{section.name}.{ending}"))
        progress(done, len(sections))
    write_json(str(folder / "results.json"), as_dict(command, traces, sections), "paper")
    shown = next((ending for ending in formats if ending != "pdf"), "pdf")
    parts = [INTRO.format(command=command), traces.markdown()]
    parts += [section.markdown("figures", shown) for section in sections]
    with replacing(folder / "results.md") as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
