"""Which runtimes have a way of running a model here, which one a row is worked out with, and what it can claim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.models.formats import GGUF
from lrcsim.models.quantisation import is_of_file
from lrcsim.planner.accuracy import Accuracy, Setting, accuracy_of, measured, setting_of
from lrcsim.planner.engines import IN_GGUF, IN_MLX, MLX_GROUPS, expert_format
from lrcsim.planner.ktransformers import kt_method
from lrcsim.planner.memory import Memory
from lrcsim.planner.strategies import FREQUENT, ON_CPU, OPTIMUM
from lrcsim.runtimes import IDEAL, RuntimeDocument, load_runtime, runtimes
from lrcsim.runtimes.machine_kinds import device_kind

ORDER = ("llama.cpp", "mlx", "vllm", "sglang", "ktransformers")
"""Whose numbers a row has where several released runtimes have it; others come after these."""

CACHES, STREAMING = "llama.cpp-cache", "bigmoeonedge-serial"
"""What loads experts into a cache on a GPU, also with policies that only forks have, so that rows differ by the policy
alone; what reads them from flash into one in main memory, which is not released."""

Kind = Literal["released", "fork", "bound"]
KINDS: dict[Kind, str] = {
    "released": "a released runtime has it here, in this dtype, and its speed was held against measurements",
    "fork": "forks and proposals have it",
    "bound": "a limit, or what a released runtime has but nobody measured",
}


@dataclass(frozen=True)
class Standing:
    """What a row can claim.

    Attributes:
        runtime: whose numbers it was worked out with.
        engines: released ones that have it here, in this dtype.
        measured: the class of measured points that it was held against; None: none.
        accuracy: how true such rows have been.
        bound: whether it is one by its nature.
    """

    runtime: str
    engines: tuple[str, ...]
    measured: Setting | None
    accuracy: Accuracy
    bound: bool = False

    @property
    def released(self) -> bool:
        """Whether people can install what does this."""
        return bool(self.engines)

    @property
    def kind(self) -> Kind:
        """See `KINDS`."""
        if self.bound or (self.released and self.measured is None):
            return "bound"
        return "released" if self.released else "fork"


def offering(
    strategy: str, geometry: Geometry, profile: HardwareProfile, dtype: str, memory: Memory
) -> list[RuntimeDocument]:
    """Return the released runtimes that run a model this way, here, in this dtype, by their documents; `ORDER` first.

    Args:
        strategy: its name, as in `lrcsim.planner.strategies`.
        geometry: the model.
        profile: the machine.
        dtype: as the weights are stored.
        memory: what is where.
    """
    if strategy == "popular" and reads_flash(strategy, memory):
        return []
    if strategy in ("lru", "lru-split") and not memory.copies_all:
        return []  # a cache copies out of main memory: what it does where that is paged in from flash nobody said
    return [one for one in _released() if has(one, strategy, geometry, profile, dtype)]


def reads_flash(strategy: str, memory: Memory) -> bool:
    """Return whether a way of running a model reads experts from flash: what is placed must fit beside the GPU."""
    if memory.fit == "flash":
        return True
    return strategy in (ON_CPU.name, FREQUENT.name) and bool(memory.ram) and not memory.placed_in_memory


def has(document: RuntimeDocument, strategy: str, geometry: Geometry, profile: HardwareProfile, dtype: str) -> bool:
    """Return whether a runtime runs a model this way, on such a machine, in this dtype."""
    if not document.offers(strategy, profile) or not takes(document.formats, expert_format(geometry, dtype)):
        return False
    if is_of_file(dtype) and document.formats not in ("gguf", "any"):
        return False  # it takes checkpoints, and this is a file of llama.cpp's, whatever the format of its experts
    if document.name == CACHES and profile.device_link is None:
        return False  # one memory: nothing lies beside the GPU's
    return document.name != "ktransformers" or bool(kt_method(geometry, profile, dtype)[0])


def takes(formats: str, name: str) -> bool:
    """Return whether a runtime that takes a kind of file has a format of experts.

    Args:
        formats: as runtimes' documents have it: ``"gguf"``, ``"checkpoint"``, ``"mlx"``, ``"any"``.
        name: of the format.
    """
    if formats == "gguf":
        return name in IN_GGUF
    if formats == "checkpoint":
        return name not in GGUF
    return formats == "any" or name in IN_MLX or MLX_GROUPS.fullmatch(name) is not None


def runtime_for(
    strategy: str, geometry: Geometry, profile: HardwareProfile, dtype: str, given: RuntimeDocument | None = None
) -> RuntimeDocument:
    """Return the runtime that a row is worked out with: what has it and is released, else what comes nearest.

    Args:
        strategy: its name, as in `lrcsim.planner.strategies`.
        geometry: the model.
        profile: the machine.
        dtype: as the weights are stored.
        given: asked for by the user: it stands for all rows.
    """
    if given is not None:
        return given
    found = next((one for one in _released() if has(one, strategy, geometry, profile, dtype)), None)
    if found is not None:
        return found
    if strategy not in ("all-resident", "n-cpu-moe", "popular", "streamed"):
        nearest = load_runtime(CACHES if profile.device_link is not None else STREAMING)
        here = not nearest.devices or device_kind(profile) in nearest.devices
        return nearest if here else load_runtime("llama.cpp")  # runs on every device
    kind, in_gguf = device_kind(profile), is_of_file(dtype) or expert_format(geometry, dtype) in IN_GGUF
    if kind == "metal" and not in_gguf:
        return load_runtime("mlx")
    if kind.startswith("cuda") and (strategy == "streamed" or not in_gguf):
        return load_runtime("vllm")
    return load_runtime("llama.cpp")


def standing(
    strategy: str,
    geometry: Geometry,
    profile: HardwareProfile,
    dtype: str,
    memory: Memory,
    given: RuntimeDocument | None = None,
) -> Standing:
    """Return what a row can claim; arguments as in `offering` and `runtime_for`."""
    document = runtime_for(strategy, geometry, profile, dtype, given)
    accuracy = accuracy_of("flash" if reads_flash(strategy, memory) else setting_of(strategy, profile), document.name)
    if strategy == OPTIMUM.name:
        return Standing(document.name, (), None, accuracy, bound=True)
    found = offering(strategy, geometry, profile, dtype, memory)
    if given is not None:
        engine = given.engine or given.name  # which may have the way under another document: llama.cpp, its cache
        mine = has(given, strategy, geometry, profile, dtype) or engine in {one.engine for one in found}
        names = [engine] if given.released and mine else []
    else:
        names = [one.engine or one.name for one in found]
    held = has(document, strategy, geometry, profile, dtype)
    setting = measured(strategy, accuracy, document.name) if held else None
    return Standing(document.name, tuple(dict.fromkeys(names)), setting, accuracy, bound=document.name == IDEAL.name)


def _released() -> Iterator[RuntimeDocument]:
    known = runtimes()
    ordered = [*(name for name in ORDER if name in known), *(name for name in known if name not in ORDER)]
    return (known[name] for name in ordered if known[name].released)
