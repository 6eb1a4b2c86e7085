"""Read small documents that may be anything: a pipe, a gigabyte, ten thousand brackets, a number of 5,000 digits."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lrcsim.base.errors import LrcsimError, TraceError

Text = TypeVar("Text")

LARGEST = 64 << 20
"""Bytes of the largest document that is read whole: configurations, profiles, results, specifications."""


def check_regular(path: Path, error: type[LrcsimError] = TraceError) -> None:
    """Refuse a ``path`` where nothing is, or no regular file (a folder, a pipe that never ends, a device).

    Raises:
        LrcsimError: of the kind ``error``.
    """
    try:
        if path.is_file():
            return
        there, folder = path.exists(), path.is_dir()
        loop = not there and path.is_symlink()
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read ({_reason(problem)})") from None
    if not there:
        raise error(f"{path}: is a link that leads nowhere" if loop else f"{path}: there is no such file")
    raise error(f"{path}: is not a file but a folder" if folder else f"{path}: is not a file but a pipe or a device")


def unreadable(path: Path, problem: Exception) -> TraceError:
    """Return the error for a ``path`` that the system does not let one read, which said ``problem``."""
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return TraceError(f"{path}: there is no such file")
    return TraceError(f"{path}: cannot be read ({_reason(problem)})")


def read_text(path: Path, where: str, error: type[LrcsimError] = TraceError, largest: int = LARGEST) -> str:
    """Read UTF-8 text from ``path``, of ``largest`` bytes at most; ``where`` is what messages begin with.

    Raises:
        LrcsimError: of the kind ``error``: there is no such file, it cannot be read, is too large, or no text.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise error(f"{where} cannot be read: it is {kind}, no file")
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except LrcsimError:
        raise
    except (OSError, ValueError) as problem:
        raise error(f"{where} cannot be read: {_reason(problem)}") from None
    if len(data) > largest:
        raise error(f"{where} cannot be read: it has more than {largest >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{where} cannot be read: it is no text in UTF-8 (byte {problem.start})") from None


def parse_json(text: str | bytes, where: str, error: type[LrcsimError] = TraceError) -> Any:
    """Parse ``text`` as JSON; ``where`` is what messages begin with: the file, or a place in it.

    Raises:
        LrcsimError: of the kind ``error``: it is no JSON, nested too deep, or has a number of thousands of digits.
    """
    return _parsed(json.loads, text, f"{where} is no JSON", where, error)


def parse_toml(text: str, where: str, error: type[LrcsimError] = TraceError) -> dict[str, Any]:
    """Parse ``text`` as TOML; ``where`` is what messages begin with: the file, or a place in it.

    Raises:
        LrcsimError: of the kind ``error``: it is no TOML, nested too deep, or has a number of thousands of digits.
    """
    document: dict[str, Any] = _parsed(tomllib.loads, text, f"{where} is no TOML", where, error)
    return document


def _parsed(parse: Callable[[Text], Any], text: Text, wrong: str, where: str, error: type[LrcsimError]) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise error(f"{where} is nested too deep") from None
    except (ValueError, MemoryError) as problem:  # of bytes that are no text, and of numbers of thousands of digits too
        said = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise error(f"{wrong}: {said}") from None


def toml_text(text: str) -> str:
    """Return ``text`` as a basic string of TOML, quotes included."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem)
