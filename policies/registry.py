"""From a name to a policy: the explicit list of what is built in, and ways to plug in one's own."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from lrcsim.errors import PolicyError, brief, did_you_mean
from lrcsim.policies.base import Configurable, Policy
from lrcsim.policies.engines import Dali, Heat, Hobbit, LeastStaleFifo, LeastStaleGap, LeastStaleLayer, MoeInfinity
from lrcsim.policies.frequency import Lcp, Lfru, Lfu, LfuAging, Lfuda, LfuDecay, LfuResident
from lrcsim.policies.future import Belady, BeladyBypass, SchLookahead, SchStatic
from lrcsim.policies.profiled import PinnedLru, Static
from lrcsim.policies.queues import Arc, S3Fifo, Slru
from lrcsim.policies.recency import Clock, Fifo, Lru, Mru, Random, Sieve
from lrcsim.policies.router import Mrs, ScoreEma

__all__ = ["BUILT_IN", "FAMILIES", "PolicySpec", "class_in", "make_policy", "parameters", "plugins"]

PolicySpec = str | Policy | type[Policy]
"""What `make_policy` takes: a name with parameters, a class or an object."""

Kind = TypeVar("Kind")

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
        PolicyError: there is no such policy, its file or module cannot be loaded, or a parameter is wrong.
    """
    if isinstance(spec, Policy):
        return spec
    if isinstance(spec, type) and issubclass(spec, Policy):
        return spec()
    if not isinstance(spec, str):
        raise PolicyError(f"policy must be a name, a class of Policy or an object of one, given {spec!r}")
    head, _, rest = spec.partition(":")
    if head.endswith(".py") or "/" in head or "." in head:
        class_name, _, rest = rest.partition(":")
        chosen = class_in(spec, head, class_name, Policy)
    else:
        chosen = _named(head)
    return chosen(**parameters(chosen, rest))


def _named(name: str) -> type[Policy]:
    lower = name.strip().lower().replace("_", "-")
    lower = ALIASES.get(lower, lower)
    if lower in BUILT_IN:
        return BUILT_IN[lower]
    offered = plugins()
    if lower not in offered:
        known = [*BUILT_IN, *ALIASES, *offered]
        raise PolicyError(
            f"there is no policy {name!r}{did_you_mean(name, known)}; `lrcsim policies` lists them, "
            "your own are given as file.py:Class or package.module:Class"
        )
    point = offered[lower]
    try:
        loaded = point.load()
    except Exception as error:
        raise PolicyError(f"policy {name!r} ({point.value}) cannot be loaded: {brief(error)}") from error
    return _checked(point.value, loaded, Policy)


def _module(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise PolicyError(f"policy file {place} does not exist")
        name = "lrcsim_user_" + re.sub(r"\W", "_", str(path.resolve()))
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    except PolicyError:
        raise
    except Exception as error:
        raise PolicyError(f"policy module {place} cannot be loaded: {brief(error)}") from error
    return module


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
    what = base.__name__.lower()
    module = _module(place)
    if not class_name:
        raise PolicyError(f"{what} {spec!r} names a module but no class: write {spec.rstrip(':')}:ClassName")
    if not hasattr(module, class_name):
        offered = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
        raise PolicyError(f"{what} {spec!r}: there is no class {class_name!r} there{did_you_mean(class_name, offered)}")
    return _checked(spec, getattr(module, class_name), base)


def _checked(spec: str, value: object, base: type[Kind]) -> type[Kind]:
    if not (isinstance(value, type) and issubclass(value, base)):
        raise PolicyError(f"{base.__name__.lower()} {spec!r} is no class derived from {base.__name__}")
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
            if not policy.params:
                raise PolicyError(f"{policy.name} has no parameters, given {text!r}")
            name, value = policy.params[0].name, part
        if name.strip() in given:
            raise PolicyError(f"{policy.name}: {name.strip()} is given twice in {text!r}")
        given[name.strip()] = value.strip()
    return given
