"""Train a small mixture-of-experts language model (OLMoE architecture) from scratch on the prepared text.

Every batch holds the same number of sequences of every domain. Training is resumed from the checkpoint if there is
one. The learning rate follows the share of --minutes or --steps that is done: short warm-up, then a cosine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from torch.nn import functional
from transformers import OlmoeConfig, OlmoeForCausalLM

Tokens = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Settings:
    """What determines the run, apart from its length and the hardware."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    experts: int
    top_k: int
    vocabulary: int
    sequence: int
    per_domain: int
    learning_rate: float
    balance: float
    z_loss: float
    seed: int


def domains_of(text: Path) -> list[str]:
    """List the domains for which there is prepared text, in the order of sources.json."""
    return list(json.loads((text / "sources.json").read_text(encoding="utf-8")))


def make_tokenizer(text: Path, out: Path, vocabulary: int) -> tokenizers.Tokenizer:
    """Train a byte-level BPE tokenizer on equal amounts of every domain's training text, or load it."""
    path = out / "tokenizer.json"
    if not path.exists():
        parts = [(text / f"{domain}.train.txt").read_text(encoding="utf-8") for domain in domains_of(text)]
        share = min(map(len, parts))
        lines = (line for part in parts for line in part[:share].splitlines(keepends=True))
        trainer = ByteLevelBPETokenizer()
        trainer.train_from_iterator(lines, vocab_size=vocabulary, min_frequency=2, show_progress=False)
        trainer.save(str(path))
    return tokenizers.Tokenizer.from_file(str(path))


def load_tokens(text: Path, out: Path, split: str, tokenizer: tokenizers.Tokenizer) -> dict[str, Tokens]:
    """Load the token ids of every domain, encoded once and kept as .npy."""
    tokens: dict[str, Tokens] = {}
    for domain in domains_of(text):
        path = out / f"{domain}.{split}.npy"
        if not path.exists():
            lines = (text / f"{domain}.{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
            ids = [i for encoding in tokenizer.encode_batch(lines) for i in encoding.ids]
            np.save(path, np.asarray(ids, dtype=np.uint16))
        tokens[domain] = np.load(path)
    return tokens


def make_model(settings: Settings) -> OlmoeForCausalLM:
    """Make a freshly initialised model."""
    torch.manual_seed(settings.seed)
    config = OlmoeConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_experts=settings.experts,
        num_experts_per_tok=settings.top_k,
        max_position_embeddings=settings.sequence,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return OlmoeForCausalLM(config)


class RouterLosses:
    """Gathers the routers' outputs of one forward pass and makes the auxiliary losses from them."""

    def __init__(self, model: OlmoeForCausalLM) -> None:
        self.outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(self._keep)

    def _keep(self, gate: torch.nn.Module, _inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        if gate.training:
            self.outputs.append((output[0], output[2]))

    def take(self) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return load balance (experts * sum(share chosen * mean probability)), z loss, and counts per layer."""
        balance, z_loss, counts = [], [], []
        for logits, chosen in self.outputs:
            count = torch.bincount(chosen.flatten(), minlength=logits.shape[-1])
            probability = logits.float().softmax(-1).mean(0)
            balance.append(logits.shape[-1] * (count / logits.shape[0] * probability).sum())
            z_loss.append(logits.float().logsumexp(-1).square().mean())
            counts.append(count)
        self.outputs.clear()
        return torch.stack(balance).mean(), torch.stack(z_loss).mean(), counts


def batch_at(step: int, tokens: dict[str, Tokens], settings: Settings) -> torch.Tensor:
    """Draw the batch of one step: the same windows for the same seed and step, whatever came before."""
    random = np.random.default_rng((settings.seed, step))
    rows = [
        ids[start : start + settings.sequence + 1].astype(np.int64)
        for ids in tokens.values()
        for start in random.integers(0, len(ids) - settings.sequence, settings.per_domain)
    ]
    return torch.from_numpy(np.stack(rows))


def language_loss(model: OlmoeForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the next token."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def validate(
    model: OlmoeForCausalLM, tokens: dict[str, Tokens], settings: Settings, device: str, windows: int = 32
) -> dict[str, float]:
    """Return the mean validation loss of each domain on evenly spread windows."""
    model.train(False)
    losses: dict[str, float] = {}
    for domain, ids in tokens.items():
        starts = np.linspace(0, len(ids) - settings.sequence - 1, windows, dtype=np.int64)
        rows = np.stack([ids[start : start + settings.sequence + 1].astype(np.int64) for start in starts])
        chunks = torch.from_numpy(rows).to(device).chunk(windows // 8)
        losses[domain] = sum(language_loss(model, chunk).item() * len(chunk) for chunk in chunks) / windows
    model.train()
    return losses


def learning_rate(settings: Settings, done: float, step: int) -> float:
    """Return the rate: linear warm-up over 100 steps, cosine down to a twentieth."""
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * cosine * min(1.0, (step + 1) / 100)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one piece: a stop in the middle leaves the older one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def main() -> None:
    """Train until --minutes or --steps are reached; write checkpoint.pt, log.jsonl and training.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder written by prepare_text.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer, checkpoint and log")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="minutes of training, summed over resumed runs")
    length.add_argument("--steps", type=int, help="number of steps")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--intermediate", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--per-domain", type=int, default=1, help="sequences of each domain in a batch")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--balance", type=float, default=1e-2, help="weight of the load-balancing loss")
    parser.add_argument("--z-loss", type=float, default=1e-3, help="weight of the router's z loss")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)

    tokenizer = make_tokenizer(arguments.text, arguments.out, settings.vocabulary)
    training = load_tokens(arguments.text, arguments.out, "train", tokenizer)
    held_out = load_tokens(arguments.text, arguments.out, "val", tokenizer)
    print({domain: (len(training[domain]), len(held_out[domain])) for domain in training}, flush=True)

    model = make_model(settings).to(device)
    routers = RouterLosses(model)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
    checkpoint = arguments.out / "checkpoint.pt"
    step, before = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["settings"] != asdict(settings):
            parser.error(f"the checkpoint was made with other settings: {state['settings']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, before = state["step"], state["seconds"]

    per_step = len(training) * settings.per_domain * settings.sequence
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {per_step} tokens a step, from step {step}, {before:.0f} s", flush=True)

    def snapshot(seconds: float) -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "config": model.config.to_dict(),
            "settings": asdict(settings),
            "step": step,
            "seconds": seconds,
        }

    began = saved = time.monotonic()
    model.train()
    with (arguments.out / "log.jsonl").open("a", encoding="utf-8") as log:
        while True:
            seconds = before + time.monotonic() - began
            done = step / arguments.steps if arguments.steps else seconds / 60 / arguments.minutes
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, done, step)
            loss = language_loss(model, batch_at(step, training, settings).to(device))
            balance, z_loss, counts = routers.take()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss + settings.balance * balance + settings.z_loss * z_loss)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 10 == 0:
                line = {
                    "step": step,
                    "seconds": round(before + time.monotonic() - began, 1),
                    "tokens": step * per_step,
                    "loss": round(loss.item(), 4),
                    "balance": round(balance.item(), 4),
                    "z": round(z_loss.item(), 4),
                    "norm": round(float(norm), 3),
                    "max_load": [round((c.max() / c.float().mean()).item(), 2) for c in counts],
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
            if time.monotonic() - saved > 60 * arguments.checkpoint_minutes:
                save(checkpoint, snapshot(before + time.monotonic() - began))
                saved = time.monotonic()

    seconds = before + time.monotonic() - began
    save(checkpoint, snapshot(seconds))
    losses = validate(model, held_out, settings, device)
    result = {
        "settings": asdict(settings),
        "parameters": parameters,
        "training_tokens": step * per_step,
        "steps": step,
        "seconds": round(seconds, 1),
        "validation_loss": {domain: round(value, 4) for domain, value in losses.items()},
        "device": device,
        "dtype": "float32",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (arguments.out / "training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
