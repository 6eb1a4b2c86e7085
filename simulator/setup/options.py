"""The options of a run, each declared once.

`simulate`, the command line and the keys of a sweep read name, type, default and help here (`Options`): an option is
added by adding a field.
"""

# ruff: noqa: RUF009  # the fields are declared by a function of ours that calls field()

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.policies import PolicySpec
from lrcsim.policies.routing import RULES, RuleSpec
from lrcsim.runtimes import Runtime, RuntimeDocument
from lrcsim.simulator.cache.capacity import CacheSize, Scope
from lrcsim.simulator.serving.batching import Batching, Speculative
from lrcsim.simulator.setup.expert_sizes import ExpertBytes
from lrcsim.simulator.setup.miss_actions import ACTIONS, MissAction
from lrcsim.simulator.setup.prefetchers import PREFETCHERS, Prefetcher
from lrcsim.traces import RoutingTrace

Access = Literal["coresident", "sequential", "paper"]
ACCESS: tuple[Access, ...] = ("coresident", "sequential", "paper")

Function = TypeVar("Function", bound=Callable[..., Any])

Group = Literal["cache", "serving", "machine"]
Kind = Literal["text", "flag", "count", "number"]


class Declared(NamedTuple):
    """What is declared of an option, besides its name.

    Attributes:
        name: as in Python, in JSON and in a sweep.
        default: when it is left out.
        help: one sentence for the command line, with the unit.
        metavar: what stands for the value in help.
        group: which part of a run it is about.
        flag: on the command line; None: it has none of its own.
        shown: how help names the default; empty: not at all.
        kind: of a plain value: text, a flag, a whole number, a number.
        several: one value may be a list.
    """

    name: str
    default: Any
    help: str
    metavar: str
    group: Group
    flag: str | None
    shown: str
    kind: Kind
    several: bool

    @property
    def timed(self) -> bool:
        """Whether it goes with ``hardware`` only."""
        return self.group == "machine" and self.name != "hardware"


def _option(
    group: Group, default: Any, help: str, metavar: str = "", *, flag: str | None = "", shown: str | None = None
) -> Any:
    """Declare an option; ``flag`` empty: made of the name; ``shown`` None: the default as it is."""
    told = {"help": help, "metavar": metavar, "group": group, "flag": flag, "shown": shown}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class Options:
    """What a run can be told.

    Attributes:
        policy: a name with parameters, ``file.py:Class``, ``pkg.mod:Class``, a class, or (scope ``model``) an object.
        cache: ``"2x"`` times the active experts, ``16`` experts, ``"25%"`` of all, ``"4GiB"`` bytes in all, or a list
            with one entry per layer.
        scope: ``"layer"``: every layer has its own cache; ``"model"``: one pool for all.
        access: the rule of accounting (docs/accounting.md): ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps: ``"step"`` (all in one, default), ``"chunk:N"``, ``"token"``. Under
            ``access="paper"`` a batch is always one token.
        warm: whether the cache keeps its contents from request to request; default True, and False under
            ``access="paper"``, where every request starts cold.
        profile: a trace to take expert popularity from, for policies that need a profile: a `RoutingTrace`, a trace
            file, or ``"self"``, the trace itself, which is hindsight.
        expert_bytes: size of one expert, bytes or text with a unit, or a list with one per layer, or one list of sizes
            per layer with one per expert (an array [L, E]), or a file of these (``.npy``, ``.json``), in place of what
            the trace says.
        low_copy: a second precision for experts used least in ``profile``: ``"q4_k"``, ``"q4_k:0.75"``, a format and
            the share of each layer's experts in it (default one half). They are then smaller, in cache and in time
            (docs/accounting.md); None: all experts are in one precision.
        route: a routing rule (docs/routing.md): ``"prior:0.1"``, ``"window:2,12"``, ``"substitute:0.1"``,
            ``file.py:Class``, ``pkg.mod:Class``, a class or an object. Tokens then use what it chooses by the recorded
            logits and the residents; None: what the router chose.
        bounds: also run LRU and the optimum at the same capacity.
        batch: requests that run together at most, as in a server (docs/batching.md): a step's experts are the union.
        batching: ``"continuous"``: a request joins when a place is free; ``"static"``: when the last batch is done.
        speculative: ``(n, acceptance)``: a decode step verifies n drafted tokens besides; the rate at which each is
            accepted, or a list of the numbers accepted.
        arrivals: with hardware, when requests arrive: seconds, ``"poisson:2.5"`` per second, or a file of numbers.
            None: all are there from the beginning.
        seed: of acceptance and arrivals.
        hardware: a machine to run on (`lrcsim.hardware`): a profile's name, a TOML file, a `HardwareProfile`. The
            result then has times; access must be ``"coresident"``. None: hits only.
        model: geometry name, GGUF file, config.json, or a `Geometry`; None: the model that the trace names,
            or that the config recorded with it describes.
        overrides: single values of the profile: ``"pcie.bandwidth=25.6GB/s"``.
        runtime: what runs the model there, and what that costs (`lrcsim.runtimes`): a name, a TOML file, a
            `RuntimeDocument` or a `Runtime`; ``"ideal"``: the machine as its profile has it.
        dtype: how weights are stored, ``"q4_k_m"``; None: experts as large as the trace says, the rest as the model was
            released.
        overlap: whether transfers run beside compute.
        miss: what to do with a miss: ``"load"``, ``"cpu"``, ``"split"``, ... (`miss_actions.ACTIONS`) or one's own
            `MissAction`.
        prefetch: what to bring ahead: ``"none"``, ``"next-gate"``, ... or one's own `Prefetcher`.
        dram: bytes of main memory for experts, as ``"32GiB"``, or a share, ``"50%"`` of all experts; None: all of them
            where they fit, else 90 % of main memory. What it does not hold comes from storage.
        dram_policy: the eviction policy there.
        engine: ``"events"`` (SimPy), ``"compiled"`` (numba; all but what is a user's own and little else,
            docs/hierarchy.md), ``"auto"``: compiled where it can, and it pays.
    """

    policy: PolicySpec = _option(
        "cache",
        "lru",
        "Built-in name, file.py:Class or pkg.mod:Class; parameters as name:16 or name:a=1,b=2.",
        "NAME[:PARAMS]",
    )
    cache: CacheSize = _option(
        "cache",
        "2x",
        "2x (times active experts), 16 (experts), 25% (of all), 4GiB (bytes), or a comma list per layer.",
        "SIZE",
    )
    scope: Scope = _option("cache", "layer", "A cache for every layer, or one pool for all.", "layer|model")
    access: Access = _option(
        "cache", "coresident", "When an access is a hit (docs/accounting.md).", "coresident|sequential|paper"
    )
    prefill: str | None = _option("cache", None, "How prompt tokens make steps.", "step|chunk:N|token", shown="step")
    warm: bool | None = _option(
        "cache",
        None,
        "Keep the cache between requests or empty it.",
        flag="--warm/--cold",
        shown="warm; cold with --access paper",
    )
    profile: RoutingTrace | str | Path | None = _option(
        "cache", None, "Trace to take expert popularity from, for policies that need it.", "TRACE|self"
    )
    expert_bytes: ExpertBytes | None = _option(
        "cache",
        None,
        "Size of one expert (2.5MiB), where the trace does not have it, or a .npy or .json of one per layer, or per "
        "layer and expert.",
        "SIZE|FILE",
    )
    low_copy: str | None = _option(
        "cache",
        None,
        "Second precision for the experts used least in the profile, and their share of each layer.",
        "DTYPE[:SHARE]",
    )
    route: RuleSpec | None = _option(
        "cache",
        None,
        "Rule by which the router may prefer residents, on recorded logits: "
        + ", ".join(f"{rule.name}{rule.takes}" for rule in RULES.built_in.values())
        + ", file.py:Class.",
        "RULE",
    )
    bounds: bool = _option("cache", True, "Also run LRU and the optimum at the same capacity.", flag=None)
    batch: int = _option("serving", 1, "Requests at once; a step uses the union.", "N")
    batching: Batching = _option("serving", "continuous", "When waiting requests join the batch.", "continuous|static")
    speculative: Speculative | None = _option(
        "serving", None, "Speculative decoding: tokens drafted for each step, and how many are accepted.", flag=None
    )
    arrivals: str | Sequence[float] | None = _option(
        "serving", None, "When requests arrive: per second, or a file of seconds.", "poisson:RATE|FILE"
    )
    seed: int = _option("serving", 0, "Of acceptance and arrivals.", "N")
    hardware: str | Path | HardwareProfile | None = _option(
        "machine", None, "Machine to run on; lrcsim hardware lists them.", "NAME|FILE"
    )
    model: str | Path | Geometry | None = _option(
        "machine", None, "The model's geometry.", "NAME|FILE", shown="the one the trace is of"
    )
    overrides: Sequence[str] = _option(
        "machine", (), "One value: pcie.bandwidth=25.6GB/s. Repeatable.", "KEY=VALUE", flag="--set", shown=""
    )
    runtime: str | Path | RuntimeDocument | Runtime = _option(
        "machine", "ideal", "What runs the model there; lrcsim runtimes lists them.", "NAME|FILE"
    )
    dtype: str | None = _option(
        "machine", None, "How weights are stored: bf16, q4_k_m, mxfp4, q4_k,down=q6_k ...", "NAME"
    )
    overlap: bool = _option(
        "machine", True, "Whether transfers run beside compute.", flag="--overlap/--no-overlap", shown="yes"
    )
    miss: str | MissAction | type[MissAction] = _option(
        "machine",
        "load",
        ", ".join(f"{action.name}{action.takes}" for action in ACTIONS.values())
        + ", file.py:Class; W: below this share of a token's router weight; keep=N: never a token's first N (1). "
        "--miss help says more.",
        "ACTION",
    )
    prefetch: str | Prefetcher | type[Prefetcher] = _option(
        "machine",
        "none",
        f"{', '.join(PREFETCHERS)}, file.py:Class; parameters as in oracle:2.",
        "NAME",
    )
    dram: str | None = _option(
        "machine", None, "Room for experts in main memory, the rest on flash: 32GiB, 50%.", "SIZE"
    )
    dram_policy: str = _option("machine", "lru", "Eviction policy there.", "NAME")
    engine: str = _option("machine", "auto", "Which engine.", "auto|events|compiled")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """Make them of keywords.

        Raises:
            ConfigError: a keyword is unknown, or its value of another kind.
        """
        for name in given:
            if name not in declared():
                known = [option.name for option in declared().values()]
                close = did_you_mean(name, known)
                raise ConfigError(f"there is no option {name!r}{close or ';'} there are {', '.join(known)}")
        for name in ("dtype", "engine"):
            value = given.get(name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name} must be text, given {value!r}")
        if not isinstance(given.get("overlap", True), bool):
            raise ConfigError(f"overlap must be True or False, given {given['overlap']!r}")
        overrides = given.get("overrides", ())
        listed = isinstance(overrides, Sequence) and not isinstance(overrides, str)
        if not listed or not all(isinstance(one, str) for one in overrides):
            raise ConfigError(f"overrides must be a list, as ['pcie.bandwidth=25.6GB/s'], given {overrides!r}")
        return cls(**given)

    def given(self, group: Group | None = None) -> dict[str, Any]:
        """Return the options that are not left at their defaults, of one group or of all."""
        return {
            option.name: value
            for option in declared().values()
            if group in (None, option.group) and not _same(value := getattr(self, option.name), option.default)
        }

    @property
    def served(self) -> bool:
        """Whether requests run otherwise than one after the other, a token at a time."""
        return self.batch != 1 or self.speculative is not None or self.arrivals is not None


@cache
def declared() -> dict[str, Declared]:
    """Return the declarations by name, in the order in which they are listed everywhere."""
    found = {}
    for one in dataclasses.fields(Options):
        told = one.metadata
        flag = f"--{one.name.replace('_', '-')}" if told["flag"] == "" else told["flag"]
        shown = told["shown"] if told["shown"] is not None else "" if one.default is None else str(one.default)
        found[one.name] = Declared(
            one.name,
            one.default,
            told["help"],
            told["metavar"],
            told["group"],
            flag,
            shown,
            _kind(str(one.type)),
            any(word in str(one.type) for word in ("Sequence", "Speculative", "CacheSize", "ExpertBytes")),
        )
    return found


def refuse_machine(options: Mapping[str, Any], what: str) -> None:
    """Refuse options of a machine where hits alone are counted.

    Raises:
        ConfigError: there is one; ``what`` is counted.
    """
    for name in options:
        if name in declared() and declared()[name].group == "machine":
            raise ConfigError(
                f"option {name!r} is about time, and {what} is of hits alone: use simulate, or leave it out"
            )


def takes_options(function: Function, *groups: Group) -> Function:
    """Give a function that takes ``**options`` the signature with every option of the groups by name."""
    found = inspect.signature(function)
    own = [one for one in found.parameters.values() if one.kind is not one.VAR_KEYWORD]
    more = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default)
        for one in declared().values()
        if one.name not in found.parameters and one.group in groups
    ]
    function.__signature__ = found.replace(parameters=own + more)  # type: ignore[attr-defined]  # what help() shows
    return function


def _kind(annotation: str) -> Kind:
    """Return what kind of value an annotation such as ``"bool | None"`` is; all that is no plain number is text."""
    kinds = {part.strip() for part in annotation.split("|")} - {"None"}
    for types, kind in (({"bool"}, "flag"), ({"int"}, "count"), ({"float"}, "number"), ({"int", "float"}, "number")):
        if kinds == types:
            return kind  # type: ignore[return-value]  # one of the four
    return "text"


def _same(value: object, default: object) -> bool:
    return value is default or (type(value) is type(default) and value == default)
