"""Checks of a user's `CompiledScore` before it runs: its functions, what they take and look at."""

from __future__ import annotations

import dis
import inspect
from types import CodeType
from typing import Any

from lrcsim.base.errors import PolicyError
from lrcsim.base.user_code import place_of, sources_of

LOOKED_AT = {
    "weight": "weights",
    "weight_mean": "weights",
    "weight_ahead": "weights",
    "next_use": "future",
}
"""Fields of `Expert` that are only filled in for policies that need (or want) something."""


def check_compiled(kind: Any) -> None:
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
