"""Import responses of vLLM servers run with ``--enable-return-routed-experts``.

Three forms are read, in one JSON response, a list of them, or JSON lines:

* of version 0.21: nested lists, ``prompt_routed_experts`` [prompt, layers, k] in the response and ``routed_experts``
  [generated, layers, k] in each choice;
* of later versions: in each choice ``routed_experts``, base64 of a .npy array [prompt + generated - 1, layers, k] (the
  last generated token is never run through the model);
* of gateways before vLLM: the same as an object ``{"data", "shape", "dtype", "start"}``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.errors import TraceError
from lrcsim.traces.importers.responses import Routed, decode_array, open_responses
from lrcsim.traces.importers.source import Options, Progress, Source

__all__ = ["matches", "open_source"]


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file holds responses with choices."""
    return path.is_file() and head.lstrip()[:1] in (b"{", b"[") and b'"choices"' in head


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read all responses once for the layers, and return a source that reads them again."""
    return open_responses(path, options, progress, extract)


def extract(response: dict[str, Any]) -> list[Routed]:
    """Give one `Routed` for each choice of a response.

    Raises:
        TraceError: the response holds no routing, or not of the form the server gives.
    """
    response = _body(response)
    choices = response.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise TraceError("has no list of 'choices', is it a response of a vLLM server?")
    shared = response.get("prompt_routed_experts")
    prompt_part = None if shared is None else decode_array(shared)
    prompt_ids = response.get("prompt_token_ids")
    found: list[Routed] = []
    for choice in choices:
        given = choice.get("routed_experts")
        if given is None:
            raise TraceError(
                "a choice has no 'routed_experts' (servers leave them out of streamed and preempted requests); "
                "remove such responses"
            )
        ids = prompt_ids if prompt_ids is not None else choice.get("prompt_token_ids")
        prompt = (response.get("usage") or {}).get("prompt_tokens", None if ids is None else len(ids))
        if prompt_part is not None:
            prompt = len(prompt_part)
            experts = (
                prompt_part if given == [] else np.concatenate([prompt_part, _same(decode_array(given), prompt_part)])
            )
        else:
            experts = decode_array(given)
        made = choice.get("token_ids")
        if prompt is None and isinstance(made, list):
            prompt = len(experts) + 1 - len(made)
        token_ids = [*ids, *made] if isinstance(ids, list) and isinstance(made, list) else None
        found.append(Routed(experts, prompt, token_ids, response.get("model")))
    return found


def _body(response: dict[str, Any]) -> dict[str, Any]:
    """Unwrap a line of the batch runner's output, ``{"custom_id", "response": {"body": ...}}``."""
    inner = response.get("response")
    if isinstance(inner, dict) and isinstance(inner.get("body"), dict):
        return dict(inner["body"])
    return response


def _same(generated: Any, prompt: Any) -> Any:
    if generated.shape[1:] != prompt.shape[1:]:
        raise TraceError(
            f"prompt_routed_experts has [layers, k] = {list(prompt.shape[1:])}, "
            f"routed_experts {list(generated.shape[1:])}"
        )
    return generated
