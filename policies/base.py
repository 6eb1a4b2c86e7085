"""The contract of an eviction policy, and what a policy may look at.

A cache pool calls its policy so, layer-step after layer-step:

    reset()                     the pool is empty: at the start, and whenever it is emptied between requests
    access(batch, missed)       these experts are used now; those in ``missed`` were not resident and are loaded
    victim(protected)           name a resident expert, not in ``protected``, to evict; asked until the rest fits
    evicted(expert)             this expert has left the pool

A fifth, ``refill()``, is for policies that load experts of their own accord (`Policy.refills`).

Experts are ints (keys), the same in both scopes: ``key = layer * stride + expert``, see `View.layer_of`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from lrcsim.base.errors import PolicyError, did_you_mean
from lrcsim.policies.kernels import Queue, Stack

__all__ = ["NEVER", "Configurable", "Param", "Policy", "Upcoming", "View"]

NEVER = 2**62
"""Next use of an expert that is not used again."""

Value = int | float | str


@dataclass(frozen=True)
class Param:
    """A parameter of a policy. Its type is its default's; the first of a policy is its main one (``name:16``).

    Attributes:
        name: as written in ``name:param=value``; the value becomes an attribute of the policy.
        default: used when nothing is given.
        help: what it does, with its unit.
        minimum: smallest allowed value, or None.
        maximum: largest allowed value, or None.
    """

    name: str
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None

    def convert(self, policy: str, given: object) -> Value:
        """Return the value in the parameter's type.

        Args:
            policy: name of the policy, for errors.
            given: the value, text or a number.

        Raises:
            PolicyError: it has another type, or lies outside the range.
        """
        kind = type(self.default)
        try:
            if kind is str:
                return str(given)
            number = float(given)  # type: ignore[arg-type]  # whatever it is: a TypeError is told below
            if kind is int and not number.is_integer():
                raise ValueError
        except (TypeError, ValueError):
            expected = "a whole number" if kind is int else "a number"
            raise PolicyError(f"{policy}: {self.name} must be {expected}, given {given!r}") from None
        low, high = self.minimum, self.maximum
        if not (-math.inf if low is None else low) <= number <= (math.inf if high is None else high):  # NaN fails
            allowed = (
                f"{low:g} to {high:g}"
                if low is not None and high is not None
                else f"at least {low:g}"
                if low is not None
                else f"at most {high:g}"
            )
            raise PolicyError(f"{policy}: {self.name} must be {allowed}, given {given}")
        return int(number) if kind is int else number


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
        size: bytes of an expert of each layer where ``capacity`` is in bytes, else None.
    """

    __slots__ = (
        "capacity",
        "layer",
        "layer_weights",
        "layers",
        "next_use",
        "num_layers",
        "phase",
        "profile",
        "request",
        "size",
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
    ) -> None:
        self.capacity = capacity
        self.stride = stride
        self.layers = layers
        self.num_layers = num_layers
        self.top_k = top_k
        self.size = size
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
        if self.size is None:
            return capacity
        return max(capacity * len(self.size) // sum(self.size.values()), int(capacity >= min(self.size.values())))

    def layer_of(self, key: int) -> int:
        """Return the layer of a key."""
        return key // self.stride

    def take(self, ranked: Iterable[int], room: int) -> list[int]:
        """Return the experts of ``ranked``, in that order, that fit together into ``room`` slots (or bytes)."""
        chosen = []
        for key in ranked:
            need = 1 if self.size is None else self.size[key // self.stride]
            if need <= room:
                room -= need
                chosen.append(key)
        return chosen


def names_in(cls: type, attribute: str, allowed: Sequence[str]) -> frozenset[str]:
    """Return the names that a class lists in ``needs`` or ``wants``.

    Raises:
        PolicyError: it is no set of the names allowed.
    """
    given: object = getattr(cls, attribute)
    example = f'write {attribute} = {{"{allowed[0]}"}} in class {cls.__name__}, of {", ".join(allowed)}'
    if not isinstance(given, set | frozenset | list | tuple) or not all(isinstance(name, str) for name in given):
        raise PolicyError(f"{attribute} of class {cls.__name__} is {given!r}, and must be a set of names: {example}")
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise PolicyError(
            f"class {cls.__name__}: {attribute} {unknown}, can only need {', '.join(map(repr, allowed))}"
            + did_you_mean(unknown[0], allowed)
        )
    return frozenset(given)


class Configurable:
    """Something with a name and parameters, given as ``name``, ``name:16`` or ``name:a=1,b=2``.

    Attributes:
        name: public name, lower case with dashes; the class's name if left out.
        params: its parameters (`Param`); their values become attributes.
        summary: one line for lists; the docstring's first if left out.
        source: where the rule comes from: paper, project.
        methods: what a class derived from this one must have.
        noun: what it is called in errors.
    """

    methods: ClassVar[tuple[str, ...]] = ()
    noun: ClassVar[str] = ""
    name: ClassVar[str] = ""
    params: ClassVar[tuple[Param, ...]] = ()
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if not isinstance(cls.name, str) or not isinstance(cls.params, list | tuple):
            raise PolicyError(f"class {cls.__name__}: name is text, and params are a tuple: params = (Param(...),)")
        if not all(isinstance(param, Param) for param in cls.params):
            raise PolicyError(f"class {cls.__name__}: params must hold Param objects: params = (Param(...),)")
        cls.params = tuple(cls.params)
        if "summary" not in cls.__dict__:
            cls.summary = (cls.__doc__ or "").strip().split("\n")[0]

    def __init__(self, **params: object) -> None:
        """Set the parameters.

        Raises:
            PolicyError: a parameter is unknown, or its value not allowed.
        """
        names = [param.name for param in self.params]
        for given in params:
            if given not in names:
                has = f"it has {', '.join(names)}" if names else "it has none"
                raise PolicyError(f"{self.name} has no parameter {given!r}, {has}{did_you_mean(given, names)}")
        for param in self.params:
            setattr(self, param.name, param.convert(self.name, params.get(param.name, param.default)))

    def label(self) -> str:
        """Return the name with the parameters, as it can be given to `lrcsim run`."""
        values = ",".join(f"{param.name}={getattr(self, param.name)}" for param in self.params)
        return f"{self.name}:{values}" if values else self.name


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

    methods: ClassVar[tuple[str, ...]] = ("reset", "access", "victim", "evicted")
    noun: ClassVar[str] = "policy"
    aliases: ClassVar[tuple[str, ...]] = ()
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

    def kernel_sizes(self) -> dict[str, int]:
        """Return what the queue loop of this class is told of the pool, after ``reset`` (fields of `QueueSizes`)."""
        return {}
