"""What a machine is to the simulator: plain numbers in SI base units."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Cpu", "Dram", "Gpu", "HardwareProfile", "Link"]


@dataclass(frozen=True)
class Link:
    """A link on which experts travel: host to device (``pcie``), or storage to DRAM (``nvme``).

    Attributes:
        bandwidth: bytes/s in one direction, effective: what large transfers reach.
        latency: seconds from submission until data flow; overlaps with other transfers' data.
        overhead: seconds per transfer that occupy the link (driver call, launch).
        lanes: transfers served at once; they share the bandwidth equally.
        chunk: bytes; a transfer is split into chunks, between which a more urgent one may preempt. None: whole.
    """

    bandwidth: float
    latency: float
    overhead: float
    lanes: int
    chunk: int | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        memory: bytes.
        bandwidth: bytes/s of its memory, effective.
        compute: FLOP/s in dense bf16/fp16, the realistic peak.
        overhead: seconds per kernel launch or operation.
    """

    memory: int
    bandwidth: float
    compute: float
    overhead: float


@dataclass(frozen=True)
class Cpu:
    """The processor, where experts may be computed.

    Attributes:
        compute: FLOP/s.
        bandwidth: bytes/s that expert compute can draw from DRAM.
        overhead: seconds per expert.
        cores: that compute experts.
    """

    compute: float
    bandwidth: float
    overhead: float
    cores: int


@dataclass(frozen=True)
class Dram:
    """Main memory.

    Attributes:
        memory: bytes.
        bandwidth: bytes/s, shared by the CPU and by transfers out of it and into it.
    """

    memory: int
    bandwidth: float


@dataclass(frozen=True)
class HardwareProfile:
    """A machine.

    Attributes:
        name: of the built-in profile or the file's stem, with the components that were replaced.
        description: one line for people.
        gpu: None on a machine that computes on the CPU alone.
        cpu: the processor.
        dram: main memory.
        pcie: host to device; None with unified memory (GPU and CPU share DRAM, nothing is copied) or without a GPU.
        nvme: storage to DRAM; None when there is none.
        unified: GPU and CPU share DRAM.
        layer_overhead: seconds per layer: synchronisation and bookkeeping.
        expert_overhead: seconds per expert loaded: bookkeeping.
        kv_shared: the KV cache takes its room from the expert cache as it grows; else it has room of its own.
        sources: where each number is from, by its path: ``"gpu.bandwidth"``.
    """

    name: str
    description: str
    gpu: Gpu | None
    cpu: Cpu
    dram: Dram
    pcie: Link | None
    nvme: Link | None
    unified: bool
    layer_overhead: float
    expert_overhead: float
    kv_shared: bool = False
    sources: dict[str, str] = field(default_factory=dict, compare=False)
