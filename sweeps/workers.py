"""Where tasks run: in this process, in several on this machine, on Dask. All give the same rows, in any order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lrcsim.base.errors import ConfigError, brief
from lrcsim.base.installing import from_checkout
from lrcsim.sweeps.columns import Row
from lrcsim.sweeps.execute import error_rows, run_task
from lrcsim.sweeps.tasks import Task

Workers = Callable[[Sequence[Task]], Iterator[list[Row]]]
"""Takes tasks and yields the rows of each as it is done."""

AHEAD = 2
"""Tasks per process that are handed over beforehand, so that none waits for work."""

ANSWER = "20s"
"""How long a Dask scheduler may take to answer."""

DIED = "the process that ran it died (killed, or out of memory?)"


def in_this_process(tasks: Sequence[Task]) -> Iterator[list[Row]]:
    """Run tasks one after the other."""
    return map(run_task, tasks)


def in_processes(jobs: int) -> Workers:
    """Run tasks in so many processes of this machine.

    When one of them dies, those under way are run again, each in a process of its own: the one that dies again is a row
    with an error, and the others lose nothing.
    """

    def work(tasks: Sequence[Task]) -> Iterator[list[Row]]:
        left, suspects = deque(tasks), list[Task]()
        while left:
            running: dict[Future[list[Row]], Task] = {}
            try:
                with _pool(jobs) as pool:
                    while left or running:
                        while left and len(running) < AHEAD * jobs:
                            running[pool.submit(run_task, left[0])] = left[0]
                            left.popleft()
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            rows = future.result()
                            del running[future]
                            yield rows
            except BrokenProcessPool:
                suspects = list(running.values())
            for task in suspects:
                yield _alone(task)
            suspects = []

    return work


def _alone(task: Task) -> list[Row]:
    try:
        with _pool(1) as pool:
            return pool.submit(run_task, task).result()
    except BrokenProcessPool:
        return error_rows(task, DIED)


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Make processes that start afresh: a fork would copy threads and open files in the middle of their work."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_obey)


def _obey() -> None:
    """End this process at Ctrl-C, silently, and when its parent is killed: it would wait for work for ever.

    What a policy prints goes to standard error: standard output is the command's.
    """
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_dask(address: str) -> Workers:
    """Run tasks on the workers of a Dask scheduler, ``tcp://host:8786``. A worker may come, go or die meanwhile.

    Raises:
        ConfigError: Dask is not installed, or nobody answers there.
    """
    distributed = _distributed()

    def work(tasks: Sequence[Task]) -> Iterator[list[Row]]:
        try:
            client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no Dask scheduler answers at {address}: {brief(error)}") from None
        with client:
            yield from _through(client, tasks)

    return work


def on_local_dask(workers: int) -> Workers:
    """Run tasks on a Dask cluster of so many processes, which lives as long as the sweep.

    Raises:
        ConfigError: Dask is not installed.
    """
    distributed = _distributed()

    def work(tasks: Sequence[Task]) -> Iterator[list[Row]]:
        with (
            distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield from _through(client, tasks)

    return work


def _through(client: Any, tasks: Sequence[Task]) -> Iterator[list[Row]]:
    distributed = _distributed()
    running = {client.submit(run_task, task, pure=False): task for task in tasks}
    for future in distributed.as_completed(list(running), loop=client.loop):
        task = running.pop(future)
        if future.status == "finished":
            yield future.result()
        elif future.status in ("cancelled", "lost"):
            raise ConfigError(
                "the Dask scheduler went away: what is finished is in the table, the same command does the rest"
            )
        else:  # Dask has tried on other workers what took workers down with it
            error = future.exception()
            died = isinstance(error, distributed.KilledWorker)
            yield error_rows(task, DIED if died else f"the worker failed: {brief(error)}")
        future.release()


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ConfigError(f"this needs Dask, which is not installed: {from_checkout('dask')}") from None
    return distributed
