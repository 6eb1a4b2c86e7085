"""The built-in policies, and how a name becomes one of them or of those plugged in."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

from lrcsim.base.errors import PolicyError
from lrcsim.base.plugins import Registry, parameters
from lrcsim.policies.admission import Admit2, WTinyLfu
from lrcsim.policies.base import Policy
from lrcsim.policies.engines import (
    Dali,
    Heat,
    Hobbit,
    LeastStaleFifo,
    LeastStaleGap,
    LeastStaleLayer,
    MoeInfinity,
    Repin,
)
from lrcsim.policies.frequency import Lcp, Lfru, Lfu, LfuAging, Lfuda, LfuDecay, LfuResident, Lrfu
from lrcsim.policies.future import Belady, BeladyBypass, SchLookahead, SchStatic
from lrcsim.policies.profiled import PinnedLru, Static
from lrcsim.policies.queues import Arc, S3Fifo, Slru, TwoQ
from lrcsim.policies.recency import Clock, Fifo, Lru, Mru, Random, Sieve
from lrcsim.policies.reuse import Lirs, Lru2
from lrcsim.policies.router import Mrs, ScoreEma

PolicySpec = str | Policy | type[Policy]
"""What `make_policy` takes: a name with parameters, a class or an object."""

FAMILIES: dict[str, tuple[type[Policy], ...]] = {
    "recency": (Lru, Mru, Fifo, Clock, Sieve, Random),
    "reuse": (Lru2, Lirs),
    "queues": (Slru, S3Fifo, Arc, TwoQ),
    "admission": (WTinyLfu, Admit2),
    "frequency": (Lfu, LfuResident, LfuDecay, LfuAging, Lrfu, Lfuda, Lfru, Lcp),
    "router": (Mrs, ScoreEma),
    "engines": (LeastStaleFifo, LeastStaleGap, LeastStaleLayer, Hobbit, MoeInfinity, Dali, Heat, Repin),
    "profiled": (Static, PinnedLru),
    "future": (Belady, BeladyBypass, SchLookahead, SchStatic),
}
"""The built-in policies by family; the family is the module they stand in."""


class Policies(Registry[Policy]):
    """The policies by name, and by a name behind an admission: ``admit2+lru``, ``admit2:64+slru:share=0.5``."""

    def make(self, spec: PolicySpec) -> Policy:
        if not isinstance(spec, str):
            return super().make(spec)
        own, inner = split_admission(spec)
        if not own:
            return super().make(spec)
        if not inner:
            raise PolicyError(f"{spec} names no policy behind the admission: write {spec.strip()}lru, or another name")
        _, given = self.find(own[:-1])
        return Admit2(self.make(inner), **parameters(Admit2, given))

    def is_built_in(self, spec: str) -> bool:
        return super().is_built_in(split_admission(spec)[1])


def split_admission(spec: str) -> tuple[str, str]:
    """Take ``admit2:PARAMS+POLICY`` apart into ``admit2:PARAMS+`` and the policy; without admission: empty, and all."""
    found = re.match(rf"\s*{Admit2.name}\s*(:[^+]*)?\+", spec, re.IGNORECASE)
    end = found.end() if found else 0
    return spec[:end], spec[end:].strip()


POLICIES = Policies(
    Policy,
    (policy for family in FAMILIES.values() for policy in family),
    group="lrcsim.policies",
    unknown="there is no policy {name!r}{close}; `lrcsim policies` lists them, "
    "your own are given as file.py:Class or package.module:Class",
)
"""All policies by name."""

BUILT_IN: dict[str, type[Policy]] = POLICIES.built_in
"""The built-in policies by name."""


def plugins() -> dict[str, EntryPoint]:
    """Return the policies that installed packages offer in the entry-point group ``lrcsim.policies``, by name."""
    return POLICIES.plugins()


def make_policy(spec: PolicySpec) -> Policy:
    """Make one policy object.

    Args:
        spec: a name (``"lru"``), a name with parameters (``"sch-lookahead:16"``, ``"s3-fifo:share=0.2,threshold=1"``),
            a class in a file (``"my.py:Mine"``) or module (``"pkg.mod:Mine"``), these too with parameters
            (``"my.py:Mine:half_life=3"``), any of these behind an admission (``"admit2+lru"``), a class, or an object.

    Raises:
        PolicyError: there is no such policy, its file or module cannot be loaded, it lacks a method, or a parameter is
            wrong.
    """
    return POLICIES.make(spec)
