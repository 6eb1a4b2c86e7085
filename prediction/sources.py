"""What a learned predictor looks at: each source gives numbers, or a class, of every token at a layer.

A source knows only what an engine knows when layer ``layer - ahead`` has been routed: nothing of the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def used_at(trace: RoutingTrace, layer: int) -> Floats:
    """Return float64 [tokens, E], 1 for each expert that a token uses in a layer."""
    found = np.zeros((trace.num_tokens, trace.num_experts))
    ids = trace.experts[:, layer]
    token, rank = np.nonzero(ids >= 0)
    found[token, ids[token, rank]] = 1.0
    return found


def before(trace: RoutingTrace) -> Ints:
    """Return int64 [tokens], the token before each in its request; -1 for the first."""
    found = np.arange(-1, trace.num_tokens - 1)
    starts = trace.offsets[:-1]
    found[starts[starts < trace.num_tokens]] = -1
    return found


def token(trace: RoutingTrace, _layer: int, _ahead: int) -> Ints:
    """Return the token's id, which is known before the first layer runs."""
    ids = trace.token_ids
    assert ids is not None  # `sources_named` has looked
    return ids.astype(np.int64)


def experts(trace: RoutingTrace, layer: int, ahead: int) -> Floats:
    """Return the experts used ``ahead`` layers before, each with its router weight where the trace has weights."""
    ids, weights = trace.experts[:, layer - ahead], trace.weights
    found = np.zeros((trace.num_tokens, trace.num_experts))
    row, rank = np.nonzero(ids >= 0)
    found[row, ids[row, rank]] = 1.0 if weights is None else weights[row, layer - ahead, rank]
    return found


def previous(trace: RoutingTrace, layer: int, _ahead: int) -> Floats:
    """Return the experts that the token before used in the layer itself; none for a request's first token."""
    earlier = before(trace)
    found = used_at(trace, layer)[earlier]
    found[earlier < 0] = 0.0
    return found


def logits(trace: RoutingTrace, layer: int, ahead: int) -> Floats:
    """Return the router's scores of all experts ``ahead`` layers before; 0 where none are recorded."""
    return np.nan_to_num(
        trace.read("logits", 0, trace.num_tokens, layer=layer - ahead)[:, 0].astype(np.float64), posinf=0.0, neginf=0.0
    )


def inputs(trace: RoutingTrace, layer: int, ahead: int) -> Floats:
    """Return what the router was given ``ahead`` layers before."""
    found: Floats = trace.read("router_inputs", 0, trace.num_tokens, layer=layer - ahead)[:, 0].astype(np.float64)
    return found


class Source(NamedTuple):
    """A source: what gives it, the column that the trace must have, and a line of help."""

    of: Callable[[RoutingTrace, int, int], Floats | Ints]
    column: str
    fix: str


SOURCES: dict[str, Source] = {
    "token": Source(token, "token_ids", "record the trace with lrcsim, or use experts"),
    "experts": Source(experts, "experts", ""),
    "previous": Source(previous, "experts", ""),
    "logits": Source(logits, "logits", "record it with lrcsim record --logits, or use experts"),
    "inputs": Source(inputs, "router_inputs", "record it with lrcsim record --router-inputs, or use experts"),
}
"""All sources by the name that ``--from`` takes."""


def sources_named(text: str, trace: RoutingTrace) -> tuple[str, ...]:
    """Read ``"token,experts"``.

    Raises:
        ConfigError: one is unknown, named twice, or the trace does not have its column.
    """
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in SOURCES:
            close = did_you_mean(name, SOURCES)
            raise ConfigError(
                f"--from {name!r} is not allowed: there are {', '.join(SOURCES)}, with commas between{close}"
            )
        source = SOURCES[name]
        if source.column not in trace.columns:
            raise ConfigError(f"--from {name} needs {source.column}, which this trace does not have: {source.fix}")
    if len(set(names)) < len(names):
        raise ConfigError(f"--from {text!r} names one twice: name each once")
    return names


@dataclass(frozen=True)
class Features:
    """What a predictor of one layer is given.

    Attributes:
        dense: float64 [tokens, F], less the means of the tokens fitted on, each source scaled so that the mean squared
            length of its rows is 1, as that of a class is: one ridge serves all.
        classes: int64 [tokens], numbered from 0 by the tokens fitted on; -1 for all others.
    """

    dense: Floats
    classes: Ints


def features(trace: RoutingTrace, names: Sequence[str], layer: int, ahead: int, fit: npt.NDArray[np.bool_]) -> Features:
    """Put sources together for a layer; means, scales and classes are of the tokens fitted on alone.

    Args:
        trace: the routing trace.
        names: of `SOURCES`, each once.
        layer: the layer to predict, ``ahead`` or greater.
        ahead: layers ahead.
        fit: bool [tokens].
    """
    dense, classes = [np.empty((trace.num_tokens, 0))], np.full(trace.num_tokens, -1)
    for name in names:
        given = SOURCES[name].of(trace, layer, ahead)
        if given.ndim == 1:
            seen = np.unique(given[fit & (given >= 0)])
            place = np.minimum(np.searchsorted(seen, given), max(len(seen) - 1, 0))
            if len(seen):
                classes = np.where(seen[place] == given, place, -1)
            continue
        centred = given - given[fit].mean(axis=0)
        length = float(np.sqrt((centred[fit] ** 2).sum(axis=1).mean()))
        dense.append((centred / length if length > 0 else centred).astype(np.float64))
    return Features(np.concatenate(dense, axis=1), classes.astype(np.int64))
