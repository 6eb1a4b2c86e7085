"""How much of a memory that GPU and CPU share the GPU may use."""

from __future__ import annotations

from dataclasses import replace

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import HardwareProfile
from lrcsim.hardware.gpus import MACOS_SMALL

SET = "set by the user"
"""What `load_profile` writes as the source of an override."""


def gpu_share(profile: HardwareProfile, total: int) -> int:
    """Return the bytes that the GPU may use of ``total`` bytes of shared memory, by default of the system.

    On a Mac by macOS' rule (`MACOS_SMALL`; ``sysctl iogpu.wired_limit_mb`` raises it: then give --vram); else the same
    share as in the profile: 56 of 64 GiB is seven eighths.
    """
    assert profile.gpu is not None
    if "apple" in f"{profile.name} {profile.description}".lower():
        return total * 2 // 3 if total <= MACOS_SMALL else total * 3 // 4
    return int(total * min(profile.gpu.memory / profile.dram.memory, 1.0))


def shared(profile: HardwareProfile, gpu: int | None = None, total: int | None = None) -> HardwareProfile:
    """Return a machine with unified memory of another size, its GPU with no more than it may use of that.

    Args:
        profile: the machine.
        gpu: bytes that the GPU may use; None: the system's default.
        total: bytes of memory; None: the profile's.

    Raises:
        ConfigError: the GPU is to use more than there is.
    """
    assert profile.gpu is not None
    size = profile.dram.memory if total is None else total
    if gpu is not None and gpu > size:
        raise ConfigError(
            f"--vram {gpu / 2**30:g}GiB is more than the {size / 2**30:g} GiB that {profile.name}'s GPU and CPU share: "
            "give at most that, or more --ram"
        )
    if gpu is None:
        gpu = min(profile.gpu.memory, size)
        changed = total is not None or profile.sources.get("dram.memory") == SET
        if changed and profile.sources.get("gpu.memory") != SET:
            gpu = gpu_share(profile, size)
    return replace(profile, gpu=replace(profile.gpu, memory=gpu), dram=replace(profile.dram, memory=size))
