"""Which engine runs a policy: the one place that decides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

from lrcsim.policies import CompiledScore, Policy
from lrcsim.policies.admission import Admit2
from lrcsim.policies.kernels import Queue, Stack
from lrcsim.simulator.cache.capacity import PoolSize

Engine = Literal["stack", "compiled", "python"]

Kernel = TypeVar("Kernel", Queue, Stack)


def engine_for(policy: Policy, pools: Iterable[PoolSize] = (), *, hits_only: bool = False) -> Engine:
    """Return the fastest engine that runs a policy. All give the same hits, under every rule of access.

    Args:
        policy: the policy.
        pools: the capacities that it is to run at; none: some number of slots.
        hits_only: whether hits by phase are all that is asked for, and not evictions, or hits by layer.

    Returns:
        ``"stack"``: one compiled pass for all capacities in slots; ``"compiled"``: a compiled loop at each capacity;
        ``"python"``: the class's own methods.
    """
    pools = list(pools)
    if behind(policy) is not policy:  # its loop counts free slots: all experts of a batch must be of one size
        return "python" if any(pool.by_expert for pool in pools) else engine_for(behind(policy), pools)
    if hits_only and kernel_of(policy, Stack) is not None and all(pool.bytes_per_expert is None for pool in pools):
        return "stack"
    if kernel_of(policy, Queue) is not None or (isinstance(policy, CompiledScore) and policy.compilable()):
        return "compiled"
    return "python"


def behind(policy: Policy) -> Policy:
    """Return the policy behind an admission, or the policy itself: whose loop it is that runs."""
    return policy.inner if type(policy) is Admit2 else policy  # a derived class may admit in another way


def kernel_of(policy: Policy | type[Policy], kind: type[Kernel]) -> Kernel | None:
    """Return the queue or the stack that does what a policy does; None if there is none.

    Only a class of lrcsim's own has one, and only the class that names it: whatever a derived class changes, the
    compiled loop would not know.
    """
    cls = policy if isinstance(policy, type) else type(policy)
    named = () if cls._users else vars(cls).get("kernels", ())
    return next((kernel for kernel in named if isinstance(kernel, kind)), None)
