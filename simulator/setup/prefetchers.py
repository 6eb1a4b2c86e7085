"""Prefetchers: which experts to bring ahead of their use, and the contract for one's own.

Once per layer-step, when its routing is known and its misses are on their way, the engine asks for experts that will be
needed soon. What is proposed and is not in the cache yet is brought behind everything that a layer waits for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lrcsim.base.configurable import Configurable, Param, names_in
from lrcsim.base.errors import PolicyError
from lrcsim.base.plugins import Registry
from lrcsim.base.user_code import is_users, key_of, telling
from lrcsim.simulator.serving.reorder import gather
from lrcsim.simulator.serving.steps import LayerStep, Step
from lrcsim.simulator.setup.miss_actions import MissAction
from lrcsim.simulator.setup.remembered import REQUEST, Remembered
from lrcsim.traces import RoutingTrace

WIDTH = Param("width", 0, "experts proposed per layer-step; 0: the model's top-k", minimum=0)


class Prefetcher(Configurable):
    """Base of every prefetcher: write ``propose``.

    Attributes:
        needs: what the trace must have: any of ``"predictions"``.
        trace: the trace that is run; set before the first call, like the rest.
        stride: E, for keys: ``key = layer * stride + expert``.
        num_layers: MoE layers, L.
        top_k: k of the model.
        profile: uses of each key in a profiling run, or all 0.
    """

    noun: ClassVar[str] = "prefetcher"
    methods: ClassVar[tuple[str, ...]] = ("propose",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"reset": (), "propose": ("step", "place")}
    may_yield: ClassVar[tuple[str, ...]] = ("propose",)
    needs: ClassVar[frozenset[str]] = frozenset()
    trace: RoutingTrace
    stride: int
    num_layers: int
    top_k: int
    profile: npt.NDArray[np.float64]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.needs = names_in(cls, "needs", ("predictions",))

    def label(self) -> str:
        """Return the name with the parameters that are not at their defaults."""
        changed = [param for param in self.params if getattr(self, param.name) != param.default]
        values = ",".join(f"{param.name}={getattr(self, param.name)}" for param in changed)
        return f"{self.name}:{values}" if values else self.name

    def reset(self) -> None:
        """Forget everything; called once before the first step."""

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Return the experts to bring now, the most wanted first.

        Args:
            step: the running step, with all its layer-steps and, as ``following``, the next step. What a real engine
                could know ends at ``step.layers[place]``.
            place: the layer-step whose routing has just become known.
        """
        raise NotImplementedError

    def most(self, scores: npt.NDArray[np.float64], layer: int) -> list[int]:
        """Return the keys of a layer with the greatest scores above 0, ``width`` at most, ties to the smaller id.

        Args:
            scores: float64 [E], of the layer's experts.
            layer: the MoE layer.
        """
        width = int(getattr(self, "width", 0)) or self.top_k
        best = np.argsort(-scores, kind="stable")[:width]
        return [layer * self.stride + int(expert) for expert in best if scores[expert] > 0]


def start(made: Prefetcher | MissAction) -> None:
    """Reset a prefetcher or a miss action.

    Raises:
        PolicyError: a user's failed; with file and line.
    """
    if not is_users(type(made)):
        made.reset()
        return
    with telling(type(made), f"{made.noun} {made.name} failed in reset()", "reset"):
        made.reset()


def proposals(prefetcher: Prefetcher, step: Step, place: int) -> list[int]:
    """Ask a prefetcher.

    Raises:
        PolicyError: a user's failed, proposed what is no key, or changed what it was shown; with file and line.
    """
    kind = type(prefetcher)
    if not is_users(kind):
        return list(prefetcher.propose(step, place))
    work = step.layers[place]
    shown = tuple(work.keys)
    with telling(kind, f"prefetcher {prefetcher.name} failed at step {step.number}, layer {work.layer}", "propose"):
        keys = [key_of(key, kind, "propose") for key in prefetcher.propose(step, place)]
        if tuple(work.keys) != shown:
            raise PolicyError("propose() changed the keys of the step it was shown: make a copy, list(work.keys)")
    return keys


def ahead(step: Step, place: int, distance: int) -> LayerStep | None:
    """Return the layer-step that comes ``distance`` later, in this step or the next; None past that."""
    place += distance
    if place < len(step.layers):
        return step.layers[place]
    place -= len(step.layers)
    if step.following is not None and place < len(step.following.layers):
        return step.following.layers[place]
    return None


class NoPrefetch(Prefetcher):
    """Bring nothing ahead."""

    name = "none"

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Propose nothing."""
        return ()


class Oracle(Prefetcher):
    """What the layer-step ``distance`` further on will use: perfect prediction, to see what prefetching could give."""

    name = "oracle"
    params = (Param("distance", 1, "layer-steps ahead", minimum=1),)
    distance: int

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Propose the batch that comes."""
        coming = ahead(step, place, self.distance)
        return () if coming is None else coming.keys


class NextGate(Prefetcher):
    """What the gate of a later layer says on this layer's hidden state, as recorded in the trace's predictions."""

    name = "next-gate"
    needs = frozenset({"predictions"})
    params = (Param("distance", 1, "layers ahead; the trace must have predictions/distance", minimum=1), WIDTH)
    source = "Eliseev, Mazur, arXiv 2312.17238 (mixtral-offloading), section 3.2"
    distance: int
    width: int

    def reset(self) -> None:
        """Keep the predictions of one step at a time."""
        self._step = -1

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Propose the predictions of the step's tokens, by rank, then token."""
        layer = step.layers[place].layer + self.distance
        if layer >= self.num_layers:
            return ()
        if step.number != self._step:
            rows = step.rows
            if rows is None:
                rows = np.arange(step.first_token, step.first_token + step.size.tokens)
            self._rows = gather(self.trace, f"predictions/{self.distance}", rows)
            self._step = step.number
        width = self.width or self.top_k
        ranked = self._rows[:, layer, :width].T.ravel()
        return dict.fromkeys((ranked[ranked >= 0].astype(int) + layer * self.stride).tolist())


class Popularity(Prefetcher):
    """The most used experts of the next layer, by a profile if there is one, plus uses so far."""

    name = "popularity"
    params = (WIDTH,)

    def reset(self) -> None:
        """Start from the profile."""
        self._uses = self.profile.reshape(self.num_layers, self.stride).copy()

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Count this layer, propose for the next."""
        work = step.layers[place]
        for key in work.keys:
            self._uses[work.layer, key % self.stride] += 1
        layer = (work.layer + 1) % self.num_layers
        return self.most(self._uses[layer], layer)


class Temporal(Prefetcher):
    """What the next layer used in the step before."""

    name = "temporal"

    def reset(self) -> None:
        """Nothing was used yet."""
        self._last: dict[int, Sequence[int]] = {}

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Remember this layer, propose for the next."""
        work = step.layers[place]
        self._last[work.layer] = work.keys
        return self._last.get((work.layer + 1) % self.num_layers, ())


class Transition(Prefetcher):
    """The experts of the next layer most likely after this layer's, from a table of transitions learned on the way.

    Score of expert e' of layer l+1: sum over the experts e used at layer l of N[l, e, e'] / sum over e'' N[l, e, e''],
    N counting steps that used both.
    """

    name = "transition"
    params = (WIDTH,)

    def reset(self) -> None:
        """Forget the table."""
        self._counts: dict[int, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros((self.stride, self.stride)))
        self._before: LayerStep | None = None
        self._step = -1

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Learn from the layer before to this one, propose for the next."""
        work = step.layers[place]
        used = np.array(work.keys) % self.stride
        before = self._before
        if before is not None and self._step == step.number and before.layer == work.layer - 1:
            self._counts[before.layer][np.ix_(np.array(before.keys) % self.stride, used)] += 1
        self._before, self._step = work, step.number
        layer = work.layer + 1
        if layer >= self.num_layers:
            return ()
        rows = self._counts[work.layer][used]
        totals = rows.sum(axis=1, keepdims=True)
        scores = np.divide(rows, totals, out=np.zeros_like(rows), where=totals > 0).sum(axis=0)
        return self.most(scores, layer)


class TraceMatch(Prefetcher):
    """The rest of the recorded request most like this one so far (MoE-Infinity).

    Up to ``kept`` requests are kept as matrices of uses, layer by expert, each row divided by its sum. The nearest is
    that of the greatest mean cosine over the layers seen, of equals the oldest; experts p of later layers l' come in
    descending order of (p + 1e-8) (1 - (l' - l) / (L + 1)).
    """

    name = "trace-match"
    params = (Param("kept", 1000, "requests remembered", minimum=1), WIDTH)
    source = "Xue et al., arXiv 2401.14361 (MoE-Infinity), section 4; the project's expert_tracer.py"
    kept: int

    def reset(self) -> None:
        """Nothing is recorded yet."""
        self._known = Remembered.empty(min(self.kept, self.trace.num_requests), self.num_layers, self.stride)

    def propose(self, step: Step, place: int) -> Iterable[int]:
        """Count this layer, find the nearest request, propose for the layers behind."""
        work, known = step.layers[place], self._known
        if step.request != known.counter[REQUEST]:
            known.begin(step.request)
        layer = work.layer
        known.use(layer, [key % self.stride for key in work.keys])
        nearest = known.nearest()
        if nearest < 0 or layer + 1 >= self.num_layers:
            return ()
        shares = known.shares[nearest, layer + 1 :]
        distance = np.arange(1, self.num_layers - layer)[:, None]
        scores = (shares + 1e-8) * (1 - distance / (self.num_layers + 1))
        scores[shares == 0] = 0
        width = int(getattr(self, "width", 0)) or self.top_k
        best = np.argsort(-scores, axis=None, kind="stable")[:width]
        return [(layer + 1) * self.stride + int(place) for place in best if scores.flat[place] > 0]


REGISTRY: Registry[Prefetcher] = Registry(
    Prefetcher,
    (NoPrefetch, Oracle, NextGate, Popularity, Temporal, Transition, TraceMatch),
    group="lrcsim.prefetchers",
    unknown="there is no prefetcher {name!r}, there are {names}, and your own as file.py:Class or "
    "package.module:Class{close}",
)
"""All prefetchers by name, those in the entry-point group ``lrcsim.prefetchers`` of installed packages among them."""

PREFETCHERS: dict[str, type[Prefetcher]] = REGISTRY.built_in
"""The built-in prefetchers."""


def make_prefetcher(spec: str | Prefetcher | type[Prefetcher]) -> Prefetcher:
    """Make a prefetcher of a name with parameters, ``file.py:Class``, ``pkg.mod:Class``, a class, or an object.

    Raises:
        PolicyError: there is none, or a parameter is wrong.
    """
    return REGISTRY.make(spec)
