"""GPUs by name: `data/components/gpu.toml` read, effective numbers worked out by their families' shares.

A GPU is a component, and with its family's usual host a whole machine. One that shares its memory with the processor
brings both.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from lrcsim.base.units import format_quantity, parse_quantity
from lrcsim.hardware.cpus import cpu_entries
from lrcsim.hardware.document import Entry, Flat

GIB = 2**30
MIB = 2**20

HOST: Flat = {
    "layer_overhead": Entry("30 us", "estimate: synchronisation with the router's result on the host"),
    "expert_overhead": Entry("5 us", "estimate: cache lookup and bookkeeping"),
}
"""What a machine with a GPU says outside of its parts."""

MACOS_SMALL = 36 * GIB
"""Up to so much memory macOS gives its GPU two thirds, of more three quarters, as the families' shares say: Metal's
recommendedMaxWorkingSetSize, as llama.cpp prints it (16 GB: 10.7, 64 GB: 48, 128 GB: 96)."""


@dataclass(frozen=True)
class GpuComponent:
    """A GPU of one size of memory.

    Attributes:
        name: as it stands in a specification of hardware.
        base: the name without a size.
        family: of its data file, for lists.
        title: for people: maker and name.
        entries: of ``gpu``; of one that shares its memory, of all parts that it brings.
        host: the components of the machine that it stands in unless others are named, by part.
        unified: whether it shares its memory with the processor.
        memory: bytes on its data sheet, or all that it shares.
        keeps: bytes that its driver keeps.
        sizes: GiB of memory that it is sold with.
        others: other names of it.
        reference: whether it stands for its kind in short lists of machines.
    """

    name: str
    base: str
    family: str
    title: str
    entries: Flat
    host: dict[str, str]
    unified: bool
    memory: int
    keeps: int
    sizes: tuple[int, ...]
    others: tuple[str, ...] = ()
    reference: bool = field(default=False)


@cache
def gpus() -> dict[str, GpuComponent]:
    """Return all GPUs, by name: each as its largest, and by size where there are several (``rtx-4060-ti-8gb``)."""
    text = resources.files("lrcsim.hardware").joinpath("data", "components", "gpu.toml").read_text("utf-8")
    found = {}
    for family, table in tomllib.loads(text).items():
        shared = {key: value for key, value in table.items() if key != "cards"}
        for name, own in table["cards"].items():
            said = shared | own
            said["shared_host"] = said["host"] | ({"pcie": said["pcie"]} if "pcie" in said else {})
            written = said["memory"] if isinstance(said["memory"], list) else [said["memory"]]
            sizes = [int(parse_quantity(one, "bytes")) for one in written]
            for size in sizes[:-1]:
                small = f"{name}-{size // GIB}gb"
                found[small] = _component(small, name, family, said, size, sizes)
            found[name] = _component(name, name, family, said, sizes[-1], sizes)
    return found


def title_of(maker: str, base: str) -> str:
    """Return a GPU's name for people: ``NVIDIA GeForce RTX 4060 Ti``."""
    small = {
        "ti",
        "super",
        "laptop",
        "max",
        "ultra",
        "ada",
        "strix",
        "halo",
        "jetson",
        "orin",
        "thor",
        "nano",
        "server",
        "titan",
    }
    parts = [word.capitalize() if word in small else word.upper() for word in base.split("-") if word != maker.lower()]
    return " ".join([maker, *("Pro" if maker == "Apple" and part == "PRO" else part for part in parts)])


def _component(name: str, base: str, family: str, said: dict[str, Any], size: int, sizes: list[int]) -> GpuComponent:
    unified = "gpu_share" in said
    keeps = int(parse_quantity(said.get("keeps", 0), "bytes"))
    here = f"{base}-{size // GIB}gb"
    akas = tuple(said.get("aka", ()))
    if size == sizes[-1]:
        others = (*akas, here, *(f"{aka} {size // GIB}gb" for aka in akas))
    else:
        others = tuple(f"{aka} {size // GIB}gb" for aka in akas)
    return GpuComponent(
        name=name,
        base=base,
        family=family,
        title=title_of(said["maker"], base),
        entries=_entries(said, size, keeps) | (_shared_memory(said, size) if unified else {}),
        host=said["shared_host"],
        unified=unified,
        memory=size,
        keeps=keeps,
        sizes=tuple(one // GIB for one in sizes),
        others=(*others, f"{said['maker']} {name}"),
        reference=said.get("reference", False) and size == sizes[-1],
    )


def _entries(said: dict[str, Any], size: int, keeps: int) -> Flat:
    """Return the entries of ``gpu``: memory less what the driver keeps, the peaks times the family's shares."""
    source = said["source"]
    peak, how = _peak(said)
    how = f"{source}; {how}" if how else source
    reached = three_digits(peak * percent(said["compute"]) / 100)
    return {
        "gpu.memory": Entry(
            format_quantity(size - keeps, "bytes"),
            f"{source}, less what error correction and the driver keep (estimate)" if keeps else source,
        ),
        "gpu.bandwidth": _bandwidth(said, ", typical of streaming reads (estimate)"),
        "gpu.compute": Entry(
            format_quantity(reached, "FLOP/s"),
            f"{said['compute']} of {peak / 1e12:.4g} TFLOP/s dense fp16 with fp32 accumulate ({how}), estimate",
        ),
        "gpu.overhead": Entry(said["overhead"], "estimate: launch of one kernel"),
        "gpu.api": Entry(said.get("api", "cuda"), ""),
    }


def _bandwidth(said: dict[str, Any], after: str) -> Entry:
    theoretical = parse_quantity(said["bandwidth"], "bytes/s")
    source = f"{said['share']} of the theoretical {said['bandwidth']} ({said['source']}){after}"
    return Entry(f"{round(theoretical * percent(said['share']) / 1e11)} GB/s", source)


def _peak(said: dict[str, Any]) -> tuple[float, str]:
    """Return the peak of a data sheet in FLOP/s, and how it is worked out where the vendor prints none."""
    if "peak" in said:
        return parse_quantity(said["peak"], "FLOP/s"), said.get("peak_is", "")
    cores, ghz, flop = said["cores"], said["ghz"], said["flop"]
    return cores * ghz * flop * 1e9, f"{cores} cores x {ghz} GHz x {flop} FLOP per cycle"


def _shared_memory(said: dict[str, Any], size: int) -> Flat:
    """Return what a GPU brings that shares its memory with the processor."""
    source = said["source"]
    cpu = cpu_entries(
        said["cpu_cores"], said["cpu_ghz"], said["cpu_flop"], said["isa"], said["cpu_compute"], said["cpu_bandwidth"],
        said["cpu_overhead"], source,
    )  # fmt: skip
    return {
        "unified": Entry(True, ""),
        "gpu.memory": Entry(
            format_quantity(gpu_part(said["gpu_share"], size, said["maker"]), "bytes"),
            f"estimate: of {size // GIB} GB shared, what the system lets the GPU have by default",
        ),
        **cpu,
        "dram.memory": Entry(format_quantity(size, "bytes"), source),
        "dram.bandwidth": _bandwidth(said, ", estimate"),
    }


def gpu_part(share: str, total: int, maker: str) -> int:
    """Return the bytes of ``total`` shared ones that the system lets the GPU have; macOS two thirds of few."""
    part = 200 / 3 if maker == "Apple" and total <= MACOS_SMALL else percent(share)
    return int(total * part / 100) // MIB * MIB


def percent(share: str) -> float:
    """Return a share as it is written, ``"90 %"``, as a number."""
    return float(share.removesuffix("%"))


def three_digits(value: float) -> float:
    """Return a number rounded to three digits."""
    return float(f"{value:.3g}")
