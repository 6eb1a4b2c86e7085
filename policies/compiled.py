"""Policies of the form "evict the expert of least worth" that run compiled as well as in Python.

One class, two ways: `simulate` calls it through the ordinary contract, `hit_rate_curve` compiles ``worth`` (and
``update``) with numba into the loop of `lrcsim.simulator.compiled.score_loop`. Both give the same hits.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, ClassVar, NamedTuple

from lrcsim.base.errors import PolicyError
from lrcsim.base.user_code import checked_number
from lrcsim.policies.base import NEVER
from lrcsim.policies.class_checks import check_compiled
from lrcsim.policies.ordering import ScorePolicy

__all__ = ["CompiledScore", "Expert", "Now", "weights_ahead"]


class Expert(NamedTuple):
    """What is known of one expert. Numbers are kept after eviction; all start anew when a cold cache is emptied.

    Attributes:
        layer: its MoE layer.
        first_step: step of its first use.
        last_step: step of its last use.
        last_run: number of its last use's layer-step among those of its layer, from 1.
        last_request: request of its last use.
        loaded_step: step in which it was last loaded.
        load_order: number of that load among the pool's loads, from 1.
        use_order: number of its last use among the pool's uses, from 1.
        uses: uses so far; one use is one layer-step.
        uses_resident: uses since it was last loaded.
        uses_request: uses in ``last_request``.
        weight: router weight of its last use (policies that need or want ``weights``, else 0).
        weight_mean: mean router weight of its uses (likewise).
        weight_ahead: share of the router weight of its last use's layer-step that larger weights hold, 0 for the
            largest of all (likewise, else 1).
        next_use: time of its next use, `NEVER` if there is none (policies that need the ``future``, else `NEVER`); in
            layer-steps, or accesses where they are sequential.
        value: a number of the policy's own, what ``update`` returned at its last use; 0 at first.
    """

    layer: int
    first_step: int
    last_step: int
    last_run: int
    last_request: int
    loaded_step: int
    load_order: int
    use_order: int
    uses: int
    uses_resident: int
    uses_request: int
    weight: float
    weight_mean: float
    weight_ahead: float
    next_use: int
    value: float


class Now(NamedTuple):
    """The moment at which an expert's worth is asked for; all counts start anew when a cold cache is emptied.

    Attributes:
        step: number of the current forward pass.
        request: number of the current request.
        request_step: step in which this request first used the pool.
        layer: the layer being run.
        num_layers: MoE layers of the model.
        slots: capacity of the pool.
        loads: loads of the pool so far, those of the current batch included.
        uses: uses of the pool so far, those of the current batch included; in ``update`` those up to this use.
        age: the worth of the expert last evicted before the current batch, 0 at first.
        layer_runs: layer-steps so far of the expert's layer, the current one included.
        layer_uses: uses in the current request of all experts of the expert's layer, those of the current batch
            included (in ``update`` they are not).
    """

    step: int
    request: int
    request_step: int
    layer: int
    num_layers: int
    slots: int
    loads: int
    uses: int
    age: float
    layer_runs: int
    layer_uses: int


def weights_ahead(weights: Sequence[float]) -> dict[float, float]:
    """Return for each router weight of a layer-step the share of all that larger weights hold (0 if all are 0)."""
    ahead: dict[float, float] = {}
    total = 0.0
    for weight in sorted(weights, reverse=True):  # added one by one, as compiled: `sum` may round in another way
        if weight not in ahead:
            ahead[weight] = total
        total += weight
    return {weight: before / total for weight, before in ahead.items()} if total else ahead


class CompiledScore(ScorePolicy):
    """Base: evict the resident of least ``worth``, ties to the least recent; write ``worth`` in plain arithmetic.

    ``worth`` and ``update`` are static methods, without further decorators, in the Python that numba compiles: numbers,
    ``math``, conditions, constants of the module. Parameters (`Param`, numbers only) follow as further arguments, in
    order. Compiled, whole numbers have 64 bits, and overflow or the logarithm of 0 give infinity, not an error.

    Attributes:
        at_use: take the worth when an expert is used, and keep it until its next use; right where the worth depends
            on the expert alone, and much faster in large pools. Else it is taken whenever room is needed.
        larger_key_first: of equal worths the larger key goes first (larger layer, then larger expert), not the least
            recent.
    """

    name = ""
    methods = ("worth",)
    at_use: ClassVar[bool] = False
    larger_key_first: ClassVar[bool] = False

    @staticmethod
    def worth(*arguments: Any) -> float:
        """Return how much an expert is worth keeping: ``worth(expert, now, *parameters)``, see `Expert` and `Now`."""
        raise NotImplementedError

    @staticmethod
    def update(*arguments: Any) -> float:
        """Return the expert's new ``value`` at a use: ``update(expert, now, weight, *parameters)``; optional.

        ``expert`` is as before this use (``uses`` is 0 at the first, ``uses_resident`` 0 if it is being loaded),
        ``weight`` the router weight of this use (policies that need ``weights``, else 0).
        """
        raise NotImplementedError

    @classmethod
    def updates(cls) -> bool:
        """Return whether the class has an ``update`` of its own."""
        return cls.update is not CompiledScore.update

    @classmethod
    def compilable(cls) -> bool:
        """Return whether ``worth`` and ``update`` are all there is: no other method of the contract is overridden."""
        contract = ("reset", "access", "victim", "evicted", "score", "refill")
        return not cls.refills and all(getattr(cls, name) is getattr(CompiledScore, name) for name in contract)

    @classmethod
    def check_class(cls) -> None:
        check_compiled(cls)

    def values(self) -> tuple[int | float, ...]:
        """Return the parameters' values in order.

        Raises:
            PolicyError: one is text.
        """
        values = tuple(getattr(self, param.name) for param in self.params)
        if any(isinstance(value, str) for value in values):
            raise PolicyError(f"{self.name}: the parameters of a CompiledScore must be numbers")
        return values

    def reset(self) -> None:
        super().reset()
        self.experts: dict[int, Expert] = {}
        self.weight_sums: dict[int, float] = {}
        self.worths: dict[int, float] = {}
        self.loads = self.uses = 0
        self.age = self.last_evicted = 0.0  # worth of the expert last evicted before this batch, and up to now
        self.layer_runs = [0] * self.view.num_layers
        self.layer_uses = [0] * self.view.num_layers
        self.last_run = self.request_step = -1, -1  # (step, layer) of the last layer-step; (request, its first step)
        self._values = self.values()

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        view, experts, sums, last_use = self.view, self.experts, self.weight_sums, self.last_use
        updates, step, weights, next_use = self.updates(), view.step, view.weights, view.next_use
        self.age = self.last_evicted
        if self.request_step[0] != view.request:
            self.request_step = view.request, step
            self.layer_uses = [0] * view.num_layers
        if not batch:  # all missed, and none was loaded
            return
        layer = view.layer_of(batch[0])  # a batch is of one layer
        if self.last_run != (step, layer):
            self.last_run = step, layer
            self.layer_runs[layer] += 1
        for key in missed:
            self.loads += 1
            new = Expert(layer, step, step, 0, -1, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 1.0, NEVER, 0.0)
            experts[key] = experts.get(key, new)._replace(loaded_step=step, load_order=self.loads, uses_resident=0)
        ahead = weights_ahead(view.layer_weights or weights) if weights else {}
        for place, key in enumerate(batch):
            old = experts[key]
            uses = old.uses + 1
            weight = weights[place] if weights else 0.0
            sums[key] = sums.get(key, 0.0) + weight
            experts[key] = Expert(  # by position: `_replace` takes three times as long
                layer,
                old.first_step,
                step,
                self.layer_runs[layer],
                view.request,
                old.loaded_step,
                old.load_order,
                last_use[key],
                uses,
                old.uses_resident + 1,
                old.uses_request + 1 if old.last_request == view.request else 1,
                weight,
                sums[key] / uses,
                ahead.get(weight, 1.0),
                next_use[place] if next_use else NEVER,
                self._update(key, old, self._now(layer, place + 1), weight) if updates else 0.0,
            )
            if self.larger_key_first:
                last_use[key] = -key
        self.uses += len(batch)
        self.layer_uses[layer] += len(batch)
        self.now: dict[int, Now] = {}  # by layer of the expert looked at
        if self.at_use:
            for key in batch:
                self.worths[key] = self._worth(key)

    def victim(self, protected: Container[int]) -> int:
        key = super().victim(protected)
        self.last_evicted = self._candidates[0][0]
        return key

    def score(self, key: int) -> float:
        return self.worths[key] if self.at_use else self._worth(key)

    def _now(self, layer: int, more_uses: int = 0) -> Now:
        view = self.view
        return Now(
            view.step,
            view.request,
            self.request_step[1],
            view.layer,
            view.num_layers,
            view.slots,
            self.loads,
            self.uses + more_uses,
            self.age,
            self.layer_runs[layer],
            self.layer_uses[layer],
        )

    def _update(self, key: int, expert: Expert, now: Now, weight: float) -> float:
        value: Any = self.update(expert, now, weight, *self._values)
        if self._users:
            checked_number(value, self, "update", key, nan=True)
        return float(value)

    def _worth(self, key: int) -> float:
        expert = self.experts[key]
        now = self.now.get(expert.layer)
        if now is None:
            now = self.now[expert.layer] = self._now(expert.layer)
        worth: Any = self.worth(expert, now, *self._values)
        if self._users:
            checked_number(worth, self, "worth", key, what=expert)
        return float(worth)
