"""What an inference runtime makes of a machine: plain numbers, each with its unit, its bound and its meaning.

A machine's profile says what the hardware can do. What its software reaches of that, and what it costs besides, is a
runtime's. A number that a runtime leaves out (None) is the profile's own; `IDEAL` leaves out all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from lrcsim.base.errors import ConfigError

Overlap = Literal["none", "expert", "tensor"]
OVERLAPS: tuple[Overlap, ...] = ("none", "expert", "tensor")

Kind = Literal["share", "seconds", "bytes/s", "FLOP/s", "seconds/byte", "count", "flag", "overlap"]


class Key(NamedTuple):
    """A number that a runtime's document may give: its kind, and what it means."""

    kind: Kind
    meaning: str


@dataclass(frozen=True)
class DeviceUse:
    """What it makes of the device that the model runs on."""

    dense: Annotated[float, Key("share", "of the memory's bandwidth that weights of every token reach")] = 1.0
    experts: Annotated[float, Key("share", "of the memory's bandwidth that routed experts reach")] = 1.0
    cache: Annotated[float, Key("share", "of the memory's bandwidth that reading the KV cache reaches")] = 1.0
    compute: Annotated[float, Key("share", "of the peak that products reach: prompts, batches")] = 1.0
    attention: Annotated[
        float,
        Key("share", "of the peak that attention's arithmetic reaches, a token at a time; in prompts it is compute's"),
    ] = 1.0
    layer: Annotated[
        float | None, Key("seconds", "per MoE layer: kernels, waiting for the routing; in place of layer_overhead")
    ] = None
    kernel: Annotated[
        float | None, Key("seconds", "per dense part, per expert and for the output; in place of gpu.overhead")
    ] = None
    mla: Annotated[float, Key("seconds", "more per layer with compressed keys and values (MLA)")] = 0.0
    step: Annotated[float, Key("seconds", "per forward pass: sampling, the graph")] = 0.0
    ahead: Annotated[
        bool,
        Key(
            "flag",
            "whether the host launches ahead: layer and kernel pass on the host while the device computes or waits for "
            "experts, besides the machine's own overheads; experts on the CPU are computed by that host",
        ),
    ] = False


@dataclass(frozen=True)
class CpuUse:
    """What it makes of the processor, where that computes experts, or everything."""

    share: Annotated[float, Key("share", "of cpu.bandwidth that products of stored weights reach")] = 1.0
    compute: Annotated[float, Key("share", "of cpu.compute that products reach: prompts, batches")] = 1.0
    layer: Annotated[float, Key("seconds", "per layer with experts on the CPU beside a GPU: handing over and back")] = (
        0.0
    )
    expert: Annotated[float | None, Key("seconds", "per expert; in place of cpu.overhead")] = None


@dataclass(frozen=True)
class LoadUse:
    """How it brings experts to where they are computed, and what that costs besides the bytes."""

    overlap: Annotated[
        Overlap,
        Key("overlap", "none: all arrive, then all are computed; expert: each when it is there; tensor: gates, ups, "
            "downs of all, each computed when it is there"),
    ] = "expert"  # fmt: skip
    miss: Annotated[float | None, Key("seconds", "per expert loaded; in place of expert_overhead")] = None
    eviction: Annotated[float, Key("seconds", "per expert evicted")] = 0.0
    byte: Annotated[float, Key("seconds/byte", "per byte loaded: bookkeeping, copies in memory")] = 0.0
    beside: Annotated[
        bool,
        Key(
            "flag", "whether what byte and eviction cost comes after the transfers were asked for, and runs beside them"
        ),
    ] = False
    copies: Annotated[
        int, Key("count", "transfers that an expert is: gate, up, down; each pays the link's overhead")
    ] = 1
    copy: Annotated[float, Key("seconds", "per such transfer, in which the link is occupied, besides its overhead")] = (
        0.0
    )
    pinned: Annotated[bool, Key("flag", "whether experts lie in pinned memory")] = True
    pageable: Annotated[
        float | None,
        Key("bytes/s", "most that copies from memory that is not pinned reach, where the link does not say"),
    ] = None
    bandwidth: Annotated[float, Key("share", "of the link's bandwidth that loads reach")] = 1.0
    lanes: Annotated[int | None, Key("count", "transfers served at once; in place of the link's")] = None
    lane_bandwidth: Annotated[float | None, Key("bytes/s", "most that one lane carries")] = None


class CoreRate(NamedTuple):
    """What one core of a processor gets through of weights in a format, whatever memory gives.

    Attributes:
        decode: bytes/s of weights, a token at a time.
        prompt: FLOP/s, many tokens at a time.
    """

    decode: float
    prompt: float


PARTS: dict[str, type[Any]] = {"device": DeviceUse, "cpu": CpuUse, "loads": LoadUse}


@dataclass(frozen=True)
class Runtime:
    """A runtime on one machine.

    Attributes:
        name: of the built-in runtime, or the stem of its file.
        description: one line for people.
        device: what it makes of the device.
        cpu: what it makes of the processor.
        loads: how it brings experts.
        core: what one core gets through, by format of weights; of formats that are not there it is not known.
        isa: the instruction set that ``core`` holds for.
        sources: where each number is from, by its path: ``"device.dense"``, ``"core.q4_0"``.

    Raises:
        ConfigError: the host launches ahead and experts are computed tensor by tensor: no engine does both.
    """

    name: str
    description: str = ""
    device: DeviceUse = DeviceUse()
    cpu: CpuUse = CpuUse()
    loads: LoadUse = LoadUse()
    core: Mapping[str, CoreRate] = field(default_factory=dict, hash=False)
    isa: str = ""
    sources: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.device.ahead and self.loads.overlap == "tensor":
            raise ConfigError(
                f'runtime {self.name}: device.ahead goes with loads.overlap "none" or "expert", not with "tensor": '
                "change one of the two"
            )

    @property
    def parts(self) -> int:
        """In how many pieces an expert is computed: by tensor three, gate, up and down; else one."""
        return 3 if self.loads.overlap == "tensor" else 1

    def at(self, path: str) -> Any:
        """Return the number at a path, ``"device.layer"``; None where it is left to the profile."""
        part, _, key = path.partition(".")
        return getattr(getattr(self, part), key)

    def with_number(self, path: str, value: float) -> Runtime:
        """Return the same with the number ``value`` at a ``path``, in SI base units; a share of 83 % is 0.83."""
        part, _, key = path.partition(".")
        change: dict[str, Any] = {key: value}
        changed: dict[str, Any] = {part: replace(getattr(self, part), **change)}
        return replace(self, **changed)


IDEAL = Runtime("ideal", "the machine as its profile has it: no software in between but what the profile says")
"""Today's hardware as if its software were perfect."""


@cache
def keys(part: str) -> dict[str, Key]:
    """Return what a document says of a part, ``"device"``, ``"cpu"`` or ``"loads"``, by key."""
    hints = get_type_hints(PARTS[part], include_extras=True)
    return {one.name: hints[one.name].__metadata__[0] for one in fields(PARTS[part])}
