"""`lrcsim results`: ask a sweep's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.tables import write_csv
from lrcsim.base.text import cell_text, quoted
from lrcsim.cli.output import answer, console, figure_options, json_option
from lrcsim.cli.tables import print_rows
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    import pyarrow as pa

    from lrcsim.sweeps.query import Pivot

SHOWN = ("hit_rate", "decode_hit_rate", "belady_hit_rate", "error")
SHOWN_TIMED = ("hit_rate", "decode_tokens_per_s", "gpu_bytes", "error")
"""Results in the table on the terminal, those that some row has; of hits alone, and of runs on a machine."""


@click.command()
@click.argument("table")
@click.option("--where", "condition", metavar="SQL", help="Only rows that fit: \"policy = 'lru' and hit_rate > 0.5\".")
@click.option("--best", "best_of", metavar="COLUMN", help="The best row, or of each group of --per.")
@click.option("--per", metavar="COLUMNS", help="Columns that make the groups of --best, with commas between.")
@click.option("--pareto", "front", metavar="COLUMNS", help="Rows that no other beats in these: X,Y.")
@click.option("--pivot", "grid", nargs=3, metavar="ROW COLUMN VALUE", help="VALUE by ROW and COLUMN.")
@click.option("--columns", metavar="COLUMNS", help="Show these.  [default: those that vary, and the main results]")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1), help="Rows on the terminal.")
@click.option("--plot", "plot_path", metavar="FILE", help="Draw the --pivot or the --pareto front (.png, .svg, .pdf).")
@figure_options
@click.option("--csv", "csv_path", metavar="FILE", help="Write what is shown as CSV, all its rows and columns.")
@json_option
def results(
    table: str,
    condition: str | None,
    best_of: str | None,
    per: str | None,
    front: str | None,
    grid: tuple[str, str, str] | None,
    columns: str | None,
    limit: int,
    plot_path: str | None,
    csv_path: str | None,
    json_path: str | None,
) -> None:
    """Show TABLE, which lrcsim sweep has written or is writing: the filter first, then best, Pareto front, pivot.

    COLUMN:max or COLUMN:min says what is better where that is not known.
    """
    from lrcsim.sweeps import query, read_table

    check_picture(plot_path)
    if per is not None and best_of is None:
        raise click.UsageError("--per makes the groups of --best: say the best of what")
    if plot_path is not None and not (grid or front):
        raise click.UsageError("--plot draws a --pivot or a --pareto front: give one of them")
    everything = chosen = read_table(table)
    if condition is not None:
        everything = chosen = query.where(chosen, condition)
    if best_of is not None:
        chosen = query.best(chosen, best_of, split(per))
    candidates = chosen
    if front is not None:
        chosen = query.pareto(chosen, split(front))
    note = query.too_lossy(chosen)
    if columns is not None:
        for name in split(columns):
            query.check_column(chosen, name)
        chosen = chosen.select(split(columns))
    pivot = query.pivot(chosen, *grid) if grid else None
    if plot_path is not None:
        from lrcsim.plots.results import plot_front, plot_pivot

        if pivot is not None:
            plot_pivot(plot_path, pivot)
        else:
            plot_front(plot_path, everything, candidates, split(front))
    header, rows = _cells(chosen, pivot)
    lines = [dict(zip(header, row, strict=True)) for row in rows]
    if csv_path is not None:
        write_csv(csv_path, lines, header)
    if not answer(json_path, lines, "results"):
        return
    if not rows:
        console().print("no run fits")
    elif pivot is not None:
        _show(header, rows, limit, value=pivot.value)
    else:
        shown = list(chosen.column_names) if columns is not None else _interesting(chosen, everything)
        same = {} if columns is not None else _same(chosen, shown)
        if same:
            console().print(
                "in all: "
                + ", ".join(f"{quoted(name)} {quoted(cell_text(name, value))}" for name, value in same.items())
            )
            console().print()
        _show(*_cells(chosen.select(shown), None), limit)
    if note is not None:
        console().print(f"[yellow]Note:[/yellow] {note}")


def split(text: str | None) -> list[str]:
    """Split a list with commas between."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _interesting(table: pa.Table, everything: pa.Table) -> list[str]:
    """Return the columns that differ in all the rows asked for, and the main results that there are."""
    from lrcsim.sweeps.query import varying

    timed = table["decode_tokens_per_s"].null_count < len(table)
    given = [name for name in (SHOWN_TIMED if timed else SHOWN) if table[name].null_count < len(table)]
    if "decode_hit_rate" in given and table["decode_hit_rate"].equals(table["hit_rate"]):
        given.remove("decode_hit_rate")
    return [*varying(everything), *given]


def _same(table: pa.Table, shown: list[str]) -> dict[str, Any]:
    """Return what describes all the rows alike."""
    if not len(table):
        return {}
    names = [
        *(
            "trace",
            "model",
            "policy",
            "cache",
            "scope",
            "access",
            "prefill",
            "hardware",
            "runtime",
            "dtype",
            "prefetch",
        ),
        "miss",
    ]
    first = table.slice(0, 1).to_pylist()[0]
    told = {name: first[name] for name in names if name not in shown and first.get(name) is not None}
    return {name: value for name, value in told.items() if (name, value) != ("runtime", "ideal")}


def _cells(table: pa.Table, pivot: Pivot | None) -> tuple[list[str], list[list[Any]]]:
    if pivot is not None:
        header = [pivot.row, *(str(value) for value in pivot.columns)]
        return header, [[name, *cells] for name, cells in zip(pivot.rows, pivot.cells, strict=True)]
    return table.column_names, [list(row.values()) for row in table.to_pylist()]


def _is_number(cell: object) -> bool:
    """Whether a cell is a number, or empty."""
    return isinstance(cell, int | float | None)


def _show(header: list[str], rows: list[list[Any]], limit: int, value: str | None = None) -> None:
    """Print a table; ``value`` is the column that all cells but the first are of, in a pivot."""
    out = console()
    if value is not None:
        out.print(f"[bold]{quoted(value)}[/bold]")
    names = header if value is None else [header[0], *[value] * (len(header) - 1)]
    cells = [[quoted(cell_text(name, cell)) for name, cell in zip(names, row, strict=True)] for row in rows[:limit]]
    words = [place for place, column in enumerate(zip(*rows, strict=True)) if not all(map(_is_number, column))]
    print_rows(quoted(header), cells, left=[0, *words])
    if len(rows) > limit:
        out.print(f"... and {len(rows) - limit:,} more rows (--limit, --where, --best, --csv)", style="dim")
