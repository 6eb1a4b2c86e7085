"""What SGLang is asked, and the requests in its answers, read by hand."""

from __future__ import annotations

import json
from typing import Any

from agreement import Sequence
from asking import Kind
from checkpoint import LAYERS, NAME, TOP_K
from prompts import CODE, LONG, SHORT, TALK

Json = dict[str, Any]

GENERATE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
ROUTED = {"return_routed_experts": True}
NATIVE = {"sampling_params": {"max_new_tokens": 6, "temperature": 0.8, "sampling_seed": 1}, **ROUTED}
ASKED = {"model": NAME, "max_tokens": 6, "temperature": 0.8, "seed": 1, **ROUTED}
IDS = {"return_input_ids_in_sglext": True, "return_output_ids_in_sglext": True}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}

SAVED: dict[str, tuple[str, Json]] = {
    "generate": (GENERATE, {**NATIVE, "input_ids": CODE}),
    "generate-start": (GENERATE, {**NATIVE, "text": "start " + SHORT, "routed_experts_start_len": 5}),
    "generate-list": (GENERATE, {**NATIVE, "text": ["1 " + SHORT, "2 hello"]}),
    "generate-stream": (GENERATE, {**NATIVE, "text": "stream " + SHORT, "stream": True}),
    "generate-cached": (GENERATE, {**NATIVE, "text": LONG + "four"}),
    "completion": (COMPLETIONS, {**ASKED, "prompt": "completion " + SHORT, "return_token_ids": True}),
    "completion-n2": (COMPLETIONS, {**ASKED, "prompt": "n = 2 " + SHORT, "n": 2, "return_token_ids": True}),
    "completion-stream": (COMPLETIONS, {**ASKED, **STREAM, "prompt": "s " + SHORT, "return_token_ids": True}),
    "chat": (CHAT, {**ASKED, **IDS, "messages": TALK}),
    "chat-n2": (CHAT, {**ASKED, **IDS, "messages": [{"role": "user", "content": "n = 2?"}], "n": 2}),
    "chat-stream": (CHAT, {**ASKED, **IDS, **STREAM, "messages": [{"role": "user", "content": "stream?"}]}),
}
"""By name: path and body of a request whose answer is saved. Few begin alike: SGLang caches single tokens."""


def sequences(path: str, body: Json, answer: str) -> list[Sequence]:
    """Read by hand, not by lrcsim's importer, the requests in an answer; of several choices the first, as SGLang sends.

    Prompts of ``/generate`` are the bytes of their text, as the tokenizer of the checkpoint has them. The prompt of
    several choices ran, in a pass of its own before them, though all of it but a token then counts as cached.
    """
    if answer.startswith("data:"):
        pieces = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    else:
        whole = json.loads(answer)
        pieces = whole if isinstance(whole, list) else [whole]
    if path == GENERATE:
        texts = body["text"] if isinstance(body.get("text"), list) else [body.get("text")]
        prompts = [body["input_ids"] if text is None else list(text.encode()) for text in texts]
        ends = [piece for piece in pieces if piece["meta_info"]["finish_reason"] is not None]
        start = body.get("routed_experts_start_len", 0)
        return [
            Sequence(prompt, end["output_ids"], max(end["meta_info"]["cached_tokens"], start))
            for prompt, end in zip(prompts, ends, strict=True)
        ]
    prompt: list[int] = []
    made: list[int] = []
    cached = 0
    for piece in pieces:
        extra = piece.get("sglext") or {}
        prompt = extra.get("input_ids") or prompt
        made = (extra.get("output_ids") or [made])[0]
        details = (piece.get("usage") or {}).get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or cached
        for choice in piece["choices"][:1]:
            prompt = choice.get("prompt_token_ids") or prompt
            made = made + (choice.get("token_ids") or [])
    return [Sequence(prompt, made, cached if body.get("n", 1) == 1 else 0)]


SGLANG = Kind("sglang", sequences, shape=("--num-layers", str(LAYERS), "--top-k", str(TOP_K)))
