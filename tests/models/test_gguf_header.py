"""Headers of GGUF files: one written here byte by byte, the same by package gguf, and ones that lie."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.models.formats import FORMATS
from lrcsim.models.gguf_header import BLOCKS, GgufTensor, header_in, read_header

WHERE = Path("x.gguf")


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def gguf(entries: Sequence[bytes], tensors: Mapping[str, tuple[Sequence[int], int, int]], room: int = 0) -> bytes:
    """A file: its keys, its tensors as (shape, type, offset), and ``room`` bytes of weights after a whole 32."""
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries)
    for name, (shape, kind, offset) in tensors.items():
        data += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return data + b"\0" * (-len(data) % 32 + room)


SAID = [
    entry("general.architecture", 8, text("qwen3moe")),
    entry("qwen3moe.block_count", 4, struct.pack("<I", 2)),
    entry("qwen3moe.rope.freq_base", 6, struct.pack("<f", 1.5)),
    entry("qwen3moe.flag", 7, b"\1"),
    entry("qwen3moe.heads", 9, struct.pack("<IQ2i", 5, 2, 4, -1)),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("bc") + text("")),
]
# 64 x 3 weights of q8_0: 6 blocks of 32 weights in 34 bytes; then, from the next whole 32, 2 numbers of float32
TENSORS = {"blk.0.ffn_up_exps.weight": ((64, 3), 8, 0), "output_norm.weight": ((2,), 0, 224)}
GOOD = gguf(SAID, TENSORS, 224 + 8)


def test_by_hand(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(GOOD)
    found = read_header(tmp_path / "x.gguf")
    assert found.architecture == "qwen3moe"
    assert found.values == {
        "general.architecture": "qwen3moe", "qwen3moe.block_count": 2, "qwen3moe.rope.freq_base": 1.5,
        "qwen3moe.flag": True, "qwen3moe.heads": (4, -1),
    }  # fmt: skip
    assert found.lengths == {"tokenizer.ggml.tokens": 3}
    assert found.tensors == {
        "blk.0.ffn_up_exps.weight": GgufTensor("blk.0.ffn_up_exps.weight", (64, 3), "q8_0", 6 * 34),
        "output_norm.weight": GgufTensor("output_norm.weight", (2,), "f32", 8),
    }
    assert (found.number("block_count"), found.number("nothing", 7), found.own("heads")) == (2, 7, (4, -1))
    for key, said in (("nothing", "is missing"), ("flag", "is 'True'")):
        with pytest.raises(ConfigError, match=rf"x\.gguf: qwen3moe\.{key} {said}, a whole number is needed"):
            found.number(key)


def test_parts_of_a_split_model_are_read_together(tmp_path: Path) -> None:
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(gguf(SAID, {"a": ((2,), 0, 0)}, 8))
    with pytest.raises(ConfigError, match=r"the model is in 2 files, and m-00002-of-00002\.gguf is not beside it"):
        read_header(first)
    second.write_bytes(gguf([entry("split.no", 2, struct.pack("<H", 1))], {"b": ((3,), 0, 0)}, 12))
    for part in (first, second):
        found = read_header(part)
        assert {name: tensor.bytes for name, tensor in found.tensors.items()} == {"a": 8, "b": 12}
        assert (found.architecture, found.values["split.no"]) == ("qwen3moe", 1)


def header(data: bytes, size: int | None = None) -> Any:
    return header_in(io.BytesIO(data), WHERE, len(data) if size is None else size)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no GGUF file"),
        (b"PK\3\4" + GOOD[4:], r"it begins with b'PK\\x03\\x04', not with 'GGUF'"),
        (b"GGUF" + struct.pack("<I", 1) + GOOD[8:], "is GGUF version 1, 2 and 3 are read"),
        (
            GOOD[:100],
            "is cut off within its header: these are its first 100 bytes, .* MB: fetch more of it$",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "it says it has 1,099,511,627,776 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "it says it has 1,099,511,627,776 keys"),
        (gguf([entry("k", 8, struct.pack("<Q", 2**31))], {}), "it has a text of 2,147,483,648 bytes in its header"),
        (gguf([entry("k", 9, struct.pack("<IQ", 8, 2**31))], {}), "it has an array of 2,147,483,648 in its header"),
        (gguf([entry("k", 9, struct.pack("<IQ", 4, 2**31))], {}), "it has an array of 2,147,483,648 in its header"),
        (gguf([entry("k", 9, struct.pack("<IQ", 9, 1))], {}), r"'k' is an array of a kind that is not known \(9\)"),
        (gguf([entry("k", 13, b"")], {}), r"'k' is of a kind that is not known \(13\)"),
        (gguf([], {"t": ((2,), 5, 0)}), r"tensor 't' is of a type that is not known \(5\)"),
        (gguf([], {"t": ((33,), 8, 0)}), "rows of 't' have 33 weights, not whole blocks"),
        (gguf([], {"t": ((1,) * 5, 0, 0)}), "tensor 't' has 5 dimensions, 1 to 4 are possible"),
        (gguf([], {"t": ((2**60, 2**60), 0, 0)}), "lies: its tensors end at byte"),
    ],
)
def test_what_lies_is_refused_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        header(data)
    assert "\n" not in str(refused.value)


def test_the_header_is_enough_and_says_what_is_missing(tmp_path: Path) -> None:
    """The weights of ``GOOD`` are 204 bytes, 20 up to a whole 32, and 8: its last 232 bytes."""
    whole = header(GOOD)
    assert whole.missing == 0
    for less in (1, 8, 28, 232):
        cut = header(GOOD[: len(GOOD) - less])
        assert (cut.missing, cut.tensors, cut.values) == (less, whole.tensors, whole.values)
    end = GOOD[: len(GOOD) - 232].rstrip(b"\0") + b"\0" * 7  # it ends with the last tensor's place: 224 in eight bytes
    assert header(end).tensors == whole.tensors
    with pytest.raises(ConfigError, match="is cut off within its header"):
        header(end[:-1])
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(gguf(SAID, {"a": ((2,), 0, 0)}, 8)[:-3])
    second.write_bytes(gguf([], {"b": ((3,), 0, 0)}, 12)[:-5])
    assert read_header(second).missing == 8


def test_a_thousand_mutated_headers_are_read_or_refused() -> None:
    random = np.random.default_rng(0)
    read = 0
    for _ in range(1000):
        data = bytearray(GOOD)
        for at in random.integers(0, len(data), random.integers(1, 8)):
            data[at] = random.integers(0, 256)
        cut = bytes(data[: random.integers(len(data) // 2, len(data) + 1)])
        with contextlib.suppress(ConfigError):  # nothing else may come out
            header(cut)
            read += 1
    assert 0 < read < 700


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_header(tmp_path / "none.gguf")


def test_blocks_are_those_of_our_formats() -> None:
    same = [name for name, _, _ in BLOCKS.values() if name in FORMATS and name != "nvfp4"]
    assert len(same) > 20
    for name, block, size in BLOCKS.values():
        if name in same:
            assert (FORMATS[name].block, FORMATS[name].bits) == (block, 8 * size)


def test_blocks_are_those_of_package_gguf() -> None:
    package = pytest.importorskip("gguf", reason="gguf is not installed")
    theirs = {int(kind): (kind.name.lower(), *sizes) for kind, sizes in package.GGML_QUANT_SIZES.items()}
    assert theirs == BLOCKS


def test_what_package_gguf_writes(tmp_path: Path) -> None:
    package = pytest.importorskip("gguf", reason="gguf is not installed")
    for order in (package.GGUFEndian.LITTLE, package.GGUFEndian.BIG):
        path = tmp_path / "x.gguf"
        writer = package.GGUFWriter(path, "olmoe", endianess=order)
        writer.add_block_count(3)
        writer.add_token_list(["a", "b"])
        writer.add_array("olmoe.some", [1.5, 2.5])
        writer.add_tensor("t", np.zeros((2, 5), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        found = read_header(path)
        assert (found.number("block_count"), found.own("some")) == (3, (1.5, 2.5))
        assert found.lengths == {"tokenizer.ggml.tokens": 2}
        assert found.tensors == {"t": GgufTensor("t", (5, 2), "f32", 40)}
