from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.hardware import HardwareProfile, Link, component_names, load_profile, machine_names, profile_names, to_toml
from lrcsim.hardware.document import CLASSES, PARTS, SCHEMA

OWN = """
description = "mine"
layer_overhead = "30 us"
expert_overhead = 0
pcie = "pcie4-x16"

[gpu]
memory = "24 GiB"
bandwidth = { value = "900 GB/s", source = "measured" }
compute = "132 TFLOP/s"
overhead = "4 us"

[cpu]
compute = "1 TFLOP/s"
bandwidth = "80 %"
overhead = "10 us"
cores = 8

[dram]
memory = "64 GiB"
bandwidth = "50 GB/s"

[nvme]
bandwidth = "7 GB/s"
latency = "80 us"
overhead = "5 us"
lanes = 4
chunk = "1 MiB"
pageable = "3 GB/s"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


def refused(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_machines_asked_for_are_there() -> None:
    geforce = {"rtx-3090", "rtx-4090", "rtx-5090", "rtx-4060-laptop"}
    servers = {"a100-40gb", "a100-80gb", "h100-sxm", "h200", "l40s"}
    others = {"jetson-agx-orin", "apple-m4-max", "desktop-cpu", "phone", "phone-ufs"}
    assert geforce | servers | others <= set(profile_names())
    links = {f"pcie{generation}-x{lanes}" for generation in (3, 4, 5) for lanes in (4, 8, 16)}
    assert links | {"nvlink-c2c"} == set(component_names("pcie"))
    assert {"nvme-gen3", "nvme-gen4", "nvme-gen5", "sata-ssd", "ufs-4"} <= set(component_names("nvme"))
    assert {"ddr4-3200-2ch", "ddr5-5600-2ch", "ddr5-4800-12ch"} <= set(component_names("dram"))


@pytest.mark.parametrize("name", profile_names())
def test_every_built_in_number_has_a_source_and_makes_sense(name: str) -> None:
    has_sources_and_makes_sense(load_profile(name))


def has_sources_and_makes_sense(profile: HardwareProfile) -> None:
    for path, key in SCHEMA.items():  # one socket is what a machine has that says nothing of them
        said = profile.at(path) not in (None, 1) if path == "cpu.sockets" else profile.at(path) is not None
        if key.kind not in ("text", "flag") and said:
            assert profile.sources[path], path
    assert profile.cpu.bandwidth <= profile.dram.bandwidth
    assert profile.unified == (profile.gpu is not None and profile.part("pcie") is None)
    if profile.gpu is not None:
        assert profile.gpu.bandwidth >= profile.dram.bandwidth
        assert profile.part("pcie") is None or profile.part("pcie").bandwidth < profile.gpu.bandwidth
    assert profile.description


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_written_as_toml_reads_back(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(to_toml(profile), encoding="utf-8")
    again = load_profile(path)
    assert again == profile
    assert again.sources == profile.sources


@pytest.mark.parametrize("name", [name for name in component_names() if name not in component_names("gpu")])
def test_every_component_fits_a_profile(name: str) -> None:
    profile = load_profile(f"rtx-4090+{name}")
    assert profile.name == f"rtx-4090+{name}"


def test_every_gpu_is_a_machine_and_fits_one() -> None:
    assert len(component_names("gpu")) == len(set(component_names("gpu"))) > 150
    for name in machine_names():
        profile = load_profile(name)
        assert profile.name == name
        has_sources_and_makes_sense(profile)
        if name in component_names("gpu"):
            replaced = load_profile(f"desktop-cpu+{name}")
            assert (replaced.name, replaced.gpu) == (f"desktop-cpu+{name}", profile.gpu)
            assert replaced.description.endswith("; the rest as desktop-cpu")


def test_no_effective_rate_is_above_what_the_bus_can_do() -> None:
    # lanes x GT/s x 128/130 / 8 bits
    for generation, rate in ((3, 8), (4, 16), (5, 32)):
        for lanes in (8, 16):
            pcie = load_profile(f"rtx-4090+pcie{generation}-x{lanes}").part("pcie")
            assert pcie is not None
            assert 0.75 < pcie.bandwidth / (rate * lanes * 128 / 130 / 8 * 1e9) < 0.95


def test_own_file_reads_in_base_units(own: Path) -> None:
    profile = load_profile(own)
    assert profile.name == "own"
    assert profile.gpu is not None
    assert profile.gpu.memory == 24 * 2**30
    assert profile.gpu.overhead == 4e-6
    assert profile.cpu.bandwidth == 40e9  # 80 % of 50 GB/s
    assert profile.part("nvme") == Link("nvme", 7e9, latency=80e-6, overhead=5e-6, lanes=4, chunk=2**20, pageable=3e9)
    assert profile.part("pcie") is not None
    assert profile.part("pcie").chunk is None
    assert profile.expert_overhead == 0
    assert profile.sources["gpu.bandwidth"] == "measured"
    assert "gpu.memory" not in profile.sources


def test_components_replace_whole_parts_and_the_cpu_follows_the_dram(own: Path) -> None:
    profile = load_profile(f"{own}+pcie3-x8+ddr4-3200-2ch+sata-ssd")
    assert profile.dram.bandwidth == 43.5e9
    assert profile.cpu.bandwidth == pytest.approx(0.8 * 43.5e9)
    assert profile.part("pcie") is not None
    assert profile.part("pcie").bandwidth == 6.3e9
    assert profile.part("nvme") is not None
    assert profile.part("nvme").bandwidth == 0.53e9


def test_overrides() -> None:
    profile = load_profile(
        "rtx-4090",
        ["pcie.bandwidth=25.6GB/s", "pcie.lanes = 2", "pcie.chunk=1MiB", "nvme=none", "dram.bandwidth=50GB/s"],
    )
    assert profile.device_link == Link("pcie", 25.6e9, latency=2e-6, overhead=6e-6, lanes=2, chunk=2**20)
    assert profile.part("nvme") is None
    assert profile.cpu.bandwidth == pytest.approx(0.88 * 50e9)
    assert profile.sources["pcie.bandwidth"] == "set by the user"
    swapped = load_profile("rtx-4090", ["nvme=nvme-gen5", "nvme.chunk=none"]).part("nvme")
    assert swapped is not None
    assert (swapped.bandwidth, swapped.chunk) == (12.5e9, None)


def test_pageable_bandwidth_is_known_only_where_it_is_given(tmp_path: Path) -> None:
    assert load_profile("rtx-4090").part("pcie").pageable is None
    given = load_profile("rtx-4090", ["pcie.pageable=11.2GB/s"])
    assert given.part("pcie").pageable == 11.2e9
    path = tmp_path / "given.toml"
    path.write_text(to_toml(given), encoding="utf-8")
    assert 'pageable = { value = "11.2 GB/s", source = "set by the user" }' in path.read_text()
    assert load_profile(path).part("pcie") == given.part("pcie")
    assert load_profile(path, ["pcie.pageable=none"]).part("pcie").pageable is None
    with pytest.raises(ConfigError, match="above 0"):
        load_profile("rtx-4090", ["pcie.pageable=0 B/s"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("pcie.bandwith=1GB/s", "did you mean 'pcie.bandwidth'?"),
        ("pcie.speed=1GB/s", "pcie has bandwidth, latency"),
        ("frequency=1", "there are description"),
        ("pcie.bandwidth=1GB", "pcie.bandwidth: '1GB' is in bytes: expected bytes/s"),
        ("pcie.bandwidth=25", "has no unit"),
        ("pcie.bandwidth=-1GB/s", "negative"),
        ("pcie.bandwidth=0", "must be above 0"),
        ("pcie.lanes=two", "'two' is no whole number of at least 1"),
        ("pcie.chunk=0.4 B", "must be above 0"),
        (f"pcie.lanes={'9' * 5000}", "no whole number of at least 1"),
        ("pcie.lanes=0", "no whole number of at least 1"),
        ("pcie.bandwidth", "write KEY=VALUE"),
        ("pcie=", "write KEY=VALUE"),
        ("pcie=pcie6-x16", "'pcie6-x16' is no component for pcie; did you mean"),
        ("pcie=nvme-gen4", "is no component for pcie"),
        ("cpu.bandwidth=120%", "no share of dram.bandwidth"),
        ("unified=maybe", "neither true nor false"),
        ("unified=true", "unified memory has no pcie link"),
        ("pcie=none", "pcie is missing"),
        ("gpu=none", "there is no gpu that it could lead to"),
        ("cpu=none", "cpu.compute is missing"),
    ],
)
def test_overrides_that_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("rtx-4090", [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("rtx-409", "did you mean 'rtx-4090'?"),
        ("toaster", "there are a100-40gb"),
        ("a100", "'a100' may mean several: write a100-40gb or a100-80gb or a100-pcie-80gb"),
        ("7600", "'7600' may mean several: write rx-7600 or ryzen-7600"),
        ("rtx 6000", "write rtx-a6000 or rtx-6000-ada or rtx-pro-6000 or"),
        ("desktop-cpu+h100", "hardware desktop-cpu+h100: 'h100' may mean several: write h100-sxm or h100-pcie or"),
        ("4090+3090", "rtx-4090 and rtx-3090 are two for gpu"),
        ("ddr5-5600-2ch+rtx-4090+ddr4-3200-2ch", "ddr5-5600-2ch and ddr4-3200-2ch are two for dram"),
        ("m4 max 16gb", "there is no hardware profile 'm4 max 16gb'"),
        ("missing.toml", "cannot be read"),
        ("rtx-4090+pcie3x8", "'pcie3x8' is no component; did you mean 'pcie3-x8'?"),
        ("desktop-cpu+pcie4-x16", "there is no gpu that it could lead to"),
    ],
)
def test_specs_that_are_refused(spec: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(spec)
    assert says in str(caught.value)


def lines_with(path: str) -> tuple[str, str]:
    """Return OWN before and after the line of a key, or before and after where it would stand."""
    part, _, key = path.rpartition(".")
    start = OWN.index(f"[{part}]") if part else 0
    end = OWN.find("\n[", start + 1) % len(OWN) + 1
    if OWN.find(f"\n{key} = ", start, end) < 0:
        assert SCHEMA[path].optional
        after = OWN.index("\n", start) + 1
        return OWN[:after], OWN[after:]
    start = OWN.index(f"\n{key} = ", start) + 1
    return OWN[:start], OWN[OWN.index("\n", start) + 1 :]


WRITTEN = [path for path in SCHEMA if not path.startswith("pcie.") and path not in ("unified", "kv_shared")]


@pytest.mark.parametrize("path", [path for path in WRITTEN if not SCHEMA[path].optional])
def test_a_missing_number_is_named(path: str, tmp_path: Path) -> None:
    before, after = lines_with(path)
    assert f"{path} is missing: write " in refused(tmp_path / "own.toml", before + after)


@pytest.mark.parametrize("path", [path for path in WRITTEN if SCHEMA[path].kind != "text"])
@pytest.mark.parametrize(
    "value", ['"-1 us"', "-1", '"12 parsec"', "[]", "{}", "true", "1979-05-27", "nan", '""', "3.5"]
)
def test_a_wrong_value_is_named(path: str, value: str, tmp_path: Path) -> None:
    before, after = lines_with(path)
    key = path.rpartition(".")[2]
    assert path in refused(tmp_path / "own.toml", f"{before}{key} = {value}\n{after}")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('bandwidth = "50 GB/s"', 'bandwidth = "50 GB/s"\nspeed = 3', "dram.speed is no key of a profile"),
        ('description = "mine"', 'descripton = "mine"', "did you mean 'description'?"),
        ("[gpu]", "[gpus]", "gpus is no key of a profile; did you mean 'gpu"),
        ('pcie = "pcie4-x16"', 'pcie = "pcie4-x61"', "did you mean 'pcie4-x16'?"),
        ('pcie = "pcie4-x16"', "pcie = 4", "pcie is no key of a profile"),
        ('source = "measured"', "source = 3", "the source of gpu.bandwidth is 3"),
        ('source = "measured"', 'sauce = "measured"', "gpu.bandwidth is a table: write"),
        ('description = "mine"', "description = 3", "description: 3 is no text"),
        ('description = "mine"', "description = ", "is no TOML"),
        ("cores = 8", f"cores = {'9' * 5000}", "is no TOML"),
        ("expert_overhead = 0", f"expert_overhead = 1{'0' * 400}", "has no unit"),
        ('description = "mine"', 'base = "rtx-409"', "did you mean 'rtx-4090'?"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in OWN
    assert says in refused(tmp_path / "own.toml", OWN.replace(old, new))


def test_a_file_that_builds_on_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "rtx-4090"\npcie = "pcie3-x16"\n[gpu]\nmemory = "20 GiB"\n', encoding="utf-8")
    profile = load_profile(path)
    assert profile.gpu is not None
    assert (profile.gpu.memory, profile.gpu.bandwidth) == (20 * 2**30, 907e9)
    assert profile.part("pcie") is not None
    assert profile.part("pcie").bandwidth == 12.6e9


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*SCHEMA, *PARTS, "gpu.speed"]),
        st.one_of(st.text(max_size=6), st.integers(), st.floats(), st.booleans(), st.just("12 us")),
        max_size=4,
    )
)
def test_any_overrides_give_a_profile_or_one_clear_line(changes: dict[str, object]) -> None:
    try:
        load_profile("rtx-4090", [f"{key}={value}" for key, value in changes.items()])
    except LrcsimError as error:
        assert "hardware" in str(error) or "override" in str(error)  # noqa: PT017


def test_the_data_files_hold_nothing_that_is_not_read() -> None:
    data = resources.files("lrcsim.hardware").joinpath("data")
    for entry in data.joinpath("components").iterdir():
        part = entry.name.removesuffix(".toml")
        table = tomllib.loads(entry.read_text("utf-8"))
        lists = {"gpu": "cards", "cpu": "processors"}
        named = [name for family in table.values() for name in family[lists[part]]] if part in lists else [*table]
        assert len(named) == len(set(named))
        assert set(named) <= set(component_names(part))
        assert all(load_profile(f"desktop-cpu+{name}" if part == "cpu" else name) for name in named if part in lists)


def test_every_field_of_a_part_is_a_key_of_the_document() -> None:
    for part, kind in CLASSES.items():
        named = [field.name for field in fields(kind) if field.name != "name"]  # the table's own name
        assert named == list(PARTS[part])
    assert {field.name for field in fields(HardwareProfile)} == {
        *(path for path in SCHEMA if "." not in path), "name", "gpu", "cpu", "dram", "links", "sources",
    }  # fmt: skip
    assert all(key.meaning for key in SCHEMA.values())
    links = {f"{link}.{key}" for link in ("pcie", "nvme") for key in ("chunk", "lane_bandwidth", "pageable")}
    of_kinds = {"gpu.api", "cpu.kind", "cpu.isa", "cpu.sockets", "dram.kind", "dram.channels", "dram.channel"}
    optional = {"description", "unified", "kv_shared", *links, *of_kinds}
    assert {path for path, key in SCHEMA.items() if key.optional} == optional
    above_zero = {path.rpartition(".")[2] for path, key in SCHEMA.items() if key.positive}
    assert above_zero == {"bandwidth", "compute", "memory", "chunk", "lane_bandwidth", "pageable", "channel"}


CXL = """
base = "rtx-4090"
[[links]]
name = "nvme"
[[links]]
name = "cxl"
bandwidth = { value = "30 GB/s", source = "measured" }
latency = "1 us"
overhead = 0
lanes = 2
[[links]]
name = "pcie"
"""


@pytest.fixture
def cxl(tmp_path: Path) -> Path:
    path = tmp_path / "cxl.toml"
    path.write_text(CXL, encoding="utf-8")
    return path


def test_a_path_of_links_takes_from_the_base_what_it_does_not_say(cxl: Path) -> None:
    profile, base = load_profile(cxl), load_profile("rtx-4090")
    between = Link("cxl", bandwidth=30e9, latency=1e-6, overhead=0, lanes=2)
    assert profile.links == (base.links[0], between, base.links[1])
    assert profile.storage_links == profile.links[:2]
    assert profile.device_link == base.links[1]
    assert profile.load_links == (base.links[1],)
    assert profile.sources["cxl.bandwidth"] == "measured"
    assert profile.sources["nvme.bandwidth"] == base.sources["nvme.bandwidth"]


def test_a_path_of_links_is_written_as_it_is_read(cxl: Path, tmp_path: Path) -> None:
    profile, again = load_profile(cxl), tmp_path / "again.toml"
    again.write_text(to_toml(profile), encoding="utf-8")
    assert replace(load_profile(again), name="cxl") == profile
    assert load_profile(again).sources == profile.sources


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("cxl=none", ["nvme", "pcie"]),
        ("nvme=none", ["cxl", "pcie"]),
        ("nvme=nvme-gen5", ["nvme", "cxl", "pcie"]),
        ("pcie=pcie3-x8", ["nvme", "cxl", "pcie"]),
        ("cxl.bandwidth=10GB/s", ["nvme", "cxl", "pcie"]),
    ],
)
def test_overrides_of_a_path_keep_its_order(change: str, names: list[str], cxl: Path) -> None:
    profile, before = load_profile(cxl, [change]), load_profile(cxl)
    assert [link.name for link in profile.links] == names
    changed = change.partition("=")[0].partition(".")[0]
    for link in before.links:
        assert (profile.part(link.name) == link) == (link.name != changed)


def test_a_path_that_leaves_a_usual_link_out_does_without_it(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('base = "rtx-4090"\n[[links]]\nname = "pcie"\n', encoding="utf-8")
    profile = load_profile(path)
    assert profile.links == load_profile("rtx-4090").links[1:]
    assert not [source for source in profile.sources if source.startswith("nvme")]
    assert [link.name for link in load_profile(path, ["nvme=nvme-gen4"]).links] == ["nvme", "pcie"]


def test_without_a_gpu_of_its_own_all_links_come_from_storage(tmp_path: Path) -> None:
    path = tmp_path / "phone.toml"
    text = CXL.replace("rtx-4090", "phone-ufs").replace('[[links]]\nname = "pcie"\n', "")
    path.write_text(text, encoding="utf-8")
    profile = load_profile(path)
    assert [link.name for link in profile.links] == ["nvme", "cxl"]
    assert profile.storage_links == profile.load_links == profile.links
    assert profile.device_link is None
    assert profile.links[:1] == load_profile("phone-ufs").links


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "cxl"', 'name = "nvme"', "links: 'nvme' stands twice"),
        ('name = "cxl"', 'name = "gpu"', "links: 'gpu' is no name of a link"),
        ('name = "cxl"', 'name = "a.b"', "links: 'a.b' is no name of a link"),
        ('name = "cxl"', "", "links: write [[links]] for each link"),
        ('latency = "1 us"', "", "cxl.latency is missing: write latency = "),
        ('latency = "1 us"', 'latncy = "1 us"', "cxl.latncy is no key of a profile; did you mean 'cxl.latency'?"),
        ("lanes = 2", "lanes = 0", "cxl.lanes: 0 is no whole number of at least 1"),
        ('base = "rtx-4090"', 'base = "desktop-cpu"', "pcie.bandwidth is missing"),
    ],
)
def test_a_wrong_path_is_refused_in_one_line(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in CXL
    assert says in refused(tmp_path / "own.toml", CXL.replace(old, new, 1))


@pytest.mark.parametrize("links", ["3", "[]", "[3]", '"nvme"', "{ name = 3 }", "[{ name = 3 }]", "[[]]"])
def test_links_that_are_no_path_are_refused(links: str, tmp_path: Path) -> None:
    says = "pcie is missing" if links == "[]" else "links: write [[links]] for each link"
    assert says in refused(tmp_path / "own.toml", f'links = {links}\nbase = "rtx-4090"\n')


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("cxl.speed=1", "cxl.speed is no key of a profile; cxl has bandwidth"),
        ("cxl=pcie3-x8", "'pcie3-x8' is no component for cxl; there are none"),
        ("cx.latency=0", "did you mean 'cxl.latency'?"),
        ("links=3", "links is no key of a profile"),
    ],
)
def test_overrides_of_a_path_that_are_refused(override: str, says: str, cxl: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(cxl, [override])
    assert says in str(caught.value)


def test_a_description_of_any_text_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    odd = replace(load_profile("rtx-3090"), description='a "b" \\ \t \x7f \U000107bb')
    path.write_text(to_toml(odd), encoding="utf-8")
    assert load_profile(path).description == odd.description
