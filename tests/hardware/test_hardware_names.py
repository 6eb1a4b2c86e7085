"""Names as people and drivers write them: each means one part, or is refused with those that it may mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.hardware import load_profile
from lrcsim.hardware.components import find_component, named_parts
from lrcsim.hardware.names import SILENT, key, meant, words

AS_WRITTEN = {
    "4090": "rtx-4090",
    "RTX 4090": "rtx-4090",
    "rtx4090": "rtx-4090",
    "RTX_4090": "rtx-4090",
    "geforce rtx 4090": "rtx-4090",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "rtx-4090-24gb": "rtx-4090",
    "4060-ti": "rtx-4060-ti",
    "5060 Ti 16GB": "rtx-5060-ti",
    "5060 Ti 8 GB": "rtx-5060-ti-8gb",
    "3060-12gb": "rtx-3060",
    "3080 12GB": "rtx-3080-12gb",
    "2080-ti": "rtx-2080-ti",
    "NVIDIA GeForce RTX 4060 Laptop GPU": "rtx-4060-laptop",
    "RTX 4070 Mobile": "rtx-4070-laptop",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
    "RTX PRO 6000": "rtx-pro-6000",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "rtx-pro-6000",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "rtx-pro-6000-max-q",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-server",
    "Tesla T4": "t4",
    "Tesla V100-SXM2-16GB": "v100-16gb",
    "Tesla V100-SXM2-32GB": "v100",
    "Tesla V100-PCIE-32GB": "v100-pcie",
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200",
    "NVIDIA GH200 480GB": "gh200",
    "GH200": "gh200",
    "dgx spark": "gb10",
    "NVIDIA_DGX_Spark": "gb10",
    "MI300X": "mi300x",
    "AMD Instinct MI300X": "mi300x",
    "AMD Radeon RX 7900 XTX": "rx-7900-xtx",
    "Radeon PRO W7900": "pro-w7900",
    "RX 7600": "rx-7600",
    "Intel(R) Arc(TM) A770 Graphics": "a770",
    "M2 Ultra 192GB": "apple-m2-ultra",
    "m4 max": "apple-m4-max",
    "apple m4 max 64 GB": "apple-m4-max-64gb",
    "M4 Max 36GB": "apple-m4-max-32core",
    "MacBook Pro M3 Max 64GB": "apple-m3-max-64gb",
    "macbook pro 16-inch m4 pro 48 GB": "apple-m4-pro-48gb",
    "MacBook Air M2 8GB": "apple-m2-8gb",
    "mac mini m4 16gb": "apple-m4-16gb",
    "Mac mini M4 Pro 24GB": "apple-m4-pro-24gb",
    "Mac Studio M3 Ultra 512GB": "apple-m3-ultra",
    "mac-studio-m2-ultra": "apple-m2-ultra",
    "strix halo": "strix-halo",
    "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S": "strix-halo",
    "NVIDIA Jetson AGX Orin Developer Kit": "jetson-agx-orin",
    "ryzen 7950x": "ryzen-7950x",
    "Ryzen-9-7950X": "ryzen-7950x",
    "Ryzen 5 7600": "ryzen-7600",
    "AMD Ryzen 9 7950X 16-Core Processor": "ryzen-7950x",
    "AMD Ryzen 7 7840HS w/ Radeon 780M Graphics": "ryzen-7840hs",
    "AMD Ryzen Threadripper PRO 5995WX 64-Cores": "threadripper-pro-5995wx",
    "AMD EPYC 7763 64-Core Processor": "epyc-7763",
    "Intel(R) Xeon(R) Platinum 8480+": "xeon-8480",
    "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz": "xeon-6248",
    "Intel(R) Core(TM) i9-14900K": "i9-14900k",
    "12th Gen Intel(R) Core(TM) i5-12400": "i5-12400",
    "Intel(R) Core(TM) Ultra 7 155H": "core-ultra-7-155h",
    "DDR5-6000-2CH": "ddr5-6000-2ch",
    "PCIe4-x16": "pcie4-x16",
}


@pytest.mark.parametrize("written", AS_WRITTEN)
def test_names_as_they_are_written(written: str) -> None:
    found = find_component(written)
    assert found is not None
    assert found.name == AS_WRITTEN[written]


def test_a_machine_goes_by_its_name_in_lists() -> None:
    assert load_profile("NVIDIA GeForce RTX 4090") == load_profile("rtx-4090")
    assert load_profile("RTX 3060 + Ryzen 7950X").name == "rtx-3060+ryzen-7950x"
    assert load_profile("Ryzen AI Max+ 395").name == "strix-halo"  # the plus is the name's


def test_every_name_of_every_part_means_that_part_alone() -> None:
    parts = named_parts()
    for name, others in parts.items():
        for written in (name, name.upper(), name.replace("-", " "), *others):
            assert meant(written, parts) == [name], written


def test_keys_by_hand() -> None:
    # "(TM)" goes, "Intel", "Arc" and "Graphics" say nothing; letters and digits are words of their own.
    assert words("Intel(R) Arc(TM) A770 Graphics") == ["intel", "arc", "a", "770", "graphics"]
    assert key("Intel(R) Arc(TM) A770 Graphics") == "a770"
    assert key("rtx4090 mobile") == key("GeForce RTX 4090 Laptop GPU") == "4090laptop"
    assert key("AMD EPYC") == "amdepyc"  # nothing but silent words: all of them, which no part is
    assert {"nvidia", "amd", "intel", "apple"} <= SILENT


@pytest.mark.parametrize(
    "written", ["AMD EPYC", "GeForce", "NVIDIA", "Radeon", "toaster", "", "+", "4", "GB", "Apple", "Mac Studio"]
)
def test_a_brand_alone_is_no_part(written: str) -> None:
    assert find_component(written) is None


@pytest.mark.parametrize(
    ("written", "candidates"),
    [
        ("7600", ["rx-7600", "ryzen-7600"]),
        ("h100", ["h100-sxm", "h100-pcie", "h100-nvl"]),
        ("orin", ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin-32gb", "jetson-agx-orin"]),
    ],
)
def test_what_may_mean_several_is_refused_with_them(written: str, candidates: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        find_component(written)
    assert str(caught.value) == f"{written!r} may mean several: write {' or '.join(candidates)}"


def test_the_part_that_is_asked_for_decides() -> None:
    of_cpu, of_gpu = find_component("7600", "cpu"), find_component("7600", "gpu")
    assert of_cpu is not None
    assert of_gpu is not None
    assert (of_cpu.name, of_gpu.name) == ("ryzen-7600", "rx-7600")
    assert find_component("rtx-4090", "cpu") is None


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("2x3090", "machines with several are not modelled: write '3090' for one"),
        ("4 x RTX 3090", "machines with several are not modelled: write 'RTX 3090' for one"),
        ("4090 + 64GB DDR5", "write its rate and channels, as ddr5-5600-2ch-64gb, or give --ram 64GiB"),
        ("3060+ddr4 64 gb", "write its rate and channels, as ddr4-3200-2ch-64gb, or give --ram 64GiB"),
        ("3060+32gb", "write its rate and channels, as ddr5-5600-2ch-32gb, or give --ram 32GiB"),
    ],
)
def test_what_is_not_modelled_or_too_little_says_what_to_write(written: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(written)
    assert says in str(caught.value)


@given(st.one_of(st.text(max_size=30), st.text("rtx 4090+-gbm", max_size=20)))
def test_any_text_is_a_machine_or_one_clear_line(text: str) -> None:
    try:
        load_profile(text)
    except LrcsimError as error:
        assert "\n" not in str(error)  # noqa: PT017
