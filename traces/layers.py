"""The MoE layers of a model, as far as a routing trace has to know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError

MAX_EXPERTS = 65_535
"""Largest number of experts of one layer: ids are stored as uint16 and 65535 means "not recorded"."""

MAX_KEYS = 1 << 22
"""Most (layer, expert) pairs, counted as layers x experts of the largest layer: simulators hold tables of that size."""

MAX_BYTES = 1 << 40
"""Most bytes of one expert (1 TiB): sums over all experts of a model stay below 2**63."""

MAX_BLOCK = 1 << 20
"""Largest index of a layer among all blocks."""

IntArray = npt.NDArray[np.int64]

Sizes = int | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[np.integer]
"""Bytes of one expert: of all, of each layer [L], or of each layer and expert [L, E]."""

COLUMNS = ("num_experts", "top_k", "expert_bytes", "dense_bytes", "block", "stack", "num_shared")
"""Columns of a `LayerTable`, as a trace file names them."""


@dataclass(frozen=True)
class LayerTable:
    """One row per MoE layer, in the order the model runs them. Dense layers have no row.

    Attributes:
        num_experts: int64 [L], routed experts of each layer.
        top_k: int64 [L], experts each token is routed to.
        expert_bytes: int64 [L], bytes of one expert's weights, or [L, E] where experts of a layer differ (several
            precisions), 0 for experts that a layer does not have; None when unknown.
        block: int64 [L], index of the layer among all blocks of its stack (dense blocks counted).
        stack: int64 [L], index into ``stack_names``: a token runs only the layers of its own stack.
        num_shared: int64 [L], shared experts: always used, always resident, never counted as accesses.
        stack_names: e.g. ``("decoder",)`` or ``("encoder", "decoder")``.
        dense_bytes: int64 [L], bytes of the layer's block that every token uses: attention, norms, router, shared
            experts, all but the routed experts; None when unknown.
    """

    num_experts: IntArray
    top_k: IntArray
    expert_bytes: IntArray | None
    block: IntArray
    stack: IntArray
    num_shared: IntArray
    stack_names: tuple[str, ...] = ("decoder",)
    dense_bytes: IntArray | None = None

    @classmethod
    def build(
        cls,
        num_layers: int,
        num_experts: int | Sequence[int] | npt.NDArray[np.integer],
        top_k: int | Sequence[int] | npt.NDArray[np.integer],
        *,
        expert_bytes: Sizes | None = None,
        dense_bytes: int | Sequence[int] | npt.NDArray[np.integer] | None = None,
        block: Sequence[int] | npt.NDArray[np.integer] | None = None,
        stack: Sequence[int] | npt.NDArray[np.integer] | None = None,
        num_shared: int | Sequence[int] | npt.NDArray[np.integer] = 0,
        stack_names: Sequence[str] = ("decoder",),
    ) -> LayerTable:
        """Broadcast single numbers to all layers and check every column.

        Args:
            num_layers: L, MoE layers.
            num_experts: routed experts, one number or int [L].
            top_k: routed experts per token, one number or int [L].
            expert_bytes: bytes of one expert, one number, int [L], or int [L, E] for each expert, E of the largest
                layer (what stands there for experts that a layer does not have is not looked at); None: not known.
            dense_bytes: bytes of a block that every token uses, one number or int [L]; None: not known.
            block: int [L], index of each layer among all blocks of its stack; None: 0, 1, 2 ...
            stack: int [L], index into ``stack_names``; None: all 0.
            num_shared: shared experts, one number or int [L].
            stack_names: the model's stacks, such as encoder and decoder.

        Raises:
            TraceError: a column has the wrong length, or a value outside its range.
        """
        if num_layers < 1:
            raise TraceError(f"a routing trace needs at least one MoE layer, given {num_layers}")

        def column(name: str, value: object, low: int, high: int) -> IntArray:
            try:
                array = np.asarray(value)
                if array.dtype.kind not in "iu":
                    raise TypeError
                array = np.broadcast_to(array, (num_layers,))
            except (ValueError, TypeError, OverflowError):
                raise TraceError(
                    f"{name} must be one integer or a list of {num_layers} (one per MoE layer), given {_short(value)}"
                ) from None
            if array.min() < low or array.max() > high:
                raise TraceError(f"{name} must be {low} to {high} in every layer, given {_short(array.tolist())}")
            return array.astype(np.int64)

        if num_layers > MAX_KEYS:
            raise TraceError(f"a routing trace has {num_layers:,} MoE layers, allowed 1 to {MAX_KEYS:,}")
        experts = column("num_experts", num_experts, 1, MAX_EXPERTS)
        if num_layers * int(experts.max()) > MAX_KEYS:
            raise TraceError(
                f"{num_layers:,} layers of up to {experts.max():,} experts are too many, "
                f"allowed are {MAX_KEYS:,} (layers x experts of the largest layer)"
            )
        k = column("top_k", top_k, 1, MAX_EXPERTS)
        if (k > experts).any():
            worst = int(np.argmax(k > experts))
            raise TraceError(f"layer {worst} routes to top-{k[worst]} of only {experts[worst]} experts")
        sizes = None
        if expert_bytes is not None:
            sizes = _of_each(expert_bytes, experts)
            sizes = column("expert_bytes", expert_bytes, 1, MAX_BYTES) if sizes is None else sizes
        return cls(
            num_experts=experts,
            top_k=k,
            expert_bytes=sizes,
            block=column("block", np.arange(num_layers) if block is None else block, 0, MAX_BLOCK),
            stack=column("stack", 0 if stack is None else stack, 0, len(stack_names) - 1),
            num_shared=column("num_shared", num_shared, 0, MAX_EXPERTS),
            stack_names=tuple(stack_names),
            dense_bytes=None if dense_bytes is None else column("dense_bytes", dense_bytes, 1, MAX_BYTES),
        )

    def only(self, layer: int) -> LayerTable:
        """Return a table of one of the layers."""
        return self.at([layer])

    def at(self, layers: Sequence[int]) -> LayerTable:
        """Return a table of some of the layers, in the order given."""
        rows = list(layers)
        sizes = None if self.expert_bytes is None else self.expert_bytes[rows]
        if sizes is not None and sizes.ndim == 2:
            sizes = _collapsed(sizes[:, : self.num_experts[rows].max()])
        return LayerTable(
            self.num_experts[rows],
            self.top_k[rows],
            sizes,
            self.block[rows],
            self.stack[rows],
            self.num_shared[rows],
            self.stack_names,
            None if self.dense_bytes is None else self.dense_bytes[rows],
        )

    def with_expert_bytes(self, expert_bytes: Sizes) -> LayerTable:
        """Return the same table with other expert sizes: one number, one per layer, or one per layer and expert.

        Raises:
            TraceError: there is not one positive size per layer, or per layer and expert.
        """
        sizes = LayerTable.build(len(self), self.num_experts, self.top_k, expert_bytes=expert_bytes).expert_bytes
        return replace(self, expert_bytes=sizes)

    def __len__(self) -> int:
        return len(self.num_experts)

    @property
    def uniform(self) -> bool:
        """True when all layers have the same number of experts and the same top-k."""
        return len(set(self.num_experts.tolist())) == 1 and len(set(self.top_k.tolist())) == 1

    @property
    def sized_by_expert(self) -> bool:
        """True when experts of a layer differ in bytes: then ``expert_bytes`` is [L, E]."""
        return self.expert_bytes is not None and self.expert_bytes.ndim == 2

    @property
    def key_bytes(self) -> IntArray | None:
        """int64 [L * E], bytes of each expert by key (layer * E + expert), 0 for those that a layer does not have."""
        if self.expert_bytes is None:
            return None
        if self.expert_bytes.ndim == 2:
            return self.expert_bytes.ravel()
        there = np.arange(int(self.num_experts.max())) < self.num_experts[:, None]
        return (self.expert_bytes[:, None] * there).ravel()

    @property
    def layer_bytes(self) -> IntArray | None:
        """int64 [L], bytes of all experts of a layer together."""
        if self.expert_bytes is None:
            return None
        return self.expert_bytes.sum(axis=1) if self.expert_bytes.ndim == 2 else self.expert_bytes * self.num_experts

    @property
    def mean_bytes(self) -> npt.NDArray[np.float64] | None:
        """float64 [L], bytes of an expert of each layer, on average."""
        if self.expert_bytes is None:
            return None
        sizes = self.expert_bytes.astype(np.float64)
        mean: npt.NDArray[np.float64] = sizes if sizes.ndim == 1 else sizes.sum(axis=1) / self.num_experts
        return mean

    @property
    def total_experts(self) -> int:
        """Routed experts of all layers together."""
        return int(self.num_experts.sum())


def _of_each(value: object, experts: IntArray) -> IntArray | None:
    """Return sizes given for each expert as `LayerTable.expert_bytes` has them; None where they are not given so.

    Raises:
        TraceError: there is not one integer for each layer and expert, or one is out of range.
    """
    shape = (len(experts), int(experts.max()))
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        array = np.zeros((0, 0), np.float64)
    if array.ndim < 2:
        return None
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise TraceError(
            f"expert_bytes must be one integer, {shape[0]} (one per MoE layer), or {list(shape)} (one per layer and "
            f"expert), given {_short(value)}"
        )
    there = np.arange(shape[1]) < experts[:, None]
    wrong = np.argwhere(there & ((array < 1) | (array > MAX_BYTES)))
    if len(wrong):
        layer, expert = wrong[0].tolist()
        raise TraceError(
            f"expert_bytes must be 1 to {MAX_BYTES} for every expert, given {array[layer, expert]} for layer {layer}, "
            f"expert {expert}"
        )
    return _collapsed(np.where(there, array, 0).astype(np.int64))


def _collapsed(sizes: IntArray) -> IntArray:
    """Return sizes [L, E], 0 where a layer has no such expert, as [L] where no layer's experts differ."""
    largest = sizes.max(axis=1)
    return largest if ((sizes == 0) | (sizes == largest[:, None])).all() else sizes


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else text[:197] + "..."
