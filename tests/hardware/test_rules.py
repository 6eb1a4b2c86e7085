"""Main memory and PCI Express, whose numbers their names give."""

from __future__ import annotations

import pytest

from lrcsim.hardware import component_names, load_profile
from lrcsim.hardware.document import build
from lrcsim.hardware.rules import link_by_rule, memory_by_rule


def test_memory_by_hand() -> None:
    # 6000 MT/s x 8 bytes x 2 channels = 96.0 GB/s, of which few channels of DDR5 reach 82 %: 78.72, written to 0.1.
    found = memory_by_rule("ddr5-6000-2ch-96gb")
    assert found is not None
    assert {path: entry.value for path, entry in found.items()} == {
        "dram.memory": "96 GiB", "dram.bandwidth": "78.7 GB/s", "dram.kind": "ddr5", "dram.channels": 2,
        "dram.channel": "48 GB/s",
    }  # fmt: skip
    assert found["dram.bandwidth"].source == "82 % of the theoretical 96.0 GB/s (6000 MT/s x 8 bytes x 2), estimate"
    # 8533 MT/s x 256 bits / 8 = 273.1 GB/s, 80 %: 218.4.
    soldered = memory_by_rule("lpddr5x-8533-256bit")
    assert soldered is not None
    assert soldered["dram.bandwidth"].value == "218.4 GB/s"
    assert "dram.channels" not in soldered


def test_memory_is_monotonic() -> None:
    def bandwidth(name: str) -> float:
        return load_profile(f"desktop-cpu+{name}").dram.bandwidth

    for kind, rate in (("ddr4", 3200), ("ddr5", 5600)):
        by_channels = [bandwidth(f"{kind}-{rate}-{channels}ch") for channels in range(1, 25)]
        assert by_channels == sorted(by_channels)
        assert bandwidth(f"{kind}-{rate}-4ch") == pytest.approx(2 * bandwidth(f"{kind}-{rate}-2ch"), rel=2e-3)
    sizes = [load_profile(f"desktop-cpu+ddr5-5600-{channels}ch").dram.memory for channels in range(1, 25)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    "name",
    ["ddr5-5600", "ddr5-560-2ch", "ddr5-56000-2ch", "ddr4-6000-2ch", "ddr5-5600-0ch", "ddr5-5600-25ch", "ddr3-1600-2ch",
     "ddr5-5600-2ch-0gb", "lpddr5-6400-2ch", "lpddr5x-8533-1bit", "ddr5-5600-2ch-96", "xddr5-5600-2ch"],
)  # fmt: skip
def test_memory_that_there_is_not(name: str) -> None:
    assert memory_by_rule(name) is None


def test_links_by_hand() -> None:
    # 16 lanes x 16 GT/s x 128/130 / 8 bits = 31.51 GB/s, of which generation 4 reaches 82 %: 25.84.
    found = link_by_rule("pcie4-x16")
    assert found is not None
    assert found["pcie.bandwidth"].value == "25.8 GB/s"
    assert "82 % of the theoretical 31.51 GB/s" in found["pcie.bandwidth"].source
    for lanes in (1, 2, 4, 8):
        narrow, wide = (load_profile(f"rtx-4090+pcie4-x{width}").device_link for width in (lanes, 2 * lanes))
        assert narrow is not None
        assert wide is not None
        assert wide.bandwidth == pytest.approx(2 * narrow.bandwidth, rel=0.05)


@pytest.mark.parametrize("name", ["pcie2-x16", "pcie6-x16", "pcie4-x3", "pcie4-x32", "pcie4", "pcie4-x16x"])
def test_links_that_there_are_not(name: str) -> None:
    assert link_by_rule(name) is None


def test_names_in_lists_are_of_the_rules() -> None:
    assert all(memory_by_rule(name) for name in component_names("dram"))
    assert all(link_by_rule(name) for name in component_names("pcie") if name.startswith("pcie"))
    entries = link_by_rule("pcie5-x8")
    assert entries is not None
    assert set(entries) == {"pcie.bandwidth", "pcie.latency", "pcie.overhead", "pcie.lanes"}
    assert build  # entries become a profile in test_profiles
