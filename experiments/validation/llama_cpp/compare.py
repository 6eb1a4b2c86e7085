"""What lrcsim says of the same prompt and tokens, and what measured times say of bytes, layers and formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.llama_cpp.measure import Work
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry, dense_bytes, expert_bytes, output_bytes
from lrcsim.planner.plan import make_plan
from lrcsim.runtimes import RuntimeDocument
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.platform import KV_BYTES
from lrcsim.traces import RoutingTrace

NUMBERS = ("cpu.bandwidth", "cpu.compute", "cpu.overhead", "dram.bandwidth")
"""Of a profile, those that a machine without a GPU whose memory holds all experts is run with."""


@dataclass(frozen=True)
class Times:
    """Seconds of a prompt, and of a decoded token on average."""

    prompt: float
    token: float


@dataclass(frozen=True)
class Line:
    """``seconds of a token = bytes / bandwidth + layers x per_layer``; bytes/s, seconds."""

    bandwidth: float
    per_layer: float


def predict(profile: HardwareProfile, geometry: Geometry, dtype: str, work: Work, runtime: RuntimeDocument) -> Times:
    """Return what a simulated run takes for a prompt and the tokens decoded after it, all experts in main memory.

    Experts are drawn at random, equally likely, as random weights give them more or less.

    Args:
        profile: the machine.
        geometry: the model.
        dtype: how its weights are stored.
        work: how many tokens.
        runtime: the software that runs it.

    Raises:
        ConfigError: the machine's memory is too small, or the runtime does not run there.
    """
    options: dict[str, Any] = {"hardware": profile, "model": geometry, "dtype": dtype, "runtime": runtime}
    trace = random_routing(geometry, work)
    time: dict[str, Any] = simulate(trace, policy="lru", cache=str(geometry.experts), **options).to_dict()["time"]
    resident = time["all_resident"]  # the cache begins empty, which the first token pays for and memory does not
    return Times(resident["total_s"] - resident["decode_s"], resident["decode_s"] / work.decode)


def random_routing(geometry: Geometry, work: Work, seed: int = 0) -> RoutingTrace:
    """Return a trace of one request in which each token's experts are drawn at random."""
    count = work.prompt + work.decode
    order = np.argsort(np.random.default_rng(seed).random((count, geometry.layers, geometry.experts)), axis=-1)
    phase = np.repeat(np.array([0, 1], np.uint8), [work.prompt, work.decode])
    experts = order[..., : geometry.top_k]
    return RoutingTrace.from_arrays(experts, num_experts=geometry.experts, phase=phase, model=geometry.name)


def planned(profile: HardwareProfile, geometry: Geometry, dtype: str, work: Work, runtime: RuntimeDocument) -> Times:
    """Return what ``lrcsim plan`` says: of a prompt as long, and of a token at the short context of recorded traces.

    Args:
        profile: see `predict`.
        geometry: see `predict`.
        dtype: see `predict`.
        work: its prompt; how many are decoded after it makes no difference.
        runtime: see `predict`.

    Raises:
        ConfigError: the model does not fit the machine's memory.
    """
    context = work.prompt + work.decode
    best = make_plan(geometry, profile, dtype=dtype, context=context, prompt=work.prompt, runtime=runtime).best
    if best is None:
        raise ConfigError(
            f"{geometry.name} in {dtype} does not fit the memory of {profile.name}: use a machine with more"
        )
    return Times(best.prompt.seconds, 1 / best.speed)


def token_bytes(geometry: Geometry, dtype: str, work: Work) -> float:
    """Return the bytes that a decoded token reads: weights it uses, and on average its keys and values in 16 bits."""
    dense = int(dense_bytes(geometry, dtype).sum()) + output_bytes(geometry, dtype)
    experts = geometry.top_k * int(expert_bytes(geometry, dtype).sum())
    return dense + experts + KV_BYTES * geometry.kv_values(1) * (work.prompt + (work.decode + 1) / 2)


def middle(profiles: Sequence[HardwareProfile]) -> HardwareProfile:
    """Return the first profile with the median of each of `NUMBERS` over all of them; sources say so."""
    result = profiles[0]
    sources = dict(result.sources)
    for path in NUMBERS:
        part, _, key = path.partition(".")
        result = result.with_part(part, **{key: float(np.median([profile.at(path) for profile in profiles]))})
        sources[path] = f"median of {len(profiles)} rounds; the first: {sources.get(path, '')}"
    return replace(result, sources=sources)


def line_through(bytes_: tuple[float, float], layers: tuple[int, int], seconds: tuple[float, float]) -> Line:
    """Return the line through two models: two equations, two unknowns.

    Args:
        bytes_: of a token of each.
        layers: of each.
        seconds: of a token of each.

    Raises:
        ConfigError: both have as many bytes per layer, so that nothing tells bytes and layers apart.
    """
    if abs(bytes_[0] / layers[0] - bytes_[1] / layers[1]) < 1e-6 * bytes_[0] / layers[0]:
        raise ConfigError(f"both models read {bytes_[0] / layers[0]:,.0f} bytes per layer: give two that differ")
    per_byte, per_layer = np.linalg.solve(np.array([bytes_, layers], float).T, np.array(seconds, float))
    return Line(float(1 / per_byte), float(per_layer))


def rate_between(few: tuple[float, float], many: tuple[float, float]) -> float:
    """Return amount per second of what the second has more than the first; each is (amount, seconds)."""
    return (many[0] - few[0]) / (many[1] - few[1])
