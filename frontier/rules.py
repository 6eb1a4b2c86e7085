"""The rules that are compared: routing rules, ``skip``, and no rule, out of one text."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path

from lrcsim.base.errors import ConfigError
from lrcsim.base.user_code import is_users
from lrcsim.policies.routing import RULES, RoutingRule, make_rule
from lrcsim.simulator.setup.miss_actions import ACTIONS, Skip, make_action

NONE = "none"
SKIP = "skip"


@dataclass(frozen=True)
class Compared:
    """One rule, and by whom it is asked.

    Attributes:
        label: name with its parameters, as ``--route`` and ``--miss`` take it; ``"none"``: what the router chose.
        route: the routing rule, or None.
        skip: the miss action that leaves light misses out, or None.
        source: SHA-256 of the file that a user's rule is written in; None: it is one of lrcsim's.
    """

    label: str
    route: RoutingRule | None = None
    skip: Skip | None = None
    source: str | None = None


def parse_rules(text: str) -> list[Compared]:
    """Read the rules to compare.

    Args:
        text: rules with ``;`` between them: ``"prior:0.05,0.1;window:2,12;skip:0.1;none"``. Where a rule has one
            number, several with commas are so many rules; its named parameters (``keep=2``) go with each.

    Returns:
        The rules in that order, each once; ``none`` stands first, asked for or not: all others are compared with it.

    Raises:
        ConfigError: there is no such rule, no rule at all, or a miss action that is computed nowhere.
        PolicyError: a parameter is wrong, or a user's rule cannot be loaded.
    """
    specs = [spec for part in text.split(";") if part.strip() for spec in _each(part.strip())]
    if not specs:
        raise ConfigError(f"--rules {text!r} names no rule: give some, as 'prior:0.1,0.2;window:2,12;skip:0.1;none'")
    found = {NONE: Compared(NONE)}
    for spec in specs:
        rule = _make(spec)
        found.setdefault(rule.label, rule)
    return list(found.values())


def _each(part: str) -> list[str]:
    """Return one spec for each number of a rule that has one: ``prior:0.1,0.2`` is ``prior:0.1`` and ``prior:0.2``."""
    name, _, text = part.partition(":")
    kind = RULES.built_in.get(name)
    takes = Skip.takes if name == SKIP else "" if kind is None else kind.takes
    if "," in takes.partition("[")[0] or not takes:
        return [part]
    values = [value.strip() for value in text.split(",") if value.strip()]
    numbers, named = ([v for v in values if ("=" in v) is with_name] for with_name in (False, True))
    return [f"{name}:{','.join((number, *named))}" for number in numbers] or [part]


def _make(spec: str) -> Compared:
    name = spec.partition(":")[0]
    if spec == NONE:
        return Compared(NONE)
    if name == SKIP:
        action = _skip(spec)
        return Compared(action.label(), skip=action)
    if name in ACTIONS and name not in RULES.built_in:
        raise ConfigError(
            f"rule {spec!r} is a miss action that changes no choice of the router, or computes with copies that the "
            f"model does not have: use {', '.join(RULES.built_in)}, {SKIP}, {NONE} or your own routing rule"
        )
    rule = make_rule(spec)
    return Compared(rule.label() if name in RULES.built_in else spec, route=rule, source=source_of(rule))


def source_of(plugin: object) -> str | None:
    """Return the SHA-256 of the file that a user's class is written in; None: it is one of lrcsim's, or in no file."""
    kind = type(plugin)
    if not is_users(kind):
        return None
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


def _skip(spec: str) -> Skip:
    from lrcsim.hardware import load_profile

    made = make_action(spec, load_profile("rtx-4090"))
    assert isinstance(made, Skip)
    return made
