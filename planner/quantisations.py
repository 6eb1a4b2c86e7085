"""Which quantisation: formats that people download a model in, how each fits, how fast a released engine runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.models.formats import GGUF
from lrcsim.models.quantisation import parse_dtype
from lrcsim.planner.engines import expert_format, has_eight_bits
from lrcsim.planner.memory import Fit, Memory
from lrcsim.planner.placed import placed_seconds
from lrcsim.planner.row_runtimes import runtime_for, standing
from lrcsim.planner.speed import Setup
from lrcsim.planner.strategies import ON_CPU, RESIDENT, cache_of
from lrcsim.runtimes import RuntimeDocument
from lrcsim.runtimes.machine_kinds import device_kind

IN_FILES = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k", "iq2_xxs")
"""GGUF files that are published of most models, finest first."""

USUAL = "q4_k_m"
"""What most people download: coarser formats are a last resort."""

EIGHT_BIT_REST = "mxfp4,attn=q8_0,output=q8_0,token_embd=q8_0"
"""GGUF files of gpt-oss keep the released experts, whatever they are called; the usual one has the rest in 8 bits."""

ON_METAL = ("int8-g64-bias", "int4-g64-bias")
"""MLX's, of 8 and 4 bits with its default group of 64."""

ON_CUDA = ("fp8", "int4-g128")
"""Checkpoints: of 8-bit floats, for cards that have them, and of GPTQ or AWQ."""

LARGER = 1.1
"""A format is left out that takes more than so many times what the release takes: it cannot be finer."""

ALIKE = 0.05
"""Formats whose weights differ by less than this share are equally fine: the faster one is taken."""


@dataclass(frozen=True)
class Quantisation:
    """A format, how it fits and how fast a released engine runs it.

    Attributes:
        dtype: its name.
        released: whether the model was released in it.
        weights: bytes of all weights.
        fit: how it fits (`lrcsim.planner.memory.Fit`).
        tight: whether by less than a tenth of the device.
        strategy: the fastest way that can be had: all resident, or some layers' experts on the CPU; None: none is.
        runtime: what that is worked out with; None as above.
        kind: whether that was held against measurements; None as above.
        tokens_per_s: of that; None as above.
    """

    dtype: str
    released: bool
    weights: int
    fit: Fit
    tight: bool
    strategy: str | None
    runtime: str | None
    kind: str | None
    tokens_per_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: bytes, tokens/s."""
        return asdict(self)

    @property
    def good(self) -> bool:
        """Whether a released engine runs it, and that was held against measurements."""
        return self.kind == "released"


def formats_to_try(geometry: Geometry, profile: HardwareProfile) -> list[str]:
    """Return the format of the release, then those that are published of it for engines on such a machine."""
    own = geometry.dtype
    if geometry.stored is not None or parse_dtype(own)[0] in GGUF or expert_format(geometry, own) in GGUF:
        return [own]  # a file that somebody has already chosen
    kind = device_kind(profile)
    names = [own, *IN_FILES]
    if kind == "metal":
        names += ON_METAL
    if kind.startswith("cuda"):
        names += ON_CUDA if has_eight_bits(profile) else ON_CUDA[1:]
    if expert_format(geometry, own) == "mxfp4":
        names = [own, EIGHT_BIT_REST]
    return list(dict.fromkeys(names))


def quantisations(
    geometry: Geometry,
    profile: HardwareProfile,
    memory: Callable[[str], Memory],
    context: float,
    runtime: RuntimeDocument | None = None,
) -> list[Quantisation]:
    """Return the formats, finest first: that of the release, and those that take no more than it does.

    Args:
        geometry: the model.
        profile: the machine.
        memory: gives the account of memory for a dtype.
        context: tokens that attention sees in the speeds.
        runtime: asked for by the user.
    """
    own = geometry.dtype
    most = LARGER * _weights(memory(own))
    found = []
    for dtype in formats_to_try(geometry, profile):
        account = memory(dtype)
        if dtype == own or _weights(account) <= most:
            found.append(_quantisation(geometry, profile, account, dtype, context, runtime))
    return sorted(found, key=lambda one: (-one.weights, not one.released))


def _weights(memory: Memory) -> int:
    return memory.dense + memory.embedding + memory.experts


def _quantisation(
    geometry: Geometry,
    profile: HardwareProfile,
    memory: Memory,
    dtype: str,
    context: float,
    runtime: RuntimeDocument | None,
) -> Quantisation:
    about = (dtype, dtype == geometry.dtype, _weights(memory), memory.fit, memory.tight)
    placed = memory.ram and memory.fit == "memory" and memory.placed_in_memory
    strategy = RESIDENT if memory.fit == "gpu" else ON_CPU if placed else None
    if strategy is None:
        return Quantisation(*about, None, None, None, None)
    claim = standing(strategy.name, geometry, profile, dtype, memory, runtime)
    if not claim.released and runtime is None:
        return Quantisation(*about, None, None, None, None)
    document = runtime_for(strategy.name, geometry, profile, dtype, runtime)
    slots = cache_of(strategy, memory.placed_budget, memory, geometry.experts)
    setup = Setup(profile, geometry, dtype, document.on(profile))
    seconds = placed_seconds(setup, [held == geometry.experts for held in slots], context)
    return Quantisation(*about, strategy.name, claim.runtime, claim.kind, 1 / seconds)


def choose(found: Sequence[Quantisation]) -> tuple[Quantisation, str]:
    """Return the format to plan with, and why.

    1. The finest that fits the device whole, with a tenth of it to spare, of those not coarser than `USUAL`; of formats
       that are as fine (`ALIKE`) the fastest.
    2. Else `USUAL`, or what is nearest to it of the finer ones (the release's own, if that is as fine), where it fits
       with main memory, or fits tightly.
    3. Else the finest of the coarser ones that fits.
    4. Else that of the release.

    Only formats count that a released engine runs at a speed that was held against measurements, where there is one.

    Args:
        found: finest first, as `quantisations` returns them.
    """
    usable = [one for one in found if one.good] or [one for one in found if one.tokens_per_s is not None]
    usual = next((one.weights for one in found if one.dtype == USUAL), 0)
    fine = [one for one in usable if one.weights >= usual or one.released]
    whole = [one for one in fine if one.fit == "gpu" and not one.tight]
    if whole:
        alike = [one for one in whole if one.weights >= (1 - ALIKE) * whole[0].weights]
        return max(alike, key=lambda one: one.tokens_per_s or 0), "the finest that fits whole with a tenth to spare"
    if fine:
        alike = [one for one in fine if (1 - ALIKE) * one.weights <= fine[-1].weights]
        return next((one for one in alike if one.released), fine[-1]), f"the smallest that is not coarser than {USUAL}"
    if usable:
        return usable[0], f"the finest that fits: {USUAL} does not"
    released = next(one for one in found if one.released)
    return released, "as released: nothing smaller fits"
