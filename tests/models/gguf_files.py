"""GGUF headers written by hand: keys and tensors as they are, weights a hole in the file."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from lrcsim.models import Geometry
from lrcsim.models.gguf_geometry import geometry_from_header
from lrcsim.models.gguf_header import BLOCKS, header_in

CODES = {name: (code, block, size) for code, (name, block, size) in BLOCKS.items()}
Tensors = Mapping[str, tuple[tuple[int, ...], str]]
"""By name shape (the length of a row first) and format."""


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value_of(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        small = value < 1 << 32  # as llama.cpp wants its own keys
        return struct.pack("<II", 4, value) if small else struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    assert isinstance(value, list)
    if value and isinstance(value[0], bool):
        return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def bytes_of(shape: tuple[int, ...], kind: str) -> int:
    _, block, size = CODES[kind]
    return prod(shape) // block * size


def header_bytes(values: Mapping[str, Any], tensors: Tensors, architecture: str = "test") -> tuple[bytes, int]:
    """Return a file's header, filled up to a whole 32, and the bytes of weights that follow it."""
    keys = {"general.architecture": architecture}
    for key, value in values.items():
        keys[key if key.startswith(("general.", "tokenizer.", "split.")) else f"{architecture}.{key}"] = value
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    data += b"".join(text(key) + value_of(value) for key, value in keys.items())
    at = 0
    for name, (shape, kind) in tensors.items():
        at += -at % 32
        data += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, CODES[kind][0], at)
        at += bytes_of(shape, kind)
    return data + b"\0" * (-len(data) % 32), at


def geometry(values: Mapping[str, Any], tensors: Tensors, architecture: str = "test") -> Geometry:
    """Read a header that was never on disk."""
    data, weights = header_bytes(values, tensors, architecture)
    return geometry_from_header(header_in(io.BytesIO(data), Path("x.gguf"), len(data) + weights))


def write(path: Path, values: Mapping[str, Any], tensors: Tensors, architecture: str = "test") -> Path:
    """Write a file whose weights are a hole."""
    data, weights = header_bytes(values, tensors, architecture)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + weights)
    return path


def block(layer: int, **tensors: tuple[tuple[int, ...], str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return a layer's tensors; of a name without a dot the weight."""
    names = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return {f"blk.{layer}.{name if '.' in name else name + '.weight'}": tensor for name, tensor in names.items()}
