"""What plug-ins have in common: a name, parameters with their ranges, and what they need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lrcsim.base.errors import PolicyError, did_you_mean

Value = int | float | str


@dataclass(frozen=True)
class Param:
    """A parameter of a plug-in. Its type is its default's; the first of a plug-in is its main one (``name:16``).

    Attributes:
        name: as written in ``name:param=value``; the value becomes an attribute of the plug-in.
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

    def convert(self, owner: str, given: object) -> Value:
        """Return the value in the parameter's type.

        Args:
            owner: name of the plug-in, for errors.
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
            raise PolicyError(f"{owner}: {self.name} must be {expected}, given {given!r}") from None
        low, high = self.minimum, self.maximum
        if not (-math.inf if low is None else low) <= number <= (math.inf if high is None else high):  # NaN fails
            allowed = (
                f"{low:g} to {high:g}"
                if low is not None and high is not None
                else f"at least {low:g}"
                if low is not None
                else f"at most {high:g}"
            )
            raise PolicyError(f"{owner}: {self.name} must be {allowed}, given {given}")
        return int(number) if kind is int else number


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
    """Base of every kind of plug-in: given as ``name``, ``name:16`` or ``name:a=1,b=2``.

    Attributes:
        name: public name, lower case with dashes; the class's name if left out.
        aliases: other names for it.
        params: its parameters (`Param`); their values become attributes.
        summary: one line for lists; the docstring's first if left out.
        source: where the rule comes from: paper, project.
        noun: what this kind of plug-in is called in errors.
        methods: what a class derived from this one must have.
        called_with: arguments of the methods that lrcsim calls, by method, besides those that its bases list.
        may_yield: the methods that may be generators, because they give several things.
    """

    noun: ClassVar[str] = ""
    methods: ClassVar[tuple[str, ...]] = ()
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    may_yield: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
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

    @classmethod
    def check_class(cls) -> None:
        """Check what is particular to this kind of plug-in in a user's class, before it is made.

        Raises:
            PolicyError: it cannot run; with file and line.
        """
