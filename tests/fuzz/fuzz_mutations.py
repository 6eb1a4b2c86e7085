"""Ways to spoil a good file: blindly, byte by byte, and with a knowledge of its format."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

NUMBERS = [
    *("-1", "0", "1", "2", "255", "256", "65535", "65536", "2147483647", "2147483648", "4294967296", "17179869184"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "1e400", "-1e400", "NaN", "Infinity"),
    *("0.5", "4.0", "-2", "1" * 5000, "1" * 400 + ".5", "", "null", "true", '"x"', "[]", "{}", "[[1]]", "0x10"),
]
TEXTS = [
    *("", "x", "[/b]", "\x1b]0;t\x07", "\u202e", "$x$", "../../etc/passwd", "a" * 70_000, "\0", "1 " * 2000),
    *("[" * 100_000, '{"a":' * 3000, "#" * 40_000, "=" * 9000, "\ud800", "1" * 20_000 + " GB/s!"),
]
WEIRD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**31, 2**33, 2**63, 2**64, 10**30, 1.5, float("nan"), float("inf"), -1e300),
    *("", "x", "AAAA", "é" * 3, "1" * 3000, [], {}, [[]], [None], [1, "x"], {"a": 1}, [[[[1]]]], [0] * 1000),
]


def mutate(kind: str, seed: Path, out: Path, random: random.Random) -> None:
    """Write a spoilt copy of a file, or of a folder with one file spoilt.

    Args:
        kind: as `make_seeds` names it.
        seed: the good file.
        out: the copy, of the same ending.
        random: what is drawn from.
    """
    if seed.is_dir():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(seed, out)
        seed = random.choice(sorted(seed.iterdir()))
        out = out / seed.name
    data = seed.read_bytes()
    try:
        if kind == "trace" and random.random() < 0.7:
            shutil.copy(seed, out)
            _hdf5(out, random)
        else:
            out.write_bytes(random.choice(_ways(seed, data))(data, random))
    except (ValueError, TypeError, OSError, KeyError, RuntimeError, OverflowError):  # a change that cannot be made here
        out.unlink(missing_ok=True)
        out.write_bytes(_bytes(data, random))


def _ways(seed: Path, data: bytes) -> list[Callable[[bytes, random.Random], bytes]]:
    ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes]
    if data.startswith(b"PK"):
        ways += [_member] * (4 if seed.suffix == ".npz" else 0)
    if seed.suffix in (".json", ".jsonl"):
        ways += [_json_node] * 5
    if seed.suffix in (".json", ".jsonl", ".toml", ".csv", ".tsv"):
        ways += [_token] * 3
    if seed.suffix == ".safetensors":
        ways += [_header] * 3
    return ways


def _bytes(data: bytes, random: random.Random) -> bytes:
    """Spoil bytes: flip, set, cut, repeat, drop, swap; once or several times."""
    buffer = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 4, 16])):
        if not buffer:
            break
        at = random.randrange(len(buffer))
        length = random.choice([1, 2, 4, 8, 64])
        way = random.randrange(7)
        if way == 0:
            buffer[at] ^= 1 << random.randrange(8)
        elif way == 1:
            buffer[at : at + length] = bytes([random.choice([0, 1, 127, 128, 255])]) * length
        elif way == 2:
            del buffer[at:]
        elif way == 3:
            buffer[at:at] = buffer[at : at + 64] * random.choice([1, 1, 100])
        elif way == 4:
            del buffer[at : at + length]
        elif way == 5:
            buffer[at : at + length] = random.randbytes(length)
        else:
            other = random.randrange(len(buffer))
            buffer[at : at + length], buffer[other : other + length] = (
                buffer[other : other + length],
                buffer[at : at + length],
            )
    return bytes(buffer)


def _token(data: bytes, random: random.Random) -> bytes:
    """Put something else in place of one number or word of a text."""
    text = data.decode("utf-8", errors="surrogateescape")
    words = list(re.finditer(r"-?[0-9]+(?:\.[0-9]+)?|[A-Za-z_]+", text))
    if not words:
        return data
    word = random.choice(words)
    new = random.choice(NUMBERS if random.random() < 0.6 else TEXTS)
    return (text[: word.start()] + new + text[word.end() :]).encode("utf-8", errors="surrogatepass")


def _json_node(data: bytes, random: random.Random) -> bytes:
    """Put something else in place of one value, drop it, or rename its key."""
    lines = data.decode().split("\n")
    number = random.choice([i for i, line in enumerate(lines) if line.strip()])
    root = [json.loads(lines[number])]
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list) and len(places) < 500:
                walk(value[key])

    walk(root)
    owner, key = random.choice(places)
    way = random.random()
    if way < 0.15 and owner is not root:
        del owner[key]
    elif way < 0.25 and isinstance(owner, dict):
        owner[random.choice(TEXTS)[:50]] = owner.pop(key)
    else:
        owner[key] = random.choice(WEIRD)
    lines[number] = json.dumps(root[0])
    return "\n".join(lines).encode()


def _header(data: bytes, random: random.Random) -> bytes:
    """Spoil the JSON header of a safetensors file and set its length right."""
    length = int.from_bytes(data[:8], "little")
    header = random.choice([_token, _json_node, _bytes])(data[8 : 8 + length], random)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _member(data: bytes, random: random.Random) -> bytes:
    """Change one array of a .npz archive, and set sizes and checksums right."""
    out = io.BytesIO()
    method = random.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        chosen = random.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                if random.random() < 0.1:
                    continue
                content = _bytes(content, random) if random.random() < 0.4 else _array(content, random)
            new.writestr(name, content)
    return out.getvalue()


def _array(content: bytes, random: random.Random) -> bytes:
    array = np.load(io.BytesIO(content))
    changed: Any
    match random.randrange(7):
        case 0:
            changed = array.astype(random.choice(["i1", "u1", ">i4", "i8", "u8", "f2", "f8", "c8", "U3", "M8[s]"]))
        case 1:
            changed = array.ravel()[: random.randrange(array.size + 1)]
        case 2:
            changed = np.asfortranarray(array[..., None])
        case 3:
            changed = np.array(random.choice([w for w in WEIRD if isinstance(w, int | float | str) and w is not True]))
        case 4:
            changed = np.array([("x", 1)], dtype=[("a", "U1"), ("b", "i4")])
        case 5:
            changed = array.T
        case _:
            changed = array.copy()
            if changed.dtype.kind in "iuf" and changed.size:
                changed.flat[random.randrange(changed.size)] = _number(changed.dtype, random)
    file = io.BytesIO()
    if changed.dtype.hasobject:
        return content
    np.save(file, changed)
    return file.getvalue()


def _number(dtype: np.dtype[Any], random: random.Random) -> Any:
    if dtype.kind == "f":
        return random.choice([np.nan, np.inf, -np.inf, -1.0, 1e30])
    info = np.iinfo(dtype)
    return random.choice([info.min, info.max, 0, 1, 2, 3, 8, 9, 100])


def _chunk(dataset: h5py.Dataset, random: random.Random) -> None:
    """Spoil the first chunk of a dataset, or HDF5's note of the filters that it has been through."""
    first = (0,) * dataset.ndim
    mask, stored = dataset.id.read_direct_chunk(first)
    size = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    other = random.choice([b"", b"\0" * 3, b"\0" * size, bytes(2 * size), random.randbytes(size)])
    packed = pa.compress(other, "zstd", asbytes=True)
    spoilt = random.choice([_bytes(stored, random), other, packed, stored])
    dataset.id.write_direct_chunk(first, spoilt, random.choice([mask, 0, 1, 2, 3, 7]))


def _hdf5(path: Path, random: random.Random) -> None:
    """Change one thing of a trace file by means of HDF5 itself."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None)
        name = random.choice(names)
        if file[name].compression == "unknown":  # Zstandard, which HDF5 itself cannot unpack
            _chunk(file[name], random)
            return
        data = file[name][()]
        match random.randrange(12):
            case 0 | 1 | 2 if np.asarray(data).dtype.kind in "iuf":
                changed = np.array(data)
                for _ in range(random.choice([1, 3])):
                    changed.flat[random.randrange(changed.size)] = _number(changed.dtype, random)
                file[name][...] = changed
            case 3 if np.asarray(data).dtype.kind in "iuf":
                dtype = random.choice(["i1", "i8", "u8", ">u2", ">i4", "f2", "f4", "f8", ">f4", "c8", "?"])
                changed = np.array(data).astype(dtype)
                if changed.dtype.kind in "iuf" and changed.size:
                    changed.flat[random.randrange(changed.size)] = _number(changed.dtype, random)
                del file[name]
                file[name] = changed
            case 4:
                del file[name]
            case 5:
                del file[name]
                file[name] = random.choice(
                    [np.zeros(0), np.array(data).ravel(), np.array(data)[None], np.array(3), "x"]
                )
            case 6:
                del file[name]
                shape = random.choice([(2**34, 2, 2), (2**40,), (12, 2**20, 2), (2**33, 1), (12, 2, 2), (3,)])
                file.create_dataset(name, shape, "u2", chunks=tuple(min(n, 64) for n in shape), fillvalue=1)
            case 7:
                del file[name]
                file[name] = random.choice(
                    [h5py.SoftLink("/tokens/phase"), h5py.SoftLink("/" + name), h5py.ExternalLink("other.h5", "/x")]
                )
            case 8:
                layout = h5py.VirtualLayout(np.shape(data) or (1,), "u2")
                layout[...] = h5py.VirtualSource(".", "/routing/experts", np.shape(data) or (1,))
                del file[name]
                file.create_virtual_dataset(name, layout)
            case 9:
                del file[name]
                file.create_dataset(
                    name, np.shape(data) or (1,), "u2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
                )
            case 10:
                attribute = random.choice(["format", "version", "model", "provenance", "stack_names"])
                value = random.choice([v for v in [*WEIRD, *TEXTS] if isinstance(v, int | float | str)])
                if isinstance(value, int) and not -(2**63) <= value < 2**64:
                    value = str(value)
                if isinstance(value, str):
                    value = value.replace("\0", "").encode("utf-8", "ignore")[:60_000]
                file.attrs[attribute] = value
            case _:
                group = random.choice(["layers", "routing", "tokens", "requests", "routing/predictions"])
                del file[group]
                if random.random() < 0.7:
                    file[group] = random.choice([h5py.SoftLink("/"), np.arange(3), "text"])
