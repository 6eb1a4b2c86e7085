"""Steps as the engine is fed them."""

from __future__ import annotations

from helpers import trace

from lrcsim.simulator.serving.steps import steps_of
from lrcsim.traces.schedule import Schedule


def test_sizes_of_prompt_and_decode() -> None:
    # A prompt of 3 tokens in chunks of 2, one token after it; then a request of 1 token.
    routing = trace("0", "1", "2", "3", "0", phase=[0, 0, 0, 1, 1], offsets=[0, 4, 5])
    steps = list(steps_of(Schedule(routing, "chunk:2")))
    # tokens, outputs, context, pairs, requests: the chunk 0, 1 has pairs 1 + 2; token 2 sees 3, token 3 sees 4
    sizes = [(2, 1, 2, 3, 1), (1, 1, 3, 3, 1), (1, 1, 4, 4, 1), (1, 1, 1, 1, 1)]
    assert [tuple(step.size) for step in steps] == sizes
    assert [step.sequences for step in steps] == [(0,), (0,), (0,), (1,)]
    assert [step.following is following for step, following in zip(steps, [*steps[1:], None], strict=True)] == [
        True
    ] * 4


def test_a_step_without_recorded_experts_adds_nothing_to_the_one_before() -> None:
    steps = list(steps_of(Schedule(trace("0", "_", "_", "1"))))
    assert [(step.number, step.size.tokens, step.size.context) for step in steps] == [(0, 1, 1), (3, 1, 4)]


def test_layers_without_recorded_experts_are_left_out() -> None:
    steps = list(steps_of(Schedule(trace("0|_|1"))))
    assert [work.layer for work in steps[0].layers] == [0, 2]
