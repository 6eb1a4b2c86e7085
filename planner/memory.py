"""What must be where, in bytes: weights of every token, KV cache, reserve, and what that leaves for experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry, dense_bytes, embedding_bytes, expert_bytes, output_bytes
from lrcsim.models.quantisation import bits_per_weight
from lrcsim.planner.engines import compute_buffers
from lrcsim.planner.shared_memory import shared
from lrcsim.simulator.setup.platform import DRAM_FOR_EXPERTS

RESERVE = 2**30
"""Bytes kept free on a GPU for the driver's context and the desktop: 1 GiB, an estimate (llama.cpp's own
``--fit-target`` leaves the same margin)."""

TENTH = 0.1
"""Share of the device below which what is left is called tight."""

SPARE = 5 * 2**28
"""Bytes of a card that released engines' placements leave free besides `RESERVE` and buffers, 1.25 GiB: what of a card
cannot be used (one of 8 GB reports 7.6 to 7.8 GiB), fragments, other programs. Chosen so that three settings of
``--n-cpu-moe`` that people published (27 of 36 layers on 24 GB, 36 of 48 and 16 of 27 on 8 GB) are not undercut."""

KV_DTYPES = ("bf16", "f16", "fp8", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Formats of the KV cache."""

Fit = Literal["gpu", "memory", "flash", "no"]
"""All experts where the model computes; with main memory; with flash below it; not at all."""


@dataclass(frozen=True)
class Memory:
    """An account of a machine's memory; all numbers are bytes.

    The *device* is where the model computes: GPU memory, or main memory on a machine with unified memory or no GPU.
    Main memory beside a GPU of its own holds the embedding (a token reads one row of it) and the routed experts that
    the GPU does not; for a cache that evicts all of them (``copies_all``). What it cannot hold stays on flash.

    Attributes:
        device: ``"GPU memory"`` or ``"main memory"``.
        total: of the device.
        dense: weights that every token uses: attention, routers, shared experts, dense layers, norms, output matrix.
        embedding: the embedding where it is not the output matrix (or lies beside it in other memory).
        kv: of one request at the full context.
        reserve: kept free on the device.
        layer_experts: of the routed experts of each MoE layer, all of them.
        slot: of one expert of each MoE layer.
        ram: of main memory beside the device; 0 where there is none.
        flash: whether there is flash to read experts from.
        spare: what released engines need besides on a GPU of its own, where some experts are not on it: buffers for
            prompts (`compute_buffers`) and `SPARE`; 0 where the reserve was given.
    """

    device: str
    total: int
    dense: int
    embedding: int
    kv: int
    reserve: int
    layer_experts: tuple[int, ...]
    slot: tuple[int, ...]
    ram: int
    flash: bool
    spare: int = 0

    @property
    def experts(self) -> int:
        """All routed experts."""
        return sum(self.layer_experts)

    @property
    def fixed(self) -> int:
        """What the device must hold besides routed experts: dense weights, KV cache, reserve.

        The embedding counts only where there is no main memory beside the device.
        """
        return self.dense + self.kv + self.reserve + (0 if self.ram else self.embedding)

    @property
    def budget(self) -> int:
        """What is left for routed experts on the device, at most all of them; negative where the rest does not fit."""
        return min(self.total - self.fixed, self.experts)

    @property
    def placed_budget(self) -> int:
        """What a released engine has for experts on the device: `budget`, less `spare` where not all of them fit."""
        return self.budget if self.budget >= self.experts else max(self.budget - self.spare, 0)

    @property
    def placed_in_memory(self) -> bool:
        """Whether main memory beside the device holds what a released engine does not place on it."""
        return self.experts - self.placed_budget <= self.ram_for_experts

    @property
    def left(self) -> int:
        """What is free on the device: beside all experts where they fit, else before any of them."""
        return self.total - self.fixed - (self.experts if self.fit == "gpu" else 0)

    @property
    def tight(self) -> bool:
        """Whether it fits, and by less than a tenth of the device."""
        return self.fit != "no" and self.left < TENTH * self.total

    @property
    def ram_for_experts(self) -> int:
        """What main memory beside the device has for experts: 90 % of it less the embedding, at most all of them."""
        return min(max(int(self.ram * DRAM_FOR_EXPERTS) - self.embedding, 0), self.experts)

    @property
    def copies_all(self) -> bool:
        """Whether main memory beside the device has room for all experts, also those that the device has."""
        return self.ram_for_experts >= self.experts

    @property
    def outside(self) -> int:
        """Experts that the device has no room for."""
        return self.experts - max(self.budget, 0)

    @property
    def on_flash(self) -> int:
        """Experts that neither the device nor main memory can hold: what is read from flash when it is used."""
        return max(self.outside - (self.ram_for_experts if self.ram else 0), 0)

    @property
    def fit(self) -> Fit:
        """How the model fits; see `Fit`. One layer's experts of a token need no room: they can run on the CPU."""
        if self.budget < 0:
            return "no"
        if self.budget >= self.experts:
            return "gpu"
        if self.on_flash == 0:
            return "memory"
        return "flash" if self.flash else "no"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; bytes."""
        return {
            "device": self.device,
            "total": self.total,
            "dense": self.dense,
            "embedding": self.embedding,
            "kv": self.kv,
            "reserve": self.reserve,
            "experts": self.experts,
            "left_for_experts": self.budget,
            "spare": self.spare,
            "left": self.left,
            "tight": self.tight,
            "share_of_experts": max(self.budget, 0) / self.experts,
            "main_memory": self.ram or None,
            "main_memory_for_experts": self.ram_for_experts if self.ram else None,
            "on_flash": self.on_flash,
            "fit": self.fit,
        }


def memory_of(
    geometry: Geometry,
    profile: HardwareProfile,
    dtype: str,
    context: int,
    *,
    kv_dtype: str = "f16",
    reserve: int | None = None,
    unused: int = 0,
) -> Memory:
    """Account for a model on a machine.

    Args:
        geometry: the model.
        profile: the machine.
        dtype: as the weights are stored (`lrcsim.models.dtype_names`).
        context: tokens of one request that the KV cache has room for.
        kv_dtype: one of `KV_DTYPES`.
        reserve: bytes kept free on the device; None: `RESERVE` with a GPU, without one a tenth of main memory.
        unused: bytes of the card besides the profile's (``--vram`` below its size): room for what `SPARE` is for. Who
            leaves `RESERVE` and more of the card unused says what may be used, and knows what the rest is for.

    Raises:
        ConfigError: dtype or kv_dtype is not known.
    """
    sizes = [int(size) for size in expert_bytes(geometry, dtype)]
    own = profile.gpu is not None and not profile.unified
    spare = 0
    if reserve is None and own and profile.gpu is not None:
        buffers = compute_buffers(geometry, geometry.experts * max(sizes), context)
        spare = max(0, buffers + SPARE - unused) if unused < RESERVE else 0
    if reserve is None:
        reserve = RESERVE if profile.gpu is not None else profile.dram.memory - int(
            profile.dram.memory * DRAM_FOR_EXPERTS
        )  # fmt: skip
    embedding = embedding_bytes(geometry, dtype)
    return Memory(
        device="main memory" if profile.gpu is None or profile.unified else "GPU memory",
        total=int(profile.dram.memory if profile.gpu is None else profile.gpu.memory),
        dense=int(dense_bytes(geometry, dtype).sum()) + output_bytes(geometry, dtype),
        embedding=0 if geometry.tied and not own else embedding,
        kv=kv_bytes(geometry, context, kv_dtype),
        reserve=reserve,
        layer_experts=tuple(geometry.experts * size for size in sizes),
        slot=tuple(sizes),
        ram=int(profile.dram.memory) if own else 0,
        flash=bool(profile.storage_links),
        spare=spare,
    )


def kv_bytes(geometry: Geometry, context: int, kv_dtype: str) -> int:
    """Return the bytes of one request's KV cache: `Geometry.kv_values` times the bits of ``kv_dtype``, scales included.

    Raises:
        ConfigError: it is none of `KV_DTYPES`.
    """
    if kv_dtype not in KV_DTYPES:
        raise ConfigError(
            f"--kv-dtype {kv_dtype!r} is no format of a KV cache, use {', '.join(KV_DTYPES)}"
            + did_you_mean(kv_dtype, KV_DTYPES)
        )
    return int(geometry.kv_values(context) * bits_per_weight(kv_dtype) / 8)


def with_memory(profile: HardwareProfile, vram: int | None, ram: int | None) -> HardwareProfile:
    """Return the machine with another size of GPU memory or main memory, bytes.

    Where GPU and CPU share one memory, ``ram`` is all of it, and the GPU has its share (`gpu_share`) unless ``vram``
    says how much. Room for the KV cache is set aside by the plan itself, so it does not shrink the cache besides.

    Raises:
        ConfigError: there is no GPU to give memory to, or it is to use more than is shared.
    """
    if profile.gpu is not None and profile.unified:
        return replace(shared(profile, vram, ram), kv_shared=False)
    if vram is not None:
        if profile.gpu is None:
            raise ConfigError(f"--vram: {profile.name} has no GPU: give --ram, or another machine")
        profile = replace(profile, gpu=replace(profile.gpu, memory=vram))
    if ram is not None:
        profile = replace(profile, dram=replace(profile.dram, memory=ram))
    return replace(profile, kv_shared=False)


def slots_of(budget: int, sizes: Sequence[int], experts: int) -> list[int]:
    """Divide bytes equally among layers, in whole experts, as ``--cache 4GiB`` in scope ``layer`` does.

    Args:
        budget: bytes in all.
        sizes: bytes of an expert of each layer.
        experts: of each layer, the most it can use.
    """
    return [min(max(budget, 0) // len(sizes) // size, experts) for size in sizes]
