"""Classes that users write: what they lack is told before they run, and where they fail is told by file and line."""

from __future__ import annotations

import contextlib
import dis
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from numbers import Complex, Real
from operator import index
from types import CodeType, FrameType, TracebackType
from typing import Any, NoReturn, TypeGuard

from lrcsim.errors import LrcsimError, PolicyError, did_you_mean

__all__ = [
    "NotAsked",
    "check_arguments",
    "check_label",
    "check_methods",
    "checked_number",
    "compiler_said",
    "is_users",
    "key_of",
    "place_of",
    "place_of_error",
    "said",
    "show_path",
    "telling",
    "written_in",
]

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
}
"""What the methods of policies and prefetchers are called with."""


def is_users(kind: type) -> bool:
    """Return whether a class is not one of lrcsim's own."""
    return not kind.__module__.startswith("lrcsim.")


@cache
def _sources(kind: type) -> dict[str, int]:
    """Return the files in which a class and its bases outside lrcsim are written, each with its first line there."""
    found: dict[str, int] = {}
    for base in kind.__mro__:
        if is_users(base) and base.__module__ != "builtins":
            for code in filter(_in_file, map(_code_of, vars(base).values())):
                known = found.get(code.co_filename, code.co_firstlineno)
                found[code.co_filename] = min(known, code.co_firstlineno)
    if not found:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if is_users(kind) and file is not None:
            with contextlib.suppress(OSError, TypeError):
                found[file] = inspect.getsourcelines(kind)[1]
    return found


def _in_file(code: CodeType | None) -> TypeGuard[CodeType]:
    """Return whether there is a file of it: what `dataclasses` writes says ``<string>``."""
    return code is not None and not code.co_filename.startswith("<string>")


def _code_of(value: object) -> CodeType | None:
    """Return the code of a function, a static or class method, or a property."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    value = inspect.unwrap(value) if callable(value) else value
    code = getattr(value, "__code__", None)
    return code if isinstance(code, CodeType) else None


def show_path(path: str) -> str:
    """Return a path as people know it: from the current folder where it lies in it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # no current folder; another drive
        return path
    return path if relative.startswith("..") or not os.path.isabs(path) else relative


def place_of(kind: type, method: str | None = None) -> str:
    """Return ``"mine.py:14"``, where a method, or the class, is written; empty for lrcsim's own."""
    if method is not None:
        code = _code_of(inspect.getattr_static(kind, method, None))
        if code is not None and code.co_filename in _sources(kind):
            return f"{show_path(code.co_filename)}:{code.co_firstlineno}"
    return next((f"{show_path(file)}:{line}" for file, line in _sources(kind).items()), "")


def place_of_error(error: BaseException, files: Collection[str]) -> tuple[str, str] | None:
    """Return where an error, or what it was raised from, last passed through one of the files: place and function."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        found = None
        for frame, line in _frames(one.__traceback__):
            if frame.f_code.co_filename in files:
                found = f"{show_path(frame.f_code.co_filename)}:{line}", frame.f_code.co_qualname
        if found is not None:
            return found
        one = one.__cause__ or one.__context__
    return None


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def said(error: BaseException) -> str:
    """Return what an error says on one line: its kind and text, of lrcsim's own errors the text alone.

    Of an error of syntax the place is left out: it is told as of any other.
    """
    try:
        text = str(error.msg if isinstance(error, SyntaxError) else error)
        text = " ".join((text if isinstance(error, LrcsimError) else f"{type(error).__name__}: {text}").split())
        text = text.rstrip(": ")
    except Exception:  # its own __str__ fails
        return type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


class _ToldError(PolicyError):
    """A failure of a user's class that is told completely."""


class _PlacedError(PolicyError):
    """A failure of a user's class that says in which method it happened, but not yet when."""


def fail(error: BaseException, kind: type, what: str, method: str | None = None) -> NoReturn:
    """Raise the PolicyError for an error in a user's class: ``what``, what the error says, and file, line, method.

    Args:
        error: what was raised.
        kind: the user's class.
        what: what failed, ``"policy Mine failed at step 3, layer 0"``.
        method: the method that was called, for an error that passed no line of the user's.

    Raises:
        KeyboardInterrupt: it is one: somebody stops the program, and no class has failed. All else that can be raised,
            ``exit()`` and a panic of an extension among it, is told.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, _ToldError):
        raise error
    if isinstance(error, _PlacedError):
        raise _ToldError(f"{what}: {error}") from None
    found = place_of_error(error, _sources(kind))
    where = ""
    if found is not None:
        where = f" ({found[0]} in {found[1].replace('<locals>.', '')})"
    elif place := place_of(kind, method):
        where = f" ({place} in {kind.__name__}{'.' + method if method else ''})"
    hint = ""
    if isinstance(error, AttributeError) and error.name in ("view", "trace"):
        hint = f", {error.name} is set before reset(), not yet in __init__"
    elif isinstance(error, AttributeError) and error.name in {param.name for param in getattr(kind, "params", ())}:
        hint = f", __init__ must pass parameters on: super().__init__({error.name}=...)"
    elif isinstance(error, NotImplementedError) and not str(error):
        hint = "the base class leaves this method to you, and it is missing"
    raise _ToldError(f"{what}: {said(error)}{hint}{where}") from error


@contextlib.contextmanager
def telling(kind: type, what: str, method: str | None = None) -> Iterator[None]:
    """Turn whatever a user's class raises in this block into one line that names file and line (`fail`)."""
    try:
        yield
    except BaseException as error:
        fail(error, kind, what, method)


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
        raise PolicyError(f"{kind.__name__}.label() returned {_shown(label)}: return text{written_in(kind, 'label')}")


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
    if "worth" in needed:
        _check_compiled(kind)


def _check_call(kind: type, name: str, arguments: tuple[str, ...]) -> None:
    static = inspect.getattr_static(kind, name)
    at = place_of(kind, name)
    head = f"{at}: " if at else ""
    if not callable(getattr(kind, name)):
        raise PolicyError(f"{head}{kind.__name__}.{name} is no method: write def {name}(self, {', '.join(arguments)})")
    if inspect.iscoroutinefunction(static) or (name != "propose" and name != "refill" and _yields(static)):
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


def _check_compiled(kind: Any) -> None:
    """Check ``worth`` and ``update`` of a CompiledScore: static, with the right arguments, using what they need."""
    for name, arguments in (("worth", ("expert", "now")), ("update", ("expert", "now", "weight"))):
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
        if not is_users_function(kind, function):
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


def is_users_function(kind: type, function: Any) -> bool:
    """Return whether a function is written where the class is, and not in lrcsim."""
    return function.__code__.co_filename in _sources(kind)


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


def checked_number(value: Any, owner: object, method: str, key: int, *, what: object = None, nan: bool = False) -> Any:
    """Return the value that a user's method gave for an expert, if it is a real number.

    Args:
        value: what it gave.
        owner: the object whose method it is.
        method: its name.
        key: the expert.
        what: to name the expert by; None: its layer and number.
        nan: whether NaN is allowed.

    Raises:
        PolicyError: it is none, or NaN; with the method's file and line and the expert.
    """
    kind = type(owner)
    if isinstance(value, Real):
        good = nan or value == value
    elif isinstance(value, str | bytes | Complex) or value is None:
        good = False
    else:  # Decimal, an array of one, a tensor
        try:
            number = float(value)
        except Exception:
            good = False
        else:
            good = nan or number == number
    if good:
        return value
    stride = getattr(getattr(owner, "view", None), "stride", None)
    layer = f" (layer {key // stride}, expert {key % stride})" if stride else ""
    raise _PlacedError(
        f"{method}() returned {_shown(value)}, which is not a number for {what or f'key {key}{layer}'}: return a float"
        + written_in(kind, method)
    )


def written_in(kind: type, method: str) -> str:
    """Return where a method of a user's is written, to end an error with; empty for lrcsim's own."""
    place = place_of(kind, method)
    return f" ({place} in {kind.__name__}.{method})" if place else ""


def _shown(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def key_of(value: Any, kind: type, method: str) -> int:
    """Return a key that a user's method gave, as an int.

    Raises:
        PolicyError: it is no whole number.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return index(value)
    except TypeError:
        raise _PlacedError(
            f"TypeError: {method}() returned {_shown(value)}, which is not resident nor any expert: return the key of "
            f"one, an int{written_in(kind, method)}"
        ) from None


def compiler_said(error: BaseException, functions: Sequence[Callable[..., Any]]) -> str:
    """Return where in a user's functions a compiler failed, and the first line of why."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # numba writes in colours
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    noise = ("Failed in", "[1] During", "Failed at", "- ", "During:")
    why = next((line for line in lines if not line.startswith(noise)), type(error).__name__)
    call = next((line.removeprefix(">>> ") for line in lines if line.startswith(">>> ")), "")
    if call.startswith("setitem("):  # what it gave could not be kept
        why = "what it returns is not a number"
    elif call and why.endswith("found for signature:"):
        why = f"cannot compile {call}"
    files = {function.__code__.co_filename for function in functions}
    for name, line in reversed(re.findall(r'(?:File "|from )([^"\n]+?)(?:", line | \()(\d+)', text)):
        for file in files:
            if file == name or os.path.abspath(file) == os.path.abspath(name):
                return f"{show_path(file)}:{line}: {why[:160]}"
    code = functions[0].__code__
    return f"{show_path(code.co_filename)}:{code.co_firstlineno}: {why[:160]}"


class NotAsked:
    """Stands in a `View` for what the policy did not say that it needs: empty, and an error where it is looked at."""

    __slots__ = ("_field", "_need", "_policy")

    def __init__(self, field: str, need: str, policy: str) -> None:
        self._field, self._need, self._policy = field, need, policy

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"<view.{self._field}, not asked for>"

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise PolicyError(
            f'view.{self._field} is empty, it is filled in only for who asks: write needs = {{"{self._need}"}} in '
            f"class {self._policy}"
        )

    __getitem__ = __iter__ = __contains__ = __reversed__ = __array__ = __getattr__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __float__ = __int__ = __index__ = _refuse
