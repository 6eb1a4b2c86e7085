"""What a machine is to the simulator: plain numbers in SI base units, each with its unit, its bound and its meaning.

A field with a `Key` is a number that a profile's document gives; reader, writer and tables go by these (`keys`).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from lrcsim.base.units import Dimension

Kind = Dimension | Literal["count", "flag", "text"]


class Key(NamedTuple):
    """A field that a document gives.

    Attributes:
        kind: the dimension of a quantity; a ``"count"`` is a whole number of at least 1.
        meaning: for people.
        positive: whether the quantity must be above 0.
        optional: whether it may be left out, because the field has a default.
    """

    kind: Kind
    meaning: str
    positive: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Link:
    """A link on which experts travel. Its name is free, ``pcie`` (host to device) and ``nvme`` (storage) are usual."""

    name: str
    bandwidth: Annotated[float, Key("bytes/s", "one way, effective: what large transfers reach", positive=True)]
    latency: Annotated[float, Key("seconds", "from submission until data flow; overlaps with other transfers' data")]
    overhead: Annotated[float, Key("seconds", "per transfer, during which the link is occupied (driver call, launch)")]
    lanes: Annotated[int, Key("count", "transfers served at once; they share the bandwidth equally")]
    chunk: Annotated[
        int | None,
        Key("bytes", "pieces of a transfer, between which a more urgent one may go; without it: whole", positive=True),
    ] = None
    lane_bandwidth: Annotated[
        float | None, Key("bytes/s", "most that one lane carries; without it: all of the bandwidth", positive=True)
    ] = None
    pageable: Annotated[
        float | None,
        Key("bytes/s", "bandwidth from memory that is not page-locked; without it: not known", positive=True),
    ] = None


@dataclass(frozen=True)
class Gpu:
    """A GPU."""

    memory: Annotated[int, Key("bytes", "what experts, other weights and the KV cache may take", positive=True)]
    bandwidth: Annotated[float, Key("bytes/s", "of its memory, effective", positive=True)]
    compute: Annotated[float, Key("FLOP/s", "in dense bf16/fp16, the realistic peak", positive=True)]
    overhead: Annotated[float, Key("seconds", "per kernel launch or operation")]
    api: Annotated[str, Key("text", "what programs it: cuda, rocm, metal or sycl; tells a runtime's numbers")] = "cuda"


@dataclass(frozen=True)
class Cpu:
    """The processor, where experts may be computed."""

    compute: Annotated[float, Key("FLOP/s", "effective", positive=True)]
    bandwidth: Annotated[
        float,
        Key("bytes/s", "what expert compute can draw from DRAM; '88 %' is a share of dram.bandwidth", positive=True),
    ]
    overhead: Annotated[float, Key("seconds", "per expert")]
    cores: Annotated[int, Key("count", "that compute experts")]
    kind: Annotated[
        str, Key("text", "desktop, laptop, server, sockets, old-server or phone; without it told by main memory")
    ] = ""
    isa: Annotated[str, Key("text", "vector instructions: avx2, avx512, neon")] = ""
    sockets: Annotated[int, Key("count", "processors, each with memory of its own (NUMA)")] = 1


@dataclass(frozen=True)
class Dram:
    """Main memory."""

    memory: Annotated[int, Key("bytes", "of main memory", positive=True)]
    bandwidth: Annotated[
        float, Key("bytes/s", "shared by the CPU and by transfers out of it and into it", positive=True)
    ]
    kind: Annotated[str, Key("text", "ddr4, ddr5, lpddr5x ...")] = ""
    channels: Annotated[int | None, Key("count", "of all sockets")] = None
    channel: Annotated[float | None, Key("bytes/s", "theoretical, of one channel", positive=True)] = None


@dataclass(frozen=True, kw_only=True)
class HardwareProfile:
    """A machine.

    Attributes:
        name: of the built-in profile or the file's stem, with the components that were replaced.
        gpu: None on a machine that computes on the CPU alone.
        cpu: the processor.
        dram: main memory.
        links: the way of an expert from storage to the device. On a GPU with memory of its own the last one leads from
            main memory to it; all others lead from storage to main memory, one after the other.
        sources: where each number is from, by its path: ``"gpu.bandwidth"``.
    """

    name: str
    description: Annotated[str, Key("text", "one line for people")] = ""
    unified: Annotated[bool, Key("flag", "GPU and CPU share DRAM, nothing is copied")] = False
    kv_shared: Annotated[
        bool, Key("flag", "the growing KV cache takes its room from the expert cache; else it has room of its own")
    ] = False
    layer_overhead: Annotated[float, Key("seconds", "per layer: synchronisation and bookkeeping")]
    expert_overhead: Annotated[float, Key("seconds", "per expert loaded: bookkeeping")]
    gpu: Gpu | None = None
    cpu: Cpu
    dram: Dram
    links: tuple[Link, ...] = ()
    sources: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def device_link(self) -> Link | None:
        """The link from main memory to a GPU with memory of its own; None on other machines."""
        return self.links[-1] if self.gpu is not None and not self.unified and self.links else None

    @property
    def storage_links(self) -> tuple[Link, ...]:
        """The links from storage to main memory; none without storage."""
        return self.links if self.device_link is None else self.links[:-1]

    @property
    def load_links(self) -> tuple[Link, ...]:
        """The links that every load takes: from main memory to the device, or from storage where these are one."""
        return self.links if self.device_link is None else self.links[-1:]

    def part(self, name: str) -> Gpu | Cpu | Dram | Link | None:
        """Return ``"gpu"``, ``"cpu"``, ``"dram"`` or the link of a name; None where the machine has none."""
        part: Gpu | Cpu | Dram | None = getattr(self, name) if name in ("gpu", "cpu", "dram") else None
        return part or next((link for link in self.links if link.name == name), None)

    def at(self, path: str) -> Any:
        """Return the number at a path, ``"gpu.bandwidth"`` or ``"unified"``; None where the machine lacks its part."""
        part, _, key = path.rpartition(".")
        owner = self.part(part) if part else self
        return None if owner is None else getattr(owner, key)

    def with_part(self, name: str, **changes: Any) -> HardwareProfile:
        """Return the machine with other numbers in a part that it has.

        Args:
            name: see `part`.
            changes: fields of the part, by name.
        """
        part = self.part(name)
        assert part is not None
        changed: Any = replace(part, **changes)
        if isinstance(part, Link):
            return replace(self, links=tuple(changed if link is part else link for link in self.links))
        return replace(self, **{name: changed})


def keys(part: type[Any]) -> dict[str, Key]:
    """Return what a document says of a part, by the fields of its class; of `HardwareProfile`: outside of parts."""
    hints = get_type_hints(part, include_extras=True)
    found = {}
    for one in fields(part):
        for key in getattr(hints[one.name], "__metadata__", ()):
            found[one.name] = key._replace(optional=one.default is not MISSING)
    return found
