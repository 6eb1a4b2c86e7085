"""Routing rules: which experts a token uses where the router may prefer those that are resident.

A rule sees, for the tokens of one layer-step, what the router gives every expert and which experts are resident, and
says which k each token uses: arrays in, choice out. It knows of no trace, cache or clock, so a simulator and a model
that runs ask it alike (`chosen_by`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.configurable import Configurable, Param
from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.base.plugins import Registry, make, parameters
from lrcsim.base.user_code import is_users, place_of, telling, written_in

Scores = npt.NDArray[np.float64]
Residents = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]

ROUNDING = 1e-6
"""A share that is short of a threshold by less than this equals it, as for miss actions."""


class RoutingRule(Configurable):
    """Base of every routing rule: write ``choose``, which keeps nothing from call to call.

    Attributes:
        takes: the parameters as they are written behind the name, for help.
    """

    noun = "routing rule"
    methods = ("choose",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"choose": ("scores", "resident", "k")}
    takes: ClassVar[str] = ""

    def choose(self, scores: Scores, resident: Residents, k: int) -> Ids:
        """Return the experts that each token uses, in the order in which it uses them: the best first.

        Args:
            scores: float64 [tokens, E], for each token of the layer-step the logarithm of what the router gives each
                expert, up to a constant: log p of a softmax, its logits alike. Those that the router chose are
                told apart; of equal others the lower id is the better.
            resident: bool [E], whether an expert is in the cache before the layer-step.
            k: experts per token.

        Returns:
            int [tokens, k], ids 0..E-1, each at most once per token.
        """
        raise NotImplementedError

    def label(self) -> str:
        """Return the name with its parameters as they are written, ``window:2,12``."""
        values = ",".join(str(getattr(self, param.name)).removesuffix(".0") for param in self.params)
        return f"{self.name}:{values}" if values else self.name


class Candidate(NamedTuple):
    """What a `CompiledRule` is told of one expert for one token.

    In Python each is an array of all experts of all tokens [tokens, E], or one that numpy stretches to it; compiled it
    is a number.

    Attributes:
        score: as in `RoutingRule.choose`.
        rank: place among the token's experts by score, 0 the best.
        share: its router weight over the sum of those of the token's k best: what it would weigh among them.
        resident: whether it is in the cache before the layer-step.
        high: the largest score of the token.
        low: the smallest.
        k: experts per token.
    """

    score: Any
    rank: Any
    share: Any
    resident: Any
    high: Any
    low: Any
    k: int


class CompiledRule(RoutingRule):
    """Base: each token uses the k experts of greatest ``value``, the greatest first, of equal ones the lower id.

    ``value`` is a static method in arithmetic and comparisons, with ``&`` and ``|`` in place of ``and`` and ``or`` and
    without ``if``: Python calls it with arrays, the loop that is compiled with LRU
    (`lrcsim.simulator.compiled.route_loop`) with numbers, and both choose the same. Parameters (`Param`, numbers only)
    follow as further arguments, in order.
    """

    name = ""
    methods = ("value",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @staticmethod
    def value(*arguments: Any) -> Any:
        """Return how much a token wants an expert: ``value(candidate, *parameters)``, see `Candidate`."""
        raise NotImplementedError

    def values(self) -> tuple[float, ...]:
        """Return the parameters' values in order.

        Raises:
            PolicyError: one is text.
        """
        values = tuple(getattr(self, param.name) for param in self.params)
        if any(isinstance(value, str) for value in values):
            raise PolicyError(f"{self.name}: the parameters of a CompiledRule must be numbers")
        return tuple(map(float, values))

    @classmethod
    def compilable(cls) -> bool:
        """Return whether ``value`` is all there is: ``choose`` is not overridden."""
        return cls.choose is CompiledRule.choose

    @classmethod
    def check_class(cls) -> None:
        """Check ``value``: static, with the right arguments.

        Raises:
            PolicyError: it is not; with file and line.
        """
        static = inspect.getattr_static(cls, "value")
        names = ("candidate", *(param.name for param in cls.params))
        wanted = f"write @staticmethod and def value({', '.join(names)})"
        at = place_of(cls, "value")
        head = f"{at + ': ' if at else ''}{cls.__name__}.value"
        if not (isinstance(static, staticmethod) and inspect.isfunction(static.__func__)):
            raise PolicyError(f"{head} must be a plain static method: {wanted}")
        try:
            inspect.signature(static.__func__).bind(*names)
        except TypeError:
            raise PolicyError(f"{head}{inspect.signature(static.__func__)} cannot be called: {wanted}") from None

    def choose(self, scores: Scores, resident: Residents, k: int) -> Ids:
        """Return the k of greatest value, the arguments as in `RoutingRule.choose`: ``scores``, ``resident``, ``k``.

        Raises:
            PolicyError: a value is not a number.
        """
        order = np.argsort(-scores, axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        high = scores.max(axis=1, keepdims=True)
        weight = np.exp(scores - high)
        share = weight / weight.sum(axis=1, keepdims=True, where=rank < k)
        told = Candidate(scores, rank, share, resident[None], high, scores.min(axis=1, keepdims=True), k)
        with np.errstate(all="ignore"):  # compiled nobody warns either
            found = np.asarray(self.value(told, *self.values()), np.float64)
        value = np.broadcast_to(found, scores.shape)
        if np.isnan(value).any():
            raise PolicyError(f"value() returned what is not a number{written_in(type(self), 'value')}")
        best: Ids = np.argsort(-value, axis=1, kind="stable")[:, :k]
        return best


class Prior(CompiledRule):
    """Add to the score of residents a share of the span of the token's scores, then take the k best.

    score = log p + boost (max - min) where an expert is resident. 0 changes nothing; above 1 residents come first.
    """

    name = "prior"
    takes = ":L"
    params = (Param("boost", 0.1, "of residents, in spans of the token's scores; inf: they always come first", 0),)
    source = "after Skliar et al., arXiv 2412.00099 (Cache-Prior); CECAR, regolith"

    @staticmethod
    def value(expert: Candidate, boost: float) -> Any:
        # more than one span puts every resident first, and no sum becomes infinite
        return expert.score + np.minimum(boost, 2.0) * (expert.high - expert.low) * expert.resident


class Window(CompiledRule):
    """Keep a token's first experts; fill up with residents among its first ``window`` ranks, then by rank."""

    name = "window"
    takes = ":J,M"
    params = (
        Param("sacred", 2, "experts of each token, best first, that it always uses", 0),
        Param("window", 12, "ranks among which residents may take the places of the others", 1),
    )
    source = "JustVugg/colibri CACHE_ROUTE; Skliar et al., arXiv 2412.00099 (max rank)"

    @staticmethod
    def value(expert: Candidate, sacred: float, window: float) -> Any:
        kept = expert.rank < sacred
        taken = expert.resident & (expert.rank >= sacred) & (expert.rank < window)
        return expert.score + (expert.high - expert.low + 1) * (2 * kept + taken)


class Substitute(CompiledRule):
    """In place of light experts that are not resident use the best residents; what has no stand-in stays.

    An expert is light for a token if its share of the router weight of the token's k best is below ``threshold``, and
    it is none of its first ``keep``. Each token decides for itself.
    """

    name = "substitute"
    takes = ":W[,keep=N]"
    params = (
        Param("threshold", 0.1, "share of a token's router weight below which it can do without", 0, 1),
        Param("keep", 1, "experts of each token, heaviest first, that are never given up", 0),
    )
    source = "BigMoeOnEdge --expert-substitute"

    @staticmethod
    def value(expert: Candidate, threshold: float, keep: float) -> Any:
        chosen = expert.rank < expert.k
        needed = chosen & ((expert.share >= threshold - ROUNDING) | (expert.rank < keep) | expert.resident)
        return expert.score + (expert.high - expert.low + 1) * (
            2 * needed + (expert.resident & (expert.rank >= expert.k))
        )


RULES: Registry[RoutingRule] = Registry(
    RoutingRule,
    (Prior, Window, Substitute),
    group="lrcsim.routing_rules",
    unknown="there is no routing rule {name!r}, there are {names}, and your own as file.py:Class or "
    "package.module:Class{close}",
    error=ConfigError,
)
"""All routing rules by name, those in the entry-point group ``lrcsim.routing_rules`` of installed packages too."""

RuleSpec = str | RoutingRule | type[RoutingRule]
"""What `make_rule` takes: a name with parameters, a class or an object."""


def make_rule(spec: RuleSpec) -> RoutingRule:
    """Make a routing rule.

    Args:
        spec: a name with parameters in order or by name (``"prior:0.1"``, ``"window:2,12"``,
            ``"substitute:0.1,keep=2"``), ``file.py:Class``, ``pkg.mod:Class``, these too with parameters, a class, or
            an object.

    Raises:
        ConfigError: there is no such rule.
        PolicyError: its file or module cannot be loaded, it lacks a method, or a parameter is wrong.
    """
    if not isinstance(spec, str):
        return RULES.make(spec)
    kind, text = RULES.find(spec)
    head, named = spec[: len(spec) - len(text) - 1] if text else spec, _named(kind, text)
    return make(kind, named, f"{head}:{named}" if named else head)


def _named(kind: type[RoutingRule], text: str) -> str:
    """Write the names of parameters before those that are given by their place."""
    if is_users(kind) and not kind.params:
        return text
    names = [param.name for param in kind.params]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > len(names):
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise PolicyError(f"routing rule {kind.name} is given more parameters than there are, {text!r}: {has}")
    told = [part if "=" in part else f"{name}={part}" for name, part in zip(names, parts, strict=False)]
    parameters(kind, ",".join(told))  # refuses what is given twice
    return ",".join(told)


def chosen_by(rule: RoutingRule, scores: Scores, resident: Residents, k: int) -> Ids:
    """Ask a rule, and check what a user's says.

    Args:
        rule: the rule.
        scores: float64 [tokens, E], as for `RoutingRule.choose`.
        resident: bool [E].
        k: experts per token.

    Returns:
        int [tokens, k], best first.

    Raises:
        PolicyError: a user's rule failed, or chose what is no k different experts for each token; with file and line.
    """
    kind = type(rule)
    if not is_users(kind):
        return rule.choose(scores, resident, k)
    with telling(kind, f"routing rule {rule.name} failed", "choose"):
        return _checked(rule.choose(scores.copy(), resident.copy(), k), scores, k, kind)


def _checked(given: Any, scores: Scores, k: int, kind: type[RoutingRule]) -> Ids:
    """Return the ids that a user's rule gave as an array.

    Raises:
        PolicyError: they are none.
    """
    ids = np.asarray(given)
    tokens, experts = scores.shape
    where = written_in(kind, "choose")
    if ids.shape != (tokens, k) or ids.dtype.kind not in "iu":
        raise PolicyError(f"choose() returned {ids.dtype} {list(ids.shape)}, return ids [{tokens}, {k}]{where}")
    ids = ids.astype(np.int64)
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= experts:
        raise PolicyError(f"choose() returned ids from {ids.min()} to {ids.max()}, allowed 0..{experts - 1}{where}")
    ordered = np.sort(ids, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise PolicyError(f"choose() returned an expert twice for a token{where}")
    return ids
