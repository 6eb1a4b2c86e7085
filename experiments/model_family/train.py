"""Train one variant from scratch; a stopped training goes on from its checkpoint and ends as it would have."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.base.kinds import named
from lrcsim.cli.output import write_json
from lrcsim.experiments.model_family.corpus import Corpus
from lrcsim.experiments.model_family.variants import Scale, Variant, config_of

WARM_UP_STEPS = 50
LOG_EVERY = 10
CHECKPOINT_SECONDS = 240.0
VALIDATION_WINDOWS = 32
LAST_RATE = 0.05
"""Share of the learning rate at which the cosine ends."""


class RouterLosses:
    """Gathers the routers' outputs of a forward pass and makes the auxiliary losses from them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, module in model.named_modules():
            if name.endswith("mlp.gate"):
                module.register_forward_hook(self._keep)

    def _keep(self, gate: torch.nn.Module, _inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        if gate.training:
            self.outputs.append((output[0], output[2]))

    def take(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return load balance, z loss, and the busiest expert's load over the mean, each averaged over the layers.

        Load balance is E * sum over experts of (uses per token / k) * (mean probability): 1 in perfect balance, so that
        the weight means the same at any k (Switch Transformer, arXiv 2101.03961, eq. 4).
        """
        balance, z_loss, busiest = [], [], []
        for logits, chosen in self.outputs:
            logits = logits.float()
            uses = torch.bincount(chosen.flatten(), minlength=logits.shape[-1]).float()
            balance.append(logits.shape[-1] * (uses / chosen.numel() * logits.softmax(-1).mean(0)).sum())
            z_loss.append(logits.logsumexp(-1).square().mean())
            busiest.append(uses.max() / uses.mean())
        self.outputs.clear()
        return torch.stack(balance).mean(), torch.stack(z_loss).mean(), torch.stack(busiest).mean()


class MasterWeights:
    """AdamW on float32 copies of the model's weights, which may themselves be bf16."""

    def __init__(self, model: torch.nn.Module, learning_rate: float) -> None:
        self.of_model = [p for p in model.parameters() if p.requires_grad]
        self.copies = [p.detach().float().clone().requires_grad_() for p in self.of_model]
        matrices = [p for p in self.copies if p.ndim >= 2]
        vectors = [p for p in self.copies if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def step(self, learning_rate: float) -> float:
        """Make one step with the model's gradients, clipped to norm 1, and drop them; returns their norm."""
        for copy, parameter in zip(self.copies, self.of_model, strict=True):
            copy.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(self.copies, 1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.into_model()
        return norm

    @torch.no_grad()
    def into_model(self) -> None:
        """Round the copies into the model's weights."""
        for copy, parameter in zip(self.copies, self.of_model, strict=True):
            parameter.copy_(copy)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"copies": [copy.detach() for copy in self.copies], "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        with torch.no_grad():
            for copy, kept in zip(self.copies, state["copies"], strict=True):
                copy.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.into_model()


def make_model(variant: Variant, scale: Scale, seed: int, device: str) -> torch.nn.Module:
    """Make a freshly initialised model."""
    torch.manual_seed(seed)
    model: Any = transformers.Ernie4_5_MoeForCausalLM(config_of(variant, scale))
    moved: torch.nn.Module = model.to(device=device, dtype=torch.bfloat16 if scale.dtype == "bf16" else torch.float32)
    return moved


def language_loss(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the next token, in nats, for token ids [rows, tokens + 1]."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def learning_rate(scale: Scale, step: int) -> float:
    """Return the rate of a step: linear warm-up, cosine down to a twentieth."""
    cosine = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / scale.steps))
    return scale.learning_rate * cosine * min(1.0, (step + 1) / WARM_UP_STEPS)


@torch.no_grad()
def validate(model: torch.nn.Module, corpus: Corpus, scale: Scale, device: str) -> dict[str, float]:
    """Return the mean cross-entropy of each domain's held-out text, in nats per token."""
    model.train(False)
    losses = {}
    for domain in corpus.held_out:
        rows = corpus.windows(domain, VALIDATION_WINDOWS, scale.sequence + 1).astype(np.int64)
        chunks = torch.from_numpy(rows).to(device).chunk(VALIDATION_WINDOWS // 8)
        losses[domain] = sum(language_loss(model, chunk).item() * len(chunk) for chunk in chunks) / len(rows)
    model.train()
    return losses


def train(
    variant: Variant,
    scale: Scale,
    seed: int,
    corpus: Corpus,
    out: Path,
    device: str,
    progress: Callable[[dict[str, float]], None] | None = None,
    snapshots: Sequence[int] = (),
) -> dict[str, Any]:
    """Train a variant, unless <out>/training.json says that it was.

    Writes <out>/model (a folder that transformers and ``lrcsim record`` load; weights rounded to bf16), log.jsonl, and
    training.json last. On the way a snapshot of 10 % leaves the same two, model and training.json, in <out>/at10; the
    training goes on as if it had not been taken.

    Args:
        variant: what to train.
        scale: sizes and steps.
        seed: of weights and batches.
        corpus: the text.
        out: folder of this training alone.
        device: cpu or cuda.
        progress: told a line of the log every 10 steps.
        snapshots: percent of the steps, 1 to 99, after which the model is kept too.

    Returns:
        What training.json holds.

    Raises:
        ConfigError: the folder holds a training of something else, or one that is past a snapshot and has not taken it.
    """
    determined = {"variant": asdict(variant), "scale": asdict(scale), "seed": seed}
    done = out / "training.json"
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        _check_same(out, {name: result[name] for name in determined}, determined)
        _due(out, scale.steps, scale.steps, snapshots)
        return result
    out.mkdir(parents=True, exist_ok=True)
    model = make_model(variant, scale, seed, device)
    routers, weights = RouterLosses(model), MasterWeights(model, scale.learning_rate)
    checkpoint, step, before = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        _check_same(out, state["determined"], determined)
        weights.load(state["weights"])
        step, before = state["step"], state["seconds"]

    due = _due(out, scale.steps, step, snapshots)
    began = saved = time.monotonic()

    def keep(folder: Path) -> dict[str, Any]:
        """Write the model and its training.json as they are at this step."""
        losses = validate(model, corpus, scale, device)
        _export(model, corpus, folder / "model")
        about = named("training", {**determined, **_found(model, step, corpus, scale, losses, device)})
        about["seconds"] = round(before + time.monotonic() - began, 1)
        write_json(str(folder / "training.json"), about, "training")
        return about

    model.train()
    while step < scale.steps:
        rows = corpus.batch(step, seed, scale.per_domain, scale.sequence).to(device)
        loss = language_loss(model, rows)
        balance, z_loss, busiest = routers.take()
        torch.autograd.backward(loss + variant.balance * balance + variant.z_loss * z_loss)
        norm = weights.step(learning_rate(scale, step))
        step += 1
        seconds = before + time.monotonic() - began
        if step % LOG_EVERY == 0 or step == scale.steps:
            found = {"loss": loss.item(), "balance": balance.item(), "z": z_loss.item(), "busiest": busiest.item()}
            line = {"step": step, "seconds": seconds, "norm": norm, **found}
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps({name: round(value, 4) for name, value in line.items()}) + "\n")
            if progress is not None:
                progress(line)
        if step in due:  # before the checkpoint: what goes on from that one has it
            due[step].mkdir(exist_ok=True)
            keep(due[step])
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            state = {"determined": determined, "weights": weights.state(), "step": step, "seconds": seconds}
            with replacing(checkpoint) as partial:  # a stop in the middle leaves the older one
                torch.save(state, partial)
            saved = time.monotonic()

    result = keep(out)
    checkpoint.unlink(missing_ok=True)
    return result


def snapshot_folder(out: Path, percent: int) -> Path:
    """Return where a training leaves its model of so many percent of the steps: ``<out>/at10``."""
    return out / f"at{percent}"


def _due(out: Path, steps: int, step: int, snapshots: Sequence[int]) -> dict[int, Path]:
    """Return the folders of the snapshots that are still to be taken, by step.

    Raises:
        ConfigError: the training is past one that it has not taken.
    """
    folders = {max(round(steps * percent / 100), 1): snapshot_folder(out, percent) for percent in snapshots}
    due = {at: folder for at, folder in folders.items() if not (folder / "training.json").exists()}
    for at, folder in due.items():
        if at <= step:
            raise ConfigError(
                f"{folder} is not there and the training is at step {step}, past {at}: "
                "leave the snapshot out, or train again in another folder"
            )
    return due


def _found(
    model: torch.nn.Module, step: int, corpus: Corpus, scale: Scale, losses: dict[str, float], device: str
) -> dict[str, Any]:
    """Say what came of a training up to a step, and with what it was done."""
    return {
        "steps_trained": step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_tokens": step * rows_tokens(scale, corpus),
        "validation_loss": {domain: round(value, 4) for domain, value in losses.items()},
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu ({platform.machine()})",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {library.__name__: library.__version__ for library in (torch, transformers)},
    }


def rows_tokens(scale: Scale, corpus: Corpus) -> int:
    """Return the tokens of one step."""
    return len(corpus.training) * scale.per_domain * scale.sequence


def _check_same(out: Path, found: Any, wanted: Any) -> None:
    if json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        raise ConfigError(f"{out} holds a training with other settings: use another folder, or delete it")


def _export(model: Any, corpus: Corpus, folder: Path) -> None:
    """Write the model, rounded to bf16, and its tokenizer, as transformers loads them; the model stays as it is."""
    library: Any = transformers  # its functions have no types
    library.utils.logging.disable_progress_bar()
    deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    library.PreTrainedTokenizerFast(tokenizer_object=corpus.tokenizer).save_pretrained(folder)
