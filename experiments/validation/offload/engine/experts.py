"""Experts: random weights in page-locked host memory, made once per model, and the slots on the device for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrcsim.experiments.validation.offload.engine.device import Device
from lrcsim.experiments.validation.offload.engine.shape import EngineShape

CHUNK = 1 << 30
"""Bytes of page-locked memory at a time: torch rounds each allocation up to a power of two."""
SEED = 20


class HostExperts:
    """The different experts in page-locked memory, bfloat16 [3 * hidden * ffn] each: gate, up, down.

    Uniform with variance 1 / hidden, so that neither a vector nor a product grows from layer to layer.

    Args:
        device: whose copies they are for.
        shape: of the model.
    """

    def __init__(self, device: Device, shape: EngineShape) -> None:
        torch = device.torch
        self.shape = shape
        self._silu = torch.nn.functional.silu
        self._each = each = max(CHUNK // shape.expert_bytes, 1)
        generator = torch.Generator(device.where).manual_seed(SEED)
        made = device.empty(shape.numbers, dtype=torch.bfloat16)
        width = (12 / shape.geometry.hidden) ** 0.5
        self._chunks = []
        for first in range(0, shape.unique, each):
            chunk = device.host(min(each, shape.unique - first), shape.numbers, dtype=torch.bfloat16)
            for row in chunk:
                row.copy_(made.uniform_(-width / 2, width / 2, generator=generator))
            self._chunks.append(chunk)

    def __getitem__(self, key: int) -> Any:
        """Return expert ``key`` = layer * E + expert, bfloat16 [3 * hidden * ffn]."""
        number = key % self.shape.unique
        return self._chunks[number // self._each][number % self._each]

    def on_cpu(self, key: int, x: Any) -> Any:
        """Compute an expert on the processor, with as many threads as torch takes.

        Args:
            key: the expert.
            x: bfloat16 [tokens, hidden], in host memory.

        Returns:
            bfloat16 [tokens, hidden]: down (silu(gate x) * up x).
        """
        gate_up, down = split(self[key], self.shape)
        gate, up = (x @ gate_up.T).chunk(2, dim=1)
        return (self._silu(gate) * up) @ down.T


def split(flat: Any, shape: EngineShape) -> tuple[Any, Any]:
    """Return gate and up together, [..., 2 * ffn, hidden], and down, [..., hidden, ffn], of experts [..., numbers]."""
    hidden, ffn = shape.geometry.hidden, shape.geometry.expert_width
    wide = 2 * ffn * hidden
    lead = flat.shape[:-1]
    return flat[..., :wide].view(*lead, 2 * ffn, hidden), flat[..., wide:].view(*lead, hidden, ffn)


def arena(device: Device, shape: EngineShape, slots: int) -> Any:
    """Return room for so many experts on the device, bfloat16 [slots, numbers]."""
    return device.empty(slots, shape.numbers, dtype=device.torch.bfloat16)


def fits(shape: EngineShape, wanted: Sequence[int], free: int) -> list[int]:
    """Return those numbers of slots for which so many free bytes are enough."""
    return [slots for slots in wanted if slots * shape.expert_bytes <= free]
