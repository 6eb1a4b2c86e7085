"""What other sizes of memory and faster parts would give: the knee, and upgrades."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lrcsim.hardware import HardwareProfile, Link
from lrcsim.planner.memory import Memory
from lrcsim.runtimes.machine_kinds import cpu_class

STANDARD_GIB = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 141, 192, 288)
"""Sizes that GPUs are sold with."""

MOST_SIZES = 8
LEAST_BEND = 0.03
"""A curve bends if some point is above the straight line between its ends by this share of what it gains in all."""


def knee_of(amounts: Sequence[float], speeds: Sequence[float]) -> int | None:
    """Return the index from which on more memory buys less than on average up to the end; None: there is no such.

    The point farthest above the line from the first point to the last (Satopaa et al., "Finding a kneedle in a
    haystack", ICDCS workshops 2011, without smoothing), if it is above by `LEAST_BEND` of the whole gain.

    Args:
        amounts: ascending.
        speeds: at each.
    """
    gained = speeds[-1] - speeds[0]
    if len(amounts) < 3 or gained <= 0:
        return None
    slope = gained / (amounts[-1] - amounts[0])
    above = [speed - speeds[0] - slope * (amount - amounts[0]) for amount, speed in zip(amounts, speeds, strict=True)]
    best = max(range(len(above)), key=lambda i: above[i])
    return best if above[best] > LEAST_BEND * gained else None


def sizes_to_show(memory: Memory) -> list[int]:
    """Return sizes of the device's memory for a table, bytes, ascending: the machine's own among them.

    From the least standard size that holds what must be there to the first that holds all experts.
    """
    full = memory.fixed + memory.experts
    found = {memory.total}
    for gib in STANDARD_GIB:
        size = gib * 2**30
        if size >= memory.fixed:
            found.add(size)
        if size >= full:
            break
    ordered = sorted(size for size in found if size >= memory.fixed)
    while len(ordered) > MOST_SIZES:  # leave out the one that is nearest to its neighbours
        inner = [i for i in range(1, len(ordered) - 1) if ordered[i] != memory.total]
        ordered.pop(min(inner, key=lambda i: ordered[i + 1] / ordered[i - 1]))
    return ordered


@dataclass(frozen=True)
class Upgrade:
    """A change to the machine.

    Attributes:
        name: for people.
        profile: the machine with it.
    """

    name: str
    profile: HardwareProfile


def upgrades(profile: HardwareProfile, memory: Memory) -> list[Upgrade]:
    """Return the upgrades to try: the next size of GPU memory, links and memories twice as fast, main memory for all.

    Prices are left to the reader. A faster link is a later generation or more lanes; with twice the bandwidth of main
    memory the CPU computes experts as much faster, and stays of its class: more channels of another class's processor
    would be another machine, of which engines may reach a smaller share.
    """
    found: list[Upgrade] = []
    if profile.gpu is not None and memory.fit != "gpu":
        larger = [gib for gib in STANDARD_GIB if gib * 2**30 > memory.total * 1.05][:2]
        for gib in larger:
            grown = replace(profile, gpu=replace(profile.gpu, memory=gib * 2**30))
            found.append(Upgrade(f"{gib} GiB of {memory.device}", grown))
    if memory.fit in ("memory", "flash") and memory.ram and not memory.copies_all:
        need = int((memory.experts + memory.embedding) / 0.9) + 1
        gib = next(
            (size for size in (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048) if size * 2**30 >= need), 0
        )
        if gib:
            grown = replace(profile, dram=replace(profile.dram, memory=gib * 2**30))
            found.append(Upgrade(f"{gib} GiB of main memory", grown))
    if profile.device_link is not None and memory.fit != "gpu":
        found.append(Upgrade(f"{profile.device_link.name} twice as fast", _faster(profile, [profile.device_link])))
    if profile.storage_links and memory.fit == "flash":
        found.append(Upgrade("flash twice as fast", _faster(profile, profile.storage_links)))
    if profile.gpu is None or (memory.ram and memory.fit != "gpu"):
        found.append(
            Upgrade(
                "main memory and CPU twice as fast",
                replace(
                    profile,
                    dram=replace(profile.dram, bandwidth=2 * profile.dram.bandwidth),
                    cpu=replace(
                        profile.cpu,
                        bandwidth=2 * profile.cpu.bandwidth,
                        compute=2 * profile.cpu.compute,
                        kind=cpu_class(profile),
                    ),
                ),
            )
        )
    if profile.gpu is not None:
        gpu = replace(profile.gpu, bandwidth=2 * profile.gpu.bandwidth)
        faster_dram = replace(profile.dram, bandwidth=(2 if profile.unified else 1) * profile.dram.bandwidth)
        name = "memory twice as fast" if profile.unified else "GPU memory twice as fast"
        found.append(Upgrade(name, replace(profile, gpu=gpu, dram=faster_dram)))
    return found


def _faster(profile: HardwareProfile, links: Iterable[Link]) -> HardwareProfile:
    """Return the machine with links of twice the bandwidth."""
    for link in links:
        profile = profile.with_part(link.name, bandwidth=2 * link.bandwidth)
    return profile


def marginal(amounts: Sequence[int], speeds: Sequence[float]) -> list[float | None]:
    """Return tokens/s per GiB from each size to the next; None for the last."""
    steps: list[float | None] = [
        (speeds[i + 1] - speeds[i]) / ((amounts[i + 1] - amounts[i]) / 2**30) for i in range(len(amounts) - 1)
    ]
    return [*steps, None]


def to_gib(amount: int) -> float:
    """Return bytes in GiB."""
    return amount / 2**30
