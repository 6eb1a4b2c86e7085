"""About how long a sweep will take: some of its tasks are done, the rest follows.

Tasks are alike where only cache size and numbers of the machine differ. Of each sort a task is done twice: the second
time says what it takes, the first time what is more then, once per process: the trace is read, bounds are found,
kernels are loaded. Compiling is left out of it: the sweep finds on disk what was compiled here.

Several processes are seldom so many times as fast: other work, or two threads of one core, leave less to each. How much
less is measured too, with processes that only count.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from subprocess import PIPE, Popen

from lrcsim.base.progress import Progress
from lrcsim.sweeps.execute import run_task
from lrcsim.sweeps.options import hardware_key
from lrcsim.sweeps.tasks import Task

PER_SORT = 3
"""Tasks done of each sort, spread over the spec, while there is time."""

SHARE, LEAST = 0.1, 3.0
"""No task is begun once measuring took this share of what the sweep takes by what is known, and at least so many
seconds."""

COUNTING = 0.4
"""Seconds for which processes count, to see how much several get done at once."""

COUNT = """
import sys, time
sys.stdin.readline()
end, done = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    done += sum(range(2_000)) > 0
print(done)
"""
"""What such a process does, once it is told to begin."""

SPREAD = 0.618
"""Of the golden section: places of a sort's tasks that are multiples of it are spread evenly, however many are done."""


@dataclass(frozen=True)
class Estimate:
    """How long it will take.

    Attributes:
        start: seconds until a process can begin; None when nothing could be measured.
        once: seconds that each process takes besides its tasks and its start.
        seconds: of all tasks together.
        tasks: how many there are.
        measured: tasks that were done for it.
        took: seconds that this took.
        compiling: seconds of them that were compiling, which the sweep then finds on disk.
        slower: how many times as long each of several processes takes as one alone.
    """

    start: float | None
    once: float
    seconds: float
    tasks: int
    measured: int
    took: float
    slower: float = 1.0
    compiling: float = 0.0

    def wall(self, processes: int) -> float | None:
        """Return seconds with so many processes; None when nothing could be measured."""
        if self.start is None:
            return None
        several = max(min(processes, self.tasks), 1)
        if several == 1:
            return self.start + self.once + self.seconds
        # the command's own start, and then those of its processes
        return self.start + self.slower * (self.start + self.once + self.seconds / several)


@dataclass
class _Sort:
    """Tasks that are alike.

    Attributes:
        tasks: them.
        family: what they share kernels and bounds with.
        first: seconds by which the first task took longer the first time.
        again: seconds of each of those done, the second time.
    """

    tasks: list[Task]
    family: tuple[str, ...]
    first: float = 0.0
    again: list[float] = field(default_factory=list)


def estimate(
    tasks: Sequence[Task],
    *,
    budget: float = 15.0,
    least: float = LEAST,
    started: float = 0.0,
    processes: int = 1,
    progress: Progress | None = None,
) -> Estimate:
    """Do some tasks of each sort, and multiply; their results are thrown away.

    Args:
        tasks: what there is to do.
        budget: seconds after which no further task is begun.
        least: seconds after which none is begun either, where they are `SHARE` of what all tasks take in one process.
        started: seconds of CPU time that a process takes before its first task.
        processes: how many there will be.
        progress: told the sorts of which a task was done, of all.
    """
    begin, begin_cpu, compiling = time.monotonic(), time.process_time(), 0.0
    sorts = _sorts(tasks)
    for turn in range(PER_SORT):
        for number, sort in enumerate(sorts):
            if turn == 0 and progress is not None:
                progress(number, len(sorts))
            spent, known = time.monotonic() - begin, [one for one in sorts if one.again]
            enough = min(budget, max(least, SHARE * _all(sorts, known))) if known else math.inf
            if turn < len(sort.tasks) and spent <= enough:
                compiling += _do(sort, sort.tasks[int(turn * SPREAD * len(sort.tasks)) % len(sort.tasks)], budget)
    done = [sort for sort in sorts if sort.again]
    took = time.monotonic() - begin
    if not done:
        return Estimate(None if tasks else 0.0, 0.0, 0.0, len(tasks), 0, took)
    left = min((time.process_time() - begin_cpu) / took, 1.0)  # share of a core that other work leaves
    seconds = _all(sorts, done)
    once = sum(sort.first for sort in done)
    several = min(processes, len(tasks))
    slower = slowdown(several) if several > 1 else 1.0
    measured = sum(len(sort.again) for sort in done)
    return Estimate(started / left, once, seconds, len(tasks), measured, time.monotonic() - begin, slower, compiling)


def slowdown(processes: int) -> float:
    """Return how many times as long each of so many processes takes for the same as one alone, at least 1."""
    alone, together = _counted(1), _counted(processes) / processes
    return max(alone / together, 1.0)


def _counted(processes: int) -> float:
    """Return how far so many processes count together, all at the same time."""
    command = [sys.executable, "-S", "-c", COUNT, str(COUNTING)]
    counting = [Popen(command, stdin=PIPE, stdout=PIPE, text=True, encoding="utf-8") for _ in range(processes)]
    for process in counting:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return float(sum(max(int(process.communicate()[0]), 1) for process in counting))


def _sorts(tasks: Sequence[Task]) -> list[_Sort]:
    """Return the sorts of tasks, the most numerous first."""
    found: dict[tuple[str, ...], list[Task]] = defaultdict(list)
    for task in tasks:
        values = task.runs[0].values
        alike = {name: value for name, value in values.items() if name != "cache" and not hardware_key(name)}
        family = task.kind, task.trace, str(values.get("prefetch", "")), str(values.get("miss", ""))
        found[*family, json.dumps(alike, sort_keys=True)].append(task)
    sorts = [_Sort(alike, names[:-1]) for names, alike in found.items()]
    return sorted(sorts, key=lambda sort: len(sort.tasks), reverse=True)


def _do(sort: _Sort, task: Task, budget: float) -> float:
    """Do a task of a sort, twice if it is the sort's first and short, and take note of how long it took.

    Returns:
        Seconds of compiling, which are in none of that.
    """
    took, compiling = _timed(task)
    own = took - compiling
    if sort.again or own > budget / 3:
        sort.again.append(own)
        return compiling
    again, _ = _timed(task)
    sort.again.append(again)
    sort.first = max(own - again, 0.0)
    return compiling


def _timed(task: Task) -> tuple[float, float]:
    """Do a task; return the seconds it took, and those of them that were compiling."""
    from numba.core import event

    compiling: list[float] = []
    started = time.monotonic()
    with event.install_timer("numba:compile", compiling.append):
        run_task(task)
    return time.monotonic() - started, sum(compiling)


def _all(sorts: Sequence[_Sort], done: Sequence[_Sort]) -> float:
    """Return the seconds of all tasks, by those of some sorts."""
    return sum(len(sort.tasks) * _each(sort, done) for sort in sorts)


def _each(sort: _Sort, done: Sequence[_Sort]) -> float:
    """Return the seconds of a task of a sort: its own, or those of its family, or of all that were done."""
    of_family = [one for one in done if one.family == sort.family]
    known = [sort] if sort.again else of_family or done
    return sum(sum(one.again) for one in known) / sum(len(one.again) for one in known)
