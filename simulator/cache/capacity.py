"""Cache sizes as people write them, turned into pools of slots or bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.units import parse_quantity
from lrcsim.traces import LayerTable

Scope = Literal["layer", "model"]
SCOPES: tuple[Scope, ...] = ("layer", "model")
CacheSize = str | int | float | Sequence[int | str]
LONGEST = 40
"""Characters of a cache size."""

MOST = 10**15
"""The largest number of experts that a cache size may name."""

FORMS = "use 2x (times active experts), 16 (experts), 25% (of all), 4GiB (bytes), or a list with one entry per layer"


@dataclass(frozen=True)
class PoolSize:
    """How much one pool of experts may hold.

    Attributes:
        layers: the layers that share the pool.
        capacity: slots, or bytes where ``bytes_per_expert`` is given.
        bytes_per_expert: for each of ``layers`` the bytes of one expert, when experts of the pool differ in size and
            the capacity is in bytes; where experts of a layer differ, the bytes of each, layer after layer, as many for
            each as the largest layer of the model has experts (0 for those that a layer does not have); else None:
            every expert takes one slot.
    """

    layers: tuple[int, ...]
    capacity: int
    bytes_per_expert: tuple[int, ...] | None = None

    @property
    def by_expert(self) -> bool:
        """Whether experts of a layer differ in bytes, so that ``bytes_per_expert`` has those of each."""
        return self.bytes_per_expert is not None and len(self.bytes_per_expert) > len(self.layers)

    def cost(self, stride: int) -> npt.NDArray[np.int64]:
        """Return int64 [layers * stride], what each expert takes of the capacity, by key from the pool's first.

        Args:
            stride: E, experts of the largest layer of the model.
        """
        if self.bytes_per_expert is None:
            return np.ones(len(self.layers) * stride, np.int64)
        sizes = np.array(self.bytes_per_expert, np.int64)
        return sizes if self.by_expert else np.repeat(sizes, stride)


def parse_bytes(text: str) -> int | None:
    """Read ``"4GiB"``, ``"4000 MiB"``, ``"1.5GB"``, ``"123B"`` as bytes; None when it has no unit of bytes."""
    if not text.strip()[-1:].isalpha():
        return None  # 0 without a unit is a number of experts here
    try:
        return math.floor(parse_quantity(text, "bytes"))
    except ConfigError:
        return None


def bytes_from(name: str, given: object) -> int:
    """Read a number of bytes: ``2752512``, ``"2.5MiB"``.

    Args:
        name: of the option, for errors.
        given: its value.

    Raises:
        ConfigError: it is none, or zero.
    """
    text = str(given)
    amount = int(text) if text.isdecimal() else parse_bytes(text)
    if not amount:
        raise ConfigError(f"{name} {given!r} is not a size: write bytes as 2752512 or with a unit, 2.5MiB")
    return amount


def resolve_capacity(size: CacheSize, layers: LayerTable, scope: Scope) -> list[PoolSize]:
    """Turn a cache size into one pool per layer (scope ``layer``) or one for all (scope ``model``).

    * ``2x``: times the experts active per token, rounded down: k of the layer, or the sum of all k for the model.
    * ``16``: experts, per layer or in the one pool. ``25%``: of all experts, rounded down.
    * ``4GiB``: bytes in all. In scope ``layer`` every layer gets the same share of the bytes, rounded down to whole
      experts; in scope ``model`` experts of different layers take their own size. Where experts of a layer differ in
      size, each takes its own in either scope.
    * a list, or text with commas: an entry of these forms per layer (bytes there are the layer's own).

    Args:
        size: the cache size, in one of these forms.
        layers: the model's MoE layers.
        scope: ``"layer"`` or ``"model"``.

    Raises:
        ConfigError: the size is malformed or out of range, or bytes are asked of a trace without expert sizes.
    """
    if scope not in SCOPES:
        raise ConfigError(f"scope {scope!r} is not known, use 'layer' or 'model'" + did_you_mean(str(scope), SCOPES))
    count = len(layers)
    entries = size.split(",") if isinstance(size, str) else size
    if isinstance(entries, Sequence) and len(entries) != 1:
        if scope == "model":
            raise ConfigError(f"cache size {size!r} is a list per layer, but scope 'model' has one pool: give one size")
        if len(entries) != count:
            raise ConfigError(f"cache size {size!r} has {len(entries)} entries, the model has {count} MoE layers")
        pools = [_layer_pool(entry, layers, i, share=1) for i, entry in enumerate(entries)]
        if len({pool.bytes_per_expert is None for pool in pools}) > 1:
            raise ConfigError(
                f"cache size {size!r} is in bytes for some layers and in experts for others, and experts of a layer "
                "differ in bytes here: give all in bytes or all in experts"
            )
        return pools
    one = entries[0] if isinstance(entries, Sequence) else entries
    if scope == "layer":
        return [_layer_pool(one, layers, i, share=count) for i in range(count)]
    budget = _budget(one)
    everything = layers.total_experts
    if budget.unit != "bytes":
        return [PoolSize(tuple(range(count)), budget.slots(int(layers.top_k.sum()), everything))]
    sizes = _expert_bytes(one, layers)
    if len(set(sizes)) == 1 and not layers.sized_by_expert:
        return [PoolSize(tuple(range(count)), int(budget.amount) // sizes[0])]
    return [PoolSize(tuple(range(count)), int(budget.amount), sizes)]


def bytes_of(pools: Sequence[PoolSize], layers: LayerTable) -> int | None:
    """Return the bytes that the pools take when full, at most all experts; None when no expert sizes are known.

    A slot holds any expert of its pool: it is as large as the largest.
    """
    if layers.expert_bytes is None or layers.layer_bytes is None:
        return None
    largest, of_layer, total = layers.expert_bytes.reshape(len(layers), -1).max(axis=1), layers.layer_bytes, 0
    for pool in pools:
        here = list(pool.layers)
        slot = int(largest[here].max()) if pool.bytes_per_expert is None else 1
        total += min(pool.capacity * slot, int(of_layer[here].sum()))
    return int(total)


@dataclass(frozen=True)
class _Budget:
    amount: float
    unit: Literal["experts", "x", "%", "bytes"]

    def slots(self, active: int, experts: int) -> int:
        scale = {"experts": 1.0, "x": active, "%": experts / 100}[self.unit]
        return math.floor(self.amount * scale + 1e-9)  # 1e-9: 0.29 * 100 is 28.999999999999996


def _layer_pool(size: int | float | str, layers: LayerTable, layer: int, share: int) -> PoolSize:
    budget = _budget(size)
    if budget.unit == "bytes":
        sizes, given = _expert_bytes(size, layers), int(budget.amount) // share
        if layers.sized_by_expert:
            stride = len(sizes) // len(layers)
            return PoolSize((layer,), given, sizes[layer * stride : (layer + 1) * stride])
        return PoolSize((layer,), given // sizes[layer])
    return PoolSize((layer,), budget.slots(int(layers.top_k[layer]), int(layers.num_experts[layer])))


def _expert_bytes(size: object, layers: LayerTable) -> tuple[int, ...]:
    """Return bytes of an expert of each layer, or of each expert of each where those of a layer differ."""
    if layers.expert_bytes is None:
        raise ConfigError(
            f"cache size {size!r} is in bytes, but the trace does not say how large an expert is: give its size with "
            "--expert-bytes, or the cache in experts (16), times active (2x) or percent (25%)"
        )
    return tuple(layers.expert_bytes.ravel().tolist())


def _budget(size: object) -> _Budget:
    size = size.item() if isinstance(size, np.number) else size
    if isinstance(size, bool) or not isinstance(size, str | int | float):
        raise ConfigError(f"cache size {size!r} is not understood: {FORMS}")
    if isinstance(size, float) and not size.is_integer():
        raise ConfigError(f"cache size {size!r} is no whole number of experts: {FORMS}")
    text = str(min(int(size), MOST + 1)) if isinstance(size, int | float) else size.strip()
    if len(text) > LONGEST or (text.isdecimal() and int(text) > MOST):
        raise ConfigError(f"cache size {text[:LONGEST]}... is out of range, {MOST:.0e} at most: {FORMS}")
    if re.fullmatch(r"[0-9]+", text):
        return _Budget(int(text), "experts")
    if re.fullmatch(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)[xX%]", text):
        amount = float(text[:-1])
        if text.endswith("%"):
            if not 0 < amount <= 100:
                raise ConfigError(f"cache size {size!r} is out of range: percent of all experts, above 0, at most 100")
            return _Budget(amount, "%")
        return _Budget(amount, "x")
    amount_bytes = parse_bytes(text)
    if amount_bytes is None:
        raise ConfigError(f"cache size {size!r} is not understood: {FORMS}")
    return _Budget(amount_bytes, "bytes")
