"""Experts below main memory: two stages in a row, as one of the rate that they have together.

Main memory beside a GPU is then a cache too, LRU over flash, which has a copy of what the GPU has. Of the experts that
the GPU misses it misses the share

    f = (1 - H(C_ram)) / (1 - H_p(C_gpu)),  at most 1

where H is LRU's hit rate, and H_p that of the GPU's policy, at the experts per layer that each has room for; main
memory that holds no more than the GPU is of no use. Of the N misses of a layer-step, M come from flash one after the
other, and go on to the second stage (the link, or the CPU that computes them) as they arrive. The step waits for the
slower stage, and for the last expert's second leg. In units of an expert's bytes a miss takes

    1 / B = E[max(N / B_second, M / B_flash + (1 if M else 0) / B_second)] / E[N]

with N binomial of k experts that miss independently, and M binomial of N. The event engine has this chain in full
(``lrcsim run --dram``), and takes minutes for a plan; this is 0 to 17 % faster than that in the cases of the tests.
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import HardwareProfile

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
    return min((1 - at(lru, below)) / misses, 1.0) if misses > 0 else 0.0


def at(curve: Floats, size: float) -> float:
    """Return a curve's value between its points."""
    return float(np.interp(size, np.arange(len(curve)), curve))


def joint_rate(second: float, flash: float, top_k: int, misses: float, share: float) -> float:
    """Return B, bytes/s: what flash and the stage after it have together.

    Args:
        second: bytes/s of the stage after flash.
        flash: bytes/s of flash.
        top_k: experts per token.
        misses: probability that one of them misses.
        share: f, probability that a miss comes from flash.
    """
    if misses <= 0:
        return second
    expected = 0.0
    for missed in range(1, top_k + 1):
        for read in range(missed + 1):
            chance = _binomial(top_k, missed, misses) * _binomial(missed, read, share)
            expected += chance * max(missed / second, read / flash + (read > 0) / second)
    return top_k * misses / expected


def chained(profile: HardwareProfile, top_k: int, misses: float, share: float) -> HardwareProfile:
    """Return the machine with link and CPU as slow as flash makes them.

    Args:
        profile: a machine with a GPU of its own, and flash.
        top_k: experts per token.
        misses: miss rate of the GPU's cache; 1 for experts that run on the CPU.
        share: f, of misses that come from flash.

    Raises:
        ConfigError: it has no flash.
    """
    link, below = profile.device_link, profile.storage_links
    if link is None or not below:
        raise ConfigError(f"{profile.name} has no flash below a GPU's link")

    def joint(second: float) -> float:
        return joint_rate(second, min(flash.bandwidth for flash in below), top_k, misses, share)

    late = link.latency + share * sum(flash.latency for flash in below)
    slower = profile.with_part("cpu", bandwidth=joint(profile.cpu.bandwidth))
    return slower.with_part(link.name, bandwidth=joint(link.bandwidth), latency=late)


def _binomial(draws: int, count: int, chance: float) -> float:
    return float(comb(draws, count) * chance**count * (1 - chance) ** (draws - count))
