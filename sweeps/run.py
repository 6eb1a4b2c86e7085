"""Run a sweep: what is missing of its table, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lrcsim.base.errors import ConfigError
from lrcsim.sweeps.columns import Row, schema
from lrcsim.sweeps.store import TableStore
from lrcsim.sweeps.tasks import Task, TaskList
from lrcsim.sweeps.workers import Workers, in_this_process


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left.

    Attributes:
        table: all rows, in the order of the spec.
        ran: runs that were done now; the others were in the table already.
        failed: rows with an error.
        first_error: the error of the first of them.
    """

    table: pa.Table
    ran: int
    failed: int
    first_error: str | None


def missing(plan: TaskList, path: str | Path, *, retry: bool = False, replace: bool = False) -> list[Task]:
    """Return the tasks that a table does not have yet.

    Args:
        plan: what is to be in it.
        path: the table.
        retry: do runs again that failed.
        replace: a table may lose rows that are not in the plan.

    Raises:
        ConfigError: the table has rows that are not in the plan, and may not lose them.
    """
    store = TableStore(path, schema(plan.spec.hardware_keys))
    strange = store.done() - {run.key for run in plan.runs}
    if strange and not replace:
        raise ConfigError(
            f"{path} has {len(strange):,} rows of runs that are not in {plan.spec.source}, or not with these traces, "
            "files and this version of lrcsim: name another table with -o, or drop them with --replace"
        )
    return plan.tasks(store.done(failed=not retry))


def run_in_memory(
    plan: TaskList, *, workers: Workers = in_this_process, progress: Callable[[int, int], None] | None = None
) -> pa.Table:
    """Do all runs and return the table, which no file keeps; arguments as in `run_sweep`."""
    found: dict[str, Row] = {}
    for rows in workers(plan.tasks()):
        found |= {row["run"]: row for row in rows}
        if progress is not None:
            progress(len(found), len(plan.runs))
    return pa.Table.from_pylist([found[run.key] for run in plan.runs], schema=schema(plan.spec.hardware_keys))


def run_sweep(
    plan: TaskList,
    path: str | Path,
    *,
    workers: Workers = in_this_process,
    retry: bool = False,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SweepOutcome:
    """Do the runs that a table does not have yet, and make it complete.

    Args:
        plan: what to run.
        path: the table, a Parquet file.
        workers: where to run.
        retry: do runs again that failed.
        replace: rows of the table that are not in the plan are dropped.
        progress: told the runs done, of all there are to do.

    Raises:
        ConfigError: the table has rows that are not in the plan, cannot be written, or is being written.
    """
    if Path(path).suffix != ".parquet":
        raise ConfigError(f"a table is a Parquet file: name it {Path(path).with_suffix('.parquet')}, given {path}")
    store = TableStore(path, schema(plan.spec.hardware_keys))
    with store.writing():
        tasks = missing(plan, path, retry=retry, replace=replace)
        total, done = sum(len(task.runs) for task in tasks), 0
        for rows in workers(tasks) if tasks else ():
            store.add(rows)
            done += len(rows)
            if progress is not None:
                progress(done, total)
        table = store.finish([run.key for run in plan.runs])
    errors = [error for error in table["error"].to_pylist() if error is not None]
    return SweepOutcome(table, done, len(errors), errors[0] if errors else None)
