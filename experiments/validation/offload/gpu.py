"""Experts in page-locked host memory, copied to a GPU on a stream of their own. Needs torch; not run by the authors."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.offload.devices import Device
from lrcsim.experiments.validation.offload.weights import ExpertShape, Matrices, matrices, random_expert


class GpuDevice(Device):
    """Keeps all experts in host memory and some on the GPU.

    Args:
        shape: of the model.
        slots: experts that the GPU holds.

    Attributes:
        matrices: a few experts in ordinary memory, for `NoDevice`.

    Raises:
        ConfigError: torch is not installed, or sees no GPU.
    """

    def __init__(self, shape: ExpertShape, slots: int) -> None:
        try:
            self.torch: Any = importlib.import_module("torch")
        except ImportError:
            raise ConfigError("torch is not installed: install it (pip install torch), or leave out --gpu") from None
        if not self.torch.cuda.is_available():
            raise ConfigError("torch sees no GPU: leave out --gpu")
        super().__init__(shape)
        torch = self.torch
        self.matrices: list[Matrices] = [matrices(random_expert(shape, key), shape) for key in range(48)]
        numbers = 3 * shape.hidden * shape.ffn
        self.host = torch.empty(shape.layers * shape.experts, numbers, pin_memory=True)
        for key, row in enumerate(self.host):
            row.copy_(torch.from_numpy(random_expert(shape, key)))
        self.slots = torch.empty(slots, numbers, device="cuda")
        self.stream = torch.cuda.Stream()
        self._under_way: deque[tuple[int, Any]] = deque()

    def begin(self, token: int) -> Any:
        """Return the vector with which a token enters, on the GPU."""
        return self.torch.from_numpy(super().begin(token)).cuda()

    def load(self, key: int, slot: int) -> None:
        """Put a copy on the stream; whatever read the slot before has been waited for at the end of its layer."""
        event = self.torch.cuda.Event()
        with self.torch.cuda.stream(self.stream):
            self.slots[slot].copy_(self.host[key], non_blocking=True)
            event.record()
        self._under_way.append((key, event))

    def arrived(self) -> int:
        """Wait for the oldest copy."""
        key, event = self._under_way.popleft()
        event.synchronize()
        return key

    def compute(self, slot: int, x: Any) -> Any:
        """Begin an expert."""
        shape, flat = self.shape, self.slots[slot]
        part = shape.hidden * shape.ffn
        gate, up = (flat[i * part : (i + 1) * part].view(shape.ffn, shape.hidden) for i in range(2))
        down = flat[2 * part :].view(shape.hidden, shape.ffn)
        return down @ (self.torch.nn.functional.silu(gate @ x) * (up @ x))

    def combine(self, x: Any, weights: Sequence[float], outputs: Sequence[Any]) -> Any:
        """Add the outputs to the vector, and wait for it."""
        total = x + self.torch.tensor(weights, device="cuda") @ self.torch.stack(list(outputs))
        scaled = total * (len(x) ** 0.5 / total.norm())
        self.wait()
        return scaled

    def wait(self) -> None:
        """Wait for everything that was computed."""
        self.torch.cuda.current_stream().synchronize()
