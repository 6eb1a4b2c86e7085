"""Published speeds at known hit rates, read from published.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Sweep:
    """One machine and model at several cache sizes.

    Attributes:
        name: short.
        source: who measured, and what is known of it.
        model: geometry.
        dtype: how the weights were stored.
        base: hardware profile to start from, with overrides.
        overrides: what is published of the machine.
        experts: experts per layer that the cache holds, at each point.
        hit_rate: at each point.
        tokens_per_s: at each point.
        fit: numbers that are fitted.
    """

    name: str
    source: str
    model: str
    dtype: str
    base: str
    overrides: Sequence[str]
    experts: Sequence[float]
    hit_rate: Sequence[float]
    tokens_per_s: Sequence[float]
    fit: Sequence[str]


@dataclass(frozen=True)
class Offloaded:
    """Tokens/s of one machine in three settings: LRU and prefetch, LRU alone, neither. ``link``: assumed component."""

    machine: str
    link: str
    slots: int
    full: float
    no_prefetch: float
    no_cache: float


_TEXT = resources.files("lrcsim.experiments.validation.published_sweeps").joinpath("published.toml").read_text("utf-8")
_READ = tomllib.loads(_TEXT)
SWEEPS = tuple(Sweep(**values) for values in _READ["sweeps"])
(SINGLE,) = (Sweep(**values) for values in _READ["single"])
MIXTRAL = tuple(Offloaded(**values) for values in _READ["mixtral"])
