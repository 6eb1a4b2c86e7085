"""Policies of the form "evict the expert of smallest score" that run compiled as well as in Python.

One class, two ways: numba compiles ``score`` (and ``update``) for the loop of `lrcsim.simulator.compiled.score_loop`;
where an engine needs Python, the class runs through the ordinary contract. Both give the same hits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cache
from heapq import heapify, heappop
from typing import Any, ClassVar, NamedTuple

from lrcsim.base.errors import PolicyError
from lrcsim.base.user_code import attributes_of, checked_number
from lrcsim.policies.base import NEVER
from lrcsim.policies.class_checks import check_compiled
from lrcsim.policies.ordering import RankedKeys, ScorePolicy
from lrcsim.policies.score_source import write_loops


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
    """The moment at which an expert's score is asked for; all counts start anew when a cold cache is emptied.

    Attributes:
        step: number of the current forward pass.
        request: number of the current request.
        request_step: step in which this request first used the pool.
        layer: the layer being run.
        num_layers: MoE layers of the model.
        slots: capacity of the pool.
        loads: loads of the pool so far, those of the current batch included.
        uses: uses of the pool so far, those of the current batch included; in ``update`` those up to this use.
        age: the score of the expert last evicted before the current batch, 0 at first.
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


class _Live:
    """What `Expert` or `Now` says, brought up to date where it stands: no tuple is made at every use.

    It can be read as the tuple can be: by name, by place, in a loop.
    """

    __slots__ = ()
    kind: ClassVar[type[Expert] | type[Now]]

    def __init__(self, *values: float) -> None:
        for field, value in zip(self.kind._fields, values, strict=True):
            setattr(self, field, value)

    def frozen(self) -> Any:
        """Return the tuple."""
        return self.kind(*(getattr(self, field) for field in self.kind._fields))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.frozen(), name)

    def __getitem__(self, place: Any) -> Any:
        return self.frozen()[place]

    def __iter__(self) -> Iterator[float]:
        return iter(self.frozen())

    def __len__(self) -> int:
        return len(self.kind._fields)

    def __repr__(self) -> str:
        return repr(self.frozen())


class _LiveExpert(_Live):
    __slots__ = (*Expert._fields, "weight_sum")
    kind = Expert
    layer: int
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
    weight_sum: float
    weight_mean: float
    weight_ahead: float
    next_use: int
    value: float

    def add_weight(self, weight: float) -> None:
        """Take the router weight of a use into the mean, after ``uses`` has counted it."""
        self.weight_sum += weight
        self.weight_mean = self.weight_sum / self.uses

    @classmethod
    def unused(cls, layer: int, step: int) -> _LiveExpert:
        """Return an expert that is being loaded for the first time."""
        made = cls(layer, step, step, 0, -1, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 1.0, NEVER, 0.0)
        made.weight_sum = 0.0
        return made


class _LiveNow(_Live):
    __slots__ = Now._fields
    kind = Now
    step: int
    request: int
    request_step: int
    layer: int
    slots: int
    loads: int
    uses: int
    age: float
    layer_runs: int
    layer_uses: int


class CompiledScore(ScorePolicy):
    """Base: evict the resident of smallest ``score``, ties to the least recent; write ``score`` in plain arithmetic.

    ``score`` and ``update`` are static methods, without further decorators, in the Python that numba compiles: numbers,
    ``math``, conditions, constants of the module. Parameters (`Param`, numbers only) follow as further arguments, in
    order. Compiled, whole numbers have 64 bits, and overflow or the logarithm of 0 give infinity, not an error.
    ``score`` may also be called ``worth``, its name in earlier versions.

    Attributes:
        at_use: take the score when an expert is used, and keep it until its next use; right where the score depends
            on the expert alone, and much faster in large pools. Else it is taken whenever room is needed.
        larger_key_first: of equal scores the larger key goes first (larger layer, then larger expert), not the least
            recent.
    """

    name = ""
    methods = ("score",)
    at_use: ClassVar[bool] = False
    larger_key_first: ClassVar[bool] = False
    score_name: ClassVar[str] = "score"  # what the class calls it, for errors

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "score" in own or "worth" in own:
            cls.score_name = "score" if "score" in own else "worth"
            cls.score = own[cls.score_name]  # type: ignore[method-assign]  # the static method itself
        cls._expert_fields, cls._now_fields = cls._looks_at(0), cls._looks_at(1)

    @staticmethod
    def score(*arguments: Any) -> float:
        """Return how much an expert is worth keeping: ``score(expert, now, *parameters)``, see `Expert` and `Now`."""
        raise NotImplementedError

    @staticmethod
    def update(*arguments: Any) -> float:
        """Return the expert's new ``value`` at a use: ``update(expert, now, weight, *parameters)``; optional.

        ``expert`` is as before this use (``uses`` is 0 at the first, ``uses_resident`` 0 if it is being loaded),
        ``weight`` the router weight of this use (policies that need ``weights``, else 0).
        """
        raise NotImplementedError

    _expert_fields: ClassVar[frozenset[str]]
    _now_fields: ClassVar[frozenset[str]]
    """What ``score`` and ``update`` look at; only that is kept up to date in Python."""

    @classmethod
    def _looks_at(cls, place: int) -> frozenset[str]:
        """Return the fields that are looked at of the argument at a place; of users' classes all, for their errors."""
        functions = [cls.score, cls.update] if cls.updates() else [cls.score]
        found: set[str] = set()
        for function in functions:
            fields = None if cls._users else attributes_of(function, place)
            found.update((Expert, Now)[place]._fields if fields is None else fields)
        return frozenset(found)

    @property
    def last_use(self) -> dict[int, int]:  # type: ignore[override]  # as of any ScorePolicy
        """The residents, each with what orders it among equal scores."""
        return {key: -key if self.larger_key_first else one.use_order for key, one in self.residents.items()}

    @classmethod
    def updates(cls) -> bool:
        """Return whether the class has an ``update`` of its own."""
        return cls.update is not CompiledScore.update

    @classmethod
    def compilable(cls) -> bool:
        """Return whether ``score`` and ``update`` are all there is: no method of the contract is overridden."""
        contract = ("reset", "access", "victim", "evicted", "refill")
        static = isinstance(inspect.getattr_static(cls, "score"), staticmethod)
        return (
            static and not cls.refills and all(getattr(cls, name) is getattr(CompiledScore, name) for name in contract)
        )

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
        layers = self.view.num_layers
        self._candidates = []
        self._candidates_for = None
        self.experts: dict[int, _LiveExpert] = {}  # all that were used so far
        self.residents: dict[int, _LiveExpert] = {}
        self.ranked = RankedKeys()  # the residents, where scores are taken at use
        self.loads = self.uses = 0
        self.last_evicted = 0.0  # score of the expert last evicted
        self.layer_runs, self.layer_uses = [0] * layers, [0] * layers
        self.last_run = -1, -1  # step and layer of the last layer-step
        self.now = _LiveNow(0, -1, -1, 0, layers, self.view.slots, 0, 0, 0.0, 0, 0)
        self._values = self.values()
        self._score: Callable[..., float] = self._checked_score if self._users else self.score
        kind: type = type(self)
        self._access, self._scored = _loops(kind)
        self._moments = [] if len(self.view.layers) == 1 else [_LiveNow(*self.now) for _ in range(layers)]

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self._access(self, batch, missed)

    def _load(self, layer: int, missed: Sequence[int]) -> None:
        experts, residents, step, loads = self.experts, self.residents, self.view.step, self.loads
        for key in missed:
            expert = experts.get(key)
            if expert is None:
                expert = experts[key] = _LiveExpert.unused(layer, step)
            loads += 1
            expert.load_order, expert.loaded_step, expert.uses_resident = loads, step, 0
            residents[key] = expert
        self.loads = self.now.loads = loads

    def _begin_request(self) -> None:
        self.now.request, self.now.request_step = self.view.request, self.view.step
        self.layer_uses = [0] * self.view.num_layers

    def _begin_layer_step(self, layer: int) -> int:
        """Return the number of a layer's run, from 1."""
        if self.last_run != (self.view.step, layer):
            self.last_run = self.view.step, layer
            self.layer_runs[layer] += 1
        self.now.layer_runs, self.now.layer_uses = self.layer_runs[layer], self.layer_uses[layer]
        return self.layer_runs[layer]

    def _count_layer(self, batch: Sequence[int]) -> int:
        """Return the uses of a batch's layer in the request, those of the batch included."""
        layer = batch[0] // self.view.stride
        self.layer_uses[layer] += len(batch)
        return self.layer_uses[layer]

    def _ahead(self) -> dict[float, float]:
        return weights_ahead(self.view.layer_weights or self.view.weights) if self.view.weights else {}

    def victim(self, protected: Container[int]) -> int:
        if self.at_use:
            key = self.ranked.smallest(protected)
            self.last_evicted = self.ranked.rank_of(key)
            return key
        if self._candidates_for is not protected:  # scores stand still within a layer-step: score once, evict many
            self.now.step, self.now.layer = self.view.step, self.view.layer
            self._candidates = self._scored(self, protected, self._seen())
            heapify(self._candidates)
            self._candidates_for = protected
        while self._candidates:
            score, _, key = self._candidates[0]
            if key in self.residents:
                self.last_evicted = score
                return key
            heappop(self._candidates)
        raise PolicyError("every resident expert is protected")

    def _seen(self) -> Mapping[int, _LiveNow] | Sequence[_LiveNow]:
        """Return ``now`` as experts of each layer see it; nothing where nobody asks."""
        if self._now_fields.isdisjoint(("layer_runs", "layer_uses")):
            return ()
        now, layers = self.now, self.view.layers
        if len(layers) == 1:
            return {layers[0]: now}
        for moment, runs, uses in zip(self._moments, self.layer_runs, self.layer_uses, strict=True):
            moment.step, moment.request, moment.request_step = now.step, now.request, now.request_step
            moment.layer, moment.slots, moment.loads, moment.uses = now.layer, now.slots, now.loads, now.uses
            moment.age, moment.layer_runs, moment.layer_uses = now.age, runs, uses
        return self._moments

    def evicted(self, key: int) -> None:
        del self.residents[key]
        if self.at_use:
            self.ranked.discard(key)

    def _checked_score(self, expert: _LiveExpert, now: _LiveNow, *values: float) -> float:
        score: Any = self.score(expert, now, *values)
        checked_number(score, self, self.score_name, -1, what=expert)
        return float(score)


@cache
def _loops(kind: Any) -> Any:
    def checked(policy: CompiledScore, key: int, value: Any) -> float:
        return float(checked_number(value, policy, "update", key, nan=True))

    return write_loops(kind, kind._expert_fields, kind._now_fields, checked if kind._users else None)
