"""Rules found in MoE inference engines and their papers; `source` names each one's origin."""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Container, Sequence

from lrcsim.policies.base import NEVER, Param, Policy
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.policies.kernels import Queue
from lrcsim.policies.recency import Lru


class LeastStaleFifo(CompiledScore):
    """Evict the expert loaded first among those not used in this step; if there is none, the one loaded first."""

    name = "least-stale-fifo"
    source = "SpecMD, Least-Stale, reading (a): stale and fresh FIFO queues rotated each token"

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.load_order + (now.loads if expert.last_step == now.step else 0)


class LeastStaleGap(CompiledScore):
    """Evict the most overdue: steps since the last use minus m, where m <- 0.5 m + 0.5 * the last gap."""

    name = "least-stale-gap"
    source = "SpecMD, Least-Stale, reading (b)"
    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float) -> float:
        """Return m."""
        return 0.5 * expert.value + 0.5 * (now.step - expert.last_step) if expert.uses else 0.0

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.value + expert.last_step  # (now - last) - m, largest first, is last + m, smallest first


class LeastStaleLayer(CompiledScore):
    """Evict from the lowest layer already passed in this step, least recent first; if there is none, LRU."""

    name = "least-stale-layer"
    source = "SpecMD, Least-Stale, reading (c)"

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.layer if expert.layer < now.layer else now.num_layers


class Hobbit(CompiledScore):
    """Evict the smallest w1 R/T + w2 F/T + w3 H/T + w4 (1 - ((l_now - l + L) mod L) / L); reset with each request.

    T: steps of the request so far, the current one included; R: step of the last use within it, from 1 (0 if none);
    F: uses in the request; H: high-precision uses among them, those where the experts of larger weight hold at most 0.6
    of the router weight of the layer-step (0 in a trace without weights); l: the expert's layer, l_now: the layer run.
    """

    name = "hobbit"
    wants = frozenset({"weights"})
    source = "HOBBIT (arXiv 2411.01433), multidimensional cache score"
    params = (
        Param("w1", 0.25, "weight of recency", 0, 1),
        Param("w2", 0.25, "weight of frequency", 0, 1),
        Param("w3", 0.25, "weight of high-precision uses", 0, 1),
        Param("w4", 0.25, "weight of layer distance", 0, 1),
    )

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, w1: float, w2: float, w3: float, w4: float) -> float:
        """Return H before this use: whether this use is one of high precision is known only after it."""
        return expert.value + (expert.weight_ahead <= 0.6) if expert.last_request == now.request else 0.0

    @staticmethod
    def score(expert: Expert, now: Now, w1: float, w2: float, w3: float, w4: float) -> float:
        # The formula times T L: without quotients, ties are exact.
        distance = (now.layer - expert.layer) % now.num_layers
        near = w4 * (now.num_layers - distance) * (now.step - now.request_step + 1)
        if expert.last_request != now.request:
            return near
        last = expert.last_step - now.request_step + 1
        precise = expert.value + (expert.weight_ahead <= 0.6)
        return (w1 * last + w2 * expert.uses_request + w3 * precise) * now.num_layers + near


class MoeInfinity(CompiledScore):
    """Evict the smallest topo * request * freq: layer order, share in this request's layer, share of all visits."""

    name = "moe-infinity"
    source = "MoE-Infinity (arXiv 2401.14361), priority_score of its code"

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        ahead = expert.layer - now.layer if expert.layer > now.layer else 0
        here = expert.uses_request if expert.last_request == now.request else 0
        request = (here / now.layer_uses if now.layer_uses else 0.0) + 1e-6
        return (1 - ahead / now.num_layers) * request * (expert.uses / now.uses + 1e-6)


class Dali(Lru):
    """LRU, but experts with at least ``heavy`` uses among the pool's last ``window`` accesses stay if others can go."""

    name = "dali"
    source = "tinyserve, DALI-like"
    kernels = (Queue.DALI,)
    params = (
        Param("window", 256, "accesses looked back on", minimum=1),
        Param("heavy", 25, "uses in the window that protect an expert", minimum=1),
    )
    window: int
    heavy: int

    def reset(self) -> None:
        super().reset()
        self.recent: deque[int] = deque()
        self.count: defaultdict[int, int] = defaultdict(int)

    def kernel_sizes(self) -> dict[str, int]:
        return {"threshold": self.heavy, "window": self.window}

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        for key in batch:
            self.recent.append(key)
            self.count[key] += 1
            if len(self.recent) > self.window:
                self.count[self.recent.popleft()] -= 1

    def victim(self, protected: Container[int]) -> int:
        for key in self.order:
            if key not in protected and self.count[key] < self.heavy:
                return key
        return super().victim(protected)


class Heat(CompiledScore):
    """LRU among experts used at most ``cold`` times since loading; if there is none, LRU among all."""

    name = "heat"
    source = "a llama.cpp fork's expert cache"
    params = (Param("cold", 4, "uses up to which an expert is evicted first", minimum=0),)
    at_use = True

    @staticmethod
    def score(expert: Expert, now: Now, cold: int) -> float:
        return 0.0 if expert.uses_resident <= cold else 1.0


class Repin(Policy):
    """A hot set that is pinned anew every ``n`` steps by decayed counts; what misses meanwhile bypasses.

    The heat of an expert is its uses, on the CPU too, halved (rounded down) at every pass. A pass, before the first
    step of each ``n`` if anything was used since the last, gives free slots to the hottest experts outside, then up to
    ``swaps`` times the slot of the coldest inside to the hottest outside, as long as its heat exceeds the other's
    by more than a quarter and 4. Ties go to the smaller key; where experts differ in bytes, only those that fit count.
    Between passes free slots go to the first misses. What a pass loads is uploaded while the run goes on.

    As in the source, but for three things: there at most four slots change in all layers together, one in each, here
    ``swaps`` in each pool; the first set comes from earlier sessions; and each token of a prompt counts.
    """

    name = "repin"
    bypass = True
    refills = True
    source = (
        "JustVugg/colibri, REPIN=n: repin_pass in c/glm.c, tier_pick_swap and tier_decay in c/tier.h (pull request 26)"
    )
    kernels = (Queue.REPIN,)
    params = (
        Param("n", 64, "steps from one pass to the next", minimum=1),
        Param("swaps", 4, "experts replaced in a pass, at most", minimum=0),
    )
    n: int
    swaps: int

    def reset(self) -> None:
        self.heat: Counter[int] = Counter()
        self.inside: set[int] = set()
        self.passing: list[int] = []  # misses of the current batch
        self.passed = 0  # which n steps the last pass, or the last look at the time, was in
        self.used = False  # whether anything was, since the last pass

    def kernel_sizes(self) -> dict[str, int]:
        return {"threshold": min(self.n, NEVER), "part": min(self.swaps, NEVER)}

    def refill(self) -> Collection[int] | None:
        self._settle()
        before, self.passed = self.passed, self.view.step // self.n
        if self.passed == before or not self.used:
            return None
        coldest = sorted(self.inside, key=self._coldest_first)[: self.swaps]
        self.inside.update(self.view.take(self._outside(), self._room()))
        self._swap(coldest)
        self.heat = Counter({key: heat // 2 for key, heat in self.heat.items() if heat > 1})
        self.used = False
        return frozenset(self.inside)

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self._settle()
        self.passing = list(missed)
        self._count(batch)

    def elsewhere(self, keys: Sequence[int]) -> None:
        self._count(keys)

    def victim(self, protected: Container[int]) -> int:
        return self.passing[-1] if self.passing else min(self.inside, key=self._coldest_first)

    def evicted(self, key: int) -> None:
        if key in self.passing:
            self.passing.remove(key)
        else:
            self.inside.remove(key)

    def _count(self, keys: Sequence[int]) -> None:
        self.heat.update(keys)
        self.used = True

    def _settle(self) -> None:
        """Take in the misses of the last batch that found room."""
        self.inside.update(self.passing)
        self.passing = []

    def _coldest_first(self, key: int) -> tuple[int, int]:
        return self.heat[key], key

    def _outside(self) -> list[int]:
        """Return the experts outside that were used, the hottest first."""
        return sorted((key for key in self.heat if key not in self.inside), key=lambda key: (-self.heat[key], key))

    def _room(self) -> int:
        return self.view.capacity - sum(map(self.view.bytes_of, self.inside))

    def _swap(self, coldest: Sequence[int]) -> None:
        """Give the slots of the coldest to hotter experts, as far as these are hot enough."""
        size, room, outside = self.view.bytes_of, self._room(), self._outside()
        for cold in coldest:
            hot = next((key for key in outside if size(key) <= room + size(cold)), None)
            if hot is None or self.heat[hot] <= self.heat[cold] + self.heat[cold] // 4 + 4:
                return
            room += size(cold) - size(hot)
            outside.remove(hot)
            self.inside.remove(cold)
            self.inside.add(hot)
