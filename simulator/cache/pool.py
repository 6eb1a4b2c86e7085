"""One pool of a cache: its residents, its capacity and its policy, under the three rules of access.

This is the one place where hits, misses and evictions are decided; the replay and the event-driven engine both use it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from lrcsim.base.errors import PolicyError
from lrcsim.policies import Policy, View
from lrcsim.policies.guard import guarded, where_victim
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.traces import RoutingTrace

NOTHING: frozenset[int] = frozenset()


def pool_view(size: PoolSize, trace: RoutingTrace) -> View:
    """Make what a policy may look at in a pool.

    Args:
        size: the pool.
        trace: what runs through it.
    """
    by_layer = by_key = None
    if size.by_expert:
        first, cost = size.layers[0] * trace.num_experts, size.cost(trace.num_experts)
        by_key = {first + key: size for key, size in enumerate(cost.tolist())}
    elif size.bytes_per_expert is not None:
        by_layer = dict(zip(size.layers, size.bytes_per_expert, strict=True))
    return View(size.capacity, trace.num_experts, size.layers, trace.num_layers, trace.top_k, by_layer, by_key)


class Pool:
    """A set of resident experts, kept within its capacity by a policy.

    Args:
        size: the layers that share the pool and its capacity.
        policy: a policy object of its own.
        view: what the policy may look at; whoever runs the pool sets its ``step``, ``layer``, ``weights`` ...

    Attributes:
        capacity: in slots, or in bytes where experts differ in size.
        policy: the policy object.
        view: what the policy may look at.
        in_bytes: whether ``capacity`` is in bytes.
        resident: keys of the experts now in the pool.
        evictions: residents evicted so far.
        bypassed: loads that a bypassing policy never let in.
        preloaded: experts loaded by ``refill``, by layer.
        evicted_log: what was evicted or bypassed, or put out by ``refill``, where somebody who wants to know has put a
            list here.
        refilled_log: what ``refill`` loaded, likewise.
    """

    def __init__(self, size: PoolSize, policy: Policy, view: View) -> None:
        self.capacity = size.capacity
        self.view = view
        self.evictions = 0
        self.bypassed = 0
        self.preloaded: dict[int, int] = dict.fromkeys(size.layers, 0)
        self.in_bytes = view.in_bytes
        self.evicted_log: list[int] | None = None
        self.refilled_log: list[int] | None = None
        policy.view = view
        self.policy = guarded(policy)
        self.empty()

    def empty(self) -> None:
        """Put out everything, as between requests of a cold cache; this counts as no eviction."""
        self.resident: set[int] = set()
        self.used = 0
        self.first_seen: set[int] = set()  # for access="paper": what was used since, and its slots (or bytes)
        self.first_used = 0
        self.policy.reset()

    def refill(self) -> None:
        """Let a refilling policy replace the contents before a step.

        Raises:
            PolicyError: it asks for more than the capacity.
        """
        if self.view.slots == 0:
            return
        wanted = self.policy.refill()
        if wanted is None:
            return
        contents = set(wanted)
        used = sum(map(self.view.bytes_of, contents)) if self.in_bytes else len(contents)
        if used > self.capacity:
            raise PolicyError(f"policy {self.policy.name}: refill() asks for {used}, the pool holds {self.capacity}")
        loaded = sorted(contents - self.resident)
        for key in loaded:
            self.preloaded[self.view.layer_of(key)] += 1
        if self.refilled_log is not None:
            self.refilled_log += loaded
        if self.evicted_log is not None:
            self.evicted_log += sorted(self.resident - contents)
        self.resident, self.used = contents, used

    def coresident(self, batch: Sequence[int], admit: Callable[[list[int]], Sequence[int]] | None = None) -> list[int]:
        """Run a layer-step whose experts must all be resident together; return those that were not.

        All are looked up among the residents at the start; misses are loaded; then the policy evicts until the pool
        is within its capacity, never a member of the batch, unless the batch alone exceeds the capacity.

        Args:
            batch: the distinct experts of the layer-step.
            admit: asked once, with the misses if there are any, which of them to load; the others are used somewhere
                else (on the CPU) or not at all, and no part of the batch to the policy (`Policy.elsewhere`). None: all
                are loaded.
        """
        resident = self.resident
        missed = loaded = [key for key in batch if key not in resident]
        if missed and admit is not None:
            loaded = list(admit(missed))
            if len(loaded) < len(missed):
                left_out = set(missed).difference(loaded)
                self.policy.elsewhere([key for key in missed if key in left_out])
                batch = self._without(batch, left_out)
        if self.view.slots == 0:
            self._pass_through(len(loaded))
            return missed
        self.policy.access(batch, loaded)
        if loaded:
            self._load(loaded)
            if self._excess():
                if self.policy.bypass:
                    self._shrink(NOTHING, len(resident), loaded)
                else:
                    self._shrink(frozenset(batch), len(resident) - len(batch))
                    self._shrink(NOTHING, len(resident))
        return missed

    def prefetch(self, key: int, protected: set[int]) -> bool:
        """Take in an expert ahead of its use; return False, and change nothing, where that would need a protected one.

        To the policy this is a use, as it is to the engines that do it: the expert enters as if used now.

        Args:
            key: the expert.
            protected: experts that may not be evicted for it.
        """
        size = self.view.bytes_of(key) if self.in_bytes else 1
        resident = self.resident
        kept = [other for other in protected if other in resident]
        if (sum(map(self.view.bytes_of, kept)) if self.in_bytes else len(kept)) + size > self.capacity:
            return False
        one, view = (key,), self.view
        weights = view.weights
        view.weights = (0.0,) if weights or "weights" in self.policy.needs else ()
        self.policy.access(one, one)
        view.weights = weights
        self._load(one)
        if self._excess():
            self._shrink(frozenset((*protected, key)), len(resident) - len(kept) - 1)
        return True

    def resize(self, capacity: int) -> None:
        """Change the capacity, evicting what no longer fits."""
        self.capacity = self.view.capacity = capacity
        self.view.slots = self.view.slots_in(capacity)
        if self._excess():
            self._shrink(NOTHING, len(self.resident))

    def sequential(self, batch: Sequence[int]) -> list[int]:
        """Look up and insert expert after expert; return those that missed."""
        resident, policy, view = self.resident, self.policy, self.view
        weights, next_use = view.weights, view.next_use
        view.layer_weights = weights
        missed = []
        for place, key in enumerate(batch):
            if weights:
                view.weights = (weights[place],)
            if next_use:
                view.next_use = (next_use[place],)
            if key in resident:
                policy.access((key,), ())
            else:
                missed.append(key)
                self._insert(key)
        return missed

    def paper(self, batch: Sequence[int]) -> list[int]:
        """Look up the whole batch in what the last token left, then insert one by one; return those that missed.

        The u-th distinct expert since the pool was emptied (from 0) is a hit if u is below the capacity (in bytes: if
        it fits in together with those before it), and so are residents: ljcleo/moe-lrc, calc_lru and its kin.
        """
        resident, view, seen = self.resident, self.view, self.first_seen
        missed = []
        for key in batch:
            if key not in seen:
                self.first_used += self.view.bytes_of(key) if self.in_bytes else 1
                if self.first_used > self.capacity:
                    missed.append(key)
                seen.add(key)
            elif key not in resident:
                missed.append(key)
        weights, next_use = view.weights, view.next_use
        layer = -1
        for place, key in enumerate(batch):
            if key // view.stride != layer:
                layer = view.layer = key // view.stride
                if weights:
                    view.layer_weights = [
                        weight for other, weight in zip(batch, weights, strict=True) if other // view.stride == layer
                    ]
            if weights:
                view.weights = (weights[place],)
            if next_use:
                view.next_use = (next_use[place],)
            if key in resident:
                self.policy.access((key,), ())
            else:
                self._insert(key)
        return missed

    def method(self, access: str) -> Callable[[Sequence[int]], list[int]]:
        """Return the method for a rule of access: ``coresident``, ``sequential`` or ``paper``."""
        return {"coresident": self.coresident, "sequential": self.sequential, "paper": self.paper}[access]

    def _without(self, batch: Sequence[int], left_out: set[int]) -> list[int]:
        """Return the batch, and make the view's columns that of the batch, without some experts."""
        view = self.view
        kept = [place for place, key in enumerate(batch) if key not in left_out]
        if view.weights:
            view.weights = [view.weights[place] for place in kept]
        if view.next_use:
            view.next_use = [view.next_use[place] for place in kept]
        return [batch[place] for place in kept]

    def _insert(self, key: int) -> None:
        """Load one expert and make room for it."""
        if self.view.slots == 0:
            self._pass_through(1)
            return
        one = (key,)
        self.policy.access(one, one)
        self._load(one)
        if self._excess():
            if self.policy.bypass:
                self._shrink(NOTHING, len(self.resident), one)
            else:
                self._shrink(frozenset(one), len(self.resident) - 1)
                self._shrink(NOTHING, len(self.resident))

    def _pass_through(self, loads: int) -> None:
        """Count loads into a pool that cannot hold a single expert."""
        if self.policy.bypass:
            self.bypassed += loads
        else:
            self.evictions += loads

    def _load(self, keys: Sequence[int]) -> None:
        self.resident.update(keys)
        self.used = sum(map(self.view.bytes_of, keys), self.used) if self.in_bytes else len(self.resident)

    def _excess(self) -> bool:
        return self.used > self.capacity

    def _shrink(self, protected: Container[int], candidates: int, loaded: Sequence[int] = ()) -> None:
        """Evict until within the capacity or ``candidates`` have gone; evictions among ``loaded`` are bypasses."""
        resident, policy = self.resident, self.policy
        while self.used > self.capacity and candidates:
            key = policy.victim(protected)
            if key not in resident or key in protected:
                raise PolicyError(self._misnamed(key, protected))
            resident.remove(key)
            policy.evicted(key)
            self.used -= self.view.bytes_of(key) if self.in_bytes else 1
            candidates -= 1
            if self.evicted_log is not None:
                self.evicted_log.append(key)
            if key in loaded:
                self.bypassed += 1
            else:
                self.evictions += 1

    def _misnamed(self, key: object, protected: Container[int]) -> str:
        what = f"expert {key} (layer {key // self.view.stride})" if isinstance(key, int) else repr(key)
        why = "which belongs to the current batch" if key in protected else "which is not resident"
        return (
            f"policy {self.policy.name}: victim() returned {what}, {why}; "
            f"return a resident expert that is not in `protected`{where_victim(self.policy)}"
        )
