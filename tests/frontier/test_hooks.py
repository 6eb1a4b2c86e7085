"""What a layer is about to run is replaced, however its experts are given it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lrcsim.frontier.hooks import WRITERS, Hooks, Routed
from lrcsim.recorder.sites import find_sites


class Experts(torch.nn.Module):
    """Returns the ids and weights that it was given."""

    num_experts = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 2, 2))

    def forward(self, hidden: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        return top_k_index, top_k_weights


class Config:
    """As much of a config as is asked for."""

    is_encoder_decoder = False
    model_type = "test"

    def get_text_config(self) -> Config:
        return self


class Model(torch.nn.Module):
    """A block of experts, without a router."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.experts = Experts()


@pytest.mark.parametrize("by_name", [(), ("top_k_weights",), ("top_k_index", "top_k_weights")])
def test_by_place_and_by_name(by_name: tuple[str, ...]) -> None:
    model = Model()
    assert len(find_sites(model)) == 1
    hooks = Hooks(model)
    ids, weights = torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[[0.5, 0.5], [0.75, 0.25]]])  # [batch, tokens, k]
    seen: list[Routed] = []

    def replace(routed: Routed) -> tuple[Any, Any]:
        seen.append(routed)
        return routed.ids.flip(0), 2 * routed.weights

    hooks.replace = replace
    given = {"hidden": torch.zeros(1), "top_k_index": ids, "top_k_weights": weights}
    named = {name: given.pop(name) for name in by_name}
    with hooks.on():
        found = model.experts(*given.values(), **named)
    assert seen[0].ids.shape == (2, 2)
    assert torch.equal(found[0], torch.tensor([[[2, 3], [0, 1]]]))
    assert torch.equal(found[1], 2 * weights)
    assert torch.equal(model.experts(torch.zeros(1), ids, weights)[0], ids)  # the hooks are off again


def test_llama4_runs_the_chosen_ones_only() -> None:
    scores, logits = torch.tensor([[0.0, 0.9, 0.0, 0.0]]), torch.ones(1, 4)
    written, kept = WRITERS["Llama4TextMoe"]((scores, logits), torch.tensor([[3]]), torch.tensor([[0.4]]))
    assert torch.equal(written, torch.tensor([[0.0, 0.0, 0.0, 0.4]]))
    assert kept is logits
