"""Sweeps: many runs from one specification, on one machine or many, into one table; and questions to that table."""

from lrcsim.sweeps.columns import run_of
from lrcsim.sweeps.run import SweepOutcome, run_sweep
from lrcsim.sweeps.spec import Spec, read_spec
from lrcsim.sweeps.store import read_table
from lrcsim.sweeps.tasks import TaskList, divide
from lrcsim.sweeps.workers import in_processes, in_this_process, on_dask, on_local_dask

make_plan = divide
"""The name under which 0.1 had it."""

__all__ = [
    "Spec",
    "SweepOutcome",
    "TaskList",
    "divide",
    "in_processes",
    "in_this_process",
    "make_plan",
    "on_dask",
    "on_local_dask",
    "read_spec",
    "read_table",
    "run_of",
    "run_sweep",
]
