"""Rounding experts of the shipped checkpoint: blocks solved by hand, and that only those asked for change."""

from __future__ import annotations

import numpy as np
import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("transformers", reason=REASON)

from lrcsim.experiments.model_family.low_copy import (  # noqa: E402
    BLOCK,
    HERE,
    halves,
    load,
    losses,
    round_experts,
    rounded,
    weight_share,
)
from lrcsim.traces import RoutingTrace  # noqa: E402


def test_blocks_solved_by_hand() -> None:
    # 4 bits: the largest magnitude, -8, is -8 steps of 1; 2.4 is 2 of them, 7.9 would be 8, the most is 7.
    block = torch.tensor([-8.0, 2.4, 7.9, 0.0] + [0.6] * (BLOCK - 4))
    assert rounded(block, 4).tolist() == [-8, 2, 7, 0] + [1] * (BLOCK - 4)
    # A positive largest is as many steps of negative size: 4 is -2 of -2; -3 would be 1.5 and so 2, the most is 1.
    block = torch.tensor([4.0, -3.0, 1.1] + [0.0] * (BLOCK - 3))
    assert rounded(block, 2).tolist() == [4, -2, 2] + [0] * (BLOCK - 3)
    block = torch.tensor([-8.0, 2.4, 7.9, 0.0] + [0.6] * (BLOCK - 4))
    # Each block has its own scale; one of zeros stays.
    two = torch.cat([block, torch.zeros(BLOCK), block / 1024]).reshape(3, BLOCK)
    assert torch.equal(rounded(two, 4)[2] * 1024, rounded(block, 4))
    assert rounded(two, 4)[1].tolist() == [0] * BLOCK
    assert float((rounded(two, 8) - two).abs().max()) <= 8 / 128 + 1e-6


def test_only_those_asked_for_change_and_the_loss_with_them() -> None:
    with RoutingTrace.open(HERE / "checkpoint_traces" / "teacher_forced.h5") as trace:
        uses, samples = halves(trace)
        assert (len(samples), {len(sample) for sample in samples}) == (12, {512})
        assert uses.sum() == trace.num_tokens * trace.num_layers * trace.top_k / 2
        assert trace.domains is not None
        assert sorted(trace.domains[:12]) == sorted(trace.domains[12:])
        assert weight_share(trace, np.ones((8, 64), bool)) == 1
        assert weight_share(trace, np.zeros((8, 64), bool)) == 0
    model, cold = load(), np.zeros((8, 64), bool)
    before = [model.model.layers[layer].mlp.experts.gate_up_proj.clone() for layer in (0, 1)]
    short = [sample[:64] for sample in samples[:2]]
    plain = losses(model, short)
    assert (plain > 2).all()
    assert (plain < 6).all()
    round_experts(model, cold, 2)
    assert losses(model, short).tolist() == plain.tolist()
    cold[1, 3] = True
    round_experts(model, cold, 2)
    after = [model.model.layers[layer].mlp.experts.gate_up_proj for layer in (0, 1)]
    assert torch.equal(before[0], after[0])
    assert [e for e in range(64) if not torch.equal(before[1][e], after[1][e])] == [3]
    round_experts(model, ~cold, 2)
    # Whether a loss grows is for the long samples to say: on 64 tokens rounding may lower it by chance.
    now = model.model.layers[0].mlp.experts.gate_up_proj
    assert all(not torch.equal(before[0][expert], now[expert]) for expert in range(64))
    assert (losses(model, short) != plain).all()
