"""Checks of a class that a user wrote, before it runs: its methods, what they take and look at, its arguments."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Sequence
from types import CodeType
from typing import Any

from lrcsim.base.errors import PolicyError, did_you_mean
from lrcsim.policies.compiled import CompiledScore
from lrcsim.policies.user_code import is_users, place_of, shown_value, sources_of, telling, written_in

__all__ = ["check_arguments", "check_label", "check_methods", "own_arguments"]

ARGUMENTS = {
    "reset": (),
    "access": ("batch", "missed"),
    "victim": ("protected",),
    "evicted": ("key",),
    "refill": (),
    "score": ("key",),
    "rank": ("key", "place", "missed"),
    "hit": ("key",),
    "miss": ("key",),
    "insert": ("key",),
    "choose": ("protected",),
    "removed": ("key",),
    "propose": ("step", "place"),
    "decide": ("missed", "step", "residents"),
}
"""What the methods of policies, prefetchers and miss actions are called with."""

MAY_YIELD = ("propose", "decide", "refill")
"""Those of them that give several things, and so may be generators."""


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
    for name, arguments in ARGUMENTS.items():
        if hasattr(base, name):
            _check_call(kind, name, arguments)
    if issubclass(kind, CompiledScore):
        _check_compiled(kind)


def _check_call(kind: type, name: str, arguments: tuple[str, ...]) -> None:
    static = inspect.getattr_static(kind, name)
    at = place_of(kind, name)
    head = f"{at}: " if at else ""
    if not callable(getattr(kind, name)):
        raise PolicyError(f"{head}{kind.__name__}.{name} is no method: write def {name}(self, {', '.join(arguments)})")
    if inspect.iscoroutinefunction(static) or (name not in MAY_YIELD and _yields(static)):
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


LOOKED_AT = {
    "weight": "weights",
    "weight_mean": "weights",
    "weight_ahead": "weights",
    "next_use": "future",
}
"""Fields of `Expert` that are only filled in for policies that need (or want) something."""


def _check_compiled(kind: type[CompiledScore]) -> None:
    """Check ``score`` and ``update`` of a CompiledScore: static, with the right arguments, using what they need."""
    if hasattr(kind, "rank"):
        at = place_of(kind, "rank")
        raise PolicyError(
            f"{at + ': ' if at else ''}{kind.__name__}.rank would never be called, for its base is a CompiledScore: "
            "derive from RankedPolicy, or write score(expert, now)"
        )
    for name, arguments in ((kind.score_name, ("expert", "now")), ("update", ("expert", "now", "weight"))):
        static = inspect.getattr_static(kind, name)
        at = place_of(kind, name)
        head = f"{at}: " if at else ""
        wanted = ", ".join((*arguments, *(param.name for param in kind.params)))
        if not (isinstance(static, staticmethod) and inspect.isfunction(static.__func__)):
            raise PolicyError(
                f"{head}{kind.__name__}.{name} must be a plain static method: write @staticmethod and "
                f"def {name}({wanted})"
            )
        function = static.__func__
        if not _is_users_function(kind, function):
            continue
        try:
            inspect.signature(function).bind(*arguments, *(param.name for param in kind.params))
        except TypeError:
            raise PolicyError(
                f"{head}{kind.__name__}.{name}{inspect.signature(function)} cannot be called: "
                f"write def {name}({wanted})"
            ) from None
        for field in sorted(_attributes(function.__code__) & LOOKED_AT.keys()):
            _refuse_unasked(kind, f"{head}{kind.__name__}.{name} looks at expert.{field}", LOOKED_AT[field])
        if name == "update" and _reads_third(function.__code__):
            _refuse_unasked(kind, f"{head}{kind.__name__}.{name} looks at its argument weight", "weights")


def _is_users_function(kind: type, function: Any) -> bool:
    """Return whether a function is written where the class is, and not in lrcsim."""
    return function.__code__.co_filename in sources_of(kind)


def _attributes(code: CodeType) -> set[str]:
    return {str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_ATTR", "LOAD_METHOD")}


def _reads_third(code: CodeType) -> bool:
    if code.co_argcount < 3:
        return False
    third = code.co_varnames[2]
    return any(step.opname.startswith("LOAD_FAST") and step.argval == third for step in dis.get_instructions(code))


def _refuse_unasked(kind: Any, what: str, need: str) -> None:
    if need not in kind.needs | kind.wants:
        raise PolicyError(f'{what}, which is filled in only for who asks: write needs = {{"{need}"}} in the class')


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
