"""Miss actions: what to do with experts that are needed and not resident, and the contract for one's own.

Whenever experts of a layer-step are not in the cache, the rule is asked what becomes of each (`Outcome`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.configurable import Configurable, Param, names_in
from lrcsim.base.errors import ConfigError, PolicyError, did_you_mean
from lrcsim.base.plugins import Registry, make
from lrcsim.base.user_code import is_users, shown_value, telling
from lrcsim.hardware import HardwareProfile
from lrcsim.simulator.serving.steps import LayerStep, Step
from lrcsim.simulator.setup.admission import Admission, Prices
from lrcsim.simulator.setup.outcomes import Decision, Outcome, decision

ROUNDING = 1e-6
"""A share that is short of the threshold by less than this equals it: weights are stored in few digits."""


class MissAction(Configurable):
    """Base of every rule for misses: write ``decide``.

    Attributes:
        needs: what the trace must have: any of ``"weights"``; then each layer-step has its `LayerStep.uses`, and the
            router weight that is given up is counted.
        takes: the parameters as they are written behind the name, for help.
        behind_commas: whether parameters follow the name behind commas, by name (``cpu,admit:2``).
        fraction: bytes of a copy of low precision over those of the expert, 0 to 1.
        meanwhile: what runs an expert that is needed while it is still being uploaded behind everything urgent
            (admitted, or pinned anew): the ``"gpu"``, which waits for it, or the ``"cpu"``.
        machine: what the trace is run on; set before the first call.
        prices: what uploads take and save; set before the first call of a run in time.
    """

    noun = "miss action"
    methods = ("decide",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"reset": (), "decide": ("missed", "step", "residents")}
    may_yield = ("decide",)
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[str] = ""
    behind_commas: ClassVar[bool] = False
    fraction: float = 0.25
    meanwhile: ClassVar[Literal["gpu", "cpu"]] = "gpu"
    machine: HardwareProfile
    prices: Prices | None = None

    @property
    def admits(self) -> bool:
        """Whether misses that run on the CPU may be uploaded behind everything urgent; of a user's class: unknown."""
        return False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.needs = names_in(cls, "needs", ("weights",))

    def reset(self) -> None:
        """Forget everything; called once before the first step."""

    def decide(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> Iterable[Outcome]:
        """Return what becomes of each miss, in the same order.

        Args:
            missed: keys, layer * E + expert, in batch order; at least one.
            step: the layer-step that needs them, with all its experts.
            residents: counts the layer's experts in the cache before it.
        """
        raise NotImplementedError

    def bytes_of(self, outcome: Outcome, size: int) -> int:
        """Return the bytes that come to the GPU for an ``outcome`` of the miss of an expert of ``size`` bytes."""
        if not outcome.moves:
            return 0
        return size if outcome.reads == "expert" else max(round(size * self.fraction), 1)


class Load(MissAction):
    """Load every miss; the default."""

    name = "load"

    def decide(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> Iterable[Outcome]:
        """Load all."""
        return [Outcome.LOADED] * len(missed)


class Cpu(MissAction):
    """Run misses on the CPU; with ``admit:N`` at most N per layer and step are uploaded meanwhile, for later uses."""

    name = "cpu"
    takes = "[,admit:N[,touches:T][,payback]]"
    behind_commas = True
    params = (
        Param("admit", 0, "misses per layer and step that are uploaded in the background, most used first", 0),
        Param("touches", 1, "misses of an expert, since the start or its last upload, from which on it is", 1),
        Param("payback", 0, "1: only once the CPU has lost as much time with it as the upload takes", 0, 1),
    )
    source = "Fiddler, ktransformers; admission: llama.cpp 27861"
    meanwhile = "cpu"
    admit: int
    touches: int
    payback: int

    @property
    def admits(self) -> bool:
        """Whether anything is uploaded."""
        return self.admit > 0

    def label(self) -> str:
        """Return the name with what is not at its default."""
        if not self.admits:
            return self.name
        touches = f",touches:{self.touches}" if self.touches > 1 else ""
        return f"{self.name},admit:{self.admit}{touches}{',payback' if self.payback else ''}"

    def reset(self) -> None:
        """Forget who missed."""
        self.admission = Admission(self.admit, self.touches, bool(self.payback))

    def decide(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> Iterable[Outcome]:
        """Load none; admit those that are chosen."""
        if not self.admits:
            return [Outcome.ON_CPU] * len(missed)
        tokens = None
        if step.tokens is not None:
            used_by = dict(zip(step.keys, step.tokens, strict=True))
            tokens = [used_by[key] for key in missed]
        chosen = self.admission.choose(missed, step.layer, tokens, self.prices)
        return [Outcome.ADMITTED if key in chosen else Outcome.ON_CPU for key in missed]


class Split(MissAction):
    """Load a share of the misses, those that most tokens use; the rest runs on the CPU meanwhile."""

    name = "split"
    takes = "[:SHARE]"
    params = (Param("share", -1.0, "of the misses that is loaded; below 0: q* = link / (link + cpu)", maximum=1),)
    source = "FreeToken"
    share: float

    @property
    def loaded(self) -> float:
        """The share, rounded to the nearest number of misses.

        By default q* = B_link / (B_link + B_cpu), where both take equally long; 1 without a link.
        """
        link = min((link.bandwidth for link in self.machine.load_links), default=None)
        if self.share >= 0 or link is None:
            return abs(self.share)
        return link / (link + self.machine.cpu.bandwidth)

    def label(self) -> str:
        """Return the name with the share."""
        return f"{self.name}:{self.loaded:.4g}" if hasattr(self, "machine") else self.name

    def decide(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> Iterable[Outcome]:
        """Load the share that most tokens use, of equals the first."""
        loads, ranked = int(self.loaded * len(missed) + 0.5), missed
        if step.tokens is not None:
            used_by = dict(zip(step.keys, step.tokens, strict=True))
            ranked = sorted(missed, key=lambda key: -used_by[key])
        load = set(ranked[:loads])
        return [Outcome.LOADED if key in load else Outcome.ON_CPU for key in missed]


THRESHOLD = Param("threshold", 0.1, "share of a token's router weight below which it can do without", 0, 1)
KEEP = Param("keep", 1, "experts of each token, heaviest first, that are never given up", 0)


class Lossy(MissAction):
    """Load what a token needs, give up the rest: a rule for every pair of token and expert."""

    needs = frozenset({"weights"})
    params: ClassVar[tuple[Param, ...]] = (THRESHOLD, KEEP)
    instead: ClassVar[Outcome]
    threshold: float
    keep: int

    def label(self) -> str:
        """Return the name with its numbers, and ``keep`` where it is not the default."""
        numbers = ",".join(f"{getattr(self, name):g}" for name in _numbers(type(self)))
        return f"{self.name}:{numbers}" + ("" if self.keep == KEEP.default else f",keep={self.keep}")

    def decide(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> Iterable[Outcome]:
        """Load what is needed."""
        needed = self.needed(missed, step, residents)
        return [Outcome.LOADED if key in needed else self.instead for key in missed]

    def needed(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> set[int]:
        """Return the experts that some token needs: with enough weight, or among its first ``keep``."""
        uses = step.uses
        assert uses is not None  # the caller has refused a trace without weights
        needs = self.vital(uses.share, uses.order)
        return {step.keys[place] for place in uses.place[needs].tolist()}

    def vital(self, share: npt.NDArray[np.float64], order: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Return bool [uses], whether a token cannot do without the expert that it uses (`Uses`)."""
        return (share >= self.threshold - ROUNDING) | (order < self.keep)


class Skip(Lossy):
    """Leave out misses with less than a share W of the router weight of each token that uses them; load the rest."""

    name = "skip"
    takes = ":W[,keep=N]"
    source = "AdapMoE, BigMoeOnEdge"
    instead = Outcome.SKIPPED


class Substitute(Lossy):
    """In place of such misses use residents that the token does not use; load the rest."""

    name = "substitute"
    takes = ":W[,keep=N]"
    instead = Outcome.SUBSTITUTED

    def needed(self, missed: Sequence[int], step: LayerStep, residents: Callable[[], int]) -> set[int]:
        """Return those, and what nothing can stand in for."""
        needed = super().needed(missed, step, residents)
        return needed | _not_replaceable(missed, step, residents(), needed)


class Low(Lossy):
    """Load a copy of low precision of such misses, used once and not kept; load the rest whole."""

    name = "low"
    takes = ":W[,SHARE][,keep=N]"
    params = (THRESHOLD, Param("fraction", 0.25, "bytes of the copy over those of the expert", 0, 1), KEEP)
    source = "HOBBIT"
    instead = Outcome.LOW_PRECISION


def _not_replaceable(missed: Sequence[int], step: LayerStep, residents: int, needed: set[int]) -> set[int]:
    """Return the misses that must be loaded because the residents that could stand in for them have run out.

    A token's stand-ins are residents of the layer that it does not use; several tokens may use the same one. A token
    that has more experts to replace than stand-ins replaces its lightest, and the heavier ones are loaded. Each token
    decides for itself, so the order of tokens does not matter.
    """
    uses, gone = step.uses, set(missed)
    assert uses is not None
    hit = np.array([key not in gone for key in step.keys])[uses.place]
    light = np.array([key in gone and key not in needed for key in step.keys])[uses.place]
    wanted = np.bincount(uses.token[light], minlength=uses.tokens)
    free = residents - np.bincount(uses.token[hit], minlength=uses.tokens)
    loaded: set[int] = set()
    for token in np.flatnonzero(wanted > free).tolist():
        mine = np.flatnonzero(light & (uses.token == token))
        heaviest = mine[np.argsort(uses.order[mine])][: int(wanted[token] - free[token])]
        loaded.update(step.keys[place] for place in uses.place[heaviest].tolist())
    return loaded


REGISTRY: Registry[MissAction] = Registry(
    MissAction,
    (Load, Cpu, Split, Skip, Substitute, Low),
    group="lrcsim.miss_actions",
    unknown="miss action {name!r} is not known, use {names}{close}; your own are given as file.py:Class or "
    "package.module:Class",
    error=ConfigError,
)
"""All miss actions by name, those in the entry-point group ``lrcsim.miss_actions`` of installed packages among them."""

ACTIONS: dict[str, type[MissAction]] = REGISTRY.built_in
"""The built-in miss actions."""


def make_action(spec: str | MissAction | type[MissAction], machine: HardwareProfile) -> MissAction:
    """Make a miss action.

    Args:
        spec: a name with parameters, ``file.py:Class``, ``pkg.mod:Class``, a class, or an object.
        machine: what the trace is run on.

    Raises:
        ConfigError: there is no such action, or a parameter of a built-in one is wrong.
        PolicyError: a user's class cannot be loaded or made.
    """
    action = _made(spec)
    action.machine = machine
    return action


def _made(spec: str | MissAction | type[MissAction]) -> MissAction:
    if isinstance(spec, str):
        name, comma, options = spec.partition(",")
        if name.strip().lower() == Cpu.name and comma:
            return Cpu(**cpu_parameters(spec, options))
        kind, text = REGISTRY.find(spec)
        if kind is Cpu:
            return Cpu(**cpu_parameters(spec, text))
        return make(kind, text, spec) if is_users(kind) else kind(**_parameters(kind, spec, text))
    if isinstance(spec, MissAction) or (isinstance(spec, type) and issubclass(spec, MissAction)):
        return REGISTRY.make(spec)
    raise ConfigError(f"miss must be text, given {spec!r}; in Python it may also be a MissAction")


def loaded_share(action: MissAction) -> float | None:
    """Return the share of a layer-step's misses that is loaded while the rest runs on the CPU; None: another rule.

    Of a user's class nothing is known, whatever it is derived from.
    """
    if type(action) is Split:
        return action.loaded
    return None if action.admits else {Load: 1.0, Cpu: 0.0}.get(type(action))


def decide(
    action: MissAction, missed: Sequence[int], step: Step, here: LayerStep, residents: Callable[[], int]
) -> Decision:
    """Ask a miss action.

    Args:
        action: the rule.
        missed: keys, in batch order; at least one.
        step: the step.
        here: its layer-step that needs them.
        residents: counts the layer's residents before it.

    Raises:
        PolicyError: a user's failed, returned no outcome for each, or changed what it was shown; with file and line.
    """
    kind = type(action)
    if not is_users(kind):
        return decision(missed, action.decide(missed, here, residents))
    shown = tuple(here.keys)
    with telling(kind, f"miss action {action.name} failed at step {step.number}, layer {here.layer}", "decide"):
        outcomes = [_outcome(value) for value in action.decide(list(missed), here, residents)]
        if len(outcomes) != len(missed):
            raise PolicyError(
                f"decide() returned {len(outcomes)} outcomes for {len(missed)} misses: return one for each, in order"
            )
        if tuple(here.keys) != shown:
            raise PolicyError("decide() changed the keys of the layer-step it was shown: make a copy, list(step.keys)")
    return decision(missed, outcomes)


def _outcome(value: Any) -> Outcome:
    """Return an outcome that a user's class gave: itself, or its number."""
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            number = index(value)
            if 0 <= number < len(Outcome):
                return list(Outcome)[number]
    raise PolicyError(
        f"decide() returned {shown_value(value)}, which is no outcome: return one of Outcome."
        f"{', Outcome.'.join(Outcome.__members__)} for each miss"
    )


def _numbers(kind: type[MissAction]) -> list[str]:
    """Return the parameters that are numbers from 0 to 1; they may be written without their names."""
    return [param.name for param in kind.params if isinstance(param.default, float)]


COUNTED = {0: "no parameter", 1: "one parameter, the {}", 2: "two numbers, {} and share of the bytes"}
"""What built-in actions take, by how many numbers they have."""


def _parameters(kind: type[MissAction], spec: str, text: str) -> dict[str, float]:
    """Read the parameters of a built-in action: ``0.1``, ``0.1,0.25``, ``0.1,keep=2``, ``threshold=0.1``."""
    params, plain = {param.name: param for param in kind.params}, list[str]()
    numbers = [name for name in params if name != KEEP.name]
    given: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not kind.params:
            plain.append(part)
        elif name not in params:
            named = [KEEP.name] if KEEP.name in params else list(params)
            raise ConfigError(
                f"miss action {spec!r}: there is no option {name!r}, only {named[0]}=N{did_you_mean(name, named)}"
            )
        elif name in given:
            raise ConfigError(f"miss action {spec!r} says {name} twice")
        else:
            given[name] = value
    if len(plain) > len(numbers):
        raise ConfigError(
            f"miss action {kind.name!r} takes {COUNTED[len(numbers)].format(*numbers[:1])}, given {text!r}"
        )
    for name, value in zip(numbers, plain, strict=False):
        if name in given:
            raise ConfigError(f"miss action {spec!r} says {name} twice")
        given[name] = value
    return {name: _value(params[name], spec, value) for name, value in given.items()}


CPU_TAKES = "give cpu, or cpu,admit:4 with touches:2 or payback behind it"


def cpu_parameters(spec: str, text: str) -> dict[str, int]:
    """Read what follows ``cpu``: ``admit:4,touches:2,payback``, each also with ``=``.

    Raises:
        ConfigError: there is no such option, it is no whole number, stands twice, or without ``admit``.
    """
    allowed = {param.name: param for param in Cpu.params}
    given: dict[str, int] = {}
    for part in text.split(",") if text.strip() else ():
        name, _, value = (word.strip() for word in part.replace("=", ":").partition(":"))
        if name not in allowed:
            raise ConfigError(
                f"miss action {spec!r}: there is no option {name!r}, {CPU_TAKES}{did_you_mean(name, list(allowed))}"
            )
        if name in given:
            raise ConfigError(f"miss action {spec!r} says {name} twice")
        if name == "payback" and not value:
            value = "1"
        try:
            given[name] = int(allowed[name].convert(f"miss action {spec!r}", value))
        except PolicyError as error:
            raise ConfigError(str(error)) from None
    if given and "admit" not in given:
        raise ConfigError(
            f"miss action {spec!r}: {next(iter(given))} is of admission, and nothing is admitted: {CPU_TAKES}"
        )
    return given


def _value(param: Param, spec: str, text: str) -> float:
    """Read a share, ``keep``, or whatever number an action takes besides."""
    if isinstance(param.default, float):
        return _number(spec, text)
    if param is KEEP:
        return _count(spec, text)
    try:
        return float(param.convert(f"miss action {spec!r}", text))
    except PolicyError as error:
        raise ConfigError(str(error)) from None


def _number(spec: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ConfigError(f"miss action {spec!r}: {text!r} is no number from 0 to 1")
    return number


def _count(spec: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text) > 9:
        raise ConfigError(
            f"miss action {spec[:40]!r}: keep must be the number of experts that a token never loses, 0 or more, "
            f"given {text[:20]!r}"
        )
    return int(text)
