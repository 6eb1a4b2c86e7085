"""About how long a sweep will take: a few of its tasks are done, the rest follows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lrcsim.base.progress import Progress
from lrcsim.sweeps.execute import run_task
from lrcsim.sweeps.tasks import Task

PER_KIND = 3
"""Tasks done of each kind and trace, spread over the spec, besides a first that warms up."""


@dataclass(frozen=True)
class Estimate:
    """How long it will take.

    Attributes:
        seconds: of work for one process, in all; None when nothing could be measured.
        measured: tasks that were done for it.
        took: seconds that this took.
    """

    seconds: float | None
    measured: int
    took: float


def estimate(tasks: Sequence[Task], *, budget: float = 15.0, progress: Progress | None = None) -> Estimate:
    """Do a few tasks of each kind and trace, and multiply; their results are thrown away.

    Args:
        tasks: what there is to do.
        budget: seconds after which no further task is begun.
        progress: told the kinds of task that are measured, of all.
    """
    begin = time.monotonic()
    groups: dict[tuple[str, str, str], list[Task]] = defaultdict(list)
    for task in tasks:
        machine = str(task.runs[0].values.get("prefetch", "")) if task.kind == "timed" else ""
        groups[task.kind, task.trace, machine].append(task)
    seconds, measured, known = 0.0, 0, list[float]()
    unknown = 0
    for done, group in enumerate(sorted(groups.values(), key=len, reverse=True)):
        if progress is not None:
            progress(done, len(groups))
        samples = group if len(group) <= PER_KIND else [group[i * len(group) // PER_KIND] for i in range(PER_KIND)]
        took: list[float] = []
        for number, task in enumerate([samples[0], *samples]):  # the first one also reads the trace and loads kernels
            if time.monotonic() - begin > budget and (took or number == 0):
                break
            started = time.monotonic()
            run_task(task)
            if number > 0 or time.monotonic() - begin > budget:
                took.append(time.monotonic() - started)
        if took:
            measured += len(took)
            seconds += len(group) * sum(took) / len(took)
            known.append(sum(took) / len(took))
        else:
            unknown += len(group)
    if not known:
        return Estimate(None if tasks else 0.0, 0, time.monotonic() - begin)
    seconds += unknown * max(known)
    return Estimate(seconds, measured, time.monotonic() - begin)
