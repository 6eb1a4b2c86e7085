"""From a name to a policy: the explicit list of what is built in, and ways to plug in one's own."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import linecache
import re
import sys
import traceback
from os.path import expanduser, isdir, isfile  # of impossible names they say no, where Path raises
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from lrcsim.base.errors import PolicyError, did_you_mean
from lrcsim.policies.base import Configurable, Policy
from lrcsim.policies.class_checks import check_arguments, check_label, check_methods, own_arguments
from lrcsim.policies.engines import Dali, Heat, Hobbit, LeastStaleFifo, LeastStaleGap, LeastStaleLayer, MoeInfinity
from lrcsim.policies.frequency import Lcp, Lfru, Lfu, LfuAging, Lfuda, LfuDecay, LfuResident
from lrcsim.policies.future import Belady, BeladyBypass, SchLookahead, SchStatic
from lrcsim.policies.profiled import PinnedLru, Static
from lrcsim.policies.queues import Arc, S3Fifo, Slru
from lrcsim.policies.recency import Clock, Fifo, Lru, Mru, Random, Sieve
from lrcsim.policies.router import Mrs, ScoreEma
from lrcsim.policies.user_code import is_users, said, show_path, telling

__all__ = [
    "BUILT_IN",
    "FAMILIES",
    "PolicySpec",
    "built_in",
    "class_in",
    "make",
    "make_policy",
    "parameters",
    "plugins",
    "split_spec",
]

PolicySpec = str | Policy | type[Policy]
"""What `make_policy` takes: a name with parameters, a class or an object."""

Kind = TypeVar("Kind", bound=Configurable)

FAMILIES: dict[str, tuple[type[Policy], ...]] = {
    "recency": (Lru, Mru, Fifo, Clock, Sieve, Random),
    "queues": (Slru, S3Fifo, Arc),
    "frequency": (Lfu, LfuResident, LfuDecay, LfuAging, Lfuda, Lfru, Lcp),
    "router": (Mrs, ScoreEma),
    "engines": (LeastStaleFifo, LeastStaleGap, LeastStaleLayer, Hobbit, MoeInfinity, Dali, Heat),
    "profiled": (Static, PinnedLru),
    "future": (Belady, BeladyBypass, SchLookahead, SchStatic),
}
"""The built-in policies by family; the family is the module they stand in."""

BUILT_IN: dict[str, type[Policy]] = {policy.name: policy for family in FAMILIES.values() for policy in family}
"""The built-in policies by name."""

ALIASES: dict[str, str] = {alias: policy.name for policy in BUILT_IN.values() for alias in policy.aliases}
ENTRY_POINTS = "lrcsim.policies"


def plugins() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the policies that installed packages offer in the entry-point group ``lrcsim.policies``, by name."""
    return {point.name.lower(): point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def make_policy(spec: PolicySpec) -> Policy:
    """Make one policy object.

    Args:
        spec: a name (``"lru"``), a name with parameters (``"sch-lookahead:16"``, ``"s3-fifo:share=0.2,threshold=1"``),
            a class in a file (``"my.py:Mine"``) or module (``"pkg.mod:Mine"``), these too with parameters
            (``"my.py:Mine:half_life=3"``), a class, or an object.

    Raises:
        PolicyError: there is no such policy, its file or module cannot be loaded, it lacks a method, or a parameter is
            wrong.
    """
    if isinstance(spec, Policy):
        check_methods(type(spec))
        check_label(spec)
        return spec
    if isinstance(spec, type) and issubclass(spec, Policy):
        return make(spec, "", spec.__name__)
    if not isinstance(spec, str):
        raise PolicyError(f"policy must be a name, a class of Policy or an object of one, given {spec!r}")
    given = split_spec(spec)
    if given.place is None:
        return make(_named(given.name), given.parameters, spec)
    return make(class_in(spec, given.place, given.name, Policy), given.parameters, spec)


class Given(NamedTuple):
    """What a policy (or prefetcher, or miss action) was given as.

    Attributes:
        place: path of a file ending in ``.py``, or a module's full name; None for a plain name.
        name: of the class in it, or the plain name.
        parameters: what follows.
    """

    place: str | None
    name: str
    parameters: str


def split_spec(spec: str) -> Given:
    r"""Take ``name:PARAMS``, ``file.py:Class:PARAMS`` or ``pkg.mod:Class:PARAMS`` apart.

    A path may have colons (``C:\dir\mine.py``), blanks and a ``~``: it ends with a ``.py`` that a colon, or
    nothing, follows.
    """
    ends = [found.end() for found in re.finditer(r"\.py(?=:|$)", spec)]
    head, _, rest = spec.partition(":")
    file = next((end for end in ends if isfile(expanduser(spec[:end]))), None)
    drive = len(head) == 1 and rest[:1] in ("\\", "/")
    if file is None and ends and (drive or re.search(r"\.py$|[/\\ ~]", head)):
        file = ends[0]
    if file is not None:
        head, rest = spec[:file], spec[file + 1 :]
    elif not re.search(r"[./\\]", head):
        return Given(None, head, rest)
    name, _, parameters_given = rest.partition(":")
    return Given(head, name.strip(), parameters_given)


def built_in(spec: str) -> bool:
    """Return whether a policy is one of lrcsim's own by name, so that making it runs nobody else's code."""
    given = split_spec(spec)
    return given.place is None and _plain(given.name) in BUILT_IN


def make(chosen: type[Kind], text: str, spec: str) -> Kind:
    """Make an object of a policy's, prefetcher's or miss action's class with the parameters of a text.

    Raises:
        PolicyError: it lacks a method, a parameter is wrong or missing, or its ``__init__`` fails.
    """
    kind: Any = chosen
    if not is_users(kind):
        made: Kind = kind(**parameters(kind, text))
        return made
    check_methods(kind)
    head = spec[: len(spec) - len(text) - 1] if text else spec
    given: dict[str, Any] = dict(parameters(kind, text))
    own = own_arguments(kind)
    for name in given:
        if name in own:  # no Param says of what type it is
            given[name] = _value(given[name])
    check_arguments(kind, given, head)
    with telling(kind, f"{kind.__name__} cannot be made", "__init__"):
        made = kind(**given)
    if not isinstance(made, chosen):  # its __new__ makes something else
        raise PolicyError(f"{kind.__name__} makes {type(made).__name__}, which is no {kind.__name__}")
    check_label(made)
    return made


def _value(text: str) -> int | float | str:
    """Read a number, or leave the text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _plain(name: str) -> str:
    lower = name.strip().lower().replace("_", "-")
    return ALIASES.get(lower, lower)


def _named(name: str) -> type[Policy]:
    lower = _plain(name)
    if lower in BUILT_IN:
        return BUILT_IN[lower]
    offered = plugins()
    if lower not in offered:
        file = f"{name.strip()}.py"
        close = f"; did you mean {file}:Class?" if isfile(file) else did_you_mean(name, [*BUILT_IN, *ALIASES, *offered])
        raise PolicyError(
            f"there is no policy {name!r}{close}; `lrcsim policies` lists them, "
            "your own are given as file.py:Class or package.module:Class"
        )
    point = offered[lower]
    try:
        loaded = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PolicyError(f"policy {name!r} ({point.value}) cannot be loaded: {said(error)}{_where(error)}") from error
    return _checked(point.value, loaded, Policy)


_loaded: dict[str, tuple[tuple[int, int, int], ModuleType]] = {}
"""Modules of users' files by path, with what tells that the file has changed."""


def _module(place: str, what: str) -> ModuleType:
    if not place.endswith(".py") and not all(map(str.isidentifier, place.split("."))):
        raise PolicyError(f"{place} is neither a file that ends in .py nor the name of a module, as package.module")
    try:
        return _file(place, what) if place.endswith(".py") else importlib.import_module(place)
    except KeyboardInterrupt:
        raise
    except _Absent as error:
        raise PolicyError(str(error)) from None
    except BaseException as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            top = error.name.partition(".")[0]
            if isfile(f"{top}.py") or isdir(top):
                hint = f"; {top} lies in this folder, where Python does not look: set PYTHONPATH=."
        raise PolicyError(f"{what} module {place} cannot be loaded: {said(error)}{_where(error)}{hint}") from error


class _Absent(Exception):  # noqa: N818  # a reason, told as it is
    """There is no such file."""


def _file(place: str, what: str) -> ModuleType:
    """Run a file as a module, once for as long as it does not change."""
    if not isfile(expanduser(place)):
        raise _Absent(f"{what} file {place} does not exist")
    path = Path(expanduser(place)).resolve()
    status = path.stat()
    now = (status.st_mtime_ns, status.st_size, status.st_ino)
    if str(path) in _loaded and _loaded[str(path)][0] == now:
        return _loaded[str(path)][1]
    name = "lrcsim_user_" + re.sub(r"\W", "_", str(path))
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    linecache.checkcache(str(path))
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[str(path)] = now, module
    return module


def _where(error: BaseException) -> str:
    """Return where in somebody else's file an import failed, to end an error with."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({show_path(error.filename)}{f':{error.lineno}' if error.lineno else ''})"
    theirs = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get("__name__", "").startswith(("lrcsim.", "importlib"))
        and not frame.f_code.co_filename.startswith("<frozen")
    ]
    return f" ({show_path(theirs[-1][0])}:{theirs[-1][1]})" if theirs else ""


def class_in(spec: str, place: str, class_name: str, base: type[Kind]) -> type[Kind]:
    """Return a class derived from ``base`` out of a file or module.

    Args:
        spec: what the user gave, for errors.
        place: path of a file ending in ``.py``, or a module's full name.
        class_name: the class in it.
        base: what it must derive from.

    Raises:
        PolicyError: there is no such file, module or class, or it is of another kind.
    """
    what = base.noun
    module = _module(place, what)
    if not class_name:
        raise PolicyError(f"{what} {spec!r} names a module but no class: write {spec.rstrip(':')}:ClassName")
    if not hasattr(module, class_name):
        there = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)]
        mine = [kind.__name__ for kind in there if kind.__module__ == module.__name__]
        offered = mine or [kind.__name__ for kind in there]
        close = did_you_mean(class_name, [name.lower() for name in offered])
        hint = next((f"; did you mean {name!r}?" for name in offered if repr(name.lower()) in close), "")
        raise PolicyError(
            f"{what} {spec!r}: there is no class {class_name!r} there"
            + (hint or (f"; there are {', '.join(offered)}" if offered else f", and none derived from {base.__name__}"))
        )
    return _checked(spec, getattr(module, class_name), base)


def _checked(spec: str, value: object, base: type[Kind]) -> type[Kind]:
    if not (isinstance(value, type) and issubclass(value, base)):
        raise PolicyError(f"{base.noun} {spec!r} is no class derived from {base.__name__}")
    if not is_users(value) and "methods" in vars(value):
        raise PolicyError(f"{spec} is a base to derive a class of your own from, and can do nothing itself")
    return value


def parameters(policy: type[Configurable], text: str) -> dict[str, str]:
    """Read ``"16"`` (the main parameter) or ``"a=1,b=2"``.

    Raises:
        PolicyError: there are no parameters, or one is given twice.
    """
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            names = [param.name for param in policy.params] or (own_arguments(policy) if is_users(policy) else [])
            if not names:
                raise PolicyError(f"{policy.name} has no parameters, given {text!r}")
            name, value = names[0], part
        if name.strip() in given:
            raise PolicyError(f"{policy.name}: {name.strip()} is given twice in {text!r}")
        given[name.strip()] = value.strip()
    return given
