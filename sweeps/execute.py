"""Run a task: in this process, one of several, or a worker of a cluster."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import LrcsimError, TraceError, brief
from lrcsim.policies import make_policy
from lrcsim.simulator import Result, simulate
from lrcsim.simulator.baselines import Baselines
from lrcsim.simulator.curves.curve import EngineName, hits_at
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.run_in_time import much_follows
from lrcsim.sweeps.columns import Row, failed_row, identity, row_of
from lrcsim.sweeps.files import located, trace_path
from lrcsim.sweeps.options import hardware_key, options
from lrcsim.sweeps.tasks import PlannedRun, Task
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import keep_blocks

TRACES_KEPT = 2
"""Open traces per process: the one that is run, and one to take a profile from."""

IN_MEMORY = 1 << 30
"""Bytes up to which a trace's columns are read once and kept; a larger trace is streamed by each run."""

BLOCKS_KEPT = 1 << 23
"""Accesses of a trace up to which its schedule is made once for all runs: some 150 MB, a fifth of a run's time."""

LOOPED_OVER = ("experts", "phase", "weights")

_open: OrderedDict[str, tuple[RoutingTrace, str]] = OrderedDict()
_opening = threading.Lock()  # a Dask worker may have several threads


def run_task(task: Task) -> list[Row]:
    """Do a task and return a row for each of its runs, in order; a run that fails is a row with its error."""
    keep_blocks(BLOCKS_KEPT)
    mine = version("lrcsim")
    if task.lrcsim != mine:
        return error_rows(task, f"the worker has lrcsim {mine}, the sweep was planned by {task.lrcsim}")
    if task.kind == "pass":
        return _run_pass(task)
    if task.many:
        much_follows()
    return [_run_one(task, run) for run in task.runs]


def error_rows(task: Task, error: str) -> list[Row]:
    """Return the rows of a task none of whose runs could be done."""
    return [failed_row(_identity(run, task), run.values, error) for run in task.runs]


def _run_one(task: Task, run: PlannedRun) -> Row:
    try:
        trace = _trace_of(task, run)
        result = simulate(trace, **_arguments(task, run))
        return row_of(_identity(run, task), run.values, trace, result)
    except Exception as error:
        return failed_row(_identity(run, task), run.values, _said(error))


def _run_pass(task: Task) -> list[Row]:
    """Count the hits of all runs in one pass; only their cache sizes differ."""
    rows: dict[str, Row] = {}
    try:
        trace = _trace_of(task, task.runs[0])
        try:
            shared = Run.of(trace, **_arguments(task, task.runs[0]) | {"cache": 0})
        except LrcsimError:  # then each says by itself what is wrong with it first
            return [_run_one(task, run) for run in task.runs]
        sized: dict[str, Run] = {}
        for run in task.runs:
            try:
                sized[run.key] = shared.at(run.values.get("cache", options()["cache"].default))
            except LrcsimError as error:
                rows[run.key] = failed_row(_identity(run, task), run.values, _said(error))
        hits, accesses, engine = hits_at(shared, [one.pools for one in sized.values()], jobs=1)
        for number, run in enumerate(run for run in task.runs if run.key in sized):
            result = _result(sized[run.key], accesses, accesses - hits[:, number], engine)
            rows[run.key] = row_of(_identity(run, task), run.values, trace, result)
    except Exception as error:
        for run in task.runs:
            rows.setdefault(run.key, failed_row(_identity(run, task), run.values, _said(error)))
    return [rows[run.key] for run in task.runs]


def _result(run: Run, accesses: Any, misses: Any, engine: EngineName) -> Result:
    """Return what `simulate` would have, but with the layers summed up, and without what a pass does not count."""
    sizes = run.trace.expert_bytes
    counts = Counts(
        accesses=accesses[:, None],
        misses=misses[:, None],
        preloaded=np.zeros(1, np.int64),
        steps=np.zeros(2, np.int64),
        loaded_bytes=None if sizes is None else misses * int(sizes[0]),  # equal sizes: see `TaskList.tasks`
    )
    found = Baselines(run).find(make_policy(run.policy).bypass) if run.options.bounds else {}
    bounds = {name: bound for name, bound in found.items() if name != "lru"}
    said = "python" if engine == "replay" else engine
    return Result(run, counts, bounds, found.get("lru"), warnings=[], engine=said)


def _arguments(task: Task, run: PlannedRun) -> dict[str, Any]:
    """Return what to call `simulate` with, besides the trace."""
    folder = Path(task.folder)
    told: dict[str, Any] = {}
    for name, value in run.values.items():
        if name not in ("trace", "profile") and not hardware_key(name):
            told[name] = located(value, folder)
    overrides = [f"{name}={value}" for name, value in run.values.items() if hardware_key(name)]
    if overrides:
        told["overrides"] = overrides
    profile = run.values.get("profile")
    if profile is not None:
        told["profile"] = profile if profile == "self" else _opened(trace_path(profile, folder))[0]
    return told


def _trace_of(task: Task, run: PlannedRun) -> RoutingTrace:
    """Return the trace of a run, opened and read once in this process.

    Raises:
        TraceError: it is not the file that the sweep was planned with.
    """
    trace, found = _opened(trace_path(task.trace, Path(task.folder)))
    if found != run.trace_sha256:
        raise TraceError(f"trace {task.trace} is not what it was when the sweep was planned: its SHA-256 is {found}")
    return trace


def _opened(path: str) -> tuple[RoutingTrace, str]:
    with _opening:
        if path not in _open:
            trace = RoutingTrace.open(path)
            columns = [name for name in LOOPED_OVER if name in trace.columns]
            if sum(int(np.prod(trace.columns[name].shape)) * 4 for name in columns) <= IN_MEMORY:
                for name in columns:
                    trace.column(name)
            _open[path] = trace, trace.file_sha256()
            while len(_open) > TRACES_KEPT:
                _open.popitem(last=False)
        _open.move_to_end(path)
        return _open[path]


def _identity(run: PlannedRun, task: Task) -> Row:
    return identity(run.key, run.trace_sha256, task.lrcsim, run.files) | {"trace": task.trace}


def _said(error: Exception) -> str:
    """Return an error on one line; of one that is no user's, where it happened too."""
    if isinstance(error, LrcsimError | OSError):
        return " ".join(str(error).split())
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"internal error: {brief(error)}{place}"
