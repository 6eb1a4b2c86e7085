"""Which runtime a row of a plan is worked out with: what really runs models that way, there, in that dtype."""

from __future__ import annotations

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.models.formats import GGUF
from lrcsim.planner.engines import IN_GGUF, expert_format
from lrcsim.runtimes import RuntimeDocument, load_runtime
from lrcsim.runtimes.machine_kinds import device_kind

CACHES = "expert-cache"
"""What loads experts into a cache on a GPU: no release does, forks of llama.cpp do."""

STREAMING = "bigmoeonedge"
"""What reads experts from flash into a cache in main memory and computes them there."""


def runtime_for(
    strategy: str, geometry: Geometry, profile: HardwareProfile, dtype: str, given: RuntimeDocument | None = None
) -> RuntimeDocument:
    """Return the runtime for a way of running a model.

    Args:
        strategy: its name, as in `lrcsim.planner.strategies`.
        geometry: the model.
        profile: the machine.
        dtype: as the weights are stored.
        given: asked for by the user: it stands for all rows.
    """
    if given is not None:
        return given
    return load_runtime(_name(strategy, expert_format(geometry, dtype), profile))


def _name(strategy: str, dtype: str, profile: HardwareProfile) -> str:
    kind = device_kind(profile)
    if strategy in ("all-resident", "n-cpu-moe", "popular", "streamed"):
        if strategy == "popular" and dtype not in GGUF:
            return "ktransformers"
        if kind == "metal" and dtype not in IN_GGUF:
            return "mlx"
        if kind.startswith("cuda") and (strategy == "streamed" or dtype not in IN_GGUF):
            return "vllm"
        return "llama.cpp"
    return CACHES if profile.device_link is not None else STREAMING
