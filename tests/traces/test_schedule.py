"""Steps of small traces, worked out by hand: prompts, chunks, requests, stacks, and what does not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.traces import LayerTable, RoutingTrace, schedule
from lrcsim.traces.schedule import Block, Schedule, keep_blocks, parse_prefill


def one_layer(tokens: int, **columns: Any) -> RoutingTrace:
    """Make a trace of one layer, in which token t uses expert t."""
    return RoutingTrace.from_arrays(np.arange(tokens).reshape(-1, 1, 1), num_experts=tokens, **columns)


def starts(trace: RoutingTrace, prefill: str = "step") -> list[int]:
    """Return where steps start, the same in runs of any length, with the same request and phase."""
    steps = Schedule(trace, prefill).all_steps()
    whole = steps.starts.tolist()
    for target in (1, 2, 3):
        runs = list(Schedule(trace, prefill).step_runs(target))
        found = [start for run in runs for start in run.starts[:-1].tolist()] + [trace.num_tokens]
        assert found == whole
        assert [request for run in runs for request in run.request.tolist()] == steps.request.tolist()
        assert [phase for run in runs for phase in run.phase.tolist()] == steps.phase.tolist()
        assert [run.first_step for run in runs] == list(np.cumsum([0, *(len(run.phase) for run in runs[:-1])]))
    return whole


def test_a_prompt_is_one_step_and_every_decoded_token_too() -> None:
    trace = one_layer(6, phase=[0, 0, 0, 1, 1, 0])  # what is not decoded makes a step until the next that is
    assert starts(trace) == [0, 3, 4, 5, 6]
    steps = Schedule(trace).all_steps()
    assert (steps.phase.tolist(), steps.request.tolist()) == ([0, 1, 1, 0], [0, 0, 0, 0])


def test_prompts_of_two_requests_are_two_steps() -> None:
    # The second request is empty; tokens 2 and 3 belong to the third.
    trace = one_layer(4, phase=[0, 0, 0, 0], offsets=[0, 2, 2, 4])
    assert starts(trace) == [0, 2, 4]
    assert Schedule(trace).all_steps().request.tolist() == [0, 2]


def test_requests_of_one_token_each() -> None:
    # Whether a run ends with a request, in the next one, or with the trace: every step has its own.
    trace = one_layer(4, phase=[0, 1, 1, 1], offsets=[0, 1, 2, 3, 4])
    assert starts(trace) == [0, 1, 2, 3, 4]
    assert Schedule(trace).all_steps().request.tolist() == [0, 1, 2, 3]
    without_phases = one_layer(4, offsets=[0, 2, 3, 4])
    assert starts(without_phases) == [0, 1, 2, 3, 4]
    assert Schedule(without_phases).all_steps().request.tolist() == [0, 0, 1, 2]


def test_a_trace_that_says_which_tokens_ran_together() -> None:
    # Tokens 0, 1 in the first step, 2 alone, 3 to 5 in the third; phases do not matter.
    trace = one_layer(6, phase=[0, 1, 1, 1, 0, 1])
    trace.columns["step"] = np.array([0, 0, 1, 2, 2, 2])
    assert starts(trace) == starts(trace, "token") == [0, 2, 3, 6]
    assert Schedule(trace).all_steps().phase.tolist() == [0, 1, 1]  # a step's is that of its first token


def test_chunks_are_counted_from_the_beginning_of_each_prompt() -> None:
    trace = one_layer(9, phase=[0, 0, 0, 1, 0, 0, 0, 0, 1], offsets=[0, 4, 9])
    assert starts(trace, "chunk:2") == [0, 2, 3, 4, 6, 8, 9]
    assert starts(trace, "chunk:3") == [0, 3, 4, 7, 8, 9]
    assert starts(trace, "token") == list(range(10))


def test_without_phases_every_token_is_a_step_and_decodes() -> None:
    trace = one_layer(3)
    assert starts(trace) == starts(trace, "chunk:2") == [0, 1, 2, 3]
    assert Schedule(trace).all_steps().phase.tolist() == [1, 1, 1]


def stacked(stack: Sequence[int], **columns: Any) -> RoutingTrace:
    """Make a trace of an encoder's layer and a decoder's; each token uses expert 0 in its own, the fourth one 1."""
    ids = np.full((len(stack), 2, 1), -1)
    ids[np.arange(len(stack)), stack, 0] = np.arange(len(stack)) == 3
    layers = LayerTable.build(2, 2, 1, stack=[0, 1], stack_names=("encoder", "decoder"))
    return RoutingTrace.from_arrays(ids, num_experts=2, layers=layers, stack=list(stack), **columns)


def test_a_change_of_stack_begins_a_step() -> None:
    # A request of an encoder-decoder model: the source runs through the encoder, then the decoder reads its own prompt.
    trace = stacked([0, 0, 1, 1, 1], phase=[0, 0, 0, 0, 1])
    assert starts(trace) == [0, 2, 4, 5]
    (block,) = Schedule(trace).blocks()
    assert block.step.tolist() == [0, 1, 2]
    assert block.layer.tolist() == [0, 1, 1]
    assert [batch.tolist() for batch in np.split(block.keys, block.starts[1:-1])] == [[0], [2, 3], [2]]
    # In chunks the decoder's prompt is counted from its own beginning.
    longer = stacked([0, 0, 0, 1, 1, 1], phase=[0] * 6)
    assert starts(longer, "chunk:2") == [0, 2, 3, 5, 6]


def test_a_token_of_which_nothing_is_recorded_is_a_step_without_layers() -> None:
    trace = RoutingTrace.from_arrays([[[0]], [[-1]], [[1]]], num_experts=2)
    (block,) = Schedule(trace).blocks()
    assert block.step.tolist() == [0, 2]
    assert block.idle.tolist() == [1]
    # Recorded in one layer is recorded.
    partly = RoutingTrace.from_arrays([[[-1], [1]], [[-1], [-1]], [[0], [-1]]], num_experts=2)
    assert [token for block in Schedule(partly).blocks(1) for token in block.idle.tolist()] == [1]


def test_blocks_number_their_steps_and_accesses_from_the_beginning_of_the_trace() -> None:
    # Token 0 is a prompt of which nothing is recorded; then two accesses a token, in layer 0 and in layer 1.
    # Runs of one token: the last takes two, as no step can begin behind it.
    ids = [[[-1], [-1]], [[0], [1]], [[1], [0]], [[0], [0]], [[0], [1]]]
    trace = RoutingTrace.from_arrays(ids, num_experts=2, phase=[0, 1, 1, 1, 1], offsets=[0, 2, 5])
    for target, accesses in ((1, [0, 0, 2, 4]), (3, [0, 2]), (5, [0])):
        blocks = list(Schedule(trace).blocks(target))
        assert [block.first_access for block in blocks] == accesses
        for name, wanted in (
            ("keys", [0, 3, 1, 2, 0, 2, 0, 3]),
            ("step", [1, 1, 2, 2, 3, 3, 4, 4]),
            ("layer", [0, 1] * 4),
            ("request", [0, 0, 1, 1, 1, 1, 1, 1]),
            ("phase", [1] * 8),
            ("first_token", [1, 1, 2, 2, 3, 3, 4, 4]),
            ("step_end", [2, 2, 3, 3, 4, 4, 5, 5]),
        ):
            assert [value for block in blocks for value in getattr(block, name).tolist()] == wanted, name
        for block in blocks:  # where a batch begins is counted from the block's first access
            first, begins = block.batches(whole_tokens=False)
            assert (first.tolist(), begins.tolist()) == (list(range(len(block.keys))), list(range(len(block.keys) + 1)))


def test_batches_in_order_of_last_use_with_counts_and_mean_weights() -> None:
    # Three prompt tokens: 0 and 1, then 2 and 0, then 1 alone. Last uses: 2 (token 1, first), 0 (token 1), 1 (token 2).
    # Means over the three: 2 has 0.6 / 3, 0 has (0.75 + 0.3) / 3, 1 has (0.25 + 0.9) / 3. Layer 1 is used by token 1.
    ids = [[[0, 1], [-1, -1]], [[2, 0], [0, -1]], [[1, -1], [-1, -1]]]
    weights = [[[0.75, 0.25], [0, 0]], [[0.6, 0.3], [0.9, 0]], [[0.9, 0], [0, 0]]]
    trace = RoutingTrace.from_arrays(ids, num_experts=3, phase=[0, 0, 0], weights=weights)
    (block,) = Schedule(trace, weights=True).blocks()
    assert block.weights is not None
    assert block.tokens is not None
    assert (block.keys.tolist(), block.starts.tolist()) == ([2, 0, 1, 3], [0, 3, 4])
    assert block.tokens.tolist() == [1, 2, 2, 1]
    assert block.weights == pytest.approx([0.2, 0.35, 1.15 / 3, 0.3])
    assert (block.first_token.tolist(), block.step_end.tolist(), block.end_token) == ([0, 0], [3, 3], 3)
    assert block.accesses_by_phase().tolist() == [4, 0]
    (plain,) = Schedule(trace).blocks()
    assert plain.weights is None


def test_batches_of_layers_or_of_whole_tokens() -> None:
    trace = RoutingTrace.from_arrays([[[0], [1]], [[-1], [0]], [[1], [1]]], num_experts=2)
    (block,) = Schedule(trace).blocks()
    first, begins = block.batches(whole_tokens=False)
    assert (first.tolist(), begins.tolist()) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5])
    first, begins = block.batches(whole_tokens=True)
    assert (first.tolist(), begins.tolist()) == ([0, 2, 3], [0, 2, 3, 5])


@pytest.mark.parametrize(("prefill", "tokens"), [("step", None), ("token", 1), ("chunk:1", 1), ("chunk:12", 12)])
def test_prompt_tokens_per_step(prefill: str, tokens: int | None) -> None:
    assert parse_prefill(prefill) == tokens


@pytest.mark.parametrize("prefill", ["chunk", "chunk:", "chunk:0", "chunk:-1", "chunk:1.5", "chunks:2", "", "steps"])
def test_other_prefills_are_refused(prefill: str) -> None:
    with pytest.raises(ConfigError, match=r"use 'step', 'chunk:N' \(N prompt tokens a step\) or 'token'"):
        parse_prefill(prefill)


def test_blocks_of_short_traces_are_kept_and_those_of_longer_ones_are_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = np.random.default_rng(0).random((40, 2, 6)).argsort(axis=2)[:, :, :2]
    phase = np.array(([0] * 4 + [1] * 6) * 4)

    def blocks(trace: RoutingTrace, prefill: str) -> list[Block]:
        return list(Schedule(trace, prefill).blocks(10))

    def same(one: Block, other: Block) -> bool:
        return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("keys", "starts", "step"))

    trace = RoutingTrace.from_arrays(ids, num_experts=6, phase=phase)
    first, chunked = blocks(trace, "step"), blocks(trace, "chunk:2")
    assert [id(block) for block in blocks(trace, "step")] == [id(block) for block in first]
    assert len(chunked[0].starts) > len(first[0].starts)  # another rule, other blocks
    next(iter(Schedule(trace, "token").blocks(10)))  # one that stops on the way keeps nothing
    assert sum(len(block.step) for block in blocks(trace, "token")) == 80
    monkeypatch.setattr(schedule, "_accesses_kept", 2 * 2 * 40 - 1)
    longer = RoutingTrace.from_arrays(ids, num_experts=6, phase=phase)
    again = blocks(longer, "step")
    assert not {id(block) for block in blocks(longer, "step")} & {id(block) for block in again}
    assert all(map(same, first, again))
    keep_blocks(2 * 2 * 40)
    assert [id(block) for block in blocks(longer, "step")] == [id(block) for block in blocks(longer, "step")]
