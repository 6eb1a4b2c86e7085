"""Rules found in MoE inference engines and their papers; `source` names each one's origin."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Container, Sequence

from lrcsim.policies.base import Param
from lrcsim.policies.compiled import weights_ahead
from lrcsim.policies.ordering import RankedPolicy, ScorePolicy
from lrcsim.policies.recency import Lru

__all__ = ["Dali", "Heat", "Hobbit", "LeastStaleFifo", "LeastStaleGap", "LeastStaleLayer", "MoeInfinity"]


class LeastStaleFifo(ScorePolicy):
    """Evict the expert loaded first among those not used in this step; if there is none, the one loaded first."""

    name = "least-stale-fifo"
    source = "SpecMD, Least-Stale, reading (a): stale and fresh FIFO queues rotated each token"

    def reset(self) -> None:
        super().reset()
        self.loads = 0
        self.loaded: dict[int, int] = {}
        self.used_in: dict[int, int] = {}

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        for key in missed:
            self.loads += 1
            self.loaded[key] = self.loads
        for key in batch:
            self.used_in[key] = self.view.step

    def score(self, key: int) -> float:
        fresh = self.used_in[key] == self.view.step
        return self.loaded[key] + (self.loads if fresh else 0)


class LeastStaleGap(RankedPolicy):
    """Evict the most overdue: steps since the last use minus m, where m <- 0.5 m + 0.5 * the last gap."""

    name = "least-stale-gap"
    source = "SpecMD, Least-Stale, reading (b)"

    def reset(self) -> None:
        super().reset()
        self.expected: dict[int, tuple[float, int]] = {}  # m, step of the last use

    def rank(self, key: int, place: int, missed: bool) -> float:
        now = self.view.step
        if key in self.expected:
            gap, last = self.expected[key]
            gap = 0.5 * gap + 0.5 * (now - last)
        else:
            gap = 0.0
        self.expected[key] = gap, now
        return gap + now  # (now - last) - m, largest first, is last + m, smallest first


class LeastStaleLayer(ScorePolicy):
    """Evict from the lowest layer already passed in this step, least recent first; if there is none, LRU."""

    name = "least-stale-layer"
    source = "SpecMD, Least-Stale, reading (c)"

    def score(self, key: int) -> float:
        layer = self.view.layer_of(key)
        return layer if layer < self.view.layer else self.view.num_layers


class Hobbit(ScorePolicy):
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
    w1: float
    w2: float
    w3: float
    w4: float

    def reset(self) -> None:
        super().reset()
        self._start_request()
        self.request = -1

    def _start_request(self) -> None:
        self.last_step: defaultdict[int, int] = defaultdict(int)
        self.uses: defaultdict[int, int] = defaultdict(int)
        self.precise: defaultdict[int, int] = defaultdict(int)

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        if self.view.request != self.request:
            self.request, self.first_step = self.view.request, self.view.step
            self._start_request()
        now, weights = self.view.step - self.first_step + 1, self.view.weights
        for key in batch:
            self.last_step[key] = now
            self.uses[key] += 1
        if weights:
            ahead = weights_ahead(self.view.layer_weights or weights)
            for key, weight in zip(batch, weights, strict=True):
                self.precise[key] += ahead[weight] <= 0.6

    def score(self, key: int) -> float:
        view = self.view
        steps, layers = view.step - self.first_step + 1, view.num_layers
        distance = (view.layer - view.layer_of(key)) % layers
        used = self.w1 * self.last_step[key] + self.w2 * self.uses[key] + self.w3 * self.precise[key]
        return used * layers + self.w4 * (layers - distance) * steps  # times T L: without quotients, ties are exact


class MoeInfinity(ScorePolicy):
    """Evict the smallest topo * request * freq: layer order, share in this request's layer, share of all visits."""

    name = "moe-infinity"
    source = "MoE-Infinity (arXiv 2401.14361), priority_score of its code"

    def reset(self) -> None:
        super().reset()
        self.visits: defaultdict[int, int] = defaultdict(int)
        self.total = 0
        self.request = -1

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        if self.view.request != self.request:
            self.request = self.view.request
            self.here: defaultdict[int, int] = defaultdict(int)
            self.here_in_layer: defaultdict[int, int] = defaultdict(int)
        for key in batch:
            self.visits[key] += 1
            self.total += 1
            self.here[key] += 1
            self.here_in_layer[self.view.layer_of(key)] += 1

    def score(self, key: int) -> float:
        view = self.view
        layer, layers = view.layer_of(key), view.num_layers
        ahead = layer - view.layer if layer > view.layer else 0
        row = self.here_in_layer[layer]
        request = (self.here[key] / row if row else 0.0) + 1e-6
        return (1 - ahead / layers) * request * (self.visits[key] / self.total + 1e-6)


class Dali(Lru):
    """LRU, but experts with at least ``heavy`` uses among the pool's last ``window`` accesses stay if others can go."""

    name = "dali"
    source = "tinyserve, DALI-like"
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


class Heat(Lru):
    """LRU among experts used at most ``cold`` times since loading; if there is none, LRU among all."""

    name = "heat"
    source = "a llama.cpp fork's expert cache"
    params = (Param("cold", 4, "uses up to which an expert is evicted first", minimum=0),)
    cold: int

    def reset(self) -> None:
        self.order: OrderedDict[int, None] = OrderedDict()
        self.uses: dict[int, int] = {}

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        for key in missed:
            self.uses[key] = 0
        for key in batch:
            self.uses[key] += 1

    def victim(self, protected: Container[int]) -> int:
        for key in self.order:
            if key not in protected and self.uses[key] <= self.cold:
                return key
        return super().victim(protected)
