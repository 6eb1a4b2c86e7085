"""What to do with an expert that is needed and not resident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware import HardwareProfile
from lrcsim.simulator.serving.steps import LayerStep

__all__ = ["ACTIONS", "Decision", "MissAction", "make_action"]


@dataclass(slots=True)
class Decision:
    """What happens to the misses of one layer-step; each key is in one list.

    Attributes:
        load: brought to the GPU, into the cache.
        cpu: run on the CPU, not loaded.
        skip: left out of the layer's sum.
        substitute: replaced by a resident expert of the layer.
        low: brought as a copy of low precision, used once.
    """

    load: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)
    skip: list[int] = field(default_factory=list)
    substitute: list[int] = field(default_factory=list)
    low: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class MissAction:
    """A rule for misses.

    Attributes:
        name: as users write it, with its parameter.
        decide: from the misses of a layer-step, in batch order, the layer-step, and a function that counts the layer's
            residents before it, to a `Decision`.
        needs_weights: whether it looks at router weights (`LayerStep.uses`).
        fraction: bytes of a low-precision copy over those of the expert.
        share: of the misses that is loaded while the rest runs on the CPU; None for rules of another kind.
    """

    name: str
    decide: Callable[[list[int], LayerStep, Callable[[], int]], Decision]
    needs_weights: bool = False
    fraction: float = 1.0
    share: float | None = None

    def low_bytes(self, size: int) -> int:
        """Return the bytes of a low-precision copy of an expert of ``size`` bytes."""
        return max(round(size * self.fraction), 1)


ACTIONS = {
    "load": "load every miss (default)",
    "cpu": "run misses on the CPU; nothing is loaded but what the policy loads of itself (Fiddler, ktransformers)",
    "split": "load a share of the misses, the rest runs on the CPU; split:0.4, by default q* = link / (link + cpu)",
    "skip": "leave out misses that have less than a share of the router weight of each token that uses them, skip:0.1, "
    "but never a token's first expert (skip:0.1,keep=0 allows that, keep=2 spares two); load the rest",
    "substitute": "in place of such misses use residents that the token does not use, substitute:0.1; load the rest",
    "low": "load a copy of low precision of such misses, used once: low:0.1 or low:0.1,0.25 (its share of the bytes)",
}
"""Names and what they do."""

ROUNDING = 1e-6
"""A share that is short of the threshold by less than this equals it: weights are stored in few digits."""

KEEP = 1
"""Of each token so many experts, heaviest first, are never given up unless the user says otherwise."""


def make_action(spec: str, profile: HardwareProfile) -> MissAction:
    """Make a miss action of a name with its parameters (`ACTIONS`).

    The share loaded by ``split`` is q* = B_link / (B_link + B_cpu), where both take equally long: FreeToken
    (reference in docs/hierarchy.md); the misses used by most tokens are loaded, rounded to the nearest number.

    Raises:
        ConfigError: there is no such action, or a parameter is no number in range.
    """
    name, _, rest = spec.partition(":")
    if name not in ACTIONS:
        raise ConfigError(f"miss action {name!r} is not known, use {', '.join(ACTIONS)}{did_you_mean(name, ACTIONS)}")
    if name in ("load", "cpu"):
        if rest:
            raise ConfigError(f"miss action {name!r} takes no parameter, given {rest!r}")
        if name == "load":
            return MissAction(spec, lambda missed, *_: Decision(load=missed), share=1.0)
        return MissAction(spec, lambda missed, *_: Decision(cpu=missed), share=0.0)
    if name == "split":
        link = profile.pcie or profile.nvme
        share = (
            _number(spec, rest) if rest else 1.0 if link is None else _balance(link.bandwidth, profile.cpu.bandwidth)
        )
        return MissAction(f"split:{share:.4g}", lambda missed, work, _: _split(missed, work, share), share=share)
    return _lossy(spec, name, rest)


def _lossy(spec: str, name: str, rest: str) -> MissAction:
    """Make ``skip``, ``substitute`` or ``low`` of ``threshold[,fraction][,keep=N]``."""
    numbers, keep, kept = [], KEEP, False
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals:
            numbers.append(part)
        elif key.strip() == "keep":
            if kept:
                raise ConfigError(f"miss action {spec!r} says keep twice")
            keep, kept = _count(spec, value), True
        else:
            raise ConfigError(
                f"miss action {spec!r}: there is no option {key.strip()!r}, only keep=N{did_you_mean(key, ['keep'])}"
            )
    if len(numbers) > (2 if name == "low" else 1):
        takes = "two numbers, threshold and share of the bytes" if name == "low" else "one parameter, the threshold"
        raise ConfigError(f"miss action {name!r} takes {takes}, given {rest!r}")
    threshold = _number(spec, numbers[0]) if numbers else 0.1
    fraction = _number(spec, numbers[1]) if len(numbers) > 1 else 0.25
    label = f"{name}:{threshold:g}" + (f",{fraction:g}" if name == "low" else "")
    label += "" if keep == KEEP else f",keep={keep}"

    def decide(missed: list[int], work: LayerStep, residents: Callable[[], int]) -> Decision:
        needed = _needed(work, threshold, keep)
        if name == "substitute":
            needed |= _not_replaceable(missed, work, residents(), needed)
        light = [key for key in missed if key not in needed]
        return Decision(load=[key for key in missed if key in needed], **{name: light})

    return MissAction(label, decide, needs_weights=True, fraction=fraction)


def _needed(work: LayerStep, threshold: float, keep: int) -> set[int]:
    """Return the experts that some token of a layer-step needs: with enough weight, or among its first ``keep``."""
    uses = work.uses
    assert uses is not None  # the caller has refused a trace without weights
    needs = (uses.share >= threshold - ROUNDING) | (uses.order < keep)
    return {work.keys[place] for place in uses.place[needs].tolist()}


def _not_replaceable(missed: list[int], work: LayerStep, residents: int, needed: set[int]) -> set[int]:
    """Return the misses that must be loaded because the residents that could stand in for them have run out.

    A token's stand-ins are residents of the layer that it does not use; several tokens may use the same one. A token
    that has more experts to replace than stand-ins replaces its lightest, and the heavier ones are loaded. Each token
    decides for itself, so the order of tokens does not matter.
    """
    uses, gone = work.uses, set(missed)
    assert uses is not None
    hit = np.array([key not in gone for key in work.keys])[uses.place]
    light = np.array([key in gone and key not in needed for key in work.keys])[uses.place]
    wanted = np.bincount(uses.token[light], minlength=uses.tokens)
    free = residents - np.bincount(uses.token[hit], minlength=uses.tokens)
    loaded: set[int] = set()
    for token in np.flatnonzero(wanted > free).tolist():
        mine = np.flatnonzero(light & (uses.token == token))
        heaviest = mine[np.argsort(uses.order[mine])][: int(wanted[token] - free[token])]
        loaded.update(work.keys[place] for place in uses.place[heaviest].tolist())
    return loaded


def _balance(link: float, cpu: float) -> float:
    return link / (link + cpu)


def _split(missed: list[int], work: LayerStep, share: float) -> Decision:
    loads = int(share * len(missed) + 0.5)
    ranked = missed
    if work.tokens is not None:
        used_by = dict(zip(work.keys, work.tokens, strict=True))
        ranked = sorted(missed, key=lambda key: -used_by[key])
    load = set(ranked[:loads])
    return Decision(load=[key for key in missed if key in load], cpu=[key for key in missed if key not in load])


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
