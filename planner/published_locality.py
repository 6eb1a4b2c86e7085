"""Published hit rates as data (`locality.toml`), made comparable: LRU, a cache per layer, warm."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """What one source counted of one model.

    Attributes:
        model: name.
        source: who counted.
        experts: E, routed experts per MoE layer.
        top_k: k, experts per token.
        slots: float64 [n], C, experts per layer that there was room for.
        rates: float64 [n], hit rates of LRU while decoding, warm; of popular experts the share of uses covered.
        error: of the rates as the source gives them.
    """

    model: str
    source: str
    experts: int
    top_k: int
    slots: Floats
    rates: Floats
    error: float

    @property
    def exponents(self) -> Floats:
        """float64 [n], a of misses (1 - C / E) ** a."""
        found: Floats = np.log(1 - self.rates) / np.log(1 - self.slots / self.experts)
        return found


def first_use_hits(slots: Floats, before: npt.NDArray[np.integer], experts: int) -> Floats:
    """Return how many first uses hit in a warm cache, float64 [n], of one layer.

    A cache that starts empty misses each expert's first use. In one that is warm the experts not used yet are below
    those that were, in an order that is not known: taken as random, the (u + 1)-th distinct expert is at each of the
    places u + 1 .. E with the same chance, and C slots have it with (C - u) / (E - u).

    Args:
        slots: C.
        before: int [uses], u: distinct experts used before each of the first uses.
        experts: E.
    """
    chances = np.clip((slots[:, None] - before) / (experts - before), 0.0, 1.0)
    hits: Floats = chances.sum(axis=1)
    return hits


def warm_rates(rates: Floats, slots: Floats, experts: int, top_k: int, tokens: int, *, first_free: bool) -> Floats:
    """Return the hit rates that a warm cache would have had, float64 [n].

    How many distinct experts were used is not published: no more than there were misses, and no more than E; where
    they are more than C it does not matter how many.

    Args:
        rates: as published, of a cache that starts empty.
        slots: C.
        experts: E.
        top_k: k.
        tokens: T that were counted, k T uses of each layer; 0: the cache was warm.
        first_free: the first C distinct experts were counted as hits.
    """
    if tokens == 0:
        return rates
    uses = top_k * tokens
    cold = rates - np.minimum(slots, experts) / uses if first_free else rates
    warm = cold.copy()
    for i, missed in enumerate(uses * (1 - cold)):
        before = np.arange(int(min(missed, experts)))
        warm[i] += first_use_hits(slots[i : i + 1], before, experts)[0] / uses
    return warm


@cache
def published() -> tuple[Counted, ...]:
    """Return the published hit rates of LRU."""
    return tuple(
        _counted(entry, warm_rates(*_columns(entry), *_shape(entry), entry["tokens"], first_free=_free(entry)))
        for entry in _read()["lru"]
    )


@cache
def popularity() -> tuple[Counted, ...]:
    """Return the published shares of other traffic that popular experts cover."""
    return tuple(_counted(entry, np.array(entry["covered"], np.float64)) for entry in _read()["popularity"])


def model_called(name: str) -> str:
    """Return the model of the data that a name means, or the name itself.

    Case and everything but letters and digits is left out; a longer name, as ``Qwen3-30B-A3B-Instruct-2507``, is the
    model whose name it contains.
    """
    given = _plain(name)
    found = [model for model in _read()["models"] if _plain(model) in given]
    return str(max(found, key=len)) if found else name


def is_early(name: str) -> bool:
    """Return whether a model is of 2024 or before; one that the data does not know is not."""
    return any(_plain(model) in _plain(name) for model in _read()["early"]["models"])


@cache
def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(resources.files("lrcsim.planner").joinpath("locality.toml").read_text("utf-8"))


def _shape(entry: dict[str, Any]) -> tuple[int, int]:
    model = _read()["models"][entry["model"]]
    return model["experts"], entry.get("top_k", model["top_k"])


def _columns(entry: dict[str, Any]) -> tuple[Floats, Floats]:
    return np.array(entry["hit_rate"], np.float64), np.array(entry["slots"], np.float64)


def _free(entry: dict[str, Any]) -> bool:
    return bool(entry.get("first_free", False))


def _counted(entry: dict[str, Any], rates: Floats) -> Counted:
    slots = np.array(entry["slots"], np.float64)
    return Counted(entry["model"], entry["source"], *_shape(entry), slots, rates, entry["error"])
