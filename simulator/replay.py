"""Replay: run a schedule through pools and count."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import LrcsimError, PolicyError, brief
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.policies import Policy, make_policy
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.cache.pool import Pool, pool_view
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import LayerTable
from lrcsim.traces.schedule import Block, Schedule


@dataclass
class Counts:
    """What a replay counts; rows are phases (0 prefill, 1 decode), columns MoE layers.

    Attributes:
        accesses: int64 [2, L], distinct experts looked up.
        misses: int64 [2, L].
        cold_misses: misses of experts not used before (since the cache was last emptied).
        evictions: experts evicted to make room.
        bypassed: loads that went through a staging buffer and never entered the cache.
        preloaded: int64 [L], experts a policy loaded of its own accord, not counted as misses.
        steps: int64 [2], forward passes with at least one recorded expert.
        resident: experts in the cache at the end.
        hit: bool [accesses in schedule order], when asked for.
        loads: int64 [2], misses that were brought into the cache or beside it, where a simulation in time may do
            something else with them; None: all.
        loaded_bytes: int64 [2], bytes of these; None: the misses' sizes, the same for all of a layer.
    """

    accesses: npt.NDArray[np.int64]
    misses: npt.NDArray[np.int64]
    preloaded: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    cold_misses: int = 0
    evictions: int = 0
    bypassed: int = 0
    resident: int = 0
    hit: npt.NDArray[np.bool_] | None = field(default=None, repr=False)
    loads: npt.NDArray[np.int64] | None = None
    loaded_bytes: npt.NDArray[np.int64] | None = None

    __repr__ = short_repr


def replay(run: Run, *, record: bool = False, progress: Progress | None = None) -> Counts:
    """Run the whole trace through the pools and count hits and misses.

    Args:
        run: what to run.
        record: whether to keep a flag per access (one byte each).
        progress: told how far it is.

    Raises:
        PolicyError: the policy broke its contract, or failed.
    """
    run.refuse_unrouted()
    trace = run.trace
    pools = make_pools(run)
    policy = pools[0].policy
    wanted = policy.needs | policy.wants
    schedule = Schedule(trace, run.prefill, weights="weights" in wanted)
    future = Future(schedule, run.access, run.warm) if "future" in policy.needs else None
    if future is not None:
        for pool in pools:
            pool.view.upcoming = future.of_pool(pool.view.layers)
    layers = trace.num_layers
    counts = Counts(
        accesses=np.zeros((2, layers), np.int64),
        misses=np.zeros((2, layers), np.int64),
        preloaded=np.zeros(layers, np.int64),
        steps=np.zeros(2, np.int64),
        loaded_bytes=np.zeros(2, np.int64) if trace.layers.sized_by_expert else None,
    )
    recorded: list[npt.NDArray[np.bool_]] = []
    runner = Runner(pools, run)
    try:
        for block in schedule.blocks():
            missed, per_batch, batch_starts = runner.run(block, future)
            _count(counts, block, missed, per_batch, trace.layers)
            if record:
                recorded.append(_hits(block.keys, batch_starts, missed, per_batch))
            if progress is not None:
                progress(block.end_token, trace.num_tokens)
    except LrcsimError:
        raise
    except Exception as error:
        where = f"at step {pools[0].view.step}, layer {pools[0].view.layer}"
        raise PolicyError(f"policy {policy.name} failed {where}: {brief(error)}") from error
    counts.cold_misses = runner.cold_misses
    for pool in pools:
        counts.evictions += pool.evictions
        counts.bypassed += pool.bypassed
        counts.resident += len(pool.resident)
        for layer, loaded in pool.preloaded.items():
            counts.preloaded[layer] += loaded
    counts.hit = np.concatenate(recorded) if record and recorded else None
    return counts


def make_pools(run: Run) -> list[Pool]:
    """Make the empty pools of a replay, each with a policy object of its own.

    Raises:
        PolicyError: the policy cannot be made, or serves several pools with one object.
    """
    trace = run.trace
    pools: list[Pool] = []
    for size in run.pools:
        view = pool_view(size, trace)
        if run.profile is not None:
            view.profile = run.profile.tolist()
        policy = make_policy(run.policy)
        refuse_shared_policy(policy, run)
        try:
            pools.append(Pool(size, policy, view))
        except LrcsimError:
            raise
        except Exception as error:
            raise PolicyError(f"policy {policy.name} failed in reset(): {brief(error)}") from error
    return pools


def refuse_shared_policy(policy: Policy, run: Run) -> None:
    """Raise PolicyError where one policy object would have to serve several pools."""
    if policy is run.policy and len(run.pools) > 1:
        raise PolicyError(
            f"policy {policy.name}: scope 'layer' needs one object per layer; give the class or the name instead"
        )


class Runner:
    """The loop over layer-steps, with what has to be remembered from block to block.

    Args:
        pools: as `make_pools` makes them.
        run: the rules.
    """

    def __init__(self, pools: list[Pool], run: Run) -> None:
        layers = run.trace.num_layers
        self.pools = pools
        self.pool_of_layer = [pools[0]] * layers if len(pools) == 1 else pools
        self.run_of_layer = [pool.method(run.access) for pool in self.pool_of_layer]
        self.whole_tokens = run.access == "paper" and len(pools) == 1
        self.refills = pools[0].policy.refills
        self.remember_all = self.refills or run.access == "paper"
        self.warm = run.warm
        self.request = -1
        self.step = -1
        self.seen: set[int] = set()
        self.cold_misses = 0

    def run(self, block: Block, future: Future | None) -> tuple[list[int], list[int], npt.NDArray[np.int64]]:
        """Return the keys that missed, how many per batch, and where each batch starts in the block."""
        first, starts = block.batches(self.whole_tokens)
        bounds: list[int] = starts.tolist()
        keys: list[int] = block.keys.tolist()
        weights: list[float] | None = None if block.weights is None else block.weights.tolist()
        next_use: list[int] | None = None
        if future is not None:
            next_use = future.next_use[block.first_access : block.first_access + len(keys)].tolist()
        missed_keys: list[int] = []
        per_batch: list[int] = []
        seen, remember_all = self.seen, self.remember_all
        low = 0
        for high, layer, step, request, phase in zip(
            bounds[1:],
            block.layer[first].tolist(),
            block.step[first].tolist(),
            block.request[first].tolist(),
            block.phase[first].tolist(),
            strict=True,
        ):
            if step != self.step:
                self.begin_step(step, request, phase)
            view = self.pool_of_layer[layer].view
            view.step = step
            view.layer = layer
            view.request = request
            view.phase = phase
            if weights is not None:
                view.weights = weights[low:high]
            if next_use is not None:
                view.next_use = next_use[low:high]
            batch = keys[low:high]
            missed = self.run_of_layer[layer](batch)
            per_batch.append(len(missed))
            if missed:
                missed_keys += missed
                for key in missed:
                    if key not in seen:
                        self.cold_misses += 1
                        seen.add(key)
            if remember_all:
                seen.update(batch)
            low = high
        return missed_keys, per_batch, starts

    def begin_step(self, step: int, request: int, phase: int) -> None:
        """Begin a step: for a new request empty the pools where the cache is cold, then let policies refill them."""
        if request != self.request:
            if not self.warm and self.request >= 0:
                for pool in self.pools:
                    pool.empty()
                self.seen.clear()
            self.request = request
        if self.refills:
            for pool in self.pools:
                pool.view.step, pool.view.request, pool.view.phase = step, request, phase
                pool.refill()
        self.step = step


def _count(counts: Counts, block: Block, missed: list[int], per_batch: list[int], table: LayerTable) -> None:
    layers, stride = len(table), int(table.num_experts.max())
    cell = block.phase.astype(np.int64) * layers + block.layer
    sizes = np.diff(block.starts)
    counts.accesses += np.bincount(cell, weights=sizes, minlength=2 * layers).astype(np.int64).reshape(2, layers)
    first = np.flatnonzero(np.diff(block.step, prepend=-1))
    counts.steps += np.bincount(block.phase[first], minlength=2)
    phases = block.phase if len(per_batch) == len(block.phase) else block.phase[first]
    missed_cell = np.repeat(phases.astype(np.int64), per_batch) * layers + np.asarray(missed, np.int64) // stride
    counts.misses += np.bincount(missed_cell, minlength=2 * layers).reshape(2, layers)
    if counts.loaded_bytes is not None:
        add_bytes(counts.loaded_bytes, np.asarray(missed, np.int64), np.repeat(phases, per_batch), table)


def add_bytes(
    total: npt.NDArray[np.int64], keys: npt.NDArray[np.integer], phase: npt.NDArray[np.integer], table: LayerTable
) -> None:
    """Add the bytes of experts to those of their phases.

    Args:
        total: int64 [2], added to in place.
        keys: int [n], the experts.
        phase: int [n], of each.
        table: has their bytes.
    """
    sizes = table.key_bytes
    assert sizes is not None  # who asks knows that there are some
    for which in range(2):
        total[which] += sizes[keys[phase == which]].sum()


def _hits(
    keys: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], missed: list[int], per_batch: list[int]
) -> npt.NDArray[np.bool_]:
    """Mark each access of a block as hit or miss: a key stands at most once in a batch."""
    batch = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    span = int(keys.max(initial=0)) + 1
    missed_pairs = np.repeat(np.arange(len(per_batch)), per_batch) * span + np.asarray(missed, np.int64)
    return ~np.isin(batch * span + keys, missed_pairs)
