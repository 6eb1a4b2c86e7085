"""`lrcsim sweep`: many runs from one specification into one table."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.cores import usable_cores
from lrcsim.base.text import seconds
from lrcsim.cli.output import TELL_EVERY, answer, console, json_option, progress_bar
from lrcsim.cli.screen import echo

if TYPE_CHECKING:
    from lrcsim.sweeps.tasks import Task, TaskList
    from lrcsim.sweeps.workers import Workers


@click.command()
@click.argument("spec")
@click.option("-o", "--output", metavar="FILE", help="The table.  [default: SPEC with .parquet]")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes on this machine.  [default: all cores]")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler instead.")
@click.option("--workers", type=click.IntRange(min=1), help="Run on a local Dask cluster of so many processes instead.")
@click.option("--dry-run", is_flag=True, help="Say how many runs there are and about how long they take.")
@click.option("--retry", is_flag=True, help="Do runs again that failed.")
@click.option("--replace", is_flag=True, help="Drop rows of the table that are not in SPEC.")
@json_option
def sweep(
    spec: str,
    output: str | None,
    jobs: int | None,
    scheduler: str | None,
    workers: int | None,
    dry_run: bool,
    retry: bool,
    replace: bool,
    json_path: str | None,
) -> None:
    """Run every combination that SPEC names, and write one table with a row for each (docs/sweeps.md).

    SPEC is TOML: [grid] with lists of values for trace, policy, cache, scope, hardware, "pcie.bandwidth" ...; rows are
    written as they finish. Started again it does only what is missing. A run that fails is a row with its error.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.sweeps import divide, read_spec, run_sweep
    from lrcsim.sweeps.query import too_lossy
    from lrcsim.sweeps.run import missing

    if sum(option is not None for option in (jobs, scheduler, workers)) > 1:
        raise click.UsageError("--jobs, --scheduler and --workers each say where to run: give one of them")
    table = output or str(Path(spec).with_suffix(".parquet"))
    plan = divide(read_spec(spec))
    tasks = missing(plan, table, retry=retry, replace=replace)
    if dry_run:
        _dry_run(plan, tasks, jobs or workers or usable_cores(), json_path)
        return
    where = _where(jobs, scheduler, workers, tasks)
    try:
        with _progress(len(plan.runs)) as progress:
            outcome = run_sweep(plan, table, workers=where, retry=retry, replace=replace, progress=progress)
    except KeyboardInterrupt:
        echo(f"What is finished is kept beside {table}; the same command does the rest.", err=True)
        raise
    summary = {"table": table, "runs": len(plan.runs), "ran": outcome.ran, "failed": outcome.failed}
    if answer(json_path, summary, "sweep"):
        known = len(plan.runs) - outcome.ran
        before = f", {known:,} were there already" if known else ""
        echo(f"{table}: {len(plan.runs):,} rows{before}; lrcsim results {table} shows them")
        note = too_lossy(outcome.table)
        if note is not None:
            echo(f"Note: {note}")
    if outcome.failed:
        raise ConfigError(
            f"{outcome.failed:,} of {len(plan.runs):,} runs failed "
            f"(lrcsim results {table} --where 'error is not null'), the first with: {outcome.first_error}"
        )


def _where(jobs: int | None, scheduler: str | None, workers: int | None, tasks: list[Task]) -> Workers:
    from lrcsim.sweeps import in_processes, in_this_process, on_dask, on_local_dask

    if scheduler is not None:
        return on_dask(scheduler)
    if workers is not None:
        return on_local_dask(workers)
    wanted = min(jobs or usable_cores(), len(tasks))
    return in_processes(wanted) if wanted > 1 else in_this_process


def _dry_run(plan: TaskList, tasks: list[Task], processes: int, json_path: str | None) -> None:
    from lrcsim.sweeps.estimate import estimate

    left = sum(len(task.runs) for task in tasks)
    kinds = Counter(task.kind for task in tasks)
    shared = sum(len(task.runs) for task in tasks if task.kind == "pass")
    with progress_bar("measuring a few runs") as progress:
        about = estimate(tasks, started=time.process_time(), processes=processes, progress=progress)
    wall = about.wall(processes)
    data: dict[str, Any] = {"runs": len(plan.runs), "missing": left, "passes": kinds["pass"], "in_passes": shared}
    data |= {"replays": kinds["replay"], "timed": kinds["timed"], "processes": processes, "seconds": wall}
    if not answer(json_path, data, "sweep-dry-run"):
        return
    out = console()
    done = len(plan.runs) - left
    out.print(f"{len(plan.runs):,} runs" + (f", {done:,} are in the table already" if done else ""))
    for count, text in (
        (kinds["pass"], f"shared passes give {shared:,} of them, all their cache sizes at once"),
        (kinds["replay"], "are replayed by themselves"),
        (kinds["timed"], "are simulated in time"),
    ):
        if count:
            out.print(f"  {count:,} {text}")
    if wall is not None and left:
        compiled = f", {seconds(about.compiling)} of it compiling, once" if about.compiling >= 1 else ""
        out.print(
            f"about {seconds(wall)} with {processes} process{'es' if processes > 1 else ''} "
            f"({about.measured} tasks measured in {seconds(about.took)}{compiled})"
        )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and remaining time on a terminal, else a line now and then, on standard error."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    started = time.monotonic()
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance(done: int, of: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=of, rate=f"{rate:,.3g} runs/s")

        yield advance


def _lines() -> Callable[[int, int], None]:
    started = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= TELL_EVERY:
            last = now
            rate = done / (now - started)
            left = seconds((total - done) / rate)
            echo(f"{done:,} of {total:,} runs, {rate:,.3g} runs/s, {left} left", err=True)

    return advance
