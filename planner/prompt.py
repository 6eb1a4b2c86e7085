"""How long a prompt takes: batches of `UBATCH` tokens one after the other, each through all layers.

A batch of n tokens uses of E experts, k per token, at random E (1 - (1 - k/E)^n) different ones of a layer. Each is
read once, and the arithmetic is that of all n k uses: the greater of both (roofline), with the runtime's shares of
bandwidth and peak. What differs is where experts that are not on the device are computed:

* on the CPU beside a GPU (``n-cpu-moe``, ``popular``): llama.cpp gives products of `OFFLOADED` tokens and more to the
  GPU though the weights are in main memory, and copies the experts that the batch uses before (ggml-backend.cpp,
  ``op_offload`` and "copy only the experts that are used"; ggml-cuda.cu, ``op_offload_min_batch_size``;
  ``--no-op-offload`` turns it off). Copies and products follow each other. Fewer tokens are computed by the CPU.
  ktransformers does the same from a threshold of its own on (``--kt-gpu-prefill-token-threshold``).
* loaded (caches, ``streamed``): over the link, or from flash, while what is there is computed. Of the experts that a
  batch uses a cache has the share that it has of all.

Random use is the most that can be: real routing of a prompt uses fewer different experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrcsim.hardware import HardwareProfile
from lrcsim.planner.engines import UBATCH
from lrcsim.planner.speed import Setup
from lrcsim.planner.strategies import Strategy
from lrcsim.simulator.serving.steps import StepSize
from lrcsim.simulator.setup.costs import RooflineCosts

OFFLOADED = 32
"""Tokens from which on products with weights in main memory run on the GPU (``GGML_OP_OFFLOAD_MIN_BATCH``)."""

PROMPT_RANGE = (0.5, 1.5)
"""Measured over predicted speed of prompts. Where a runtime is said to reach all of the profile's peak, an RTX 3090 was
1.8 to 1.9 times slower and a 5080 1.27 times; above, as much room as fewer experts and overlapping copies ask for."""


@dataclass(frozen=True)
class Prompt:
    """How long a prompt takes.

    Attributes:
        tokens: of the prompt.
        seconds: until its last token has an output, which is the first token of the answer.
    """

    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens over seconds."""
        return self.tokens / self.seconds

    @property
    def range(self) -> tuple[float, float]:
        """Low and high seconds: `PROMPT_RANGE`."""
        low, high = PROMPT_RANGE
        return self.seconds / high, self.seconds / low

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: seconds, tokens/s."""
        return {
            "prompt_tokens": self.tokens,
            "time_to_first_token_s": self.seconds,
            "range_time_to_first_token_s": list(self.range),
            "prompt_tokens_per_s": self.tokens_per_s,
        }


def distinct(experts: int, top_k: int, tokens: int) -> float:
    """Return how many different experts of a layer n tokens use, each k of E at random: E (1 - (1 - k/E)^n)."""
    return float(experts * (1 - (1 - top_k / experts) ** tokens))


def prompt_of(setup: Setup, strategy: Strategy, slots: Sequence[int], tokens: int, kv_bytes_per_value: float) -> Prompt:
    """Return how long a prompt takes.

    Args:
        setup: machine, model and runtime.
        strategy: what becomes of experts that are not on the device.
        slots: experts of each MoE layer on the device, int [L].
        tokens: of the prompt.
        kv_bytes_per_value: of the KV cache.
    """
    costs, machine = setup.costs(kv_bytes_per_value), setup.machine
    seconds = 0.0
    for before in range(0, tokens, UBATCH):
        batch = min(UBATCH, tokens - before)
        size = StepSize(batch, 1, before + batch, batch * before + batch * (batch + 1) // 2)
        seconds += costs.after(size) + sum(
            costs.before(layer, size) + machine.layer_overhead + _experts(setup, machine, costs, strategy, at, batch)
            for layer, at in enumerate(zip(costs.bytes, slots, strict=True))
        )
    return Prompt(tokens, seconds)


def _experts(
    setup: Setup,
    machine: HardwareProfile,
    costs: RooflineCosts,
    strategy: Strategy,
    layer: tuple[int, int],
    tokens: int,
) -> float:
    """Return the seconds of a layer's experts; ``layer``: bytes of an expert, and experts on the device."""
    (size, held), geometry = layer, setup.geometry
    away = 1 - held / geometry.experts
    used = distinct(geometry.experts, geometry.top_k, tokens)
    moved, work = used * size, costs.operations * geometry.top_k * tokens

    def on_device(share: float) -> float:
        return max(share * moved / costs.expert_bandwidth, share * work / costs.compute) + costs.overhead

    if away <= 0:
        return on_device(1)
    if strategy.miss == "cpu" and tokens < OFFLOADED:
        drawn = min(machine.cpu.bandwidth, machine.dram.bandwidth)
        cpu = max(away * moved / drawn, away * work / machine.cpu.compute) + setup.runtime.cpu.layer
        return max(cpu, on_device(1 - away))
    arrive = max(
        (away * used * (size / link.bandwidth + link.overhead) + link.latency for link in machine.load_links), default=0
    )
    together = strategy.miss != "cpu" and setup.runtime.loads.overlap != "none"
    return max(arrive, on_device(1)) if together else arrive + on_device(1)
