"""The contract of an eviction policy, and what a policy may look at.

A cache pool calls its policy so, layer-step after layer-step:

    reset()                     the pool is empty: at the start, and whenever it is emptied between requests
    access(batch, missed)       these experts are used now; those in ``missed`` were not resident and are loaded
    victim(protected)           name a resident expert, not in ``protected``, to evict; asked until the rest fits
    evicted(expert)             this expert has left the pool

``refill()`` is for policies that load experts of their own accord (`Policy.refills`), ``elsewhere(keys)`` for those
that count misses that are not loaded, too.

Experts are ints (keys), the same in both scopes: ``key = layer * stride + expert``, see `View.layer_of`.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from lrcsim.base.configurable import Configurable, names_in
from lrcsim.base.configurable import Param as Param  # part of the contract
from lrcsim.base.errors import PolicyError
from lrcsim.policies.kernels import Queue, Stack

NEVER = 2**62
"""Next use of an expert that is not used again."""


class Upcoming(Protocol):
    """The pool's accesses to come, for policies that need the future."""

    def uses(self, step: int) -> Sequence[int]:
        """Return the experts of this pool used in a step; empty past the last one."""

    def end(self, step: int) -> int:
        """Return the first step that no longer belongs to the request of ``step``."""

    def horizon(self, step: int) -> int:
        """Return the first step out of sight: the request's end if the cache is emptied then, else the trace's."""


class View:
    """What a policy may look at; the pool keeps it up to date.

    Attributes:
        capacity: slots of the pool, or bytes where experts differ in size and the cache is given in bytes.
        slots: about how many experts fit: ``capacity``, or bytes over the mean size; 0 only if none fits.
        stride: E, for keys: ``key = layer * stride + expert``.
        layers: the layers that share this pool.
        num_layers: MoE layers of the model, L.
        top_k: k of the model (of the layer with most).
        step: number of the current forward pass.
        request: number of the current request.
        phase: 0 prefill, 1 decode.
        layer: the layer being run.
        weights: router weight of each expert in the batch (policies that need ``weights``), else empty.
        layer_weights: router weights of the whole layer-step, where a batch is only a part of it, else empty.
        next_use: time of the next use of each expert in the batch, `NEVER` if there is none (policies that need the
            ``future``), else empty. The unit is layer-steps, or accesses when they are sequential.
        upcoming: the accesses to come (policies that need the ``future``).
        profile: uses of each key in a profiling run (policies that need a ``profile``), else empty.
        size: bytes of an expert of each layer where ``capacity`` is in bytes, else None; `bytes_of` says them of each
            expert, also where those of a layer differ.
    """

    __slots__ = (
        "_size",
        "capacity",
        "each",
        "layer",
        "layer_weights",
        "layers",
        "next_use",
        "num_layers",
        "phase",
        "profile",
        "request",
        "slots",
        "step",
        "stride",
        "top_k",
        "upcoming",
        "weights",
    )

    def __init__(
        self,
        capacity: int,
        stride: int,
        layers: tuple[int, ...],
        num_layers: int,
        top_k: int,
        size: dict[int, int] | None = None,
        each: dict[int, int] | None = None,
    ) -> None:
        self.capacity = capacity
        self.stride = stride
        self.layers = layers
        self.num_layers = num_layers
        self.top_k = top_k
        self._size = size
        self.each = each  # bytes by key, where experts of a layer differ; 0 for those that a layer does not have
        self.slots = self.slots_in(capacity)
        self.step = self.request = self.layer = 0
        self.phase = 1
        self.weights: Sequence[float] = ()
        self.layer_weights: Sequence[float] = ()
        self.next_use: Sequence[int] = ()
        self.profile: Sequence[float] = ()
        self.upcoming: Upcoming | None = None

    def slots_in(self, capacity: int) -> int:
        """Return about how many experts fit into a capacity; 0 only if none fits."""
        given = self._size if self.each is None else self.each
        if given is None:
            return capacity
        sizes = [size for size in given.values() if size]  # 0: there is no such expert
        return max(capacity * len(sizes) // sum(sizes), int(capacity >= min(sizes)))

    @property
    def size(self) -> dict[int, int] | None:
        """Bytes of an expert of each layer where ``capacity`` is in bytes, else None.

        Raises:
            PolicyError: experts of a layer differ, so that there is no such number.
        """
        if self.each is not None:
            raise PolicyError("view.size is by layer, and experts of a layer differ in bytes: use view.bytes_of(key)")
        return self._size

    @property
    def in_bytes(self) -> bool:
        """Whether ``capacity`` is in bytes."""
        return self._size is not None or self.each is not None

    def bytes_of(self, key: int) -> int:
        """Return what an expert takes of ``capacity``: one slot, or its bytes where that is in bytes."""
        if self.each is not None:
            return self.each[key]
        return 1 if self._size is None else self._size[key // self.stride]

    def layer_of(self, key: int) -> int:
        """Return the layer of a key."""
        return key // self.stride

    def take(self, ranked: Iterable[int], room: int) -> list[int]:
        """Return the experts of ``ranked``, in that order, that fit together into ``room`` slots (or bytes)."""
        chosen = []
        for key in ranked:
            need = self.bytes_of(key)
            if need <= room:
                room -= need
                chosen.append(key)
        return chosen


class Policy(Configurable):
    """Base of every eviction policy: state the spec as class attributes, write the four methods.

    Attributes:
        name: public name, lower case with dashes; the class's name if left out.
        aliases: other names for it.
        params: its parameters (`Param`); their values become attributes.
        needs: what the trace or the user must supply: any of ``"weights"``, ``"future"``, ``"profile"``.
        wants: what it uses where it is there, and does without where it is not.
        bypass: misses may run from a staging buffer outside the capacity, so that any expert, also one of the current
            batch, may be named as victim.
        refills: the pool asks ``refill()`` before every step.
        kernels: the compiled loops that do what this class does, for lrcsim's own classes. A derived class may do
            something else, so it does not inherit them (`lrcsim.simulator.compiled.engine_for`).
        summary: one line for lists.
        source: where the rule comes from: paper, project.
        view: what the policy may look at (`View`), set before the first ``reset``.
    """

    noun: ClassVar[str] = "policy"
    methods: ClassVar[tuple[str, ...]] = ("reset", "access", "victim", "evicted")
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "reset": (),
        "access": ("batch", "missed"),
        "victim": ("protected",),
        "evicted": ("key",),
        "refill": (),
        "elsewhere": ("keys",),
    }
    may_yield: ClassVar[tuple[str, ...]] = ("refill",)
    needs: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()
    bypass: ClassVar[bool] = False
    refills: ClassVar[bool] = False
    kernels: ClassVar[tuple[Queue | Stack, ...]] = ()
    view: View
    _users: ClassVar[bool] = False  # whether the class is not one of lrcsim's own: what it returns is checked

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._users = not cls.__module__.startswith("lrcsim.")
        for which in ("needs", "wants"):
            setattr(cls, which, names_in(cls, which, ("weights", "future", "profile")))

    def reset(self) -> None:
        """Forget the residents: the pool is empty. Called before anything else."""
        raise NotImplementedError

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        """Take note that the experts of ``batch`` are used, in this order; ``missed`` of them are being loaded."""
        raise NotImplementedError

    def victim(self, protected: Container[int]) -> int:
        """Return the resident expert to evict, never one in ``protected`` (the current batch).

        As long as the same batch makes room, ``protected`` is the same object, unchanged: what is worked out for it
        may be kept from one call to the next.
        """
        raise NotImplementedError

    def evicted(self, key: int) -> None:
        """Take note that ``key`` is no longer resident."""
        raise NotImplementedError

    def refill(self) -> Collection[int] | None:
        """Return the whole contents that the pool shall have from this step on, or None to leave it.

        These loads are reported as ``preloaded``, apart from misses.
        """
        return None

    def elsewhere(self, keys: Sequence[int]) -> None:
        """Take note that these experts of the layer-step missed and are not loaded: the CPU runs them, or nobody does.

        Called before ``access`` of the others, if there are any.
        """

    def kernel_sizes(self) -> dict[str, int]:
        """Return what the queue loop of this class is told of the pool, after ``reset`` (fields of `QueueSizes`)."""
        return {}
