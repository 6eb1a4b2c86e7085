"""Parts whose numbers are arithmetic on their name: main memory by type, rate and channels, PCI Express by its lanes.

``ddr5-5600-2ch``, ``lpddr5x-8533-256bit``, with another size than the usual ``ddr5-5600-2ch-96gb``; ``pcie4-x16``.
"""

from __future__ import annotations

import re

from lrcsim.hardware.document import Entry, Flat

MODULES = re.compile(r"(?P<kind>ddr[45])-(?P<rate>\d{4,5})-(?P<channels>[1-9]\d?)ch(?:-(?P<size>[1-9]\d{0,4})gb)?")
SOLDERED = re.compile(
    r"(?P<kind>lpddr(?:4x?|5x?))-(?P<rate>\d{4,5})-(?P<bits>[1-9]\d{1,3})bit(?:-(?P<size>[1-9]\d{0,4})gb)?"
)
RATES = {"ddr4": (1600, 5333), "ddr5": (3200, 12000), "lpddr": (1600, 14400)}
"""MT/s that kinds of memory are sold with, overclocked ones included."""

MOST_CHANNELS = 24
"""Of main memory: two sockets of twelve."""

FEW = 4
"""Up to so many channels a desktop or a workstation reaches the larger share."""

SHARES = {"ddr4": (85, 80), "ddr5": (82, 78), "lpddr": (80, 80)}
"""Percent of the theoretical bandwidth that cores reach that stream reads, with few channels, with more; estimates."""

SIZES = {
    "ddr4": {1: 16, 2: 32, 4: 64, 8: 256, 16: 512},
    "ddr5": {1: 32, 2: 64, 4: 128, 8: 512, 12: 768, 24: 1536},
}
"""GiB of a common configuration by channels; between these the next smaller."""

SOLDERED_SIZES = {"lpddr4x": {64: 8}, "lpddr5": {64: 12, 128: 16, 256: 64}, "lpddr5x": {64: 12, 128: 32, 256: 128}}
"""GiB by bits of the bus."""

COMMON_MEMORY = (
    "ddr4-2666-2ch", "ddr4-2666-4ch", "ddr4-2666-8ch", "ddr4-3200-2ch", "ddr4-3200-4ch", "ddr4-3200-8ch",
    "ddr5-4800-2ch", "ddr5-4800-4ch", "ddr5-4800-8ch", "ddr5-4800-12ch", "ddr5-5600-2ch", "ddr5-5600-4ch",
    "ddr5-5600-8ch", "ddr5-6000-2ch", "ddr5-6400-2ch", "ddr5-6400-8ch", "ddr5-6400-12ch", "lpddr4x-4266-64bit",
    "lpddr5-6400-64bit", "lpddr5-6400-128bit", "lpddr5-6400-256bit", "lpddr5x-8533-64bit", "lpddr5x-8533-128bit",
    "lpddr5x-8533-256bit",
)  # fmt: skip
"""Names to list; any other that the rule makes is as good."""

PCIE = re.compile(r"pcie([345])-x(1|2|4|8|16)")
PCIE_RATES = {3: 8, 4: 16, 5: 32}
"""GT/s of a lane by generation (PCI-SIG base specifications); 128 of 130 bits are data."""

PCIE_SHARES = {3: 80, 4: 82, 5: 84}
"""Percent of the theoretical bandwidth, typical of large copies from pinned memory by generation; estimates."""

PCIE_NAMES = tuple(f"pcie{generation}-x{lanes}" for generation in PCIE_RATES for lanes in (4, 8, 16))
"""Names to list; one lane and two are links as well."""


def memory_by_rule(name: str) -> Flat | None:
    """Return main memory's entries: theoretical bandwidth = rate x bytes of the bus (JEDEC), times its kind's share.

    Args:
        name: as ``ddr4-3200-2ch``: MT/s, channels of 64 bits; ``lpddr5x-8533-256bit``: bits of the whole bus; GiB may
            follow, ``-96gb``.

    Returns:
        None: the name is none of main memory, or of a rate or a number of channels that there is not.
    """
    found = MODULES.fullmatch(name) or SOLDERED.fullmatch(name)
    if found is None:
        return None
    kind, rate = found["kind"], int(found["rate"])
    family = "lpddr" if kind.startswith("lpddr") else kind
    low, high = RATES[family]
    if not low <= rate <= high:
        return None
    few, many = SHARES[family]
    extra: Flat = {}
    if family == "lpddr":
        bits = int(found["bits"])
        share, each, what = few, rate * bits / 8e3, f"{rate} MT/s x {bits} bits"
        size = _usual(SOLDERED_SIZES.get(kind, {64: 8}), bits)
    else:
        channels = int(found["channels"])
        if channels > MOST_CHANNELS:
            return None
        share, each = few if channels <= FEW else many, rate * 8 * channels / 1e3
        what, size = f"{rate} MT/s x 8 bytes x {channels}", _usual(SIZES[kind], channels)
        extra = {
            "dram.channels": Entry(channels, "the configuration that the component stands for"),
            "dram.channel": Entry(f"{rate * 8 / 1e3:g} GB/s", f"{rate} MT/s x 8 bytes (JEDEC)"),
        }
    given = found["size"]
    return {
        "dram.memory": Entry(
            f"{given or size} GiB", "as its name says" if given else "a common configuration (estimate)"
        ),
        "dram.bandwidth": Entry(
            f"{each * share / 100:.1f} GB/s", f"{share} % of the theoretical {each:.1f} GB/s ({what}), estimate"
        ),
        "dram.kind": Entry(kind, ""),
    } | extra


def _usual(sizes: dict[int, int], width: int) -> int:
    """Return the size of the widest configuration that is no wider, or of the narrowest."""
    return sizes[max((one for one in sizes if one <= width), default=min(sizes))]


def link_by_rule(name: str) -> Flat | None:
    """Return the entries of a PCI Express link, one way: lanes x GT/s x 128/130 / 8 bits, times its generation's share.

    Args:
        name: as ``pcie4-x16``.

    Returns:
        None: the name is none of a generation and a number of lanes that there are.
    """
    found = PCIE.fullmatch(name)
    if found is None:
        return None
    generation, lanes = int(found[1]), int(found[2])
    theoretical = PCIE_RATES[generation] * lanes * 128 / 130 / 8
    share = PCIE_SHARES[generation]
    return {
        "pcie.bandwidth": Entry(
            f"{theoretical * share / 100:.1f} GB/s",
            f"{share} % of the theoretical {theoretical:.2f} GB/s, typical of large copies from pinned memory "
            "(estimate)",
        ),
        "pcie.latency": Entry("2 us", "estimate: from submission to the first data of a DMA copy"),
        "pcie.overhead": Entry("6 us", "estimate: driver call and launch of one asynchronous copy"),
        "pcie.lanes": Entry(1, "one copy engine per direction serves copies in order"),
    }
