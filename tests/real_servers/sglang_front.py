"""SGLang's own HTTP server, tokenizer and detokenizer around a small engine: its scheduler did not run on our CPUs.

    python sglang_front.py CHECKPOINT PORT

Runs in an environment with SGLang's wheel. Everything between the socket and the engine's output is SGLang's: which
fields an answer has, how routing is encoded, what streams send. The engine is ours: it runs the checkpoint in
transformers and gives rows [start, prompt + generated - 1), int32 [tokens, layers, k] with zeros for dense layers and
the rows of cached prefixes included, as ``BaseTopkCapturer.get_topk`` does (``sglang/srt/state_capturer/base.py``).
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import msgspec
import torch
import zmq

# torchvision's release for this torch does not load beside a torch for CPUs. SGLang imports it, and for text uses none
# of it: the two operators that are missed while it is imported are declared before that.
vision = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    vision.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from sglang.srt.entrypoints.http_server import launch_server  # noqa: E402
from sglang.srt.managers.io_struct import (  # noqa: E402
    BatchTokenIDOutput,
    TokenizedGenerateReqInput,
    sock_recv,
    sock_send,
)
from sglang.srt.server_args import ServerArgs  # noqa: E402
from sglang.srt.utils.network import get_zmq_socket  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

NAME = "tiny-ernie"
LOOK_BACK = 5
"""Tokens of the prompt before the first new one, from which text is decoded."""


class Engine:
    """The checkpoint, what it has routed, and the sequences whose keys and values a prefix cache would hold."""

    def __init__(self, checkpoint: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        config = self.model.config
        self.shape, self.first = (config.num_hidden_layers, config.moe_k), config.moe_layer_start_index
        self.chosen: list[torch.Tensor] = []
        for module in self.model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_hook(lambda _, __, out: self.chosen.append(out[2]))
        self.seen: list[list[int]] = []

    def generate(self, prompt: list[int], most: int, temperature: float, seed: int) -> list[int]:
        generator, tokens = torch.Generator().manual_seed(seed), list(prompt)
        for _ in range(most):
            with torch.no_grad():
                scores = self.model(torch.tensor([tokens])).logits[0, -1]
            if temperature <= 1e-3:
                tokens.append(int(scores.argmax()))
            else:
                shares = (scores / temperature).softmax(0)
                tokens.append(int(torch.multinomial(shares, 1, generator=generator)))
        return tokens[len(prompt) :]

    def routing(self, tokens: list[int]) -> torch.Tensor:
        """Return int32 [tokens, layers, k]."""
        self.chosen.clear()
        with torch.no_grad():
            self.model(torch.tensor([tokens]))
        rows = torch.zeros(len(tokens), *self.shape, dtype=torch.int32)
        rows[:, self.first :] = torch.stack(self.chosen, dim=1)
        return rows

    def cached(self, prompt: list[int]) -> int:
        """Return the tokens that an earlier sequence begins with too, all but the prompt's last at most."""
        best = 0
        for other in self.seen:
            same = 0
            while same < min(len(prompt) - 1, len(other)) and other[same] == prompt[same]:
                same += 1
            best = max(best, same)
        return best


def answer(engine: Engine, asked: TokenizedGenerateReqInput) -> list[BatchTokenIDOutput]:
    """Return what a scheduler would send for a request: one piece, or one for each token of a stream."""
    prompt, sampling = list(asked.input_ids), asked.sampling_params
    cached = engine.cached(prompt)
    seed = sampling.sampling_seed if sampling.sampling_seed is not None else 0
    made = engine.generate(prompt, sampling.max_new_tokens, sampling.temperature, seed)
    run = [*prompt, *made][:-1]
    engine.seen.append(run)
    rows = engine.routing(run)[asked.routed_experts_start_len :] if asked.return_routed_experts else None
    before = prompt[-LOOK_BACK:]
    ends = range(1, len(made) + 1) if asked.stream else [len(made)]
    sent, pieces = 0, []
    for end in ends:
        new, last = made[sent:end], end == len(made)
        given: dict[str, Any] = {
            "rids": [asked.rid],
            "http_worker_ipcs": [asked.http_worker_ipc],
            "finished_reasons": [{"type": "length", "length": len(made)} if last else None],
            "decoded_texts": [""],
            "decode_ids": [array("q", new if sent else [*before, *new])],
            "read_offsets": [len(before)],
            "output_ids": [array("q", new)],
            "skip_special_tokens": [sampling.skip_special_tokens],
            "spaces_between_special_tokens": [sampling.spaces_between_special_tokens],
            "no_stop_trim": [sampling.no_stop_trim],
            "prompt_tokens": [len(prompt)],
            "reasoning_tokens": [0],
            "completion_tokens": [end],
            "cached_tokens": [cached],
            "retraction_counts": [0],
            "routed_experts": [rows if last else None] if asked.return_routed_experts else None,
        }
        nothing = {
            field.name: None
            for field in msgspec.structs.fields(BatchTokenIDOutput)
            if field.required and field.name not in given
        }
        pieces.append(BatchTokenIDOutput(**nothing, **given))
        sent = end
    return pieces


def run_engine(server_args: ServerArgs, port_args: Any, *rest: Any) -> None:
    """Stand in the scheduler's place: say that it is ready, then answer request after request."""
    ready = next(one for one in rest if hasattr(one, "send"))
    context = zmq.Context(2)
    requests = get_zmq_socket(context, zmq.PULL, port_args.scheduler_input_ipc_name, False)
    answers = get_zmq_socket(context, zmq.PUSH, port_args.detokenizer_ipc_name, False)
    torch.set_num_threads(1)
    engine = Engine(server_args.model_path)
    ready.send(
        {
            "status": "ready", "max_total_num_tokens": 1 << 16, "max_req_input_len": 506, "startup_time": None,
            "hicache_object_layout": None,
        }
    )  # fmt: skip
    while True:
        asked = sock_recv(requests)
        for one in asked if hasattr(asked, "__iter__") else [asked]:
            if isinstance(one, TokenizedGenerateReqInput):
                for piece in answer(engine, one):
                    sock_send(answers, piece)


if __name__ == "__main__":
    launch_server(
        ServerArgs(
            model_path=sys.argv[1],
            served_model_name=NAME,
            host="127.0.0.1",
            port=int(sys.argv[2]),
            device="cpu",
            enable_return_routed_experts=True,
            enable_cache_report=True,
            skip_server_warmup=True,
        ),
        run_scheduler_process_func=run_engine,
    )
