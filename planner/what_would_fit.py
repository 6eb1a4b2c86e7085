"""What would fit, where a model does not: a shorter context, a smaller dtype, another machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lrcsim.hardware import HardwareProfile, load_profile, profile_names
from lrcsim.models import Geometry
from lrcsim.models.quantisation import bits_per_weight, mean_bits
from lrcsim.planner.memory import Fit, memory_of
from lrcsim.simulator.setup.platform import DRAM_FOR_EXPERTS

SMALLER = ("bf16", "fp8", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "iq3_xxs", "q2_k", "iq2_xxs", "iq1_s")
"""Formats to try, largest first."""

GOOD: tuple[Fit, ...] = ("gpu", "memory")


@dataclass(frozen=True)
class Remedies:
    """Changes each of which makes the model fit GPU and main memory; the two sizes of memory are one change.

    Attributes:
        context: the longest context that fits, tokens, in steps of 1,024; None: none does.
        dtype: the largest smaller format that fits; None: none does.
        machines: built-in profiles that fit as it is.
        device_bytes: memory that the device must have at least, with ``main_memory_bytes``; None: it has it.
        main_memory_bytes: main memory that is needed beside the device; None: it is there, or is the device.
    """

    context: int | None
    dtype: str | None
    machines: tuple[str, ...]
    device_bytes: int | None
    main_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "machines": list(self.machines)}


def remedies(
    geometry: Geometry, profile: HardwareProfile, dtype: str, context: int, kv_dtype: str, reserve: int | None
) -> Remedies:
    """Look for what would fit."""

    def fits(profile: HardwareProfile, dtype: str, context: int) -> bool:
        return memory_of(geometry, profile, dtype, context, kv_dtype=kv_dtype, reserve=reserve).fit in GOOD

    now = memory_of(geometry, profile, dtype, context, kv_dtype=kv_dtype, reserve=reserve)
    steps = range(context // 1024, 0, -1)
    shorter = next((step * 1024 for step in steps if fits(profile, dtype, step * 1024)), None)
    base = mean_bits(geometry, dtype)
    smaller = next((name for name in SMALLER if bits_per_weight(name) < base and fits(profile, name, context)), None)
    machines = tuple(name for name in profile_names() if fits(load_profile(name), dtype, context))
    device = now.fixed if now.ram else now.fixed + now.experts
    main = int((now.outside + now.embedding) / DRAM_FOR_EXPERTS) + 1
    return Remedies(
        shorter,
        smaller,
        machines,
        device if device > now.total else None,
        main if now.ram and now.on_flash else None,
    )
