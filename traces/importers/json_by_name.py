"""Import JSON in which tokens and layers are keys: ``[{"token_0": {"layer_0": {"selected_experts": [...]}}}]``.

So write hooks that collect what they see in dictionaries; the public case is AmanPriyanshu's
GPT-OSS-MoE-ExpertFingerprinting (``expert_recorder.py``), a file per request: a list of such tokens under
``router_data`` beside the texts. A layer's value is a list of ids, or an object with one under a name of the table's
column ``expert``, and weights likewise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.common import NO_PHASES, guessed_experts, in_runs, named_after
from lrcsim.traces.importers.files import open_bytes, read_some
from lrcsim.traces.importers.names import ALIASES, plain
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable

TOKEN = re.compile(r"(?:token|tok|position|pos|step)[_ ]?(\d{1,12})")
LAYER = re.compile(r"(?:.*[._])?(?:layers?|blk|block)[._ ]?(\d{1,6})(?:[._].*)?")
HEAD = re.compile(rb'"(?:token|tok|position|pos|step)[_ ]?\d+"\s*:\s*\{\s*"[^"]*(?:layer|blk|block)[^"]*\d+[^"]*"\s*:')
LARGEST = 1 << 30
"""Bytes of a file; it is held in memory."""


def matches(_path: Path, head: bytes) -> bool:
    """Tell whether the beginning of a file has a token by name, and in it a layer by name."""
    return head.lstrip()[:1] in (b"{", b"[") and HEAD.search(head) is not None


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read the file and return a source of its one request."""
    with open_bytes(path)[0] as stream:
        text = read_some(path, stream, LARGEST + 1)
    if len(text) > LARGEST:
        raise TraceError(f"has more than {LARGEST:,} bytes, and a JSON object is read as a whole")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TraceError(f"is no JSON ({str(error)[:120]})") from None
    tokens, first = _tokens(value)
    layers_of_token = {layer for _, token in tokens for layer in token}
    blocks = sorted(layers_of_token)
    parsed = [[_experts(token.get(block), number) for block in blocks] for number, token in tokens]
    k = max(len(ids) for row in parsed for ids, _ in row)
    if k == 0:
        raise TraceError("holds no expert at all")
    shape = (len(parsed), len(blocks), k)
    columns: Columns = {"experts": np.full(shape, -1, np.int32)}
    if all(weights is not None for row in parsed for ids, weights in row if ids):
        columns["weights"] = np.zeros(shape, np.float32)
    for at, row in enumerate(parsed):
        for layer, (ids, weights) in enumerate(row):
            columns["experts"][at, layer, : len(ids)] = ids
            if "weights" in columns and weights is not None:
                columns["weights"][at, layer, : len(ids)] = weights
    notices = [] if options.phase is not None else [NO_PHASES]
    if first:
        notices.append("tokens do not begin at number 0: those before the first (the prompt?) are not in the file")
    largest = int(columns["experts"].max())
    experts = guessed_experts(largest, notices, options.likely) if options.num_experts is None else options.num_experts
    table = LayerTable.build(len(blocks), experts, k, expert_bytes=options.expert_bytes, block=blocks)
    domain = _domain(value)

    def requests() -> Iterator[Request]:
        yield domain, in_runs(columns)
        progress(1, 1)

    return Source(table, named_after(path), requests, {}, notices, experts_guessed=options.num_experts is None)


def _tokens(value: Any) -> tuple[list[tuple[int, dict[int, Any]]], int]:
    """Return the tokens in the order of their numbers, each with its layers by number, and the first number.

    Raises:
        TraceError: there are none, or a number comes twice or is left out.
    """
    found: dict[int, dict[int, Any]] = {}
    for name, token in _named_tokens(value):
        if name in found:
            raise TraceError(f"token {name} comes twice: a file is one request")
        found[name] = {int(match[1]): of for key, of in token.items() if (match := LAYER.fullmatch(key))}
        if len(found[name]) < len(token):
            odd = next(key for key in token if not LAYER.fullmatch(key))
            raise TraceError(f"token {name} has a key {odd[:40]!r} that names no layer, as layer_0")
    if not found or not any(found.values()):
        raise TraceError("holds no token by name (token_0) with a layer by name (layer_0)")
    numbers = sorted(found)
    for at, number in enumerate(numbers):
        if number != numbers[0] + at:
            raise TraceError(f"token {numbers[0] + at} is missing between others")
    return [(number, found[number]) for number in numbers], numbers[0]


def _named_tokens(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of every token by name, in the value, in what its keys hold, and in lists there."""
    for part in value if isinstance(value, list) else (value,):
        if not isinstance(part, dict):
            continue
        for key, inner in part.items():
            match = TOKEN.fullmatch(key)
            if match is not None and isinstance(inner, dict):
                yield int(match[1]), inner
            elif isinstance(inner, list | dict) and not isinstance(value, list):
                yield from _named_tokens([inner] if isinstance(inner, dict) else inner)


def _experts(value: Any, token: int) -> tuple[list[int], list[float] | None]:
    """Return ids and weights of a layer of a token; nothing where it has none."""
    if value is None:
        return [], None
    named: Mapping[str, Any] = {plain(key): of for key, of in value.items()} if isinstance(value, dict) else {}
    ids = value if isinstance(value, list) else next((named[name] for name in ALIASES["expert"] if name in named), None)
    weights = next((named[name] for name in ALIASES["weight"] if name in named), None)
    if not isinstance(ids, list) or not all(type(one) is int and -1 <= one < MAX_EXPERTS for one in ids):
        raise TraceError(f"token {token} has a layer without a list of expert ids (selected_experts, topk_ids ...)")
    if weights is not None and (
        not isinstance(weights, list)
        or len(weights) != len(ids)
        or not all(type(one) in (int, float) for one in weights)
    ):
        raise TraceError(f"token {token} has {len(ids)} experts and other weights in a layer")
    return ids, weights


def _domain(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    named = {plain(key): of for key, of in value.items()}
    return next((named[name] for name in ALIASES["domain"] if isinstance(named.get(name), str)), None)
