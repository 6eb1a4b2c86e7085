"""What a map of residency holds: hits by layer and step, and what became of every expert of some layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.setup.run import Run
from lrcsim.traces.schedule import Schedule

COLUMNS = 300
"""Columns of a map of layers, at most; beyond it steps are taken together."""

STEPS = 192
"""Steps of a map of experts, the first of the request; kinds cannot be averaged."""

ABSENT, SPARE, HIT, MISS, AHEAD, WAITING = range(6)
"""An expert in a layer-step: not there and not used; there, not used; used and there; used and not there; used and
brought ahead for it, there or on its way; brought ahead and not used yet."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rates:
    """Hits by layer and step.

    Attributes:
        hits: int64 [L, columns].
        accesses: int64 [L, columns].
        per_column: steps taken together, at most.
    """

    hits: IntArray
    accesses: IntArray
    per_column: int

    @classmethod
    def over(cls, layers: int, steps: int) -> Rates:
        """Make them of no hits yet; there will be so many steps."""
        per_column = max(-(-steps // COLUMNS), 1)
        shape = (layers, -(-steps // per_column))
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), per_column)

    def add(self, layer: int | IntArray, step: int | IntArray, hits: int | IntArray, accesses: int | IntArray) -> None:
        """Count a layer-step, or some (int64 [n] each); ``step`` is counted from the first of those shown."""
        at: Any = layer, step // self.per_column
        np.add.at(self.hits, at, hits)
        np.add.at(self.accesses, at, accesses)

    @property
    def first(self) -> IntArray:
        """Return the first step of each column, int64 [columns]."""
        return np.arange(self.hits.shape[1]) * self.per_column

    @property
    def rate(self) -> npt.NDArray[np.float64]:
        """Return hits over accesses, float64 [L, columns], NaN where nothing was accessed."""
        rate = np.full(self.hits.shape, np.nan)
        np.divide(self.hits, self.accesses, out=rate, where=self.accesses > 0)
        return rate


@dataclass(frozen=True)
class Residents:
    """What was seen.

    Attributes:
        whole: of the whole trace.
        request: number of the request looked at; None where requests run together.
        begin: its first step; 0 without one.
        end: the step after its last.
        own: hits of that request; None without one, or where it has no steps.
        prompt_steps: how many of its steps are prefill, at its beginning.
        experts: by layer (the first, the middle, the last), uint8 [E, steps]: `ABSENT`, `SPARE`, ... `WAITING`, when
            the layer-step is done; of the request's first `STEPS` steps.
        on_demand: whether every miss was loaded, and nothing besides.
    """

    whole: Rates
    request: int | None
    begin: int
    end: int
    own: Rates | None
    prompt_steps: int
    experts: dict[int, npt.NDArray[np.uint8]]
    on_demand: bool = True

    @classmethod
    def of(cls, run: Run, request: int | None, *, on_demand: bool = True) -> Residents:
        """Make them of nothing seen yet.

        Args:
            run: what is to be run.
            request: the request to look at; None: that of median length.
            on_demand: whether every miss is loaded, and nothing besides.
        """
        trace = run.trace
        chosen = None if "step" in trace.columns else middling_request(trace.offsets) if request is None else request
        steps = Schedule(trace, run.prefill).all_steps()
        mine = np.flatnonzero(steps.request == chosen) if chosen is not None else np.zeros(0, np.int64)
        begin, end = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
        shown = sorted({0, trace.num_layers // 2, trace.num_layers - 1}) if len(mine) else []
        return cls(
            Rates.over(trace.num_layers, len(steps.phase)),
            chosen,
            begin,
            end,
            Rates.over(trace.num_layers, end - begin) if len(mine) else None,
            int((steps.phase[begin:end] == 0).sum()),
            {layer: np.zeros((trace.num_experts, min(end - begin, STEPS)), np.uint8) for layer in shown},
            on_demand,
        )

    @property
    def hits(self) -> int:
        """In all."""
        return int(self.whole.hits.sum())

    @property
    def accesses(self) -> int:
        """In all."""
        return int(self.whole.accesses.sum())


def middling_request(offsets: IntArray) -> int:
    """Return the request of median length; of several the first in order of length, then of number.

    Args:
        offsets: int64 [requests + 1] into tokens.
    """
    return int(np.argsort(np.diff(offsets), kind="stable")[(len(offsets) - 1) // 2])
