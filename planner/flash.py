"""Experts below main memory: two links in a row, as one of the rate that they have together.

Main memory beside a GPU is then a cache too, LRU over flash, which has a copy of what the GPU has. Of the experts that the
GPU misses it misses the share

    f = (1 - H(C_ram)) / (1 - H_p(C_gpu)),  at most 1

where H is LRU's hit rate, and H_p that of the GPU's policy, at the experts per layer that each has room for; main memory
that holds no more than the GPU is of no use. Of the n misses of a layer-step, f n come from flash one after the other, and go over the second link as they arrive, so
that the step waits for the slower of both, and for one expert's second leg. A miss then takes, per byte,

    1 / B = max(1 / B_link, f / B_flash + 1 / (n B_link))

The event engine has this chain in full (``lrcsim run --dram``); tests hold the two within 10 %. Here its cost would be
minutes. Experts on the CPU are read before they are computed: 1 / B = 1 / B_cpu + f / B_flash, f of main memory alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError
from lrcsim.hardware import HardwareProfile

__all__ = ["at", "chained", "flash_share"]

Floats = npt.NDArray[np.float64]


def flash_share(lru: Floats, misses: float, above: float, below: float) -> float:
    """Return f: of what the GPU misses, what main memory misses too.

    Args:
        lru: float64 [E + 1], LRU's hit rate at 0 .. E experts per layer.
        misses: miss rate of the GPU's cache; 1 for experts that run on the CPU.
        above: experts per layer on the GPU; 0 for experts that run on the CPU.
        below: experts per layer in main memory.
    """
    if below <= above:
        return 1.0
    missed = 1 - at(lru, below)
    return min(missed / misses, 1.0) if misses > 0 else 0.0


def at(curve: Floats, size: float) -> float:
    """Return a curve's value between its points."""
    return float(np.interp(size, np.arange(len(curve)), curve))


def chained(profile: HardwareProfile, share: float, misses: float) -> HardwareProfile:
    """Return the machine with link and CPU as slow as flash makes them.

    Args:
        profile: a machine with a GPU of its own, and flash.
        share: f, of misses that come from flash.
        misses: n, per layer-step, at least 1.

    Raises:
        ConfigError: it has no flash.
    """
    if profile.nvme is None or profile.pcie is None:
        raise ConfigError(f"{profile.name} has no flash below a GPU's link")
    link, flash = profile.pcie.bandwidth, profile.nvme.bandwidth
    per_byte = max(1 / link, share / flash + 1 / (max(misses, 1.0) * link))
    cpu = 1 / (1 / profile.cpu.bandwidth + share / flash)
    return replace(
        profile,
        pcie=replace(profile.pcie, bandwidth=1 / per_byte, latency=profile.pcie.latency + share * profile.nvme.latency),
        cpu=replace(profile.cpu, bandwidth=cpu),
    )
