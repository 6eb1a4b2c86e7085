"""From a run with a routing rule to the trace of what the rule chose, which every engine and bound takes as any trace.

A rule decides by the residents before each layer-step, residents follow from what was chosen before, and neither
depends on time. So the choice comes first; then hits are counted and time is taken of a trace like any other
(docs/routing.md). The built-in LRU with a `CompiledRule` runs compiled, all else in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import LrcsimError, PolicyError, brief
from lrcsim.base.progress import Progress
from lrcsim.base.user_code import compiler_said, is_users, written_in
from lrcsim.policies import BUILT_IN, make_policy
from lrcsim.policies.routing import CompiledRule, RoutingRule, chosen_by, make_rule
from lrcsim.simulator.replay import Runner, make_pools
from lrcsim.simulator.setup.router_scores import Floats, RouterScores
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace
from lrcsim.traces.columns import id_dtype
from lrcsim.traces.schedule import Block, Schedule, StepRun, distinct_experts

SCORES_AT_ONCE = 1 << 20
"""Scores per block: 4 MB of them, and what is made of them stays near the processor."""

FEW = 20_000
"""Layer-steps up to which Python answers where the loop would have to be compiled first: that takes 3 to 5 s of CPU,
and Python makes 7,000 a second (benchmarks/NOTES.md)."""

NOT_OF_THE_CHOICE = ("residency", "logits", "predictions/")
"""Columns that say something of the router's own choice; what was rerouted is without them."""

Ids = npt.NDArray[np.integer[Any]]


@dataclass
class Rerouting:
    """How far a rule's choice is from the router's own; sums over tokens and layers, by phase (0 prefill, 1 decode).

    Attributes:
        rule: its label.
        router: of `RouterScores.to_dict`.
        engine: what chose, ``"compiled"`` or ``"python"``.
        choices: int64 [2], choices made: tokens times layers.
        uses: int64 [2], experts in them.
        same: int64 [2], of these the router's own.
        mass: float64 [2], the router's probability of the experts chosen over that of its own choice.
        kl: float64 [2], nats: Kullback-Leibler divergence of the weights chosen, made to sum to 1, from the router's
            probabilities of all experts. These weights are p / Z on the chosen, Z their probability, so it is -ln Z.
        own_kl: float64 [2], the same of the router's own choice.
    """

    rule: str
    router: dict[str, Any]
    engine: Literal["compiled", "python"] = "python"
    choices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    uses: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    same: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    mass: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    kl: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    own_kl: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def add(self, phase: npt.NDArray[np.uint8], own: Ids, chosen: Ids, chances: npt.NDArray[np.float64]) -> None:
        """Take some tokens.

        Args:
            phase: uint8 [tokens].
            own: int [tokens, L, k], the router's choice, -1 = not recorded.
            chosen: int [tokens, L, k], the rule's.
            chances: float64 [tokens, L, E], the router's probabilities, of sum 1.
        """
        there = own >= 0
        mine, its = (_mass(chances, ids) for ids in (chosen, own))
        same = ((chosen[:, :, :, None] == own[:, :, None, :]) & there[:, :, :, None]).sum(axis=(2, 3))
        routed = there.any(axis=2)
        mine, its = np.where(routed, mine, 1), np.where(routed, its, 1)
        for total, of_each in (
            (self.choices, routed),
            (self.uses, there.sum(axis=2)),
            (self.same, same),
            (self.mass, np.where(routed, mine / its, 0)),
            (self.kl, -np.log(mine)),
            (self.own_kl, -np.log(its)),
        ):
            total += np.bincount(phase, of_each.sum(axis=1), 2).astype(total.dtype)

    def to_dict(self, phase: int | None = None) -> dict[str, float | None]:
        """Return the means, of one phase or both: ``agreement``, ``mass_kept``, ``kl_nats``, ``kl_nats_unmodified``."""
        rows = slice(None) if phase is None else phase
        choices, uses = int(self.choices[rows].sum()), int(self.uses[rows].sum())

        def mean(total: npt.NDArray[Any], of: int) -> float | None:
            return float(total[rows].sum()) / of if of else None

        return {
            "agreement": mean(self.same, uses),
            "mass_kept": mean(self.mass, choices),
            "kl_nats": mean(self.kl, choices),
            "kl_nats_unmodified": mean(self.own_kl, choices),
        }


def rerouted(run: Run, progress: Progress | None = None) -> tuple[Run, Rerouting]:
    """Let the rule of a run choose.

    Memory: 2 bytes for every use of an expert (weights: 4 more), and a block of scores.

    Args:
        run: a run with a routing rule; its trace must stay open.
        progress: told how far it is, in tokens.

    Returns:
        The same run on the trace of what was chosen, `Run.routed`, and how far that is from the router's own choice.
        Its weights are the router's probabilities of the experts chosen, with the sum of the token's recorded ones.

    Raises:
        ConfigError: the trace's logits do not say what the rule would have to know (`RouterScores`).
        PolicyError: the rule or the policy failed.
    """
    assert run.options.route is not None  # the caller looks
    trace, rule = run.trace, make_rule(run.options.route)
    scores = RouterScores.of(trace)
    found = Rerouting(rule.label(), scores.to_dict())
    choose: Callable[[StepRun, Floats, Ids, Any], Ids]
    if isinstance(rule, CompiledRule) and _compiles(run, rule) and not _better_in_python(trace):
        choose, found.engine = _Compiled(run, rule), "compiled"
    else:
        choose = _InPython(run, rule)
    experts = np.empty(trace.columns["experts"].shape, id_dtype(trace.layers))
    weights = np.empty(experts.shape, np.float32) if "weights" in trace.columns else None
    for steps in Schedule(trace, run.prefill).step_runs(max(1, SCORES_AT_ONCE // int(np.prod(_widths(trace))))):
        low, high = int(steps.starts[0]), int(steps.starts[-1])
        own, given = trace.read("experts", low, high), scores.read(low, high)
        chances = np.exp(given - given.max(axis=2, keepdims=True), dtype=np.float64)
        recorded = None if weights is None else trace.read("weights", low, high)
        chosen = experts[low:high] = choose(steps, given, own, recorded)
        if weights is not None and recorded is not None:
            weights[low:high] = _weights(chances, own, chosen, recorded)
        chances /= chances.sum(axis=2, keepdims=True)
        found.add(np.repeat(steps.phase, np.diff(steps.starts)), own, chosen, chances)
        if progress is not None:
            progress(high, trace.num_tokens)
    columns = {name: column for name, column in trace.columns.items() if not name.startswith(NOT_OF_THE_CHOICE)}
    columns |= {"experts": experts} | ({} if weights is None else {"weights": weights})
    of_choice = RoutingTrace(
        trace.layers,
        columns,
        trace.offsets,
        domains=trace.domains,
        model=trace.model,
        provenance=trace.provenance,
        path=trace.path,
    )
    return replace(run, trace=of_choice, routed=True, asked=run.asked or trace), found


def _widths(trace: RoutingTrace) -> tuple[int, ...]:
    return trace.columns["logits"].shape[1:]


def _mass(chances: npt.NDArray[np.float64], ids: Ids) -> npt.NDArray[np.float64]:
    """Return float64 [tokens, L], the sum of the chances [tokens, L, E] of ids [tokens, L, k], -1 = none."""
    of_each = np.take_along_axis(chances, np.maximum(ids, 0).astype(np.int64), axis=2)
    total: npt.NDArray[np.float64] = np.where(ids >= 0, of_each, 0).sum(axis=2)
    return total


def _weights(
    chances: npt.NDArray[np.float64], own: Ids, chosen: Ids, recorded: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Return float32 [tokens, L, k], the chances of the experts chosen, with the sum of the recorded weights."""
    there = own >= 0
    mine = np.where(there, np.take_along_axis(chances, np.maximum(chosen, 0).astype(np.int64), axis=2), 0)
    total = mine.sum(axis=2, keepdims=True)
    wanted = np.where(there, recorded, 0).sum(axis=2, keepdims=True, dtype=np.float64)
    weights: npt.NDArray[np.float32] = np.divide(mine * wanted, total, out=np.zeros_like(mine), where=total > 0).astype(
        np.float32
    )
    return weights


def _compiles(run: Run, rule: CompiledRule) -> bool:
    """Return whether the compiled loop does what policy and rule do."""
    lru = type(make_policy(run.policy)) is BUILT_IN["lru"]
    return lru and rule.compilable() and run.in_slots


def _better_in_python(trace: RoutingTrace) -> bool:
    """Return whether there is too little to choose for compiling the loop first."""
    if trace.num_tokens * trace.num_layers > FEW:
        return False
    from lrcsim.simulator.compiled.counts import signatures
    from lrcsim.simulator.compiled.route_loop import route_lru

    return not signatures(route_lru)


class _Compiled:
    """The built-in LRU, and the rule, compiled."""

    def __init__(self, run: Run, rule: CompiledRule) -> None:
        from lrcsim.simulator.compiled.route_loop import LruState, compiled_value, looks_at

        self.rule, self.warm, trace = rule, run.warm, run.trace
        try:
            value_of = compiled_value(rule)
        except Exception as error:  # numba raises much else than its NumbaError of odd code
            if not is_users(type(rule)):
                raise
            said = compiler_said(error, [type(rule).value])
            raise PolicyError(
                f"routing rule {rule.name}: value() cannot be compiled ({said}); use numbers, numpy and constants "
                "only, or derive from RoutingRule to run it in Python"
            ) from error
        self._rule = (value_of, rule.values(), looks_at(rule, "rank"), looks_at(rule, "share"))
        self._num_experts = trace.layers.num_experts
        self._pool_of_layer = np.zeros(trace.num_layers, np.int64)
        for number, pool in enumerate(run.pools):
            self._pool_of_layer[list(pool.layers)] = number
        self._slots = np.array([pool.capacity for pool in run.pools], np.int64)
        self._state = LruState.empty(trace.num_layers * trace.num_experts, len(run.pools))
        self._request = -1

    def __call__(self, steps: StepRun, scores: Floats, own: Ids, _: Any) -> Ids:
        from lrcsim.simulator.compiled.route_loop import route_lru

        chosen = np.full_like(own, -1)
        first = np.diff(steps.request, prepend=self._request) != 0
        self._request = int(steps.request[-1])
        starts = steps.starts - steps.starts[0]
        of_caches = (self._num_experts, self._pool_of_layer, self._slots, self._state)
        run: Any = route_lru  # compiled: type checkers do not know its arguments
        failed = run(*self._rule, scores, own, chosen, starts, first & (not self.warm), *of_caches)
        if failed >= 0:
            where = written_in(type(self.rule), "value")
            token = int(steps.starts[0]) + failed
            raise PolicyError(f"routing rule {self.rule.name}: value() is not a number for token {token}{where}")
        return chosen


class _InPython:
    """The pools of a replay, asked before every layer-step who is resident."""

    def __init__(self, run: Run, rule: RoutingRule) -> None:
        self.rule, self.trace = rule, run.trace
        pools = make_pools(run)
        self._policy = pools[0].policy
        self.misses = 0  # so far; the engines count as many in what was chosen
        self._weighed = "weights" in self._policy.needs | self._policy.wants
        self._runner = Runner(pools, run)

    def __call__(self, steps: StepRun, scores: Floats, own: Ids, recorded: Any) -> Ids:
        chosen = np.full_like(own, -1)
        bounds = (steps.starts - steps.starts[0]).tolist()
        place = (0, 0)
        try:
            for number, (request, phase) in enumerate(zip(steps.request.tolist(), steps.phase.tolist(), strict=True)):
                tokens = slice(bounds[number], bounds[number + 1])
                used = np.flatnonzero((own[tokens] >= 0).any(axis=(0, 2))).tolist()
                if used:
                    self._runner.begin_step(steps.first_step + number, request, phase)
                for layer in used:
                    place = (steps.first_step + number, layer)
                    self._choose(scores[tokens, layer], own[tokens, layer], chosen[tokens, layer], layer)
                    weights = None
                    if self._weighed and recorded is not None:
                        at = (tokens, slice(layer, layer + 1))
                        chances = np.exp(scores[at] - scores[at].max(axis=2, keepdims=True), dtype=np.float64)
                        weights = _weights(chances, own[at], chosen[at], recorded[at])
                    block = self._block(*place, request, phase, chosen[tokens, layer], weights)
                    self.misses += len(self._runner.run(block, None)[0])
        except LrcsimError:
            raise
        except Exception as error:
            raise PolicyError(
                f"policy {self._policy.name} failed at step {place[0]}, layer {place[1]}: {brief(error)}"
            ) from error
        return chosen

    def _choose(self, scores: Floats, own: Ids, chosen: Ids, layer: int) -> None:
        """Fill in what each token of a layer-step uses: int [tokens, k]."""
        resident = self._residents(layer)
        wanted = (own >= 0).sum(axis=1)
        for k in np.unique(wanted[wanted > 0]).tolist():  # one, but where not all ranks were recorded
            rows = np.flatnonzero(wanted == k)
            ids = chosen_by(self.rule, scores[rows, : len(resident)].astype(np.float64), resident, k)
            mine = chosen[rows]
            mine[own[rows] >= 0] = ids.ravel()
            chosen[rows] = mine

    def _residents(self, layer: int) -> npt.NDArray[np.bool_]:
        first, count = layer * self.trace.num_experts, int(self.trace.layers.num_experts[layer])
        resident = self._runner.pool_of_layer[layer].resident
        return np.array([key in resident for key in range(first, first + count)])

    def _block(
        self, step: int, layer: int, request: int, phase: int, ids: Ids, weights: npt.NDArray[np.float32] | None
    ) -> Block:
        """Return a layer-step as the replay takes it."""
        stride = self.trace.num_experts
        rows = distinct_experts(ids[:, None], weights, np.array([len(ids)]), stride)
        one: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        return Block(
            keys=rows.keys + np.int32(layer * stride),
            weights=rows.weights,
            tokens=rows.tokens,
            starts=rows.starts,
            layer=one + layer,
            step=one + step,
            request=one + request,
            phase=np.array([phase], np.uint8),
            first_token=one,
            step_end=one + len(ids),
            first_access=0,
            end_token=len(ids),
            idle=np.zeros(0, np.int64),
        )
