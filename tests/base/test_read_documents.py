"""Documents of strangers: one line and bounded time for whatever they are."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lrcsim.base.documents import check_regular, parse_json, parse_toml, read_text
from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.hardware import load_profile, parse_quantity
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.sweeps import read_spec
from lrcsim.traces import LayerTable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested too deep"),
        ('{"a":' * 100_000, "is nested too deep"),
        ("1" * 5_000, "is no JSON: Exceeds the limit"),
        ("{", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        ("", "is no JSON"),
    ],
)
def test_json(text: str | bytes, message: str) -> None:
    with pytest.raises(TraceError, match=f"^file {message}") as caught:
        parse_json(text, "file")
    assert len(str(caught.value)) < 300
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "1" * 5_000, "a = ", "a = 1\na = 2", "\0"])
def test_toml(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file is (no TOML|nested too deep)") as caught:
        parse_toml(text, "file", ConfigError)
    assert len(str(caught.value).splitlines()) == 1


def fifo(path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(path)


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 65 << 20)


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "No such file"),
    "a folder": (Path.mkdir, "a folder"),
    "a pipe": (fifo, "a pipe"),
    "a loop of links": (lambda path: path.symlink_to(path), ""),
    "a link to nothing": (lambda path: path.symlink_to(path.with_name("absent")), "No such file"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\xfd"), "UTF-8"),
    "too large": (large, "more than 64 MiB"),
}


@pytest.mark.parametrize("place", PLACES)
def test_files(place: str, tmp_path: Path) -> None:
    make, message = PLACES[place]
    path = tmp_path / "x.toml"
    make(path)
    for read in (lambda path: read_text(path, "file", ConfigError), lambda path: load_profile(str(path)), read_spec):
        with pytest.raises(ConfigError, match=f"cannot be read: .*{message}") as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
    if place not in ("no text", "too large"):
        with pytest.raises(TraceError, match=str(path)):
            check_regular(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_devices() -> None:
    with pytest.raises(TraceError, match="a pipe or a device"):
        check_regular(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="a pipe or a device"):
        read_text(Path("/dev/zero"), "file", ConfigError)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 40_000 + " !!",
        "1" * 5_000 + "." + "1" * 5_000 + " x x",
        " " * 40_000 + "x y",
        "1e" * 20_000,
        "9" * 300 + "!",
    ],
)
def test_quantities_take_no_time(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_quantity(text, "bytes/s")
    assert time.process_time() - began < 0.5
    assert len(str(caught.value)) < 1_500
    with pytest.raises(ConfigError):
        resolve_capacity(text, LayerTable.build(2, 8, 2), "layer")


@pytest.mark.parametrize("size", ["9" * 30, "9" * 5_000, 10**40, "9" * 400 + "x"])
def test_capacities_have_a_limit(size: str | int) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        resolve_capacity(size, LayerTable.build(2, 8, 2), "layer")
