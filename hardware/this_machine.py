"""The machine that this runs on, as a profile: what drivers and system say, speeds from the components of that name.

What nobody says is assumed, and the description says so. ``lrcsim calibrate`` measures instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lrcsim.base.text import human_bytes
from lrcsim.base.units import format_quantity, parse_quantity
from lrcsim.hardware.components import Component, need_component
from lrcsim.hardware.cpus import cpu_entries
from lrcsim.hardware.document import DEVICE, PARTS, STORAGE, Entry, Flat, flatten, with_entries
from lrcsim.hardware.drivers import Device, find_gpus
from lrcsim.hardware.gpus import GIB, HOST, GpuComponent, three_digits
from lrcsim.hardware.host import Host, read_host
from lrcsim.hardware.recognise import kit_of, known_gpu, named, shared_gpu, usual_kit, with_own_memory
from lrcsim.hardware.rules import memory_by_rule

SYSTEM = "read: the system says"

ASSUMED_CLOCK = 3.5
"""GHz of a processor that is not known and does not say."""

FLOP = {"avx512": 32, "avx2": 32, "neon": 16, "": 8}
"""FLOP of a core in a cycle, single precision, where the processor is not known: two FMA units of 256 bits, of 128
bits, or one without FMA."""

ASSUMED_GPU_MEMORY = 8 * GIB
ASSUMED_LINK = "pcie4-x16"

PER_GIB = 30e9
"""Bytes/s of theoretical bandwidth for each GiB of a GPU that is not known: Radeon RX 6600 to 7900 XTX: 24 to 40."""

PER_BYTE = 70
"""FLOP for each byte of bandwidth of a GPU that is not known: GeForce RTX 2060 to 5090 have 77 to 164."""


@cache
def found_here() -> tuple[Host, tuple[Device, ...]]:
    """Return what system and drivers say, asked once."""
    return read_host(), tuple(find_gpus())


def this_machine(without_gpu: Mapping[str, Any]) -> Flat:
    """Return the entries of this machine; see `machine_from`."""
    return machine_from(*found_here(), without_gpu)


def machine_from(host: Host, devices: Sequence[Device], without_gpu: Mapping[str, Any]) -> Flat:
    """Return the entries of a machine that was found; what is assumed stands in its description.

    Args:
        host: what the system says.
        devices: GPUs with memory of their own; of several the one with most memory counts.
        without_gpu: the document of a machine without a GPU: its storage, and its numbers outside of parts.
    """
    assumed: list[str] = []
    gpu = shared_gpu(host, devices)
    if gpu is not None:
        flat, what, drive = HOST | _shared(gpu, host), f"{gpu.title} ({gpu.name})", gpu.host[STORAGE]
    else:
        device = max(with_own_memory(devices), key=lambda one: one.memory or 0, default=None)
        cpu = named(host.cpu, "cpu")
        if device is None:
            flat = flatten({key: value for key, value in without_gpu.items() if key not in PARTS}, "")
            what, drive = "no GPU found", without_gpu[STORAGE]
        else:
            known = known_gpu(device)
            flat = HOST | _own(device, known, assumed)
            what = f"{known.title} ({known.name})" if known else f"{device.names[0]} (no component of that name)"
            drive = known.host[STORAGE] if known else without_gpu[STORAGE]
        what += f", {host.cpu or 'a processor of unknown name'} ({cpu.name if cpu else 'no component of that name'})"
        what += f", {host.cores} cores"
        flat = flat | _cpu(host, cpu, assumed) | _dram(host, cpu, assumed)
    assumed += [] if host.drive else [drive]
    flat = with_entries(flat, STORAGE, need_component(host.drive or drive, SYSTEM).entries)
    flat["description"] = Entry(_words(what, host, devices, assumed), "")
    return flat


def _words(what: str, host: Host, devices: Sequence[Device], assumed: Sequence[str]) -> str:
    """Return the description: what was read and who said so, what was assumed."""
    more = f", {len(devices) - 1} more GPUs not counted" if len(devices) > 1 else ""
    memory = f", {human_bytes(host.memory)} of main memory" if host.memory else ""
    sources = " and ".join([*dict.fromkeys(device.read_from for device in devices), "the system"])
    text = f"this machine, read from {sources}: {what}{memory}{more}"
    text += f"; assumed: {', '.join(assumed)}" if assumed else ""
    return " ".join(f"{text}; speeds are typical of such parts: lrcsim calibrate measures".split())


def _shared(gpu: GpuComponent, host: Host) -> Flat:
    """Return what a GPU with shared memory brings; of another size of memory it may use the same share."""
    if not host.memory or host.memory == gpu.memory:
        return dict(gpu.entries)
    usable = gpu.entries["gpu.memory"]
    share = parse_quantity(usable.value, "bytes") / gpu.memory
    return gpu.entries | {
        "dram.memory": _size(host.memory, SYSTEM),
        "gpu.memory": _size(int(host.memory * share), usable.source),
    }


def _own(device: Device, known: GpuComponent | None, assumed: list[str]) -> Flat:
    """Return the entries of a GPU with memory of its own, and of its link."""
    link = device.link or (known.host[DEVICE] if known else ASSUMED_LINK)
    assumed += [] if device.link else [link]
    entries = _unknown(device, assumed) if known is None else dict(known.entries)
    if known is not None and device.memory:
        entries["gpu.memory"] = _size(device.memory - known.keeps, f"read: {device.read_from}")
    return entries | need_component(link, SYSTEM).entries


def _unknown(device: Device, assumed: list[str]) -> Flat:
    """Return the entries of a GPU that is no component: what its driver says, else estimates by its memory."""
    memory = device.memory or ASSUMED_GPU_MEMORY
    bandwidth = device.bandwidth or memory / GIB * PER_GIB
    peak = device.peak or bandwidth * PER_BYTE
    assumed += [] if device.memory else [f"{human_bytes(memory)} of GPU memory"]
    assumed += [] if device.bandwidth else ["the GPU's bandwidth by the size of its memory"]
    assumed.append(f"the GPU's compute by its {'cores and clock' if device.peak else 'bandwidth'}")
    read = f"read: {device.read_from}"
    how = f"{read}: bus x clock" if device.bandwidth else "by size"
    return {
        "gpu.memory": _size(memory, read if device.memory else "assumed"),
        "gpu.bandwidth": Entry(
            f"{max(1, round(bandwidth * 0.85 / 1e9))} GB/s",
            f"estimate: 85 % of {bandwidth / 1e9:.0f} GB/s ({how})",
        ),
        "gpu.compute": Entry(
            format_quantity(three_digits(peak * 0.7), "FLOP/s"), f"estimate: 70 % of {peak / 1e12:.1f} TFLOP/s"
        ),
        "gpu.overhead": Entry("5 us", "estimate: launch of one kernel"),
        "gpu.api": Entry(device.api, ""),
    }


def _cpu(host: Host, cpu: Component | None, assumed: list[str]) -> Flat:
    """Return the entries of ``cpu``: of the component as many cores as there are, or an estimate by cores and clock."""
    extra: Flat = {"cpu.kind": Entry("laptop", "")} if host.laptop else {}
    if host.sockets > 1:
        extra["cpu.sockets"] = Entry(host.sockets, SYSTEM)
    if cpu is None:
        ghz = host.ghz or ASSUMED_CLOCK
        assumed.append(f"the processor's compute by cores and {'' if host.ghz else 'assumed '}{ghz:.1f} GHz")
        return cpu_entries(host.cores, ghz, FLOP[host.isa], host.isa, "40 %", "85 %", "15 us", SYSTEM) | extra
    all_cores = int(str(cpu.entries["cpu.cores"].value)) * host.sockets
    cores = min(host.cores, all_cores) if host.sockets == 1 else host.cores
    compute = cpu.entries["cpu.compute"]
    reached = parse_quantity(compute.value, "FLOP/s") * cores * host.sockets / all_cores
    extra["cpu.compute"] = Entry(format_quantity(three_digits(reached), "FLOP/s"), compute.source)
    return cpu.entries | extra | {"cpu.cores": Entry(cores, SYSTEM)}


def _dram(host: Host, cpu: Component | None, assumed: list[str]) -> Flat:
    """Return the entries of ``dram``: by its modules, else as usual for the processor, of the size that there is."""
    kit = kit_of(host.modules, cpu, host.sockets)
    assumed += [] if kit else [usual_kit(cpu)]
    entries = memory_by_rule(kit or usual_kit(cpu))
    assert entries is not None
    if not host.memory:
        assumed.append(f"{entries['dram.memory'].value} of main memory")
        return entries
    return entries | {"dram.memory": _size(host.memory, SYSTEM)}


def _size(memory: int, source: str) -> Entry:
    return Entry(format_quantity(memory, "bytes"), source)
