"""A trace whose tokens stand in another order, some of them more than once: what a server runs, step after step."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.traces import RoutingTrace

Ints = npt.NDArray[np.int64]


class Turn(NamedTuple):
    """What one request runs in one step.

    Attributes:
        request: its number in the trace.
        first: first token, counted from the beginning of the trace.
        tokens: how many are run, one after the other.
        kept: how many of them count; the others are rejected drafts, which are run again.
    """

    request: int
    first: int
    tokens: int
    kept: int


class Order:
    """The turns of all steps in the order in which they are run: 40 bytes each."""

    def __init__(self) -> None:
        self._turns = array("q")
        self._offsets = array("q")  # token at which each busy period begins
        self.steps = 0
        self.tokens = 0

    def add(self, turns: Iterable[Turn], period: int) -> None:
        """Add a step.

        Args:
            turns: what the requests run in it.
            period: number of the busy period it belongs to; they come in order, without gaps.
        """
        if period == len(self._offsets):
            self._offsets.append(self.tokens)
        for turn in turns:
            self._turns.extend((self.steps, *turn))
            self.tokens += turn.tokens
        self.steps += 1

    def rows(self) -> Ints:
        """Return int64 [tokens run], the tokens of the original trace."""
        _, _, first, tokens, _ = self._table()
        return np.repeat(first - (np.cumsum(tokens) - tokens), tokens) + np.arange(self.tokens)

    def trace(self, base: RoutingTrace) -> RoutingTrace:
        """Return the trace in this order; it reads from ``base``, which must stay open.

        Its requests are the busy periods. It has these columns besides those of ``base`` (without ``residency``, which
        was recorded under another order): ``step``, consecutive tokens of equal value are one step; ``sequence``, the
        token's request in ``base``; ``position``, its place in that request; ``kept``, 0 for rejected drafts.
        """
        step, request, _, tokens, kept = self._table()
        rows = self.rows()
        sequence = np.repeat(request, tokens)
        within = np.arange(self.tokens) - np.repeat(np.cumsum(tokens) - tokens, tokens)
        columns: dict[str, Any] = {
            name: Reordered(base, name, rows) for name in base.columns if name != "residency"
        } | {
            "step": np.repeat(step, tokens),
            "sequence": sequence,
            "position": rows - base.offsets[sequence],
            "kept": (within < np.repeat(kept, tokens)).astype(np.uint8),
        }
        return RoutingTrace(
            base.layers,
            columns,
            np.array([*self._offsets, self.tokens], np.int64),
            model=base.model,
            provenance=base.provenance,
            path=base.path,
        )

    def _table(self) -> Ints:
        """Return int64 [5, turns]: step, request, first token, tokens, kept."""
        return np.array(self._turns, np.int64).reshape(-1, 5).T


class Reordered:
    """A column in another order, gathered where it is read (`lrcsim.traces.columns.Column`)."""

    def __init__(self, base: RoutingTrace, name: str, rows: Ints) -> None:
        self.base = base
        self.name = name
        self.rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Tokens first."""
        return (len(self.rows), *self.base.columns[self.name].shape[1:])

    def __getitem__(self, key: slice | tuple[slice, slice], /) -> npt.NDArray[Any]:
        """Return tokens ``key`` in the new order; with a second slice, of that one layer."""
        tokens, layers = key if isinstance(key, tuple) else (key, None)
        return gather(self.base, self.name, self.rows[tokens], None if layers is None else layers.start)


def gather(trace: RoutingTrace, name: str, rows: Ints, layer: int | None = None) -> npt.NDArray[Any]:
    """Read some tokens of a column, in any order: each run of consecutive ones at once.

    Args:
        trace: where from.
        name: one of its columns.
        rows: int64 [n], its tokens.
        layer: as for `RoutingTrace.read`.

    Returns:
        [n, ...], of the column's dtype.
    """
    if not len(rows):
        return trace.read(name, 0, 0, layer=layer)
    needed, place = np.unique(rows, return_inverse=True)
    runs = np.split(needed, np.flatnonzero(np.diff(needed) > 1) + 1)
    parts = [trace.read(name, int(run[0]), int(run[-1]) + 1, layer=layer) for run in runs]
    found: npt.NDArray[Any] = np.concatenate(parts)[place]
    return found
