"""Damaged and hostile files to import: one line with the file's name, in bounded time, and nothing written."""

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError, LrcsimError, TraceError
from lrcsim.traces import check_file
from lrcsim.traces.importers import FORMATS, Options, guess_format, import_trace
from lrcsim.traces.importers.files import damaged, foreign, named, named_while, reads_foreign_file

IDS = np.array([[[1, 2]], [[0, 1]], [[2, 3]]], np.uint8)


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)  # type: ignore[arg-type]
    return file.getvalue()


def header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """A .npy file with a header of choice."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text.encode("latin1") + data


def archive(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in ({"experts": npy(IDS)} | members).items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


def encrypted() -> bytes:
    """The flag alone: a reader that does not look at it unpacks nonsense, or asks for a password."""
    data = bytearray(archive())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def larger_than_it_can_be() -> bytes:
    data = bytearray(archive(zipfile.ZIP_STORED))
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    return bytes(data)


SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }\n"
CASES: dict[str, tuple[str, bytes]] = {
    "encrypted": ("a.npz", encrypted()),
    "lzma": ("a.npz", archive(zipfile.ZIP_LZMA)),
    "bzip2": ("a.npz", archive(zipfile.ZIP_BZIP2)),
    "a claim of 2 GiB": ("a.npz", larger_than_it_can_be()),
    "objects": ("a.npz", archive(offsets=npy(np.array([0, {"a": 1}], object), allow_pickle=True))),
    "records": ("a.npz", archive(offsets=npy(np.zeros(2, [("a", "i4"), ("b", "i4")])))),
    "header cut in a bracket": ("a.npz", archive(experts=header("{'descr': '|u1', 'shape': (3, 1, 2"))),
    "header of code": ("a.npz", archive(experts=header("__import__('os').abort()"))),
    "header nested": ("a.npz", archive(experts=header("(" * 5_000 + ")" * 5_000))),
    "2**34 tokens": ("a.npz", archive(experts=header(SHAPE % "17179869184, 1, 2", b"\0" * 6))),
    "2**62 tokens": ("a.npz", archive(experts=header(SHAPE % f"{2**62}, 1, 2", b"\0" * 6))),
    "-1 tokens": ("a.npz", archive(experts=header(SHAPE % "-1, 1, 2", b"\0" * 6))),
    "no dimensions": ("a.npz", archive(experts=npy(np.array(3)))),
    "no magic": ("a.npz", archive(experts=b"x" * 100)),
    "version 9": ("a.npz", archive(experts=header(SHAPE % "3, 1, 2", b"\0" * 6, version=9))),
    "half an archive": ("a.npz", archive()[:-30]),
    "deep JSON": ("m_00.safetensors", struct.pack("<Q", 40_000) + b"[" * 40_000),
    "a long number": ("m_00.safetensors", struct.pack("<Q", 5_000) + b"1" * 5_000),
    "a header of 2**60": ("m_00.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "a negative shape": (
        "m_00.safetensors",
        struct.pack("<Q", 59) + b'{"a":{"dtype":"U8","shape":[-1,-2,1],"data_offsets":[0,2]}}' + b"\0\0",
    ),
    "deep responses": ("a.json", b'{"choices": ' + b"[" * 100_000),
    "a number of 5,000 digits": ("a.json", b'{"choices": [], "x": ' + b"1" * 5_000 + b"}"),
    "half Parquet": ("a.parquet", b"PAR1" + b"\x15\x04" * 50 + b"\xff\0\0\0PAR1"),
    "a cell of 200,000 digits": ("a.csv", b"token,layer,expert\n0,0,1\n1,0," + b"1" * 200_000 + b"x\n"),
    "a layer's name of 200,000 letters": ("a.csv", b"token,layer,expert\n0," + b"a" * 200_000 + b",1\n1,0,2\n"),
    "no text": ("a.csv", b"token,layer,expert\n\xff\xfe,0,1\n1,0,2\n"),
    "damaged gzip": ("a.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"x" * 50),
    "damaged zstd": ("a.csv.zst", b"\x28\xb5\x2f\xfd" + b"x" * 50),
}


def refused(path: Path, format: str | None = None) -> str:
    before, began = sorted(path.parent.iterdir()), time.process_time()
    with pytest.raises(LrcsimError) as caught:
        import_trace(path, path.parent / "out.h5", format)
    message = str(caught.value)
    assert path.name in message
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    assert time.process_time() - began < 5
    assert sorted(path.parent.iterdir()) == before
    return message


@pytest.mark.parametrize("name", CASES)
def test_one_line(name: str, tmp_path: Path) -> None:
    file, content = CASES[name]
    (tmp_path / file).write_bytes(content)
    refused(tmp_path / file)


def test_the_good_archive_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(archive())
    import_trace(tmp_path / "a.npz", tmp_path / "out.h5")
    assert check_file(tmp_path / "out.h5") == []


def pipe(path: Path) -> None:
    os.mkfifo(path)


PLACES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a pipe": pipe,
    "a loop of links": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("absent")),
    "an empty file": Path.touch,
    "an empty folder": Path.mkdir,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("format", [None, *FORMATS])
def test_what_is_no_file(place: str, format: str | None, tmp_path: Path) -> None:
    PLACES[place](tmp_path / "in_00.safetensors")
    refused(tmp_path / "in_00.safetensors", format)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
@pytest.mark.parametrize("format", [None, *FORMATS])
def test_a_device_without_end(format: str | None, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="a pipe or a device"):
        import_trace("/dev/zero", tmp_path / "out.h5", format)
    with pytest.raises(TraceError, match="a pipe or a device"):
        guess_format(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["a" * 5_000, "a\0b"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError) as caught:
        import_trace(tmp_path / name, tmp_path / "out.h5")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(archive())
    (tmp_path / "a.npz").chmod(0)
    code = (
        "import os, sys\nfrom lrcsim.base.errors import LrcsimError\nfrom lrcsim.traces.importers import import_trace\n"
        "from lrcsim.traces import RoutingTrace\nos.setuid(65534)\n"
        "for read in (import_trace, lambda path, _: RoutingTrace.open(path)):\n"
        "    try:\n        read(sys.argv[1], '/tmp/out.h5')\n    except LrcsimError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.npz")], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 2
    assert "Permission denied" in done.stdout


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (zipfile.BadZipFile("bad\nzip"), r"is damaged, or not what its name says \(BadZipFile: bad\)"),
        (struct.error("needs 4 bytes"), "is damaged"),
        (KeyError("a"), "is damaged"),
        (OverflowError("too large"), "is damaged"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "is damaged"),
        (RecursionError(), "is nested too deep"),
        (MemoryError(), "claims more than fits"),
        (PermissionError(13, "Permission denied"), "cannot be read"),
    ],
)
def test_the_net(raised: Exception, message: str) -> None:
    with pytest.raises(TraceError, match=f"^a.csv: {message}") as caught, foreign("a.csv"):
        raise raised
    assert caught.value.__cause__ is raised  # for --debug


def test_what_passes_the_net(tmp_path: Path) -> None:
    for raised in (ConfigError("x"), TraceError("y")):
        with pytest.raises(type(raised), match=str(raised)), foreign("a.csv"):
            raise raised
    with pytest.raises(KeyboardInterrupt), foreign("a.csv"):
        raise KeyboardInterrupt

    @reads_foreign_file
    def read(path: Path, number: int) -> int:
        return number

    (tmp_path / "a").touch()
    assert read(tmp_path / "a", 3) == 3
    with pytest.raises(TypeError):  # a wrong call is no damaged file
        read(tmp_path / "a")  # type: ignore[call-arg]


def test_what_is_damaged_is_said_of_its_part() -> None:
    with (
        pytest.raises(TraceError, match=r"^t.npz: array 'a' is damaged \(bad zip\)$"),
        damaged("t.npz: array 'a' is damaged"),
    ):
        raise zipfile.BadZipFile("bad\n zip")
    with pytest.raises(TraceError, match=r"^x \(MemoryError\)$"), damaged("x"):
        raise MemoryError
    with pytest.raises(TraceError, match=r"^x \(aaa\)$"), damaged("x", 3):
        raise ValueError("aaaa")
    with pytest.raises(ConfigError, match="known"), damaged("x"):
        raise ConfigError("known")


@pytest.mark.parametrize(
    ("path", "said", "wanted"),
    [
        ("t.csv", "token 3: bad", "t.csv: token 3: bad"),
        ("t.csv", "t.csv: bad", "t.csv: bad"),
        ("t", "token 3: bad", "t: token 3: bad"),
        ("olmoe_*.safetensors", "olmoe_00.safetensors: bad", "olmoe_00.safetensors: bad"),
        (".", "a.csv: bad", "a.csv: bad"),
    ],
)
def test_a_file_is_named_once(path: str, said: str, wanted: str) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise ConfigError(said)

    with pytest.raises(TraceError) as caught, named(Path(path)):
        raise TraceError(said)
    assert str(caught.value) == wanted
    read = named_while(Path(path), values())
    assert next(read) == 1
    with pytest.raises(ConfigError) as late:
        next(read)
    assert str(late.value) == wanted


REPRODUCERS = [
    *("deep_nesting.safetensors", "encrypted.npz", "find_101_7672a91f.npz", "find_102_120953a7.parquet"),
    *("find_102_a469a3da.npz", "header_tokenerror.npz", "long_integer.json", "lzma.npz"),
]


@pytest.mark.parametrize("name", REPRODUCERS)
def test_reproducers(name: str, reliability: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((reliability / name).read_bytes())
    refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("imports_but_unreadable_topk.npz", Options()),
        ("imports_but_unreadable_with_num_experts_64.npz", Options(num_experts=64)),
    ],
)
def test_what_would_be_unreadable_is_not_written(
    name: str, options: Options, reliability: Path, tmp_path: Path
) -> None:
    with pytest.raises(TraceError):
        import_trace(reliability / name, tmp_path / "out.h5", options=options)
    assert list(tmp_path.iterdir()) == []
