"""The command lines of llama.cpp's own cache of experts on the GPU.

Read from its sources (``src/llama-moe-cache.cpp``, ``common/arg.cpp`` of build 11549) and from ``docs/moe-cache.md`` of
build b12191; docs/runtimes.md says what the cache does.
"""

from __future__ import annotations

from dataclasses import dataclass

from lrcsim.hardware import HardwareProfile
from lrcsim.planner.row_runtimes import CACHES
from lrcsim.runtimes import load_runtime
from lrcsim.runtimes.machine_under import machine_under

FIRST, OFTEN, SPLIT = "b11480", "b12170", "b12191"
"""The builds from which on there is ``--moe-cache-mib``, with LRU; another eviction; ``--moe-cache-cpu-share``."""


@dataclass(frozen=True)
class CacheRoom:
    """What the cache has on a machine.

    Attributes:
        size: bytes for experts.
        slots: experts of each MoE layer that it has room for, the least of all layers.
        cpu_share: of the misses, what the CPU computes in the row ``lru-split``, 0 to 1.
    """

    size: int
    slots: int
    cpu_share: float


def cpu_share(profile: HardwareProfile) -> float:
    """Return the share of the misses that the CPU computes where link and CPU take equally long, 0 to 1.

    B_cpu / (B_link + B_cpu), what ``--miss split`` leaves to the CPU, of the machine under this runtime.

    Args:
        profile: a machine that the cache runs on.
    """
    machine = machine_under(profile, load_runtime(CACHES).on(profile))
    link = min(link.bandwidth for link in machine.load_links)
    return machine.cpu.bandwidth / (link + machine.cpu.bandwidth)


def cache_flags(strategy: str, room: CacheRoom, top_k: int) -> tuple[str, tuple[str, ...]]:
    """Return what a command line says besides model, context and KV cache, and what to know about it.

    Args:
        strategy: ``"lru"`` or ``"lru-split"``.
        room: what it has.
        top_k: routed experts per token.

    Returns:
        The flags, empty where the cache has no use; notes.
    """
    if room.slots < max(top_k, 1):
        return "", (
            f"{strategy}: no command, as LRU over all layers in turn never hits with less room than {top_k} experts a "
            "layer",
        )
    flags = f"--cpu-moe -lm none --moe-cache-mib {room.size // 2**20}"
    held = "held against one published speed: a bound (lrcsim runtimes llama.cpp-cache)"
    if strategy == "lru-split":
        return f"{flags} --moe-cache-cpu-share {room.cpu_share:.2f}", (
            f"{strategy}, build {SPLIT} and later; the share is that of the bandwidths of CPU and link: "
            "scripts/moe-cache-tune.py of llama.cpp finds it by timing yours",
            held,
        )
    return flags, (
        f"{strategy}, build {FIRST} and later; from {OFTEN} on it also weighs how often an expert was used",
        "one pool for all layers; prompts go past it; -lm none pins experts, which load faster than files mapped into "
        "memory",
        held,
    )
