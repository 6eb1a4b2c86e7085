"""Import responses of SGLang servers run with ``--enable-return-routed-experts``.

Each request that asked for ``return_routed_experts`` brings base64 of int32, flattened from [prompt + generated - 1,
layers, k]: under ``meta_info.routed_experts`` (the native API) or ``sgl_ext.routed_experts`` (of a choice, or of the
response, in the OpenAI-compatible one). The shape is not sent, so layers and k must be given. A request that asked for
``routed_experts_start_len`` lacks its first positions; their number follows from the token counts, and they are "not
recorded".
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.errors import TraceError
from lrcsim.traces.importers.responses import Routed, decode_array, open_responses, unbase64
from lrcsim.traces.importers.source import Options, Progress, Source

__all__ = ["matches", "open_source"]

WIRE = {"int32": "<i4", "uint16": "<u2", "uint8": "u1"}


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file holds responses with SGLang's extras."""
    is_json = head.lstrip()[:1] in (b"{", b"[")
    return path.is_file() and is_json and (b'"sgl_ext"' in head or b'"meta_info"' in head)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read all responses once for the layers, and return a source that reads them again."""
    return open_responses(path, options, progress, partial(extract, options=options))


def extract(response: dict[str, Any], options: Options) -> list[Routed]:
    """Give one `Routed` for each request of a response.

    Raises:
        TraceError: the response holds no routing, or of a size that does not fit the layers and k given.
    """
    model = response.get("model")
    if isinstance(response.get("meta_info"), dict):
        meta = response["meta_info"]
        made = meta.get("completion_tokens")
        routed = _routed(meta, meta.get("prompt_tokens"), made, model, options)
        given, output = response.get("input_ids"), response.get("output_ids")  # the first is noted by lrcsim record
        if isinstance(given, list) and isinstance(output, list):
            routed.token_ids = [*given, *output]
        return [routed]
    choices = response.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise TraceError("has neither 'meta_info' nor 'choices', is it a response of an SGLang server?")
    usage = response.get("usage") or {}
    alone = usage.get("completion_tokens") if len(choices) == 1 else None  # the sum over choices otherwise
    found = []
    for choice in choices:
        extras = choice.get("sgl_ext") or response.get("sgl_ext") or {}
        found.append(_routed(extras, usage.get("prompt_tokens"), alone, model, options))
    return found


def _routed(
    extras: dict[str, Any], prompt: int | None, made: int | None, model: str | None, options: Options
) -> Routed:
    given = extras.get("routed_experts")
    if given is None:
        raise TraceError("has no 'routed_experts'; did the request ask for return_routed_experts?")
    if isinstance(given, list):
        experts = decode_array(given)
    else:
        experts = _shaped(given, str(extras.get("routed_experts_dtype", "int32")), options)
    if prompt is not None and made is not None:
        absent = prompt + made - 1 - len(experts)
        if absent < 0 or absent > prompt:
            raise TraceError(
                f"holds routing of {len(experts)} tokens for {prompt} prompt and {made} generated tokens "
                f"(should be one less than both); check --num-layers and --top-k"
            )
        experts = np.concatenate([np.full((absent, *experts.shape[1:]), -1, np.int32), experts])
    return Routed(experts, prompt, None, model)


def _shaped(text: object, dtype: str, options: Options) -> npt.NDArray[np.int32]:
    if options.num_layers is None or options.top_k is None:
        raise TraceError("the size of flattened routing is not sent: give --num-layers (all blocks) and --top-k")
    if not isinstance(text, str) or dtype not in WIRE:
        raise TraceError(f"routed_experts must be base64 of {'/'.join(WIRE)}, is {type(text).__name__} of {dtype}")
    data = unbase64(text)
    per_token = options.num_layers * options.top_k
    count, odd = divmod(len(data), np.dtype(WIRE[dtype]).itemsize)
    if odd or count % per_token:
        raise TraceError(
            f"holds {len(data)} bytes = {len(data) / np.dtype(WIRE[dtype]).itemsize:g} ids of {dtype}, no multiple of "
            f"--num-layers {options.num_layers} x --top-k {options.top_k} = {per_token}"
        )
    ids = np.frombuffer(data, WIRE[dtype]).astype(np.int32)
    if len(ids) and (ids.min() < -1 or ids.max() > 65_534):
        raise TraceError(f"routed_experts has ids from {ids.min()} to {ids.max()}, allowed -1..65534")
    return ids.reshape(-1, options.num_layers, options.top_k)
