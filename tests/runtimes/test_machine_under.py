"""What a runtime puts in place of a machine's numbers (its times: tests/simulator/time/test_runtime_mechanisms.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrcsim.hardware import load_profile, profile_names
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.runtimes.runtime import CpuUse, DeviceUse, LoadUse


@pytest.mark.parametrize("name", profile_names())
def test_ideal_changes_nothing(name: str) -> None:
    assert machine_under(load_profile(name), IDEAL) == load_profile(name)


def test_each_number_in_its_place() -> None:
    machine = load_profile("rtx-3090")
    runtime = Runtime(
        "test",
        device=DeviceUse(layer=1.0, kernel=2.0, dense=0.5),
        cpu=CpuUse(share=0.5, compute=0.25, layer=9.0, expert=3.0),
        loads=LoadUse(miss=4.0, copies=3, copy=5.0, bandwidth=0.5, lanes=7, lane_bandwidth=8.0, byte=9.0),
    )
    assert machine.gpu is not None
    link = machine.links[-1]
    assert machine_under(machine, runtime) == replace(
        machine,
        layer_overhead=1.0,
        expert_overhead=4.0,
        gpu=replace(machine.gpu, overhead=2.0),
        cpu=replace(machine.cpu, bandwidth=machine.cpu.bandwidth / 2, compute=machine.cpu.compute / 4, overhead=3.0),
        links=(
            *machine.links[:-1],
            replace(link, bandwidth=link.bandwidth / 2, overhead=link.overhead + 5.0, lanes=7, lane_bandwidth=8.0),
        ),
    )


def test_on_a_phone_loads_come_from_storage_and_nothing_is_copied_to_a_device() -> None:
    phone = load_profile("phone-ufs")
    used = machine_under(phone, Runtime("test", loads=LoadUse(bandwidth=0.5, pinned=False, pageable=1.0)))
    assert [link.bandwidth for link in used.links] == [link.bandwidth / 2 for link in phone.links]
    kernel = machine_under(phone, Runtime("test", device=DeviceUse(kernel=2.0)))
    assert kernel.cpu.overhead == 2.0


def test_launches_ahead_pass_beside_the_machines_own_overheads() -> None:
    machine = load_profile("rtx-3090")
    runtime = Runtime("test", device=DeviceUse(layer=1.0, kernel=2.0, ahead=True), loads=LoadUse(miss=4.0))
    assert machine_under(machine, runtime) == replace(machine, expert_overhead=4.0)
