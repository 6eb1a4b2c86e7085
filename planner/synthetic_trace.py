"""A routing trace of a given shape whose hit rate has a given curve, to run in the engine that keeps time.

Experts are drawn by their place in an order: that of last use (LRU's stack; Spirn, "Program Behavior: Models and
Measurements", 1977, the LRU stack model), or a fixed one. A token uses place d with the probability

    pi(d) = k (H(d) - H(d - 1))

so that the first C places are used k H(C) times per token: under LRU, a cache of C experts hits with H(C). A policy
other than LRU is stood in for by LRU on a trace that has the policy's own curve. Some thousand draws would be off by
half a point of hit rate and more; so the draws of all tokens and layers are made first, and then balanced until every
place was drawn as often as it should be.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.planner.traces import Shape
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

Floats = npt.NDArray[np.float64]


def inclusion(curve: Floats, top_k: int) -> Floats:
    """Return pi(d) for the places 1 .. E, float64 [E]: not above 1, k together.

    What would be above 1 (no place is used twice by one token) goes to the next places.

    Args:
        curve: float64 [E + 1], from 0 to 1.
        top_k: experts per token.
    """
    steps = top_k * np.diff(curve)
    places = np.empty_like(steps)
    over = 0.0
    for place, step in enumerate(steps.tolist()):
        places[place] = min(step + over, 1.0)
        over += step - places[place]
    for place in range(len(places) - 1, -1, -1):  # what went beyond the last place
        more = min(over, 1.0 - places[place])
        places[place] += more
        over -= more
    return places


def routing_of_curve(
    shape: Shape, curve: Floats, tokens: int, *, fixed: bool = False, seed: int = 0, model: str = "synthetic"
) -> RoutingTrace:
    """Make one request of a prompt that uses every expert once, and of ``tokens`` decoded tokens.

    The prompt fills the cache, so that decoding is measured warm. The hit rate of the first C places is that of the
    curve at every C, to a draw or two in all, where no place is wanted more than once per token.

    Args:
        shape: of the model.
        curve: float64 [E + 1], hit rate at 0 .. E experts per layer.
        tokens: decoded.
        fixed: places are experts (their popularity), instead of ranks by last use.
        seed: of the draws; equal seeds draw alike, so that two curves can be compared.
        model: name.
    """
    layers, experts, top_k = shape
    random = np.random.default_rng(seed)
    order = _first_order(shape, random)  # [L, E], most recent first
    if fixed:
        order = np.tile(np.arange(experts), (layers, 1))
    places = balanced_draws(inclusion(curve, top_k), tokens * layers, top_k, random).reshape(tokens, layers, top_k)
    ids = np.empty((tokens, layers, top_k), np.int64)
    rows = np.arange(layers)[:, None]
    for token in range(tokens):
        drawn = order[rows, places[token]]
        ids[token] = drawn
        if not fixed:
            used = np.zeros((layers, experts), bool)
            used[rows, drawn] = True
            rest = order[~used[rows, order]].reshape(layers, experts - top_k)
            order = np.concatenate([drawn[:, ::-1], rest], axis=1)
    first = _first_order(shape, random if fixed else np.random.default_rng(seed))  # what decoding starts from
    prompt = touching_all(shape, first[:, ::-1])
    return RoutingTrace.from_arrays(
        np.concatenate([prompt, ids]),
        num_experts=experts,
        phase=np.repeat(np.array([PREFILL, DECODE], np.uint8), [len(prompt), tokens]),
        model=model,
    )


def touching_all(shape: Shape, order: npt.NDArray[np.integer] | None = None) -> npt.NDArray[np.int64]:
    """Return tokens that together use every expert once, int64 [tokens, L, k], in an order [L, E]; -1 at the end."""
    layers, experts, top_k = shape
    if order is None:
        order = np.tile(np.arange(experts), (layers, 1))
    tokens = -(-experts // top_k)
    padded = np.full((layers, tokens * top_k), -1, np.int64)
    padded[:, :experts] = order
    return padded.reshape(layers, tokens, top_k).swapaxes(0, 1)


def _first_order(shape: Shape, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw an order of each layer's experts, int64 [L, E]."""
    return np.argsort(random.random((shape.layers, shape.experts)), axis=1)


def balanced_draws(chances: Floats, steps: int, top_k: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw k different places for each of ``steps`` layer-steps, int64 [steps, k] from 0, in random order.

    Drawn by systematic sampling in random order (each place with its chance, k in all). Then, from the first place to
    the last, what all steps together drew too often goes to the next place that has room, and what is missing comes
    from there, in steps chosen at random: for every C the first C places are drawn as often as they should be, rounded.

    Args:
        chances: float64 [E], of each place, none above 1, k together.
        steps: layer-steps.
        top_k: k.
        random: source of chance.
    """
    has = _drawn(chances, steps, top_k, random)
    wanted = np.rint(steps * np.cumsum(chances)).astype(np.int64)
    found = 0
    for place in range(len(chances) - 1):
        found += int(np.count_nonzero(has[place]))
        for later in range(place + 1, len(chances)):
            excess = found - int(wanted[place])
            if excess == 0:
                break
            giver, taker = (place, later) if excess > 0 else (later, place)
            able = np.flatnonzero(has[giver] & ~has[taker])
            moved = random.permutation(able)[: abs(excess)]
            has[giver, moved], has[taker, moved] = False, True
            found -= int(np.sign(excess)) * len(moved)
    drawn = np.nonzero(np.ascontiguousarray(has.T))[1].reshape(steps, top_k)
    return random.permuted(drawn, axis=1)


def _drawn(chances: Floats, steps: int, top_k: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw k places for each layer-step, each place with its chance: bool [E, steps].

    The places of a step lie one after the other on a line, in random order, each as long as its chance; drawn are those
    in which the points u, u + 1 .. u + k - 1 fall. Before an end e there are ceil(e - u) of them.
    """
    shuffled, before = _shuffled(steps, len(chances), random)
    ends = chances[shuffled]
    for place in range(1, len(ends)):
        ends[place] += ends[place - 1]
    ends[-1] = top_k  # rounding
    points = np.ceil(np.subtract(ends, before, out=ends), out=ends)
    hit = np.empty(points.shape, bool)
    hit[0] = points[0] > 0
    np.not_equal(points[1:], points[:-1], out=hit[1:])
    at, step = np.nonzero(hit)
    has = np.zeros(hit.shape, bool)
    has[shuffled[at, step], step] = True
    return has


def _shuffled(steps: int, experts: int, random: np.random.Generator) -> tuple[npt.NDArray[np.int16], Floats]:
    """Return an order of the places for each layer-step, [E, steps], and where its first point lies, [steps]."""
    shuffled, before, random.bit_generator.state = _first_draws(json.dumps(random.bit_generator.state), steps, experts)
    return shuffled, before


@lru_cache(maxsize=1)
def _first_draws(state: str, steps: int, experts: int) -> tuple[npt.NDArray[np.int16], Floats, Any]:
    """Return what a generator in that state draws for `_shuffled`, and its state then.

    A plan makes a dozen traces from one seed, and half of their time went here.
    """
    random = np.random.default_rng()
    random.bit_generator.state = json.loads(state)
    shuffled = np.ascontiguousarray(np.argsort(random.random((steps, experts)), axis=1).astype(np.int16).T)
    return shuffled, random.random(steps), random.bit_generator.state
