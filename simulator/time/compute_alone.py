"""The compiled form of `lrcsim.simulator.time.time_bounds.computed`: seconds of compute without a single transfer.

Experts that equally many tokens use take equally long, so a layer-step is a few *kinds* of experts: one where it is one
token's, and after a prompt of n tokens at most the square root of 2 n k, as their numbers of tokens differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.uncounted import uncounted_njit
from lrcsim.simulator.serving.steps import step_table
from lrcsim.simulator.setup.costs import CostTable
from lrcsim.simulator.time.compiled_loop import dense_seconds, output_seconds
from lrcsim.traces.schedule import Schedule


def compute_alone(
    schedule: Schedule, costs: CostTable, dram: float, launches: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Return the seconds of compute with all experts resident, and with the best division of each layer-step's experts.

    Args:
        schedule: the steps.
        costs: seconds of compute, as numbers.
        dram: bytes/s that the CPU draws at most.
        launches: seconds in which a host launches a layer's dense part, and an expert; 0 unless it launches ahead.

    Returns:
        float64 [2, 2]: resident and divided (`lrcsim.simulator.time.time_bounds.computed`), by phase.
    """
    found = np.zeros((2, 2))
    for block in schedule.blocks():
        rows = np.flatnonzero(np.diff(block.step, prepend=-1))
        if not len(rows):  # nothing was recorded in it
            continue
        tokens = np.zeros(0, np.int64) if block.tokens is None else block.tokens
        sizes = step_table(schedule.trace, block, rows).sizes
        first = np.append(rows, len(block.layer))
        add_block(costs, dram, launches, tokens, block.starts, block.layer, first, block.phase[rows], sizes, found)
    return found


def add_block(*told: Any) -> None:
    """Add a block of the schedule; arguments as those of `_add_block`, without the scratch."""
    tokens, starts = told[3], told[4]
    longest, most = max(int(np.diff(starts).max()), 1), max(int(tokens.max(initial=0)), 1)
    add: Any = _add_block  # compiled: type checkers do not know its arguments
    add(*told, np.zeros(most + 1, np.int64), np.empty(longest, np.int64), np.empty(longest), np.empty(longest))


@uncounted_njit
def _add_block(costs, dram, launches, tokens, starts, layer, first, phase, step_sizes, found, number_of, kinds, gpu, cpu):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Add a block of the schedule.

    Args:
        costs: `CostTable`.
        dram: bytes/s that the CPU draws at most.
        launches: seconds in which a host launches a layer's dense part, and an expert.
        tokens: int64 [accesses], tokens of the step that use each; empty: one each.
        starts: int64 [layer-steps + 1], accesses of each.
        layer: int64 [layer-steps].
        first: int64 [steps + 1], layer-steps of each.
        phase: uint8 [steps].
        step_sizes: int64 [steps, 5], the numbers of `StepSize`.
        found: float64 [2, 2], added to.
        number_of: int64 [most tokens that use an expert + 1], zeros: by tokens, experts that so many use.
        kinds: int64 [accesses of a layer-step, at most], scratch: numbers of tokens that occur.
        gpu: float64 likewise, of each kind, seconds of all its experts.
        cpu: float64 likewise.
    """
    parts, parts_of, bandwidth, compute, overhead = (
        costs.parts, costs.first, costs.bandwidth, costs.compute, costs.overhead,
    )  # fmt: skip
    for step in range(len(phase)):
        output = output_seconds(costs, step_sizes[step])
        alone = together = output
        for row in range(first[step], first[step + 1]):
            here, low, high = layer[row], starts[row], starts[row + 1]
            count = 0
            for i in range(low, high):
                used_by = tokens[i] if len(tokens) else 1
                if number_of[used_by] == 0:
                    kinds[count] = used_by
                    count += 1
                number_of[used_by] += 1
            whole = 0.0
            for kind in range(count):
                used_by = kinds[kind]
                number, operations = number_of[used_by], costs.operations * used_by
                number_of[used_by] = 0
                moved = costs.expert_bytes[here] / costs.expert_bandwidth
                gpu[kind] = number * (max(moved, operations / compute) + overhead)
                size = costs.cpu_bytes[here]
                rate = min(size / max(size / costs.cpu_bandwidth, operations / costs.cpu_compute), dram)
                cpu[kind] = number * (costs.cpu_overhead + size / rate)
                whole += gpu[kind]
            dense = dense_seconds(
                parts, parts_of[here], parts_of[here + 1], bandwidth, compute, overhead, step_sizes[step]
            )
            alone += max(dense + whole, launches[0] + launches[1] * (high - low))
            together += dense + shared(gpu[:count], cpu[:count])
        found[0, phase[step]] += alone
        found[1, phase[step]] += together


@uncounted_njit
def shared(gpu, cpu):  # type: ignore[no-untyped-def]
    """Return what `lrcsim.simulator.time.time_bounds.shared` does, float64 [n] each, experts or kinds of them."""
    most = 0.0
    for one in range(len(gpu)):
        both = gpu[one] + cpu[one]
        share = cpu[one] / both if both > 0 else 0.0
        least = 0.0
        for other in range(len(gpu)):
            least += min(share * gpu[other], (1 - share) * cpu[other])
        most = max(most, least)
    return most
