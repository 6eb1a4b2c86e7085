"""Hits, misses and evictions of a run, by the engine that is fastest for it: the compiled cache, or a replay in Python.

Both give the same numbers. The compiled loops are compiled once and kept on disk; that takes as long as millions of
accesses in Python, so a process that has asked for few until now gets them from Python while nothing is compiled yet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import PolicyError
from lrcsim.base.progress import Progress
from lrcsim.base.user_code import is_users
from lrcsim.policies import make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.simulator.compiled.engine_for import behind, engine_for, kernel_of
from lrcsim.simulator.replay import Counts, add_bytes, refuse_shared_policy, replay
from lrcsim.simulator.setup.run import Run

CountEngine = Literal["compiled", "python"]

FEW = 2_000_000
"""Accesses, in this process so far, up to which Python answers where the loop would have to be compiled first.

That takes 7 to 8 s of CPU, and Python makes 0.2 to 1.9 M accesses a second (benchmarks/NOTES.md).
"""

_in_python = 0


def count(job: Run, *, record: bool = False, progress: Progress | None = None) -> tuple[Counts, CountEngine]:
    """Run the whole trace through the pools and count hits and misses.

    Args:
        job: what to run.
        record: whether to keep a flag per access (one byte each).
        progress: told how far it is.

    Returns:
        What came of it, and which engine said so.

    Raises:
        PolicyError: the policy broke its contract, or failed.
    """
    job.refuse_unrouted()
    policy = make_policy(job.policy)
    refuse_shared_policy(policy, job)
    if engine_for(policy, job.pools) == "compiled" and not _better_in_python(job):
        try:
            return compiled_counts(job, record=record, progress=progress), "compiled"
        except PolicyError:
            if not is_users(type(behind(policy))):
                raise
            # in Python the error says which expert it was, and some that cannot be compiled run
    return replay(job, record=record, progress=progress), "python"


def compiled_counts(job: Run, *, record: bool = False, progress: Progress | None = None) -> Counts:
    """Count by the compiled cache; arguments and result as those of `replay`.

    Raises:
        PolicyError: the policy cannot be compiled, or failed.
    """
    from lrcsim.simulator.compiled.compiled_cache import CompiledCache  # numba takes half a second to import
    from lrcsim.simulator.compiled.served import RESIDENT

    trace, cache = job.trace, CompiledCache(job)
    layers, stride = trace.num_layers, trace.num_experts
    accesses, misses = np.zeros(2 * layers, np.int64), np.zeros(2 * layers, np.int64)
    loaded = np.zeros(2, np.int64) if trace.layers.sized_by_expert else None
    steps, cold, recorded = np.zeros(2, np.int64), _ColdMisses(layers * stride, job.warm), []
    for block, served in cache.blocks():
        missed = served != RESIDENT
        cell = np.repeat(block.phase.astype(np.int64) * layers + block.layer, np.diff(block.starts))
        accesses += np.bincount(cell, minlength=2 * layers)
        misses += np.bincount(cell[missed], minlength=2 * layers)
        if loaded is not None:
            add_bytes(loaded, block.keys[missed], cell[missed] // layers, trace.layers)
        steps += np.bincount(block.phase[np.flatnonzero(np.diff(block.step, prepend=-1))], minlength=2)
        cold.add(block.keys, block.request, block.starts, missed)
        if record:
            recorded.append(~missed)
        if progress is not None:
            progress(block.end_token, trace.num_tokens)
    counts = Counts(
        accesses.reshape(2, layers), misses.reshape(2, layers), np.zeros(layers, np.int64), steps, cold.count
    )
    counts.loaded_bytes = loaded
    cache.finish(counts)
    counts.hit = np.concatenate(recorded) if recorded else None
    return counts


class _ColdMisses:
    """Counts first uses, since the cache was last emptied, that missed."""

    def __init__(self, keys: int, warm: bool) -> None:
        self.count = 0
        self.seen = np.zeros(keys, bool)
        self.warm = warm
        self.request = -1

    def add(
        self,
        keys: npt.NDArray[np.int32],
        request: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        missed: npt.NDArray[np.bool_],
    ) -> None:
        """Take a block: its accesses, the request of each layer-step, where each begins, and which accesses missed."""
        cuts = [] if self.warm else np.flatnonzero(np.diff(request, prepend=self.request)).tolist()
        bounds = [0, *starts[cuts].tolist(), len(keys)]
        for part, (low, high) in enumerate(pairwise(bounds)):
            if part:
                self.seen[:] = False
            if low < high:
                self._add(keys[low:high], missed[low:high])
        if len(request):
            self.request = int(request[-1])

    def _add(self, keys: npt.NDArray[np.int32], missed: npt.NDArray[np.bool_]) -> None:
        unseen = np.flatnonzero(~self.seen[keys])
        if len(unseen):
            first = np.zeros(len(self.seen), np.int64)
            first[keys[unseen][::-1]] = unseen[::-1]  # of several places the last one written stays: the first use
            new = np.unique(keys[unseen])
            self.count += int(np.count_nonzero(missed[first[new]]))
            self.seen[new] = True


def _better_in_python(job: Run) -> bool:
    """Return whether there is too little to count for compiling the loop first."""
    global _in_python
    trace = job.trace
    accesses = trace.num_tokens * trace.num_layers * trace.top_k
    if _in_python + accesses > FEW or is_compiled(job):
        return False
    _in_python += accesses
    return True


def is_compiled(job: Run) -> bool:
    """Return whether the loop that a run needs was compiled before, in this process or on this machine."""
    from lrcsim.simulator.compiled.admitted import admitted_loop_of, run_admitted_scored
    from lrcsim.simulator.compiled.queue_loop import loop_of
    from lrcsim.simulator.compiled.repin import run_repinned
    from lrcsim.simulator.compiled.score_loop import run_scored

    policy = make_policy(job.policy)
    admitted, queue = behind(policy) is not policy, kernel_of(behind(policy), Queue)
    run: Any
    if queue is None:
        run = run_admitted_scored if admitted else run_scored
    elif queue is Queue.REPIN and not admitted:
        run = run_repinned
    else:
        run = admitted_loop_of(queue) if admitted else loop_of(queue)
    return any(str(types[-1]) != "none" for types in signatures(run))  # with a `Served`, the last argument


def signatures(run: Any) -> list[tuple[Any, ...]]:
    """Return the types of arguments for which a function was compiled, in this process or on this machine.

    Without the compiler nothing has to be: then any types will do.
    """
    compiled = getattr(run, "signatures", None)
    if compiled is None:  # NUMBA_DISABLE_JIT
        return [("any",) * 32, ("none",) * 32]
    try:
        on_disk = [key[0] for key in run._cache._cache_file._load_index()]  # no public way to ask without compiling
    except (AttributeError, OSError):
        on_disk = []
    return [*compiled, *on_disk]
