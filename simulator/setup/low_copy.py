"""Two precisions in one model: experts used much as the model has them, the others in a smaller format.

Each expert is stored, moved, kept and computed in one precision, whatever token asks for it; which it is follows from a
profile. From there on all is `LayerTable.expert_bytes` [L, E]. What the smaller format does to the model's answers is
not in it: `shares` says how much of the router's weight goes to experts in low precision.
"""

from __future__ import annotations

import math
import re
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.models import Geometry, check_trace, expert_bytes, geometry_of
from lrcsim.models.quantisation import parse_dtype
from lrcsim.traces import DECODE, PREFILL, LayerTable, RoutingTrace
from lrcsim.traces.kept import Kept

HALF = 0.5
"""Share of a layer's experts in low precision, where none is given."""

_shares: Kept[list[list[float]]] = Kept()


@dataclass(frozen=True)
class LowCopy:
    """Which experts are in low precision.

    Attributes:
        dtype: of these.
        share: of each layer's experts, as asked for.
        cold: bool [L * E], by key, whether an expert is one of them.
    """

    dtype: str
    share: float
    cold: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, spec: str, layers: LayerTable, uses: npt.NDArray[np.float64]) -> LowCopy:
        """Choose them: of each layer the share that is used least, of equally used ones those of larger number.

        Args:
            spec: as `parse_low_copy` takes it.
            layers: the model's MoE layers.
            uses: float64 [L * E], uses of each expert in a profile, by key.

        Raises:
            ConfigError: the text is not understood, or the share is of no expert.
        """
        dtype, share = parse_low_copy(spec)
        stride = int(layers.num_experts.max())
        cold = np.zeros((len(layers), stride), bool)
        for layer, count in enumerate(layers.num_experts.tolist()):
            order = np.argsort(-uses.reshape(-1, stride)[layer, :count], kind="stable")  # most used first
            cold[layer, order[count - math.floor(share * count + 1e-9) :]] = True
        if not cold.any():
            raise ConfigError(
                f"low_copy {spec!r} leaves no expert in low precision: {share:g} of a layer's {stride} is less than one"
            )
        return cls(dtype, share, cold.ravel())

    def sizes(self, whole: npt.NDArray[np.int64], geometry: Geometry) -> npt.NDArray[np.int64]:
        """Return int64 [L, E], bytes of each expert.

        Args:
            whole: int64 [L], bytes of an expert of each layer in the precision of the model.
            geometry: the model.

        Raises:
            ConfigError: experts of a layer differ already, or low precision is not smaller.
        """
        if whole.ndim == 2:
            raise ConfigError(
                "low_copy makes two sizes of experts of one layer, and here they differ already: leave it out, or give "
                "one size per layer with expert_bytes"
            )
        low = expert_bytes(geometry, self.dtype)
        if (low >= whole).any():
            layer = int(np.argmax(low >= whole))
            raise ConfigError(
                f"low_copy {self.dtype!r} takes {low[layer]:,} bytes of an expert of layer {layer}, as stored it has "
                f"{whole[layer]:,}: name a smaller format"
            )
        return np.where(self.cold.reshape(len(whole), -1), low[:, None], whole[:, None])

    def label(self) -> str:
        """Return the text that it is made of."""
        return f"{self.dtype}:{self.share:g}"

    def shares(self, trace: RoutingTrace) -> dict[str, Any]:
        """Return how much of a trace goes to experts in low precision, as JSON values.

        Returns:
            ``experts`` in low precision and of all, and for ``prefill``, ``decode`` and both the share of the router's
            choices, (token, layer, rank), and of the router's weight; None without any, or without weights.
        """
        found = np.array(_shares.once(trace, (self.label(), self.cold.tobytes()), lambda: self._sums(trace)))

        def of(phases: slice) -> dict[str, float | None]:
            low, every, low_weight, weight = found[phases].sum(axis=0).tolist()
            return {"choices": low / every if every else None, "weight": low_weight / weight if weight else None}

        return {
            "dtype": self.dtype,
            "share": self.share,
            "experts": int(self.cold.sum()),
            "of_experts": trace.layers.total_experts,
            **of(slice(None)),
            "prefill": of(slice(PREFILL, PREFILL + 1)),
            "decode": of(slice(DECODE, DECODE + 1)),
        }

    def _sums(self, trace: RoutingTrace) -> list[list[float]]:
        """Return float [2][4], by phase: choices in low precision, all, their weight, and that of all."""
        found = np.zeros((2, 4))
        first = np.arange(trace.num_layers)[:, None] * trace.num_experts
        for low, high in trace.blocks():
            ids = trace.read("experts", low, high).astype(np.int64)
            there = ids >= 0
            cold = there & self.cold[np.where(there, ids + first, 0)]
            phase = trace.read("phase", low, high) if "phase" in trace.columns else np.full(high - low, DECODE)
            weights = trace.read("weights", low, high).astype(np.float64) if "weights" in trace.columns else None
            for which in (PREFILL, DECODE):
                mine = phase == which
                found[which, :2] += cold[mine].sum(), there[mine].sum()
                if weights is not None:
                    found[which, 2:] += weights[mine][cold[mine]].sum(), weights[mine][there[mine]].sum()
        return found.tolist()


def low_copy_of(spec: str | None, trace: RoutingTrace, uses: npt.NDArray[np.float64] | None) -> LowCopy | None:
    """Return what an option says of low precision; None where it says nothing.

    Args:
        spec: the option.
        trace: what is run.
        uses: float64 [L * E], uses of each expert in a profile, by key.

    Raises:
        ConfigError: there is no profile, or the text is not understood.
    """
    if spec is None:
        return None
    if uses is None:
        raise ConfigError(
            f"low_copy {spec!r} needs a profile to know which experts are used least: give a trace to take expert "
            "popularity from as profile (or 'self', which is hindsight)"
        )
    return LowCopy.of(spec, trace.layers, uses)


def with_low_copy(trace: RoutingTrace, low: LowCopy) -> RoutingTrace:
    """Return a trace with the bytes of two precisions, where hits alone are counted: the model is the trace's.

    Raises:
        ConfigError: it is none whose geometry is known, or what `LowCopy.sizes` says.
    """
    try:
        geometry = geometry_of(trace)
    except ConfigError:
        raise ConfigError(
            f"low_copy {low.label()!r} needs the model's geometry, and the trace's model {trace.model!r} is not a "
            "built-in one: name a machine and the model, as hardware='rtx-4090' and model='olmoe-1b-7b', or give the "
            "bytes of each expert with expert_bytes"
        ) from None
    check_trace(geometry, trace)
    whole = trace.expert_bytes
    trace = copy(trace)
    trace.layers = trace.layers.with_expert_bytes(
        low.sizes(expert_bytes(geometry) if whole is None else whole, geometry)
    )
    return trace


def parse_low_copy(spec: str) -> tuple[str, float]:
    """Read ``"q4_k"``, ``"q4_k:0.75"`` or ``"q4_k:75%"``: a format, and the share of each layer's experts in it.

    Raises:
        ConfigError: the format is not known, or the share is none.
    """
    dtype, _, told = spec.rpartition(":") if isinstance(spec, str) else ("", "", "")
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%?)", told.strip())
    if not dtype or number is None:  # a dtype has colons too, as in 0-3:ffn_down_exps=q6_k
        dtype, share = spec, HALF
    else:
        share = float(number[1]) / (100 if number[2] else 1)
    if not isinstance(spec, str) or not 0 < share <= 1:
        raise ConfigError(
            f"low_copy {spec!r} is not understood: write a format and the share of each layer's experts in it, above "
            "0, at most 1, as q4_k:0.75"
        )
    parse_dtype(dtype)
    return dtype, share
