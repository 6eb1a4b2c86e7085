"""JSON responses of inference servers: the shared half of the `vllm` and `sglang` importers."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.errors import TraceError
from lrcsim.traces.importers.source import (
    Columns,
    Options,
    Progress,
    Request,
    Source,
    guessed_experts,
    named_after,
    open_bytes,
)
from lrcsim.traces.layers import LayerTable

__all__ = ["Routed", "decode_array", "open_responses", "unbase64"]

RUN = 16_384
CHUNK = 4 << 20
DTYPES = ("uint8", "uint16", "int16", "int32", "int64")


@dataclass
class Routed:
    """Routing of one request, as a server returned it.

    Attributes:
        experts: int32 [tokens, layers, k], the prompt first, -1 where not recorded.
        prompt: number of prompt tokens, or None when the response does not say.
        token_ids: ids of the tokens, or None; those beyond the routing are left out.
        model: name of the model, or None.
        domain: label of the request, or None.
    """

    experts: npt.NDArray[np.int32]
    prompt: int | None
    token_ids: list[int] | None = None
    model: str | None = None
    domain: str | None = None


def objects(path: Path, report: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON file, of a JSON list of them, or of JSON lines, holding one at a time.

    Raises:
        TraceError: the file is no JSON, is truncated, or holds something other than objects.
    """
    decoder = json.JSONDecoder()
    stream, position, size = open_bytes(path)
    text, at, count, more = "", 0, 0, True
    pending = b""
    with stream:
        while True:
            while at < len(text) and text[at] in " \t\r\n,[]":
                at += 1
            try:
                if at == len(text):
                    raise json.JSONDecodeError("nothing", text, at)
                value, at = decoder.raw_decode(text, at)
            except (json.JSONDecodeError, RecursionError) as error:
                unfinished = isinstance(error, json.JSONDecodeError) and (
                    error.pos >= len(text) - 16 or error.msg.startswith("Unterminated")
                )
                if more and unfinished:
                    try:
                        data = pending + stream.read(max(CHUNK, len(text) - at))
                    except OSError as damage:
                        raise TraceError(f"{path}: is damaged ({damage})") from None
                    more = len(data) > len(pending)
                    report(position() if more else size)
                    try:
                        fresh = data.decode()
                        pending = b""
                    except UnicodeDecodeError as cut:  # perhaps in the middle of a character
                        if len(data) - cut.start > 3 or not more:
                            raise TraceError(f"{path}: is no UTF-8 text") from None
                        fresh, pending = data[: cut.start].decode(), data[cut.start :]
                    text, at = text[at:] + fresh, 0
                    continue
                if at == len(text):
                    if count == 0:
                        raise TraceError(f"{path}: holds no JSON object") from None
                    return
                what = "is truncated" if unfinished else "is no JSON"
                raise TraceError(f"{path}: response {count + 1} {what} ({str(error)[:120]})") from None
            if not isinstance(value, dict):
                raise TraceError(f"{path}: response {count + 1} is no JSON object")
            count += 1
            yield value


def unbase64(text: str) -> bytes:
    """Decode base64, refusing anything else.

    Raises:
        TraceError: the text is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TraceError(f"routed_experts is no base64 ({error})") from None


def decode_array(value: object) -> npt.NDArray[np.int32]:
    """Decode ``[tokens, layers, k]`` from nested lists, from base64 of a .npy file, or from a described buffer.

    The last is ``{"data": base64, "shape": [...], "dtype": "uint8", "start": n}``: the first ``n`` positions were not
    sent, and come back as -1.

    Raises:
        TraceError: it is none of these, or not of three dimensions.
    """
    start = 0
    if isinstance(value, str):
        try:
            array = np.load(io.BytesIO(unbase64(value)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(f"routed_experts is base64 of no .npy array ({error})") from None
    elif isinstance(value, dict):
        dtype, shape, start = value.get("dtype", "uint8"), value.get("shape"), value.get("start", 0)
        if dtype not in DTYPES or not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise TraceError(
                f"routed_experts has dtype {dtype!r} and shape {shape!r}, needs {'/'.join(DTYPES)} and a list"
            )
        if not isinstance(value.get("data"), str) or not isinstance(start, int) or start < 0:
            raise TraceError("routed_experts needs base64 'data', and a 'start' that is not negative")
        data = unbase64(value["data"])
        if len(data) != int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize:
            raise TraceError(f"routed_experts holds {len(data)} bytes, shape {shape} of {dtype} needs another number")
        array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    else:
        try:
            array = np.array(value)
        except ValueError:
            raise TraceError("routed_experts is a ragged list, must be [tokens, layers, k]") from None
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "iu" or 0 in array.shape[1:]:
        raise TraceError(f"routed_experts must be integers [tokens, layers, k], is {_describe(array)}")
    if array.size and (array.min() < -1 or array.max() > 65_534):
        raise TraceError(f"routed_experts has ids from {array.min()} to {array.max()}, allowed -1..65534")
    absent = np.full((start, *array.shape[1:]), -1, np.int32)
    return np.concatenate([absent, array.astype(np.int32)])


def _describe(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__


def open_responses(
    path: Path, options: Options, progress: Progress, extract: Callable[[dict[str, Any]], list[Routed]]
) -> Source:
    """Read all responses once for the layers, and return a source that reads them again.

    Layers whose recorded ids are all 0, at every rank, are the servers' placeholders for dense layers: they are left
    out, and the others keep their index as `LayerTable.block`.

    Args:
        path: the file.
        options: what the user says.
        progress: called with bytes.
        extract: gives the requests of one response.
    """
    if path.is_dir():
        raise TraceError(f"{path}: is a folder, name a file of responses")
    size = path.stat().st_size if path.exists() else 0

    def routed(report: Callable[[int], None]) -> Iterator[Routed]:
        for number, response in enumerate(objects(path, report), start=1):
            try:
                found = extract(response)
            except TraceError as error:
                raise TraceError(f"{path}: response {number}: {error}") from None
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                raise TraceError(f"{path}: response {number} is not of the form that servers send ({error})") from None
            for entry in found:
                entry.domain = _label(response)
                _check(f"{path}: response {number}", entry)
                if entry.prompt is None and options.phase is None:
                    raise TraceError(
                        f"{path}: response {number} does not say how many tokens its prompt has; "
                        "give --phase none to import without phases"
                    )
                yield entry

    shape: tuple[int, ...] | None = None
    largest, with_ids, model = -1, True, None
    used = placeholder = np.zeros(0, bool)
    for number, entry in enumerate(routed(lambda done: progress(done, 2 * size))):
        if shape is None:
            shape = entry.experts.shape[1:]
            used, placeholder = np.zeros(shape[0], bool), np.ones(shape[0], bool)
        elif entry.experts.shape[1:] != shape:
            raise TraceError(
                f"{path}: request {number} has [layers, k] = {list(entry.experts.shape[1:])}, "
                f"earlier ones {list(shape)}; import models one by one"
            )
        used |= (entry.experts >= 0).any(axis=(0, 2))
        placeholder &= (entry.experts <= 0).all(axis=(0, 2))
        largest = max(largest, int(entry.experts.max(initial=-1)))
        with_ids &= entry.token_ids is not None
        model = model or entry.model
    if shape is None or largest < 0:
        raise TraceError(f"{path}: holds no routed experts; was the server run with --enable-return-routed-experts?")
    notices: list[str] = []
    blocks = np.arange(shape[0])
    if shape[1] > 1:  # with k = 1 a layer of zeros could be a router that is stuck
        blocks = np.flatnonzero(used & ~placeholder)
    if len(blocks) == 0:
        raise TraceError(f"{path}: every recorded expert id is 0, that is no routing")
    if len(blocks) < shape[0]:
        notices.append(f"{shape[0] - len(blocks)} of {shape[0]} layers hold only zeros (dense layers), left out")
    experts = options.num_experts if options.num_experts is not None else guessed_experts(largest, notices)
    layers = LayerTable.build(len(blocks), experts, shape[1], expert_bytes=options.expert_bytes, block=blocks)

    def requests() -> Iterator[Request]:
        for entry in routed(lambda done: progress(size + done, 2 * size)):
            yield entry.domain, _runs(entry, blocks, options.phase != "none", with_ids)

    return Source(layers, model or named_after(path), requests, notices=notices)


def _label(response: dict[str, Any]) -> str | None:
    """Return the label that `lrcsim record` notes beside a response, ``{"lrcsim": {"domain": ...}}``."""
    noted = response.get("lrcsim")
    domain = noted.get("domain") if isinstance(noted, dict) else None
    return domain if isinstance(domain, str) else None


def _check(where: str, entry: Routed) -> None:
    """Refuse what JSON allows and no server sends."""
    if entry.prompt is not None and (type(entry.prompt) is not int or not 0 <= entry.prompt <= len(entry.experts) + 1):
        raise TraceError(
            f"{where} has a prompt of {str(entry.prompt)[:40]} tokens, but routing of only {len(entry.experts)}"
        )
    if entry.model is not None and not isinstance(entry.model, str):
        raise TraceError(f"{where} has a model that is no text")
    ids = entry.token_ids or []
    if not all(type(number) is int and -1 <= number < 1 << 31 for number in ids):
        raise TraceError(f"{where} has token ids that are no 32-bit integers")


def _runs(entry: Routed, blocks: npt.NDArray[np.intp], with_phase: bool, with_ids: bool) -> Iterator[Columns]:
    tokens = len(entry.experts)
    columns: Columns = {"experts": entry.experts[:, blocks]}
    if with_phase:
        columns["phase"] = (np.arange(tokens) >= (entry.prompt or 0)).astype(np.uint8)
    if with_ids:
        ids = np.full(tokens, -1, np.int32)
        given = (entry.token_ids or [])[:tokens]
        ids[: len(given)] = given
        columns["token_ids"] = ids
    for low in range(0, tokens, RUN):
        yield {name: values[low : low + RUN] for name, values in columns.items()}
