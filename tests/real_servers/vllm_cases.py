"""What vLLM is asked, and the requests in its answers, read by hand."""

from __future__ import annotations

import json
from typing import Any

from agreement import Sequence
from asking import Kind
from checkpoint import NAME
from prompts import CODE, LONG, SHORT, TALK

Json = dict[str, Any]

ASKED = {"model": NAME, "max_tokens": 6, "temperature": 0.8, "seed": 1, "return_token_ids": True}
COMPLETIONS, CHAT, GENERATE = "/v1/completions", "/v1/chat/completions", "/inference/v1/generate"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SAMPLING = {"max_tokens": 6, "temperature": 0.8, "seed": 1}

SAVED: dict[str, tuple[str, Json]] = {
    "completion": (COMPLETIONS, {**ASKED, "prompt": SHORT}),
    "completion-without-ids": (COMPLETIONS, {**ASKED, "prompt": SHORT, "return_token_ids": False}),
    "completion-n2": (COMPLETIONS, {**ASKED, "prompt": SHORT, "n": 2}),
    "completion-two-prompts": (COMPLETIONS, {**ASKED, "prompt": [SHORT, "hello"]}),
    "completion-two-prompts-n2": (COMPLETIONS, {**ASKED, "prompt": [SHORT, "hello"], "n": 2, "max_tokens": 3}),
    "completion-two-prompts-cached": (COMPLETIONS, {**ASKED, "prompt": ["hello", LONG + "five"], "max_tokens": 2}),
    "completion-one-token": (COMPLETIONS, {**ASKED, "prompt": SHORT, "max_tokens": 1}),
    "completion-echo": (COMPLETIONS, {**ASKED, "prompt": SHORT, "echo": True}),
    "completion-stop": (COMPLETIONS, {**ASKED, "prompt": SHORT, "max_tokens": 40, "stop": ["a", "e", "i", "o"]}),
    "completion-start": (COMPLETIONS, {**ASKED, "prompt": SHORT, "routed_experts_prompt_start": 5}),
    "completion-stream": (COMPLETIONS, {**ASKED, **STREAM, "prompt": SHORT}),
    "completion-n2-cached": (COMPLETIONS, {**ASKED, "prompt": LONG + "two", "n": 2, "max_tokens": 2}),
    "completion-cached-start": (
        COMPLETIONS,
        {**ASKED, "prompt": LONG + "three", "max_tokens": 2, "routed_experts_prompt_start": 130},
    ),
    "chat": (CHAT, {**ASKED, "messages": TALK}),
    "chat-n2": (CHAT, {**ASKED, "messages": TALK, "n": 2}),
    "chat-start": (CHAT, {**ASKED, "messages": TALK, "routed_experts_prompt_start": 9}),
    "chat-stream": (CHAT, {**ASKED, **STREAM, "messages": TALK}),
    "chat-batch": (f"{CHAT}/batch", {**ASKED, "messages": [TALK, TALK]}),
    "generate": (GENERATE, {"model": NAME, "token_ids": CODE, "sampling_params": SAMPLING}),
    "generate-n2": (GENERATE, {"model": NAME, "token_ids": CODE, "sampling_params": {**SAMPLING, "n": 2}}),
    "generate-stream": (GENERATE, {"model": NAME, "token_ids": CODE, "sampling_params": SAMPLING, "stream": True}),
    "generate-start": (
        GENERATE,
        {"model": NAME, "token_ids": CODE, "sampling_params": {**SAMPLING, "routed_experts_prompt_start": 5}},
    ),
}
"""By name: path and body of a request whose answer is saved."""


def pieces(answer: str) -> list[Json]:
    """Return an answer as JSON objects: one, or a stream's."""
    if not answer.startswith("data:"):
        return [json.loads(answer)]
    lines = [line[6:] for line in answer.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def sequences(path: str, body: Json, answer: str) -> list[Sequence]:
    """Read by hand, not by lrcsim's importer, the requests in an answer.

    The cached tokens that ``usage`` has are the prompt's where there is one prompt: of several it is the last one's
    number, which the importer leaves aside.
    """
    prompts: dict[int, list[int]] = {}
    made: dict[int, list[int]] = {}
    cached = 0
    for piece in pieces(answer):
        details = (piece.get("usage") or {}).get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or cached
        for choice in piece["choices"]:
            at = choice["index"]
            ids = choice.get("prompt_token_ids") or piece.get("prompt_token_ids") or body.get("token_ids")
            if ids:
                prompts[at] = ids
            made[at] = made.get(at, []) + choice["token_ids"]
    several = isinstance(body.get("prompt"), list) and isinstance(body["prompt"][0], str)
    asked = {**body, **body.get("sampling_params", {})}
    idle = max(0 if several else cached, asked.get("routed_experts_prompt_start", 0))
    return [Sequence(prompts[at], made[at], idle) for at in sorted(made)]


VLLM = Kind("vllm", sequences, shape=(), without=("completion-stream", "chat-stream", "chat-batch"))
"""vLLM streams completions and chat without routing, and answers ``/v1/chat/completions/batch`` without it."""
