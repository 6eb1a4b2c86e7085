"""What transformers routes for the same token ids, and how far a trace agrees with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from lrcsim.traces import RoutingTrace

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequence:
    """One request: what was sent, what the server made of it, and what of its beginning has no row.

    Attributes:
        prompt: token ids of the prompt.
        made: token ids generated.
        idle: positions at the beginning that did not run (prefix cache) or were not sent.
    """

    prompt: list[int]
    made: list[int]
    idle: int = 0

    @property
    def run(self) -> list[int]:
        """The tokens that a model runs: all but the last that it makes."""
        return [*self.prompt, *self.made][:-1]


class Reference:
    """The checkpoint in transformers, asked at its routers, not by lrcsim's recorder."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.chosen: list[torch.Tensor] = []
        for module in self.model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_hook(lambda _, __, out: self.chosen.append(out[2]))

    def routing(self, tokens: list[int]) -> Ids:
        """Return the experts of each token, int64 [tokens, MoE layers, k], by rising id, from one pass over all."""
        self.chosen.clear()
        with torch.no_grad():
            self.model(torch.tensor([tokens]))
        return np.sort(torch.stack(self.chosen, dim=1).numpy(), axis=2)


@dataclass
class Agreement:
    """Layer-tokens compared, and how many have the same set of experts."""

    requests: int = 0
    tokens: int = 0
    idle: int = 0
    compared: int = 0
    equal: int = 0

    def __iadd__(self, other: Agreement) -> Agreement:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


def compare(path: Path, sequences: list[Sequence], reference: Reference) -> tuple[Agreement, list[Ids]]:
    """Compare a trace with what transformers routes; return the latter too, for each request.

    Raises:
        AssertionError: the trace has other requests, tokens, phases or rows that did not run.
    """
    result, truth = Agreement(), []
    with RoutingTrace.open(path) as trace:
        sizes = np.diff(trace.offsets).tolist()
        assert sizes == [len(one.run) for one in sequences], (sizes, [len(one.run) for one in sequences])
        assert trace.phase is not None
        for low, one in zip(trace.offsets, sequences, strict=False):
            here = slice(low, low + len(one.run))
            experts = np.sort(trace.experts[here], axis=2)
            assert trace.phase[here].tolist() == [0] * len(one.prompt) + [1] * (len(one.run) - len(one.prompt))
            idle = (experts < 0).all(axis=(1, 2))
            assert idle.tolist() == [True] * one.idle + [False] * (len(one.run) - one.idle), int(idle.sum())
            if trace.token_ids is not None:
                assert trace.token_ids[here].tolist() == one.run
            right = reference.routing(one.run)
            same = (experts == right).all(axis=2)[one.idle :]
            result.requests += 1
            result.tokens += len(one.run)
            result.idle += one.idle
            result.compared += same.size
            result.equal += int(same.sum())
            truth.append(right)
    return result, truth
