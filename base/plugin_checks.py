"""Checks of a class that a user wrote, before it runs: its methods, what they take, its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from lrcsim.base.errors import PolicyError, did_you_mean
from lrcsim.base.user_code import is_users, place_of, shown_value, telling, written_in


def check_label(made: Any) -> None:
    """Check that an object of a user's class has a label, before its first ``reset``.

    Raises:
        PolicyError: its ``label`` fails, or gives no text.
    """
    kind = type(made)
    if not is_users(kind):
        return
    with telling(kind, f"label() of {kind.__name__} failed", "label"):
        label = made.label()
    if not isinstance(label, str):
        raise PolicyError(
            f"{kind.__name__}.label() returned {shown_value(label)}: return text{written_in(kind, 'label')}"
        )


_good: set[type] = set()
"""Classes whose methods have been checked."""


def check_methods(kind: type) -> None:
    """Check that a class has the methods it needs, and that they take what they are called with.

    Raises:
        PolicyError: one is left out, is no method, or takes other arguments.
    """
    if is_users(kind) and kind not in _good:
        _check_methods(kind)
        _good.add(kind)


def _check_methods(kind: Any) -> None:
    base: Any = next(base for base in kind.__mro__ if "methods" in vars(base))
    needed: Sequence[str] = base.methods
    stubs = [name for name in needed if getattr(kind, name) is getattr(base, name)]
    own_victim = "victim" not in needed and any("victim" in vars(one) for one in kind.__mro__ if is_users(one))
    at = place_of(kind)
    head = f"{at}: " if at else ""
    if stubs and not own_victim:
        article = "an" if base.__name__[0] in "AEIOU" else "a"
        raise PolicyError(
            f"{head}class {kind.__name__} has no method {', '.join(stubs)}; {article} {base.__name__} needs "
            f"{', '.join(needed)}"
        )
    for contract in reversed(base.__mro__):
        for name, arguments in vars(contract).get("called_with", {}).items():
            if not isinstance(inspect.getattr_static(base, name), staticmethod):  # what it takes `check_class` knows
                _check_call(kind, name, arguments, may_yield=name in base.may_yield)
    kind.check_class()


def _check_call(kind: type, name: str, arguments: tuple[str, ...], *, may_yield: bool) -> None:
    static = inspect.getattr_static(kind, name)
    at = place_of(kind, name)
    head = f"{at}: " if at else ""
    if not callable(getattr(kind, name)):
        raise PolicyError(f"{head}{kind.__name__}.{name} is no method: write def {name}(self, {', '.join(arguments)})")
    if inspect.iscoroutinefunction(static) or (_yields(static) and not may_yield):
        raise PolicyError(f"{head}{kind.__name__}.{name} is a coroutine or a generator: write an ordinary method")
    if not inspect.isfunction(static):
        return  # what it takes cannot be told from here
    try:
        inspect.signature(static).bind(None, *arguments)
    except TypeError:
        wanted = ", ".join(("self", *arguments))
        raise PolicyError(
            f"{head}{kind.__name__}.{name}{inspect.signature(static)} cannot be called: write def {name}({wanted})"
        ) from None


def _yields(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def check_arguments(kind: Any, given: dict[str, Any], spec: str) -> None:
    """Check that a class can be made with these arguments.

    Raises:
        PolicyError: its ``__init__`` needs another; the message says how to give it.
    """
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    at = place_of(kind, "__init__")
    who = f"{at + ': ' if at else ''}class {kind.__name__}"
    for one in parameters:
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            if one.name not in given:
                raise PolicyError(
                    f"{who} needs the argument {one.name!r}, which has no default: give it as "
                    f"{spec}:{one.name}=VALUE (in Python an object, {kind.__name__}({one.name}=...)), or give it a "
                    "default"
                )
        elif one.kind is one.POSITIONAL_ONLY and one.default is one.empty:
            raise PolicyError(f"{who} needs the argument {one.name!r} without a name: give it one, or a default")
    for name in given:
        if name not in names and not takes_any:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise PolicyError(f"{who} has no argument {name!r}, {has}{did_you_mean(name, names)}")


def own_arguments(kind: Any) -> list[str]:
    """Return the names of the arguments of a class's own ``__init__`` that are no `Param`."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    known = {param.name for param in kind.params}
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return [one.name for one in named if one.name not in known]
