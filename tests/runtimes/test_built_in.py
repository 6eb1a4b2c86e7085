"""The built-in runtimes: well formed on every machine, and every number with its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import load_profile, profile_names
from lrcsim.runtimes import runtime_names, runtimes
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.runtimes.runtime import PARTS, keys


def test_ideal_is_first_and_names_are_those_of_files() -> None:
    assert runtime_names()[0] == "ideal"
    assert runtime_names()[1:] == sorted(runtime_names()[1:])
    assert {name: one.name for name, one in runtimes().items()} == {name: name for name in runtimes()}


@pytest.mark.parametrize("name", runtime_names())
def test_every_number_has_a_source(name: str) -> None:
    document = runtimes()[name]
    nowhere = sorted(path for path in document.numbers if path != "loads.overlap" and not document.sources.get(path))
    assert not nowhere


@pytest.mark.parametrize("name", runtime_names())
def test_each_says_what_it_is(name: str) -> None:
    document = runtimes()[name]
    assert document.description
    assert len(document.description) <= 100
    assert "\n" not in document.description
    assert (name == "ideal") == (not document.engine)


@pytest.mark.parametrize("machine", profile_names())
def test_on_every_machine(machine: str) -> None:
    profile = load_profile(machine)
    for name, document in runtimes().items():
        try:
            runtime = document.on(profile)
        except ConfigError as error:
            assert "runs on" in str(error)  # noqa: PT017  # only for devices it does not have
            continue
        assert runtime.name == name
        used = machine_under(profile, runtime)
        assert used.cpu.bandwidth == profile.cpu.bandwidth * runtime.cpu.share
        assert [link.name for link in used.links] == [link.name for link in profile.links]
        assert all(link.bandwidth <= was.bandwidth for link, was in zip(used.links, profile.links, strict=True))
        assert all(key.meaning for part in PARTS for key in keys(part).values())


def test_llama_cpps_cache_is_llama_cpp_but_for_the_layer_and_the_loads() -> None:
    profile = load_profile("rtx-4090")
    plain, cached = (runtimes()[name].on(profile) for name in ("llama.cpp", "llama.cpp-cache"))
    assert cached.device == replace(plain.device, layer=95e-6)
    assert cached.cpu == plain.cpu
    assert cached.core == plain.core
    loads = cached.loads
    assert (loads.overlap, loads.miss, loads.eviction, loads.copies) == ("none", 0.0, 0.0, 3)
    assert (loads.pinned, loads.bandwidth) == (True, 1.0)
    assert not {*runtimes()["llama.cpp"].strategies} & {*runtimes()["llama.cpp-cache"].strategies}
    with pytest.raises(ConfigError, match="runs on cuda, rocm, and apple-m4-max is metal"):
        runtimes()["llama.cpp-cache"].on(load_profile("apple-m4-max"))
