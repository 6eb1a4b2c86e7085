"""What to do with an expert that is needed and not resident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lrcsim.errors import ConfigError, did_you_mean
from lrcsim.hardware import HardwareProfile
from lrcsim.hierarchy.work import Work

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
        decide: from the misses of a layer-step, in batch order, and the layer-step, to a `Decision`.
        needs_weights: whether it looks at router weights.
        fraction: bytes of a low-precision copy over those of the expert.
        share: of the misses that is loaded while the rest runs on the CPU; None for rules of another kind.
    """

    name: str
    decide: Callable[[list[int], Work], Decision]
    needs_weights: bool = False
    fraction: float = 1.0
    share: float | None = None


ACTIONS = {
    "load": "load every miss (default)",
    "cpu": "run misses on the CPU; nothing is loaded but what the policy loads of itself (Fiddler, ktransformers)",
    "split": "load a share of the misses, the rest runs on the CPU; split:0.4, by default q* = link / (link + cpu)",
    "skip": "leave out misses whose router weight is below a threshold, skip:0.1; load the rest",
    "substitute": "use the resident expert used last in place of such misses, substitute:0.1; load the rest",
    "low": "load a copy of low precision of such misses, used once: low:0.1 or low:0.1,0.25 (its share of the bytes)",
}
"""Names and what they do."""


def make_action(spec: str, profile: HardwareProfile) -> MissAction:
    """Make a miss action of a name with its parameter (`ACTIONS`).

    The share loaded by ``split`` is q* = B_link / (B_link + B_cpu), where both take equally long: FreeToken
    (reference in docs/hierarchy.md); the misses used by most tokens are loaded, rounded to the nearest number.

    Raises:
        ConfigError: there is no such action, or its parameter is no number in range.
    """
    name, _, rest = spec.partition(":")
    if name not in ACTIONS:
        raise ConfigError(f"miss action {name!r} is not known, use {', '.join(ACTIONS)}{did_you_mean(name, ACTIONS)}")
    if name in ("load", "cpu"):
        if rest:
            raise ConfigError(f"miss action {name!r} takes no parameter, given {rest!r}")
        if name == "load":
            return MissAction(spec, lambda missed, _: Decision(load=missed), share=1.0)
        return MissAction(spec, lambda missed, _: Decision(cpu=missed), share=0.0)
    if name == "split":
        link = profile.pcie or profile.nvme
        share = (
            _number(spec, rest) if rest else 1.0 if link is None else _balance(link.bandwidth, profile.cpu.bandwidth)
        )
        return MissAction(f"split:{share:.4g}", lambda missed, work: _split(missed, work, share), share=share)
    first, _, second = rest.partition(",")
    if second and name != "low":
        raise ConfigError(f"miss action {name!r} takes one parameter, the threshold, given {rest!r}")
    threshold = _number(spec, first) if first else 0.1
    fraction = _number(spec, second) if second else 0.25
    label = f"{name}:{threshold:g}" + (f",{fraction:g}" if name == "low" else "")

    def below(missed: list[int], work: Work) -> Decision:
        assert work.weights is not None  # the caller has refused a trace without
        weight = dict(zip(work.keys, work.weights, strict=True))
        light = [key for key in missed if weight[key] < threshold]
        return Decision(load=[key for key in missed if weight[key] >= threshold], **{name: light})

    return MissAction(label, below, needs_weights=True, fraction=fraction)


def _balance(link: float, cpu: float) -> float:
    return link / (link + cpu)


def _split(missed: list[int], work: Work, share: float) -> Decision:
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
