"""A machine and a model in round numbers, for schedules that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers import path

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link
from lrcsim.models import Geometry

LINK = Link("pcie", bandwidth=100.0, latency=0.0, overhead=0.0, lanes=1)

MACHINE = HardwareProfile(
    name="round",
    description="everything in powers of ten",
    gpu=Gpu(memory=10**9, bandwidth=1e6, compute=1e12, overhead=0.0),
    cpu=Cpu(compute=1e12, bandwidth=50.0, overhead=0.0, cores=1),
    dram=Dram(memory=10**9, bandwidth=1e9),
    links=(LINK,),
    unified=False,
    layer_overhead=0.0,
    expert_overhead=0.0,
)


def machine(**changes: Any) -> HardwareProfile:
    """Return the machine with some parts replaced; ``nvme`` comes before its link, ``pcie=None`` leaves that out."""
    pcie, nvme = changes.pop("pcie", LINK), changes.pop("nvme", None)
    return replace(MACHINE, links=path(pcie, nvme), **changes)


def geometry(**changes: Any) -> Geometry:
    """Return a model of two MoE layers with 4 experts, top-1, with next to nothing else in it."""
    small = Geometry(
        name="round", source="made up", layers=2, moe_layers=(0, 1), experts=4, top_k=1, shared_experts=0, hidden=1,
        expert_width=1, shared_width=0, dense_width=0, matrices=2, heads=1, kv_heads=1, head_dim=1, vocab=1, tied=True,
    )  # fmt: skip
    return replace(small, **changes)
