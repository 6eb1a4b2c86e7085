"""Code that users write: where it is, and one line with file and line of whatever goes wrong in it."""

from __future__ import annotations

import contextlib
import dis
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from itertools import pairwise
from numbers import Complex, Real
from operator import index
from types import CodeType, FrameType, TracebackType
from typing import Any, NoReturn, TypeGuard

from lrcsim.base.errors import LrcsimError, PolicyError


def is_users(kind: type) -> bool:
    """Return whether a class is not one of lrcsim's own."""
    return not kind.__module__.startswith("lrcsim.")


def attributes_of(function: Callable[..., Any], place: int) -> set[str] | None:
    """Return which attributes a function reads of an argument, given its place; None where it does more with it."""
    code = function.__code__
    if place >= code.co_argcount:
        return None
    name, found = code.co_varnames[place], set()
    steps = list(dis.get_instructions(code))
    for step, then in pairwise(steps):
        if step.argval == name or (isinstance(step.argval, tuple) and name in step.argval):
            if not (step.opname.startswith("LOAD_FAST") and step.argval == name and then.opname == "LOAD_ATTR"):
                return None
            found.add(str(then.argval))
    return found


@cache
def sources_of(kind: type) -> dict[str, int]:
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
        if code is not None and code.co_filename in sources_of(kind):
            return f"{show_path(code.co_filename)}:{code.co_firstlineno}"
    return next((f"{show_path(file)}:{line}" for file, line in sources_of(kind).items()), "")


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
    found = place_of_error(error, sources_of(kind))
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
    text = said(error)
    told = isinstance(error, LrcsimError) and text.startswith(f"{getattr(kind, 'name', kind.__name__)}: ")
    raise _ToldError(f"{text if told else f'{what}: {text}'}{hint}{where}") from error  # a class is named once


@contextlib.contextmanager
def telling(kind: type, what: str, method: str | None = None) -> Iterator[None]:
    """Turn whatever a user's class raises in this block into one line that names file and line (`fail`)."""
    try:
        yield
    except BaseException as error:
        fail(error, kind, what, method)


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
        f"{method}() returned {shown_value(value)}, which is not a number for {what or f'key {key}{layer}'}: "
        f"return a float{written_in(kind, method)}"
    )


def written_in(kind: type, method: str) -> str:
    """Return where a method of a user's is written, to end an error with; empty for lrcsim's own."""
    place = place_of(kind, method)
    return f" ({place} in {kind.__name__}.{method})" if place else ""


def shown_value(value: object) -> str:
    """Return a value that a user's code gave, in at most 60 characters of one line."""
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
            f"TypeError: {method}() returned {shown_value(value)}, which is not resident nor any expert: return the "
            f"key of one, an int{written_in(kind, method)}"
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
