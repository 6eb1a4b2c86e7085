"""Record which experts the trained model routes every token to: generated requests and teacher-forced samples.

Forward hooks see what is executed: a pre-hook on every layer's experts gets the chosen ids and weights, a hook on the
gate checks that they are the router's own. The hidden state that entered a layer's gate is also given to the next
layer's gate: its choice is the recorded prediction (distance 1).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
import transformers
from transformers import OlmoeConfig, OlmoeForCausalLM

from lrcsim.traces import RoutingTrace

PROMPT_TOKENS = (32, 128)
SAMPLED_TOKENS = (160, 192)
MODEL_NAME = "lrcsim-tiny-olmoe"
OPEN_DOMAINS = frozenset({"prose", "mathematics", "documentation"})
"""Domains whose text may be given to anyone without a notice. Token ids can be turned back to text, so those of the
other domains are left out of the traces (-1)."""

Ids = npt.NDArray[np.int64]


@dataclass
class Routing:
    """What the hooks saw since the last `take`: for each layer a list of [tokens, k] tensors."""

    experts: list[list[torch.Tensor]]
    weights: list[list[torch.Tensor]]
    predictions: list[list[torch.Tensor]]

    @classmethod
    def empty(cls, layers: int) -> Routing:
        """Make one that has seen nothing yet."""
        return cls([[] for _ in range(layers)], [[] for _ in range(layers)], [[] for _ in range(layers)])


class Recorder:
    """Hooks on the gates and experts of a model."""

    def __init__(self, model: OlmoeForCausalLM) -> None:
        self.blocks = [layer.mlp for layer in model.model.layers]
        self.top_k = int(model.config.num_experts_per_tok)
        self.seen = Routing.empty(len(self.blocks))
        self._of_gate: tuple[torch.Tensor, torch.Tensor] | None = None
        for layer, block in enumerate(self.blocks):
            block.gate.register_forward_hook(self._after_gate(layer))
            block.experts.register_forward_pre_hook(self._before_experts(layer), with_kwargs=True)

    def _after_gate(self, layer: int) -> Any:
        def hook(_gate: torch.nn.Module, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
            _, weights, chosen = output
            self._of_gate = (chosen, weights)
            if layer + 1 < len(self.blocks):
                hidden = inputs[0].reshape(-1, inputs[0].shape[-1])
                logits = torch.nn.functional.linear(hidden, self.blocks[layer + 1].gate.weight)
                self.seen.predictions[layer + 1].append(logits.topk(self.top_k, dim=-1).indices)
            if layer == 0:
                self.seen.predictions[0].append(torch.full_like(chosen, -1))

        return hook

    def _before_experts(self, layer: int) -> Any:
        def hook(_experts: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), inputs, strict=False)) | named
            chosen, weights = given["top_k_index"], given["top_k_weights"]
            if self._of_gate is None or not (
                torch.equal(chosen, self._of_gate[0]) and torch.equal(weights, self._of_gate[1])
            ):
                raise RuntimeError(f"layer {layer}: the experts are not given what the router chose")
            self._of_gate = None
            order = weights.argsort(dim=-1, descending=True, stable=True)
            chosen, weights = chosen.gather(-1, order), weights.gather(-1, order)
            if bool((chosen.sort(dim=-1).values.diff(dim=-1) == 0).any()):
                raise RuntimeError(f"layer {layer}: a token was routed to the same expert twice")
            self.seen.experts[layer].append(chosen)
            self.seen.weights[layer].append(weights)

        return hook

    def take(self) -> dict[str, npt.NDArray[Any]]:
        """Return experts, weights and predictions since the last call, [tokens, layers, k] each."""
        seen, self.seen = self.seen, Routing.empty(len(self.blocks))

        def join(parts: list[list[torch.Tensor]]) -> npt.NDArray[Any]:
            joined: npt.NDArray[Any] = torch.stack([torch.cat(layer) for layer in parts], dim=1).cpu().numpy()
            return joined

        return {
            "experts": join(seen.experts).astype(np.int16),
            "weights": join(seen.weights).astype(np.float16),
            "next_gate": join(seen.predictions).astype(np.int16),
        }


@dataclass
class Requests:
    """The requests recorded so far."""

    columns: list[dict[str, npt.NDArray[Any]]] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)

    def add(self, domain: str, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Append one request."""
        self.columns.append(columns)
        self.domains.append(domain)

    def trace(self, num_experts: int, expert_bytes: int, provenance: dict[str, Any]) -> RoutingTrace:
        """Join all requests into one trace."""
        joined = {name: np.concatenate([c[name] for c in self.columns]) for name in self.columns[0]}
        lengths = [len(c["experts"]) for c in self.columns]
        return RoutingTrace.from_arrays(
            joined["experts"],
            num_experts=num_experts,
            offsets=np.cumsum([0, *lengths]),
            phase=joined.get("phase"),
            weights=joined["weights"],
            token_ids=joined["token_ids"],
            predictions={1: joined["next_gate"]},
            expert_bytes=expert_bytes,
            domains=self.domains,
            model=MODEL_NAME,
            provenance=provenance,
        )


@torch.no_grad()
def generate(model: OlmoeForCausalLM, prompt: Ids, count: int, temperature: float, seed: int) -> Ids:
    """Sample `count` tokens after the prompt with a KV cache; returns prompt and sampled tokens."""
    random = torch.Generator().manual_seed(seed)
    tokens = prompt.tolist()
    given = torch.from_numpy(prompt)[None].to(model.device)
    cache = None
    for _ in range(count):
        output = model(input_ids=given, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        probabilities = (output.logits[0, -1].float().cpu() / temperature).softmax(-1)
        sampled = int(torch.multinomial(probabilities, 1, generator=random))
        tokens.append(sampled)
        given = torch.tensor([[sampled]], device=model.device)
    return np.asarray(tokens, dtype=np.int64)


def prompts(held_out: dict[str, Ids], per_domain: int, seed: int) -> Iterator[tuple[str, Ids, int]]:
    """Yield domain, prompt and number of tokens to sample, the domains in turn, from the held-out text's first half."""
    random = np.random.default_rng(seed)
    for _ in range(per_domain):
        for domain, ids in held_out.items():
            length = int(random.integers(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1))
            count = int(random.integers(SAMPLED_TOKENS[0], SAMPLED_TOKENS[1] + 1))
            start = int(random.integers(0, len(ids) // 2 - length))
            yield domain, ids[start : start + length], count


def samples(held_out: dict[str, Ids], per_domain: int, length: int) -> Iterator[tuple[str, Ids]]:
    """Yield domain and sample, the domains in turn, evenly spread over the second half of the held-out text."""
    for i in range(per_domain):
        for domain, ids in held_out.items():
            start = len(ids) // 2 + i * (len(ids) // 2 - length) // max(per_domain - 1, 1)
            yield domain, ids[start : start + length]


def shown(domain: str, tokens: Ids) -> npt.NDArray[np.int32]:
    """Return the token ids as the trace holds them: -1 where the domain's text is not free of conditions."""
    return (tokens if domain in OPEN_DOMAINS else np.full_like(tokens, -1)).astype(np.int32)


def load(path: Path, device: str) -> OlmoeForCausalLM:
    """Load the trained model."""
    state = torch.load(path, map_location=device, weights_only=True)
    with torch.device(device):
        model = OlmoeForCausalLM(OlmoeConfig.from_dict(state["config"]))
    model.load_state_dict(state["model"])
    model.train(False)
    return model


def main() -> None:
    """Write generated.h5, teacher_forced.h5 and provenance.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder written by train.py")
    parser.add_argument("--text", type=Path, required=True, help="folder written by prepare_text.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the traces")
    parser.add_argument("--requests", type=int, default=8, help="generated requests of each domain")
    parser.add_argument("--samples", type=int, default=4, help="teacher-forced samples of each domain")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    arguments = parser.parse_args()

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load(arguments.run / "checkpoint.pt", device)
    recorder = Recorder(model)
    sources = json.loads((arguments.text / "sources.json").read_text(encoding="utf-8"))
    held_out = {domain: np.load(arguments.run / f"{domain}.val.npy").astype(np.int64) for domain in sources}
    training = json.loads((arguments.run / "training.json").read_text(encoding="utf-8"))
    experts = model.model.layers[0].mlp.experts
    expert_bytes = sum(p.numel() * p.element_size() for p in experts.parameters()) // model.config.num_experts
    provenance = {
        "model_id": MODEL_NAME,
        "synthetic": False,
        "about": "a small OLMoE-architecture model trained from scratch on free text; see experiments/bundled_trace",
        "config": {name: value for name, value in model.config.to_dict().items() if value is not None},
        "training": training,
        "recorder": "experiments/bundled_trace/record.py",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "device": device,
        "dtype": str(model.dtype).removeprefix("torch."),
        "seed": arguments.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "prompts": sources,
        "token_ids": f"kept for {', '.join(sorted(OPEN_DOMAINS))}; -1 for texts whose licence asks for a notice",
        "weights": "softmax over all experts, the chosen ones not renormalised, as executed",
        "predictions": "distance 1: the gate of a layer applied to the state that entered the gate of the layer before",
        "expert_bytes": expert_bytes,
    }

    generated = Requests()
    for number, (domain, prompt, count) in enumerate(prompts(held_out, arguments.requests, arguments.seed)):
        tokens = generate(model, prompt, count, arguments.temperature, seed=1000 * arguments.seed + number)
        columns = recorder.take()
        columns["token_ids"] = shown(domain, tokens[:-1])  # the last sampled token is never routed
        columns["phase"] = (np.arange(len(tokens) - 1) >= len(prompt)).astype(np.uint8)
        generated.add(domain, columns)
        print(f"request {number}: {domain}, {len(prompt)} + {count} tokens", flush=True)

    forced = Requests()
    for domain, ids in samples(held_out, arguments.samples, model.config.max_position_embeddings):
        with torch.no_grad():
            model(input_ids=torch.from_numpy(ids)[None].to(device), use_cache=False)
        forced.add(domain, {**recorder.take(), "token_ids": shown(domain, ids)})

    arguments.out.mkdir(parents=True, exist_ok=True)
    how = {
        "generated": f"one request at a time with a KV cache; prompts of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} "
        f"held-out tokens, then {SAMPLED_TOKENS[0]} to {SAMPLED_TOKENS[1]} tokens sampled at temperature "
        f"{arguments.temperature} from the whole distribution; the last one is not routed",
        "teacher_forced": f"held-out text, {model.config.max_position_embeddings} tokens in one pass, nothing sampled",
    }
    for name, requests in (("generated", generated), ("teacher_forced", forced)):
        trace = requests.trace(model.config.num_experts, expert_bytes, {**provenance, "tokens": how[name]})
        trace.save(arguments.out / f"{name}.h5")
        print(f"{name}: {trace.num_tokens} tokens, {len(requests.domains)} requests")
    text = json.dumps({**provenance, "tokens": how}, indent=2)
    (arguments.out / "provenance.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
