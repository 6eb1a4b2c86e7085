"""Write a run's folder: results.md, results.json, data/*.csv, figures/*.png."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lrcsim.base.files import replacing
from lrcsim.cli.output import write_json
from lrcsim.experiments.paper.section import Section, Table

__all__ = ["as_dict", "write_folder"]

INTRO = """# The paper's figures and tables on these traces

Every figure and table of arXiv 2505.16056 (local routing consistency of Mixture-of-Experts models), measured on the
traces below with lrcsim's own metrics, the published numbers beside them. This file is wholly generated:

    {command}

Columns named *paper* hold values that the paper published, never measured here; where they come from and how exact they
are stands below each table. "–" is not known, "beyond" is past the end of the range."""


def as_dict(command: str, traces: Table, sections: Sequence[Section]) -> dict[str, Any]:
    """Return everything as JSON values."""
    from lrcsim.experiments.paper.section import plain

    return {
        "command": command,
        "traces": plain(traces.rows),
        "sections": {section.name: section.to_dict() for section in sections},
    }


def write_folder(
    folder: Path,
    command: str,
    traces: Table,
    sections: Sequence[Section],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all files; results.md last, so that a report is there only when what it points to is.

    Raises:
        TraceError: something cannot be written.
    """
    for part in ("data", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for done, section in enumerate(sections, start=1):
        for table in section.tables:
            table.write_csv(folder / "data")
        if section.draw is not None:
            section.draw(str(folder / "figures" / f"{section.name}.png"))
        if progress is not None:
            progress(done, len(sections))
    write_json(str(folder / "results.json"), as_dict(command, traces, sections), "paper")
    parts = [INTRO.format(command=command), traces.markdown()]
    parts += [section.markdown("figures") for section in sections]
    with replacing(folder / "results.md") as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
