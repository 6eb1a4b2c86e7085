"""Documents of runtimes: what they may say, what is refused and how, and to TOML and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import load_profile
from lrcsim.runtimes import IDEAL, Runtime, RuntimeDocument, load_runtime, read_toml, runtime_names, runtimes, to_toml
from lrcsim.runtimes.load import written
from lrcsim.runtimes.runtime import OVERLAPS, PARTS, CoreRate, CpuUse, DeviceUse, LoadUse, keys

OWN = """
description = "mine"
engine = "mine"
url = "example.org"
released = false
strategies = ["lru"]
devices = ["cuda", "cpu"]
formats = "gguf"

[device]
layer = { value = "60 us", source = "measured" }
dense = "80 %"

[device.cpu]
layer = "118 us"

[cpu.desktop]
share = "108 %"

[loads]
overlap = "tensor"
copies = 3
pinned = false
byte = "0.12 ms/MB"
lane_bandwidth = "0.8 GB/s"
[loads.cpu]
copies = 1
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_a_document(own: Path) -> None:
    found = load_runtime(own)
    assert (found.name, found.description, found.engine, found.url) == ("own", "mine", "mine", "example.org")
    assert (found.released, found.strategies, found.devices, found.formats) == (
        False,
        ("lru",),
        ("cuda", "cpu"),
        "gguf",
    )
    assert found.numbers == {
        "device.layer": 6e-5,
        "device.dense": 0.8,
        "device.cpu.layer": 0.000118,
        "cpu.desktop.share": 1.08,
        "loads.overlap": "tensor",
        "loads.copies": 3,
        "loads.pinned": False,
        "loads.byte": 1.2e-10,
        "loads.lane_bandwidth": 0.8e9,
        "loads.cpu.copies": 1,
    }
    assert found.sources == {"device.layer": "measured"}


def test_what_it_makes_of_a_machine(own: Path) -> None:
    """The numbers of its kind of device and class of processor, before those for any."""
    found = load_runtime(own)
    on_gpu = found.on(load_profile("rtx-3090"))
    assert (on_gpu.device.layer, on_gpu.device.dense, on_gpu.device.experts) == (6e-5, 0.8, 1.0)
    assert (on_gpu.loads.copies, on_gpu.loads.overlap, on_gpu.parts) == (3, "tensor", 3)
    assert on_gpu.sources["device.layer"] == "measured"
    alone = found.on(load_profile("desktop-cpu"))
    assert (alone.device.layer, alone.device.dense, alone.loads.copies) == (0.000118, 0.8, 1)
    assert alone.sources["device.layer"] == ""  # that of the number taken
    assert alone.cpu.share == 1.08
    assert found.on(load_profile("rtx-4060-laptop")).cpu.share == 1.0
    assert on_gpu.at("loads.byte") == 1.2e-10


def test_a_machine_that_it_does_not_run_on(own: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_runtime(own).on(load_profile("apple-m4-max"))
    assert str(caught.value) == (
        "runtime own runs on cuda, cpu, and apple-m4-max is metal: take another runtime (lrcsim runtimes) or another "
        "machine"
    )


def test_strategies_that_it_offers(own: Path) -> None:
    found = load_runtime(own)
    gpu, apple = load_profile("rtx-3090"), load_profile("apple-m4-max")
    assert (found.offers("lru", gpu), found.offers("popular", gpu), found.offers("lru", apple)) == (True, False, False)
    assert runtimes()["ideal"].offers("anything", apple)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shade = 1", "shade is no key of a runtime; there are description, url, engine, base, released, strategies"),
        ("releasd = true", "releasd is no key of a runtime; did you mean 'released'?"),
        ("released = 1", "released: 1 is neither true nor false"),
        ('strategies = "lru"', 'strategies: \'lru\' is no list of names: write ["...", "..."]'),
        ("strategies = [1]", "strategies: [1] is no list of names"),
        ('devices = ["cud"]', "devices"),
        ("description = 3", "description: 3 is no text"),
        ('formats = "safetensors"', "formats"),
        ("device = 3", "device is no table: write [device], and its numbers below it"),
        ("[device]\ncuda = 3", "device.cuda is no table: write [device.cuda]"),
        ('[device]\nlayers = "1 us"', "device.layers is no number of a runtime; did you mean 'layer'?"),
        ("[device]\nqqq = 1", "device.qqq is no number of a runtime; there are dense, experts"),
        ("[device.cuda]\nqqq = 1", "device.cuda.qqq is no number of a runtime; there are dense"),
        ("[device.cudo]\nlayer = 0", "device.cudo is no number of a runtime; did you mean 'cuda'?"),
        ("[cpu.cuda]\nshare = 0", "cpu.cuda is no number of a runtime"),
        (
            "[device]\nlayer = {value = 0, sauce = 'x'}",
            'device.layer is a table: write { value = ..., source = "..." }',
        ),
        ("[device]\nlayer = {source = 'x'}", "device.layer is a table"),
        ("[device]\nlayer = {value = 0, source = 1}", "device.layer is a table"),
        ("[device]\nlayer = 3", "device.layer: '3' has no unit: expected seconds"),
        ("[device]\nlayer = '-1 us'", "is negative"),
        ("[device]\nlayer = '1 GB'", "is in bytes: expected seconds"),
        ("[device]\nlayer = true", "is no quantity"),
        ("[device]\ndense = 0.8", 'device.dense: 0.8 is no share: write "83 %", above 0 % and at most 400 %'),
        ("[device]\ndense = '0 %'", "is no share"),
        ("[device]\ndense = '401 %'", "is no share"),
        ("[device]\ndense = 'nan %'", "is no share"),
        ("[device]\ndense = 'much %'", "is no share"),
        ("[loads]\noverlap = 'all'", "loads.overlap"),
        ("[loads]\ncopies = 0", "loads.copies: 0 is no whole number of at least 1"),
        ("[loads]\ncopies = true", "loads.copies: True is no whole number"),
        ("[loads]\ncopies = 1.5", "loads.copies: 1.5 is no whole number"),
        ("[loads]\npinned = 1", "loads.pinned: 1 is neither true nor false"),
        ("[loads]\nbyte = '1 ms'", "loads.byte: '1 ms' is no time per size: write \"0.12 ms/MB\""),
        ("[loads]\nbyte = false", "loads.byte: False is no time per size"),
        ("[loads]\nbyte = '1 ms/0 MB'", "the size must be above 0"),
        ("[loads]\nbyte = '1 MB/ms'", "expected bytes"),
        ("[loads]\nbyte = '1 GB/MB'", "expected seconds"),
        ("[loads]\nlane_bandwidth = 0", "loads.lane_bandwidth: 0 must be above 0"),
        ("= 3", "own.toml"),
    ],
)
def test_refused_in_one_line(own: Path, text: str, says: str) -> None:
    own.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_runtime(own)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"runtime {own}")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no runtime 'lama.cpp'.*did you mean 'llama.cpp'\?"):
        load_runtime("lama.cpp")
    with pytest.raises(ConfigError, match=r"there is no runtime '': .*are ideal, bigmoeonedge, bigmoeonedge-serial, "):
        load_runtime("")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_runtime(tmp_path / "missing.toml")
    assert load_runtime("LLAMA.cpp").name == "llama.cpp"


def test_times_per_size(own: Path) -> None:
    for text, value in (
        ("0.12 ms/MB", 1.2e-10),
        ("0.24 ms / 2 MB", 1.2e-10),
        ("3 s/B", 3.0),
        ("1 us/1KiB", 1e-6 / 1024),
    ):
        own.write_text(f"[loads]\nbyte = '{text}'", encoding="utf-8")
        assert load_runtime(own).numbers == {"loads.byte": value}


NUMBERS = {
    "share": st.floats(1e-3, 4),
    "seconds": st.floats(0, 10),
    "seconds/byte": st.floats(0, 1e-3),
    "bytes/s": st.floats(1, 1e13),
    "count": st.integers(1, 99),
    "flag": st.booleans(),
    "overlap": st.sampled_from(OVERLAPS),
}


@st.composite
def made(draw: st.DrawFn) -> Runtime:
    """Draw a runtime on a machine, with any of its numbers."""
    parts = {}
    for part, kind in PARTS.items():
        told = {key: draw(NUMBERS[about.kind]) for key, about in keys(part).items() if draw(st.booleans())}
        parts[part] = kind(**told)
    if parts["loads"].overlap == "tensor":
        parts["device"] = replace(parts["device"], ahead=False)  # which does not go together
    return Runtime("made", draw(st.text()), **parts)


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[device]\nahead = true\n[loads]\noverlap = "tensor"\n')
    with pytest.raises(ConfigError, match=r'runtime own: device\.ahead goes with loads.overlap "none" or "expert"'):
        load_runtime(own).on(load_profile("rtx-3090"))


@given(runtime=made())
def test_one_machine_to_toml_and_back(runtime: Runtime) -> None:
    profile = load_profile("rtx-3090")
    assert read_toml("made", to_toml(runtime)).on(profile) == runtime


@pytest.mark.parametrize("name", runtime_names())
def test_every_document_to_toml_and_back(name: str) -> None:
    document = runtimes()[name]
    assert read_toml(name, to_toml(document)) == document


def test_sources_are_written_too(own: Path) -> None:
    document = load_runtime(own)
    assert read_toml("own", to_toml(document)) == document
    on = document.on(load_profile("rtx-3090"))
    again = read_toml("own", to_toml(on)).on(load_profile("rtx-3090"))
    assert (again, again.sources["device.layer"]) == (on, "measured")


def test_numbers_as_people_write_them() -> None:
    assert written("device.dense", 0.83) == "83 %"
    assert written("device.cuda.layer", 7.6e-5) == "76 us"
    assert written("loads.byte", 1.2e-10) == "0.12 ms/MB"
    assert written("loads.byte", 7.6096244491257565e-06) == "7.6096244491257565e-06 s/B"  # in ms/MB it reads otherwise
    assert written("loads.pinned", False) == "false"
    assert written("loads.copies", 3) == "3"


def test_ideal_leaves_everything_to_the_machine() -> None:
    for name in ("rtx-3090", "phone-ufs", "apple-m4-max", "desktop-cpu"):
        assert runtimes()["ideal"].on(load_profile(name)) == IDEAL
    assert (IDEAL.device, IDEAL.cpu, IDEAL.loads, IDEAL.parts) == (DeviceUse(), CpuUse(), LoadUse(), 1)
    strange = replace(load_profile("rtx-3090")).with_part("gpu", api="vulkan")
    assert RuntimeDocument("ideal").on(strange).device == IDEAL.device


CORES = """
[core.avx2]
q4_0 = { decode = "17 GB/s", prompt = "63 GFLOP/s", source = "measured" }
[core.neon]
q4_0 = { decode = "5 GB/s", prompt = "9 GFLOP/s" }
"""


def test_rates_of_a_core_go_by_its_instructions(own: Path) -> None:
    own.write_text(CORES, encoding="utf-8")
    document = load_runtime(own)
    for isa, decode in (("avx2", 17e9), ("avx512", 17e9), ("neon", 5e9)):  # avx512 has avx2's
        profile = load_profile("desktop-cpu", [f"cpu.isa={isa}"])
        assert document.on(profile).core == {"q4_0": CoreRate(decode, {17e9: 63e9, 5e9: 9e9}[decode])}
    assert document.on(load_profile("desktop-cpu", ["cpu.isa=sve"])).core == {}
    assert document.on(load_profile("desktop-cpu")).sources["core.q4_0"] == "measured"


def test_rates_of_a_core_are_written_as_they_were_read(own: Path) -> None:
    own.write_text(CORES, encoding="utf-8")
    document, profile = load_runtime(own), load_profile("desktop-cpu")
    for one in (document, document.on(profile)):
        own.write_text(to_toml(one), encoding="utf-8")
        assert load_runtime(own).on(profile) == document.on(profile)
        assert load_runtime(own).on(profile).sources == document.on(profile).sources


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[core.sse9]\nq4_0 = 1", "instruction set 'sse9' is not known, use avx2, avx512, neon"),
        ("[core.avx2]\nq4_9 = 1", "core.avx2.q4_9: 'q4_9' is no format of weights; did you mean 'q4_k'?"),
        ("[core.avx2]\nq4_0 = 1", 'core.avx2.q4_0: write { decode = "17 GB/s", prompt = "63 GFLOP/s"'),
        ('[core.avx2]\nq4_0 = { decode = "0 GB/s", prompt = "1 GFLOP/s" }', "core.avx2.q4_0: '0 GB/s' must be above 0"),
        ('base = "lama.cpp"', "base: 'lama.cpp' is no built-in runtime; did you mean 'llama.cpp'?"),
    ],
)
def test_wrong_cores_and_bases(own: Path, text: str, says: str) -> None:
    own.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_runtime(own)
    assert says in str(caught.value)


def test_a_runtime_based_on_another(own: Path) -> None:
    # A number without a kind of device stands for all kinds: what the base says of each of them is gone.
    own.write_text('base = "llama.cpp"\n[device]\nlayer = "9 us"\n[cpu.server]\nshare = "50 %"\n', encoding="utf-8")
    base, mine = load_runtime("llama.cpp"), load_runtime(own)
    assert (mine.name, mine.engine, mine.strategies) == (own.stem, base.engine, base.strategies)
    for name in ("rtx-4090", "apple-m4-max", "desktop-cpu"):
        profile = load_profile(name)
        of_base, of_mine = base.on(profile), mine.on(profile)
        assert of_mine.device == replace(of_base.device, layer=9e-6)
        assert of_mine.cpu == of_base.cpu
        assert of_mine.core == of_base.core
    server = load_profile("rtx-4090+cpu-64core-avx512+ddr5-4800-8ch")
    assert mine.on(server).cpu == replace(base.on(server).cpu, share=0.5)
