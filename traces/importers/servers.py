"""Responses of inference servers run with ``--enable-return-routed-experts``: vLLM's, SGLang's, and how to tell them.

Read are one JSON response, a list of them, JSON lines, and streams saved as server-sent events or chunks. vLLM, and
gateways before it, send

* of version 0.21: nested lists, ``prompt_routed_experts`` [prompt, layers, k] in the response and ``routed_experts``
  [generated, layers, k] in each choice;
* of later versions: in each choice ``routed_experts``, base64 of a .npy array [prompt + generated - 1 - start, layers,
  k]. ``start`` is the ``routed_experts_prompt_start`` of the request, and the answer does not say it;
* the same as a described buffer ``{"data", "shape", "dtype", "start"}``, in the choice or under ``nvext`` (Dynamo).

SGLang sends, for requests with ``return_routed_experts``, base64 of int32, flattened from [prompt + generated - 1 -
``routed_experts_start_len``, layers, k]: under ``meta_info.routed_experts`` (the native API), or in the
OpenAI-compatible one ``sglext.routed_experts`` of the response, which is the first choice's (``sgl_ext``, and that of a
choice, are read too). The shape is not sent, so layers and k must be given.

What is read where is in `lrcsim.traces.importers.answers`, which positions ran in `lrcsim.traces.what_ran`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrcsim.traces.importers.files import open_bytes
from lrcsim.traces.importers.json_objects import BEGINS

SGLANG = (b'"sglext"', b'"sgl_ext"', b'"meta_info"')
FAR = 4 << 20
"""Bytes to look at: the extras of a response come after its choices."""


def is_vllm(path: Path, head: bytes) -> bool:
    """Tell whether a file holds responses with choices."""
    return path.is_file() and BEGINS.match(head) is not None and b'"choices"' in head


def is_sglang(path: Path, head: bytes) -> bool:
    """Tell whether a file holds responses with SGLang's extras."""
    if not path.is_file() or BEGINS.match(head) is None:
        return False
    if any(mark in head for mark in SGLANG):
        return True
    if b'"choices"' not in head or b'"routed_experts"' in head:
        return False
    with open_bytes(path)[0] as stream:
        try:
            more = stream.read(FAR)
        except OSError:
            return False
    return any(mark in more for mark in SGLANG)


def are_answers(files: Sequence[Path]) -> bool:
    """Tell whether files are answers of servers: one at least with choices or extras, others perhaps with errors."""
    heads = []
    for file in files:
        with open_bytes(file)[0] as stream:
            try:
                heads.append(stream.read(65_536))
            except OSError:
                return False
    answers = [
        BEGINS.match(head) is not None and any(mark in head for mark in (b'"choices"', b'"meta_info"'))
        for head in heads
    ]
    errors = [BEGINS.match(head) is not None and (b'"error"' in head or b'"detail"' in head) for head in heads]
    return any(answers) and all(one or other for one, other in zip(answers, errors, strict=True))
