"""Which token uses which expert, and how much: what a lossy rule decides by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
    low = int(block.first_token[0])
    experts = trace.read("experts", low, block.end_token)
    token, layer, rank = np.nonzero(experts >= 0)
    weight = trace.read("weights", low, block.end_token)[token, layer, rank].astype(np.float64)
    wrong = np.flatnonzero(weight < 0)  # others are finite: the trace was checked as it was read
    if len(wrong):
        where = f"token {low + token[wrong[0]]}, layer {layer[wrong[0]]}"
        raise TraceError(
            f"{where}: router weight {weight[wrong[0]]:g}: skip, substitute and low compare a token's weights with "
            "their sum, so these must be 0 or more: use load, cpu or split, or record what experts' outputs are "
            "multiplied with"
        )
    row = _layer_step(block, token + low, layer)
    place = _place(block, row, experts[token, layer, rank], trace.num_experts)
    by_row = np.argsort(row, kind="stable")  # within a layer-step token after token, each in rank order
    row, token, place, weight = row[by_row], token[by_row], place[by_row], weight[by_row]
    new = np.append(True, (np.diff(row) != 0) | (np.diff(token) != 0))
    group, first = np.cumsum(new) - 1, np.flatnonzero(new)  # a group is one token in one layer
    total = np.add.reduceat(weight, first)[group]
    share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    order = np.empty(len(weight), np.int32)
    order[np.lexsort((-weight, group))] = np.arange(len(weight)) - first[group]
    starts = np.searchsorted(row, np.arange(len(block.layer) + 1))
    first_group = group[starts[:-1]]  # every layer-step has uses
    token_here = (group - np.repeat(first_group, np.diff(starts))).astype(np.int32)
    tokens = token_here[starts[1:] - 1].astype(np.int64) + 1
    return UsesTable(starts, token_here, place.astype(np.int32), share, order, tokens)


def _layer_step(block: Block, token: Ints, layer: Ints) -> Ints:
    """Return the layer-step of the block that each token of the trace belongs to in each layer."""
    begins = np.unique(block.first_token)
    step = begins[np.searchsorted(begins, token, side="right") - 1]
    layers = int(block.layer.max()) + 1
    return np.searchsorted(block.first_token * layers + block.layer, step * layers + layer)


def _place(block: Block, row: Ints, expert: npt.NDArray[np.integer], stride: int) -> Ints:
    """Return the place of experts in the batches of these layer-steps."""
    batch = np.repeat(np.arange(len(block.layer)), np.diff(block.starts))
    access = batch * stride + block.keys % stride
    by_access = np.argsort(access)
    found: Ints = by_access[np.searchsorted(access, row * stride + expert, sorter=by_access)]
    return found - block.starts[row]
