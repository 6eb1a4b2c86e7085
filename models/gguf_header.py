"""The header of a GGUF file: what it says of the model, and the name, shape and bytes of every tensor.

Only the header is read, of a split model that of every part; whether the data behind it is all there is said
(`GgufHeader.missing`), so that a file's first megabytes are enough. Layout: the GGUF specification in ggml's
``docs/gguf.md`` (ggml-org/ggml, versions 2 and 3) and the types of ``ggml.h``; `BLOCKS` is held against package
``gguf`` in the tests.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from lrcsim.base.errors import ConfigError

Value = int | float | bool | str | tuple[int | float | bool, ...] | tuple[str, ...] | None
"""What a key holds. Of an array of texts, as of a vocabulary, only the length is kept: see `GgufHeader.lengths`."""

NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Kinds of numbers, as `struct` calls them."""
TEXT, ARRAY = 8, 9

BLOCKS: Final[dict[int, tuple[str, int, int]]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 40), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip
"""Of each type of tensor its name, the weights of a block, and the bytes of one."""

MOST_HEADER = 256 << 20
"""Bytes of a header; a vocabulary of 260,000 tokens with its merges takes some 20 MB."""
MOST_KEYS, MOST_TENSORS, MOST_TEXT, MOST_NUMBERS = 65_536, 1 << 20, 16 << 20, 1 << 20
MOST_DATA = 1 << 48
"""Bytes of tensors in one file; no model comes near, and what says more lies."""
MOST_TEXTS = 1 << 22
"""Texts in an array: each is passed over by itself."""
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
"""How the parts of a split model are named, counted from 1 (llama.cpp, ``llama_split_path``)."""


class GgufTensor(NamedTuple):
    """A tensor: its name, shape (ggml's order, the length of a row first), type's name, and bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a file says; of a split model all its parts together.

    Attributes:
        path: the first file.
        parts: all files.
        values: by key.
        lengths: of the arrays of texts, by key.
        tensors: by name.
        missing: bytes of the tensors' data that the files do not hold, as of a download that is not finished.
    """

    path: Path
    parts: tuple[Path, ...]
    values: dict[str, Value]
    lengths: dict[str, int]
    tensors: dict[str, GgufTensor]
    missing: int = 0

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it, ``"qwen3moe"``; empty where the file does not say."""
        return str(self.values.get("general.architecture") or "")[:64]

    def own(self, key: str) -> Value:
        """Return the value of ``ARCHITECTURE.key``, or None."""
        return self.values.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        """Return the whole number under ``ARCHITECTURE.key``.

        Raises:
            ConfigError: there is none.
        """
        value = self.own(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if value is None and default is not None:
            return default
        given = "is missing" if value is None else f"is {str(value)[:40]!r}"
        raise ConfigError(f"{self.path}: {self.architecture}.{key} {given}, a whole number is needed")


def read_header(path: str | Path) -> GgufHeader:
    """Read the header of a GGUF file, and those of the other parts where the model is split.

    Args:
        path: of the file; of a split model any of its parts.

    Raises:
        ConfigError: a part is missing, is no GGUF file, is cut off within its header, or says what cannot be.
    """
    parts = _parts(Path(path))
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    tensors: dict[str, GgufTensor] = {}
    missing = 0
    for part in parts:
        try:
            with part.open("rb") as file:
                found = header_in(file, part, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise ConfigError(f"{part}: cannot be read ({error.strerror or error})") from None
        values, lengths = found.values | values, found.lengths | lengths
        if twice := next(iter(tensors.keys() & found.tensors.keys()), None):
            raise ConfigError(f"{part}: has the tensor {twice[:60]!r}, as another part of the model has")
        tensors |= found.tensors
        missing += found.missing
    return GgufHeader(parts[0], tuple(parts), values, lengths, tensors, missing)


def header_in(file: BinaryIO, path: Path, size: int) -> GgufHeader:
    """Read the header that a file of ``size`` bytes begins with; ``path`` is what errors call it.

    Raises:
        ConfigError: as `read_header`.
    """
    return _Reader(file, path, size).header()


def _parts(path: Path) -> list[Path]:
    match = PART.search(path.name)
    if match is None:
        return [path]
    count = int(match[2])
    stem = path.name[: match.start()]
    every = [path.with_name(f"{stem}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)]
    if missing := next((part for part in every if not part.exists()), None):
        raise ConfigError(f"{path}: the model is in {count} files, and {missing.name} is not beside it")
    return every


class _Reader:
    """Reads one file from its beginning; never more than the header may have."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.order = "<"
        self.missing = 0

    def header(self) -> GgufHeader:
        magic = self.file.read(4)
        if magic != b"GGUF":
            raise ConfigError(f"{self.path}: is no GGUF file: it begins with {magic!r}, not with 'GGUF'")
        (version,) = struct.unpack("<I", self.take(4))
        if version >= 1 << 16 and version & 0xFFFF == 0:  # written on a big-endian machine
            self.order, version = ">", version >> 24
        if version not in (2, 3):
            raise ConfigError(f"{self.path}: is GGUF version {version}, 2 and 3 are read: convert it anew")
        tensors = self.count("tensors", MOST_TENSORS)
        keys = self.count("keys", MOST_KEYS)
        values: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(keys):
            key = self.text()
            kind = self.one("I")
            if kind == ARRAY:
                value, length = self.array(key)
                if value is None:
                    lengths[key] = length
                else:
                    values[key] = value
            else:
                values[key] = self.value(kind, key)
        found: dict[str, GgufTensor] = {}
        for one in self.tensors(tensors, values):
            if one.name in found:
                raise ConfigError(f"{self.path}: has two tensors {one.name[:60]!r}")
            found[one.name] = one
        return GgufHeader(self.path, (self.path,), values, lengths, found, self.missing)

    def tensors(self, count: int, values: dict[str, Value]) -> Iterator[GgufTensor]:
        ends = 0
        for _ in range(count):
            name = self.text()
            dimensions = self.one("I")
            if not 1 <= dimensions <= 4:
                raise ConfigError(f"{self.path}: tensor {name[:60]!r} has {dimensions} dimensions, 1 to 4 are possible")
            shape = tuple(self.one("Q") for _ in range(dimensions))
            kind, offset = self.one("I"), self.one("Q")
            if kind not in BLOCKS:
                raise ConfigError(f"{self.path}: tensor {name[:60]!r} is of a type that is not known ({kind})")
            format, block, size = BLOCKS[kind]
            if shape[0] % block:
                raise ConfigError(f"{self.path}: rows of {name[:60]!r} have {shape[0]:,} weights, not whole blocks")
            total = prod(shape) // block * size
            ends = max(ends, offset + total)
            yield GgufTensor(name, shape, format, total)
        align = values.get("general.alignment", 32)
        begin = self.file.tell()
        begin += -begin % (align if isinstance(align, int) and align > 0 else 32)
        if ends > MOST_DATA:
            raise ConfigError(f"{self.path}: lies: its tensors end at byte {begin + ends:,}, 2**48 is the most")
        if count:
            self.missing = max(0, begin + ends - self.size)

    def array(self, key: str) -> tuple[Value, int]:
        kind, length = self.one("I"), self.one("Q")
        if kind == TEXT:
            if length > MOST_TEXTS:
                raise ConfigError(f"{self.path}: is cut off, or lies: it has an array of {length:,} in its header")
            for _ in range(self.within(length, 8)):
                self.skip(self.one("Q"))
            return None, length
        if kind not in NUMBERS:
            raise ConfigError(f"{self.path}: {key[:60]!r} is an array of a kind that is not known ({kind})")
        size = struct.calcsize(f"<{NUMBERS[kind]}")
        self.within(length, size)
        if length > MOST_NUMBERS:
            self.skip(length * size)
            return None, length
        return struct.unpack(f"{self.order}{length}{NUMBERS[kind]}", self.take(length * size)), length

    def value(self, kind: int, key: str) -> Value:
        if kind == TEXT:
            return self.text()
        if kind not in NUMBERS:
            raise ConfigError(f"{self.path}: {key[:60]!r} is of a kind that is not known ({kind})")
        value: int | float | bool = struct.unpack(
            f"{self.order}{NUMBERS[kind]}", self.take(struct.calcsize(f"<{NUMBERS[kind]}"))
        )[0]
        return value

    def text(self) -> str:
        length = self.one("Q")
        if length > MOST_TEXT:
            raise ConfigError(f"{self.path}: is cut off, or lies: it has a text of {length:,} bytes in its header")
        return self.take(length).decode("utf-8", "replace")

    def count(self, what: str, most: int) -> int:
        count = self.one("Q")
        if count > most:
            raise ConfigError(f"{self.path}: is cut off, or lies: it says it has {count:,} {what}")
        return count

    def one(self, kind: str) -> int:
        (value,) = struct.unpack(f"{self.order}{kind}", self.take(struct.calcsize(f"<{kind}")))
        return int(value)

    def within(self, length: int, size: int) -> int:
        """Return a number of things of at least such a size, if the header can hold so many."""
        if length * size > self.left:
            raise ConfigError(
                f"{self.path}: is cut off, or lies: it has an array of {length:,} in its header{self.more}"
            )
        return length

    def take(self, size: int) -> bytes:
        data = self.file.read(size) if size <= self.left else b""
        if len(data) < size:
            raise ConfigError(f"{self.path}: is cut off within its header{self.more}")
        return data

    @property
    def left(self) -> int:
        """Bytes that the header can still have."""
        return min(MOST_HEADER, self.size) - self.file.tell()

    @property
    def more(self) -> str:
        """What to do where a file ends within its header; empty: it is larger than any header."""
        if self.size >= MOST_HEADER:
            return ""
        return f": these are its first {self.size:,} bytes, headers have up to some 30 MB: fetch more of it"

    def skip(self, size: int) -> None:
        self.file.seek(self.within(size, 1), os.SEEK_CUR)
