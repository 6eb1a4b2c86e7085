"""Which token uses which expert, and how much: what a lossy rule decides by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Uses:
    """The uses of a layer-step: one for each token and each of its recorded experts, token after token.

    Attributes:
        token: int32 [uses], counted from 0 over the tokens that use an expert here.
        place: int32 [uses], the expert's place in the batch.
        share: float64 [uses], the token's router weight for the expert over the sum of its weights for all its recorded
            experts of the layer; 0 where that sum is 0.
        order: int32 [uses], place of the expert among the token's own, heaviest first (0), ties in rank order.
        tokens: how many tokens there are.
    """

    token: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    share: Floats
    order: npt.NDArray[np.int32]
    tokens: int

    def share_of(self, experts: int) -> list[float]:
        """Return for each of the batch's ``experts`` the sum of its shares over the tokens."""
        total: list[float] = np.bincount(self.place, weights=self.share, minlength=experts).tolist()
        return total


class UsesTable(NamedTuple):
    """The uses of a block's layer-steps in columns, one layer-step after the other.

    Attributes:
        starts: int64 [layer-steps + 1], where those of each begin.
        token: int32 [uses], as in `Uses`.
        place: int32 [uses], likewise.
        share: float64 [uses], likewise.
        order: int32 [uses], likewise.
        tokens: int64 [layer-steps], how many tokens use an expert in each.
    """

    starts: Ints
    token: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    share: Floats
    order: npt.NDArray[np.int32]
    tokens: Ints


def uses_of(trace: RoutingTrace, block: Block) -> Iterator[Uses]:
    """Yield the uses of each layer-step of a block of the trace's schedule.

    Raises:
        TraceError: as `uses_table`.
    """
    table = uses_table(trace, block)
    starts, tokens = table.starts.tolist(), table.tokens.tolist()
    for row, number in enumerate(tokens):
        here = slice(starts[row], starts[row + 1])
        yield Uses(table.token[here], table.place[here], table.share[here], table.order[here], number)


def uses_table(trace: RoutingTrace, block: Block) -> UsesTable:
    """Return the uses of each layer-step of a block of the trace's schedule.

    Raises:
        TraceError: a router weight of a recorded expert is negative or no number.
    """
    from lrcsim.simulator.serving.uses_kernel import find_uses  # numba takes half a second to import

    low = int(block.first_token[0])
    experts = trace.read("experts", low, block.end_token)
    weights = trace.read("weights", low, block.end_token)
    _refuse_negative(experts, weights, low)
    number, layer_steps = int(np.count_nonzero(experts >= 0)), len(block.layer)
    found = UsesTable(
        np.zeros(layer_steps + 1, np.int64),
        np.empty(number, np.int32),
        np.empty(number, np.int32),
        np.empty(number),
        np.empty(number, np.int32),
        np.empty(layer_steps, np.int64),
    )
    # one dtype and layout, whatever the file has: each is compiled by itself
    told = (experts.astype(np.int32), weights.astype(np.float64), block.first_token - low, block.step_end - low)
    fill_in: Any = find_uses  # compiled: type checkers do not know its arguments
    fill_in(*told, block.layer, block.keys, block.starts, trace.num_experts, *found)
    return found


def _refuse_negative(experts: npt.NDArray[np.integer], weights: npt.NDArray[np.floating], low: int) -> None:
    """Refuse weights [tokens, L, k] below 0 where an expert is recorded; ``low`` is the first token's number."""
    wrong = np.argwhere((weights < 0) & (experts >= 0))  # others are finite: the trace was checked as it was read
    if len(wrong):
        token, layer, _ = wrong[0].tolist()
        raise TraceError(
            f"token {low + token}, layer {layer}: router weight {weights[tuple(wrong[0])]:g}: skip, substitute and low "
            "compare a token's weights with their sum, so these must be 0 or more: use load, cpu or split, or record "
            "what experts' outputs are multiplied with"
        )
