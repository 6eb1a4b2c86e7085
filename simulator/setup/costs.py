"""How long computing takes: from fixed numbers, or from a roofline over the model's geometry and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.hardware import Cpu, HardwareProfile
from lrcsim.models import Geometry, dense_bytes, expert_bytes, output_bytes, stored_dtype
from lrcsim.models.quantisation import format_of
from lrcsim.models.tensors import Tensor
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.simulator.serving.steps import StepSize

UNLIMITED = 1e18
"""Tokens that a layer without a window looks back."""


class CostTable(NamedTuple):
    """Costs as numbers for compiled code, all of the form max(bytes / bandwidth, operations / compute) + overhead.

    Attributes:
        parts: float64 [n, 7], dense parts: bytes, and operations per token; bytes per token of context, and operations
            per pair (`StepSize`), both as if the runtime reached as much of bandwidth and peak as for weights; tokens
            that the layer looks back, `UNLIMITED` where it sees all; seconds more; operations per pair in a step of one
            token for each request.
        first: int64 [L + 2], parts ``first[i]:first[i + 1]`` come before the routing of layer i, the last ``after``.
        head: bytes of the output matrix, and operations per request, both as if its format went at the rates below.
        bandwidth: bytes/s where the model runs, of weights that every token uses.
        expert_bandwidth: bytes/s there, of experts.
        compute: FLOP/s there.
        overhead: seconds per operation there: a part, the head, an expert.
        step: seconds per forward pass.
        expert_bytes: float64 [L], moved by an expert there, or by key, [L * E], where those of a layer differ.
        operations: of an expert per token.
        cpu_bytes: float64 [L] or [L * E], moved by an expert on the CPU.
        cpu_bandwidth: bytes/s.
        cpu_compute: FLOP/s.
        cpu_overhead: seconds per expert.
    """

    parts: npt.NDArray[np.float64]
    first: npt.NDArray[np.int64]
    head: tuple[float, float]
    bandwidth: float
    expert_bandwidth: float
    compute: float
    overhead: float
    step: float
    expert_bytes: npt.NDArray[np.float64]
    operations: float
    cpu_bytes: npt.NDArray[np.float64]
    cpu_bandwidth: float
    cpu_compute: float
    cpu_overhead: float


class Costs(Protocol):
    """Seconds of compute, for MoE layers numbered as in the trace."""

    def before(self, layer: int, size: StepSize) -> float:
        """Seconds before the routing of a layer is known: attention, router, shared experts, dense layers before it.

        Args:
            layer: MoE layer, as in the trace.
            size: of the step.
        """

    def after(self, size: StepSize) -> float:
        """Seconds after the last MoE layer: dense layers behind it, and the output."""

    def expert(self, layer: int, tokens: int, key: int = -1) -> float:
        """Seconds of one expert where the model runs.

        Args:
            layer: its MoE layer.
            tokens: of the step that use it.
            key: which expert, where those of a layer differ in bytes.
        """

    def on_cpu(self, layer: int, tokens: int, key: int = -1) -> tuple[float, float, float]:
        """What one expert takes on the CPU: seconds of overhead, bytes drawn from DRAM, bytes/s undisturbed.

        Args:
            layer: its MoE layer.
            tokens: of the step that use it.
            key: which expert, where those of a layer differ in bytes.
        """


@dataclass(frozen=True)
class FixedCosts:
    """The same for all layers.

    Attributes:
        dense: seconds before each layer's routing.
        expert_s: seconds of an expert per token.
        output: seconds after the last layer.
        cpu_overhead: seconds per expert on the CPU.
        cpu_bytes: bytes an expert draws on the CPU.
        cpu_rate: bytes/s it draws undisturbed.
    """

    dense: float = 0.0
    expert_s: float = 0.0
    output: float = 0.0
    cpu_overhead: float = 0.0
    cpu_bytes: float = 1.0
    cpu_rate: float = 1.0

    def before(self, layer: int, size: StepSize) -> float:
        """Return ``dense``."""
        return self.dense

    def after(self, size: StepSize) -> float:
        """Return ``output``."""
        return self.output

    def expert(self, layer: int, tokens: int, key: int = -1) -> float:
        """Return ``expert_s`` for each token."""
        return self.expert_s * tokens

    def on_cpu(self, layer: int, tokens: int, key: int = -1) -> tuple[float, float, float]:
        """Return the three numbers."""
        return self.cpu_overhead, self.cpu_bytes, self.cpu_rate

    def table(self, layers: int) -> CostTable:
        """Return the same as a `CostTable`, in which a byte and an operation take a second."""
        return CostTable(
            parts=np.tile([self.dense, 0.0, 0.0, 0.0, UNLIMITED, 0.0, 0.0], (layers, 1)),
            first=np.append(np.arange(layers + 1), layers),
            head=(self.output, 0.0),
            bandwidth=1.0,
            expert_bandwidth=1.0,
            compute=1.0,
            overhead=0.0,
            step=0.0,
            expert_bytes=np.zeros(layers),
            operations=self.expert_s,
            cpu_bytes=np.full(layers, self.cpu_bytes),
            cpu_bandwidth=self.cpu_rate,
            cpu_compute=math.inf,
            cpu_overhead=self.cpu_overhead,
        )


class Part(NamedTuple):
    """A dense block in numbers: the columns of `CostTable.parts`."""

    weights: float
    per_token: float
    per_context: float
    per_pair: float
    window: float
    more: float
    per_pair_alone: float


class RooflineCosts:
    """The greater of moving the weights once and of the arithmetic, plus an overhead for each operation.

    Williams, Waterman, Patterson, "Roofline", CACM 52 (4), 2009. For n tokens a matrix of P parameters takes
    max(bytes / bandwidth, 2 P n / compute). Attention besides reads the KV cache of each request once, and takes
    operations for each pair of tokens. In layers with a window it reads what the first of the step's tokens looks back,
    and the tokens after it; pairs are as many as the window for each token, at most. An operation is a layer's dense
    part, or one expert. On a machine without a GPU the CPU runs everything. A runtime reaches its shares of bandwidth
    and peak (`lrcsim.runtimes`).

    Args:
        geometry: the model.
        profile: the machine, as the runtime uses it (`machine_under`).
        dtype: how the weights are stored (`lrcsim.models.dtype_names`); None: as released.
        sizes: bytes of an expert of each MoE layer, int64 [L], where the trace knows them, or of each expert of each,
            [L, E], where those of a layer differ; else from geometry and dtype.
        kv_dtype_bytes: bytes per number of the KV cache.
        runtime: what runs the model.
        dense: bytes of each MoE layer's block that every token uses, where the trace knows them; else from geometry and
            dtype, as those of blocks without experts and of the output matrix always are.

    Attributes:
        dense_bytes: of all blocks and of the output matrix: what every token uses.
    """

    def __init__(
        self,
        geometry: Geometry,
        profile: HardwareProfile,
        dtype: str | None = None,
        sizes: npt.NDArray[np.int64] | None = None,
        kv_dtype_bytes: float = 2.0,
        runtime: Runtime = IDEAL,
        dense: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
    ) -> None:
        dtype = stored_dtype(geometry, dtype)
        use = runtime.device
        self.cpu = _within_cores(profile.cpu, runtime, _format(geometry, dtype, "ffn_up_exps"))
        device = profile.gpu or _within_cores(profile.cpu, runtime, _format(geometry, dtype, "attn_output"))
        of_experts = profile.gpu or self.cpu
        self.bandwidth, self.expert_bandwidth = device.bandwidth * use.dense, of_experts.bandwidth * use.experts
        self.compute, self.overhead, self.step = device.compute * use.compute, device.overhead, use.step
        known = expert_bytes(geometry, dtype) if sizes is None else sizes
        self.by_expert = known.ndim == 2
        self.bytes: list[int] = known.ravel().tolist()  # by layer, or by key
        self.operations = 2.0 * geometry.expert_params  # per token
        blocks = dense_bytes(geometry, dtype).copy()
        if dense is not None:
            blocks[list(geometry.moe_layers)] = dense
        attended, short = set(geometry.kv_layers), set(geometry.window_layers)
        moe = set(geometry.moe_layers)
        parts: list[Part] = []
        self.parts: list[tuple[Part, ...]] = []
        for block in range(geometry.layers):
            has_kv = block in attended
            params = geometry.layer_params(block)
            pair = float(geometry.attention_flops_per_pair(block)) if has_kv else 0.0
            parts.append(
                Part(
                    weights=float(blocks[block]),
                    per_token=2.0 * params,
                    per_context=kv_dtype_bytes * geometry.kv_values_of(block) * (use.dense / use.cache)
                    if has_kv
                    else 0.0,
                    per_pair=pair,
                    window=float(geometry.window) if block in short and geometry.window else UNLIMITED,
                    more=use.mla if has_kv and geometry.mla else 0.0,
                    per_pair_alone=pair * (use.compute / use.attention),
                )
            )
            if block in moe:
                self.parts.append(tuple(parts))
                parts = []
        self.rest = tuple(parts)
        output = output_bytes(geometry, dtype)
        of_output = profile.gpu or _within_cores(profile.cpu, runtime, _format(geometry, dtype, "output"))
        self.head = (
            output * (device.bandwidth / of_output.bandwidth),
            2.0 * geometry.vocab * geometry.hidden * (device.compute / of_output.compute),
        )
        self.dense_bytes = int(blocks.sum()) + output

    def before(self, layer: int, size: StepSize) -> float:
        """Seconds of the dense blocks before a MoE layer, and of its own dense part."""
        return sum(self._part(part, size) for part in self.parts[layer])

    def after(self, size: StepSize) -> float:
        """Seconds of the dense blocks at the end, of the output matrix, and of what a forward pass costs besides."""
        weights, operations = self.head
        head = max(weights / self.bandwidth, operations * size.outputs / self.compute) + self.overhead + self.step
        return sum(self._part(part, size) for part in self.rest) + head

    def expert(self, layer: int, tokens: int, key: int = -1) -> float:
        """Seconds of one expert."""
        size = self.bytes[key if self.by_expert else layer]
        return max(size / self.expert_bandwidth, self.operations * tokens / self.compute) + self.overhead

    def on_cpu(self, layer: int, tokens: int, key: int = -1) -> tuple[float, float, float]:
        """Overhead, bytes, and bytes/s: of DRAM, or less where the arithmetic takes longer."""
        size, cpu = self.bytes[key if self.by_expert else layer], self.cpu
        return cpu.overhead, float(size), size / max(size / cpu.bandwidth, self.operations * tokens / cpu.compute)

    def table(self, layers: int) -> CostTable:
        """Return the same as a `CostTable`."""
        groups = [*self.parts, self.rest]
        return CostTable(
            parts=np.array([part for group in groups for part in group], np.float64).reshape(-1, 7),
            first=np.cumsum([0, *map(len, groups)]),
            head=self.head,
            bandwidth=self.bandwidth,
            expert_bandwidth=self.expert_bandwidth,
            compute=self.compute,
            overhead=self.overhead,
            step=self.step,
            expert_bytes=np.array(self.bytes, np.float64),
            operations=self.operations,
            cpu_bytes=np.array(self.bytes, np.float64),
            cpu_bandwidth=self.cpu.bandwidth,
            cpu_compute=self.cpu.compute,
            cpu_overhead=self.cpu.overhead,
        )

    def _part(self, part: Part, size: StepSize) -> float:
        context = min(float(size.context), part.window * size.requests + size.tokens - size.requests)
        pairs = min(float(size.pairs), part.window * size.tokens)
        moved = (part.weights + part.per_context * context) / self.bandwidth
        of_pair = part.per_pair_alone if size.tokens <= size.requests else part.per_pair
        operations = part.per_token * size.tokens + of_pair * pairs
        return max(moved, operations / self.compute) + self.overhead + part.more


def _format(geometry: Geometry, dtype: str, tensor: str) -> str:
    """Return the format of a matrix of the first MoE layer, or of the output, by llama.cpp's name."""
    layer = -1 if tensor == "output" else geometry.moe_layers[0]
    return format_of(geometry, Tensor(tensor, layer, geometry.hidden, geometry.hidden), dtype)


def _within_cores(cpu: Cpu, runtime: Runtime, name: str) -> Cpu:
    """Return the processor with no more than its cores get through of weights in a format."""
    rate = runtime.core.get(name)
    if rate is None:
        return cpu
    return replace(
        cpu,
        bandwidth=min(cpu.bandwidth, cpu.cores * rate.decode),
        compute=min(cpu.compute, cpu.cores * rate.prompt),
    )
