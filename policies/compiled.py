"""Policies of the form "evict the expert of least worth" that run compiled as well as in Python.

One class, two ways: `simulate` calls it through the ordinary contract, `hit_rate_curve` compiles ``worth`` (and
``update``) with numba into the loop of `lrcsim.simulator.scored`. Both give the same hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from lrcsim.errors import PolicyError
from lrcsim.policies.base import NEVER
from lrcsim.policies.ordering import ScorePolicy

__all__ = ["CompiledScore", "Expert", "Now"]


class Expert(NamedTuple):
    """What is known of one expert. Numbers are kept after eviction; all start anew when a cold cache is emptied.

    Attributes:
        layer: its MoE layer.
        first_step: step of its first use.
        last_step: step of its last use.
        loaded_step: step in which it was last loaded.
        load_order: number of that load among the pool's loads, from 1.
        use_order: number of its last use among the pool's uses, from 1.
        uses: uses so far; one use is one layer-step.
        uses_resident: uses since it was last loaded.
        weight: router weight of its last use (policies that need ``weights``, else 0).
        weight_mean: mean router weight of its uses (likewise).
        next_use: time of its next use, `NEVER` if there is none (policies that need the ``future``, else `NEVER`); in
            layer-steps, or accesses where they are sequential.
        value: a number of the policy's own, what ``update`` returned at its last use; 0 at first.
    """

    layer: int
    first_step: int
    last_step: int
    loaded_step: int
    load_order: int
    use_order: int
    uses: int
    uses_resident: int
    weight: float
    weight_mean: float
    next_use: int
    value: float


class Now(NamedTuple):
    """The moment at which a worth is asked for.

    Attributes:
        step: number of the current forward pass.
        request: number of the current request.
        layer: the layer being run.
        num_layers: MoE layers of the model.
        slots: capacity of the pool.
        loads: loads of the pool so far, those of the current batch included.
    """

    step: int
    request: int
    layer: int
    num_layers: int
    slots: int
    loads: int


class CompiledScore(ScorePolicy):
    """Base: evict the resident of least ``worth``, ties to the least recent; write ``worth`` in plain arithmetic.

    ``worth`` and ``update`` are static methods, without further decorators, in the Python that numba compiles: numbers,
    ``math``, conditions, constants of the module. Parameters (`Param`, numbers only) follow as further arguments, in
    order. Compiled, whole numbers have 64 bits, and overflow or the logarithm of 0 give infinity, not an error.

    Attributes:
        at_use: take the worth when an expert is used, and keep it until its next use; right where the worth depends
            on the expert alone, and much faster in large pools. Else it is taken whenever room is needed.
    """

    name = ""
    at_use: ClassVar[bool] = False

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
        self.loads = 0
        self._values = self.values()

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        view, experts, sums, last_use = self.view, self.experts, self.weight_sums, self.last_use
        updates, step, weights, next_use = self.updates(), self.view.step, self.view.weights, self.view.next_use
        for key in missed:
            self.loads += 1
            new = Expert(view.layer_of(key), step, step, 0, 0, 0, 0, 0, 0.0, 0.0, NEVER, 0.0)
            experts[key] = experts.get(key, new)._replace(loaded_step=step, load_order=self.loads, uses_resident=0)
        self.now = now = Now(step, view.request, view.layer, view.num_layers, view.slots, self.loads)
        for place, key in enumerate(batch):
            old = experts[key]
            uses = old.uses + 1
            weight = weights[place] if weights else 0.0
            sums[key] = sums.get(key, 0.0) + weight
            experts[key] = Expert(  # by position: `_replace` takes three times as long
                old.layer,
                old.first_step,
                step,
                old.loaded_step,
                old.load_order,
                last_use[key],
                uses,
                old.uses_resident + 1,
                weight,
                sums[key] / uses,
                next_use[place] if next_use else NEVER,
                float(self.update(old, now, weight, *self._values)) if updates else 0.0,
            )
            if self.at_use:
                self.worths[key] = self._worth(key)

    def score(self, key: int) -> float:
        return self.worths[key] if self.at_use else self._worth(key)

    def _worth(self, key: int) -> float:
        worth = float(self.worth(self.experts[key], self.now, *self._values))
        if worth != worth:
            raise PolicyError(f"policy {self.name}: worth() is not a number for {self.experts[key]}")
        return worth
