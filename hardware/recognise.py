"""Which components the parts of this machine are, by what drivers and system call them."""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.base.errors import ConfigError
from lrcsim.hardware.components import Component, find_component
from lrcsim.hardware.cpus import processors
from lrcsim.hardware.drivers import Device
from lrcsim.hardware.gpus import GIB, GpuComponent, gpus
from lrcsim.hardware.host import Host, Module
from lrcsim.hardware.rules import MODULES, memory_by_rule

USUAL_KIT = "ddr4-3200-2ch"
"""Main memory of a machine that says nothing of it."""

DESKTOP = 4
"""Up to so many modules a processor that is not known has two channels of main memory."""


def named(name: str, part: str) -> Component | None:
    """Return the component of a part that a name means; None where it means none, or may mean several."""
    try:
        return find_component(name, part) if name else None
    except ConfigError:
        return None


def gpu_named(name: str) -> GpuComponent | None:
    """Return the GPU that a name means."""
    found = named(name, "gpu")
    return gpus()[found.name] if found is not None else None


def gpu_sized(name: str, memory: int) -> GpuComponent | None:
    """Return the GPU that a name means with so many bytes of memory, else the one that it means."""
    sized = gpu_named(f"{name} {round(memory / GIB)}gb") if name and memory else None
    return sized or gpu_named(name)


def known_gpu(device: Device) -> GpuComponent | None:
    """Return the GPU that a device is: of all that its names stand for, the one with the nearest memory."""
    memory = device.memory or 0
    found = [gpu for name in device.names if (gpu := gpu_sized(name, memory)) is not None]
    return min(found, key=lambda one: abs(one.memory - memory) if memory else 0, default=None)


def with_own_memory(devices: Sequence[Device]) -> list[Device]:
    """Return the devices that are not known to share their memory."""
    return [device for device in devices if (gpu := known_gpu(device)) is None or not gpu.unified]


def shared_gpu(host: Host, devices: Sequence[Device]) -> GpuComponent | None:
    """Return the GPU that shares its memory with the processor, of the size nearest to the memory that there is.

    Where a GPU with memory of its own is plugged in besides, that counts, and this is None.
    """
    if with_own_memory(devices):
        return None
    for name in (host.cpu, host.model, *(name for device in devices for name in device.names)):
        found = gpu_sized(name, host.memory)
        if found is not None and found.unified:
            sizes = [one for one in gpus().values() if one.base == found.base]
            return min(sizes, key=lambda one: abs(one.memory - host.memory)) if host.memory else found
    return None


def usual_kit(cpu: Component | None) -> str:
    """Return the main memory of a processor's platform."""
    return (processors()[cpu.name].dram if cpu is not None else "") or USUAL_KIT


def kit_of(modules: Sequence[Module], cpu: Component | None, sockets: int) -> str:
    """Return the component of main memory that modules make; "" where they do not say enough.

    A processor that is known has the channels of its platform, one that is not two with up to `DESKTOP` modules, else
    one for each; a channel without a module gives nothing. Modules of unlike rates run at the lowest.

    Args:
        modules: those that are plugged in.
        cpu: the processor's component, None where it is not known.
        sockets: processors.
    """
    kinds = {module.kind for module in modules}
    if len(kinds) != 1:
        return ""
    kind, rate = kinds.pop(), min(module.rate for module in modules)
    if kind.startswith("lpddr"):
        name = f"{kind}-{rate}-{sum(module.bits for module in modules)}bit"
    else:
        platform = MODULES.fullmatch(usual_kit(cpu))
        channels = int(platform["channels"]) * sockets if platform else 2 * sockets
        plugged = len(modules)
        name = f"{kind}-{rate}-{plugged if cpu is None and plugged > DESKTOP else min(plugged, channels)}ch"
    return name if memory_by_rule(name) else ""
