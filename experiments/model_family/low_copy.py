"""What two precisions do to a model's answers: the shipped checkpoint with its least used experts rounded.

The experts that `lrcsim.simulator.setup.low_copy` would put into low precision are rounded in place, block by block, to
so many bits, and the model's loss on held-out text is compared with that of the weights as they are. Which experts are
used least is counted on the first half of the samples; the loss is of the others, as many of each domain. Run it:
``python -m lrcsim.experiments.model_family.low_copy``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.setup.low_copy import LowCopy
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

HERE = Path(str(files("lrcsim.experiments.model_family")))
BLOCK = 16
"""Weights that share a scale: the largest power of two that divides the rows of this model's experts, of 96 and 48."""

SHARES = (0.25, 0.5, 0.75, 1.0)
BITS = (4, 3, 2)

Bools = npt.NDArray[np.bool_]


def rounded(weights: Any, bits: int) -> Any:
    """Return weights rounded to the nearest of 2^bits evenly spaced values, one scale per block.

    The value of largest magnitude in a block, with its sign, becomes -2^(bits - 1) steps, as in ggml's q4_0 (its
    ``quantize_row_q4_0_ref``; there blocks have 32 weights and the scale 16 bits, here 16 and 32).

    Args:
        weights: a tensor [..., n], n a multiple of `BLOCK`.
        bits: 2 to 8.
    """
    import torch

    half = 2 ** (bits - 1)
    blocks = weights.reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = largest / -half
    steps = torch.where(scale == 0, 0.0, blocks / torch.where(scale == 0, 1.0, scale)).round().clamp(-half, half - 1)
    return (steps * scale).reshape(weights.shape)


def round_experts(model: Any, cold: Bools, bits: int) -> None:
    """Round some of a model's experts in place.

    Args:
        model: of transformers, whose MoE layers hold ``mlp.experts`` with the tensors ``gate_up_proj`` and
            ``down_proj``, [E, rows, n].
        cold: bool [L, E], which.
        bits: as `rounded` takes it.
    """
    import torch

    layers = [layer.mlp.experts for layer in model.model.layers if hasattr(layer.mlp, "experts")]
    with torch.no_grad():
        for experts, here in zip(layers, torch.from_numpy(cold), strict=True):
            for tensor in (experts.gate_up_proj, experts.down_proj):
                tensor[here] = rounded(tensor[here], bits)


def losses(model: Any, samples: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
    """Return float64 [samples], the mean loss in nats of every token but a sample's first, given those before it."""
    import torch

    found = []
    with torch.no_grad():
        for ids in samples:
            tokens = torch.from_numpy(ids)[None]
            logits = model(tokens, use_cache=False).logits[0, :-1]
            found.append(float(torch.nn.functional.cross_entropy(logits.double(), tokens[0, 1:])))
    return np.array(found)


def load(folder: Path = HERE / "checkpoint") -> Any:
    """Load the checkpoint in float32: its weights are those of bf16, its sums are not rounded."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def halves(trace: RoutingTrace) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.int64]]]:
    """Return uses of each expert in the first half of the requests, float64 [L * E], and token ids of the others."""
    half, uses = trace.num_requests // 2, np.zeros(trace.num_layers * trace.num_experts)
    for block in Schedule(trace).blocks():
        counted = np.repeat(block.request < half, np.diff(block.starts))
        uses += np.bincount(block.keys[counted], minlength=len(uses))
    bounds = trace.offsets.tolist()
    wanted = range(half, trace.num_requests)
    return uses, [trace.read("token_ids", bounds[r], bounds[r + 1]).astype(np.int64) for r in wanted]


def weight_share(trace: RoutingTrace, cold: Bools) -> float:
    """Return the share of the router's weight that goes to some experts, bool [L, E], in a trace."""
    low = LowCopy("", 0.0, cold.ravel())
    share = low.shares(trace)["weight"]
    assert isinstance(share, float)  # the trace has weights
    return share


def main() -> None:
    """Print the figures of the table in docs/accounting.md."""
    with RoutingTrace.open(HERE / "checkpoint_traces" / "teacher_forced.h5") as trace:
        uses, samples = halves(trace)
        plain = losses(load(), samples)
        print(f"{len(samples)} samples, loss {plain.mean():.4f} nats as the weights are")
        print("| bits | low precision | of the weight | loss, nats more |\n|---:|---|---:|---:|")
        for bits in BITS:
            for share in SHARES:
                least = LowCopy.of(f"q4_0:{share}", trace.layers, uses)
                most = LowCopy.of(f"q4_0:{share}", trace.layers, -uses)
                for name, chosen in (("used least", least), ("used most", most))[: 1 if share == 1 else 2]:
                    cold = chosen.cold.reshape(trace.num_layers, -1)
                    model = load()
                    round_experts(model, cold, bits)
                    more = losses(model, samples) - plain
                    error = more.std(ddof=1) / np.sqrt(len(more))
                    of_weight = weight_share(trace, cold)
                    print(f"| {bits} | {share:.0%} {name} | {of_weight:.1%} | {more.mean():.4f} ± {error:.4f} |")


if __name__ == "__main__":
    main()
