"""Read small documents that may be anything: a pipe, a gigabyte, ten thousand brackets, a number of 5,000 digits."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from lrcsim.base.errors import LrcsimError, TraceError

__all__ = ["LARGEST", "check_regular", "parse_json", "parse_toml", "read_text", "unreadable"]

LARGEST = 64 << 20
"""Bytes of the largest document that is read whole: configurations, profiles, results, specifications."""


def check_regular(path: Path, error: type[LrcsimError] = TraceError) -> None:
    """Refuse what is not there, and what is no regular file (a folder, a pipe that never ends, a device).

    Args:
        path: of what is to be opened.
        error: kind of error to raise.

    Raises:
        LrcsimError: of the kind ``error``.
    """
    try:
        if path.is_file():
            return
        there, folder = path.exists(), path.is_dir()
        loop = not there and path.is_symlink()
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read ({getattr(problem, 'strerror', None) or problem})") from None
    if not there:
        raise error(f"{path}: is a link that leads nowhere" if loop else f"{path}: there is no such file")
    raise error(f"{path}: is not a file but a folder" if folder else f"{path}: is not a file but a pipe or a device")


def unreadable(path: Path, problem: Exception) -> TraceError:
    """Return the error for a file that the system does not let one read.

    Args:
        path: the file.
        problem: what the system said.
    """
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return TraceError(f"{path}: there is no such file")
    return TraceError(f"{path}: cannot be read ({getattr(problem, 'strerror', None) or problem})")


def read_text(path: Path, where: str, error: type[LrcsimError] = TraceError, largest: int = LARGEST) -> str:
    """Read a file of UTF-8 text.

    Args:
        path: the file.
        where: what messages begin with: which file it is.
        error: kind of error to raise.
        largest: bytes that it may have.

    Raises:
        LrcsimError: of the kind ``error``: there is no such file, it cannot be read, is too large, or no text.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise error(f"{where} cannot be read: it is {kind}, no file")
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as problem:
        if isinstance(problem, LrcsimError):
            raise
        raise error(f"{where} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if len(data) > largest:
        raise error(f"{where} cannot be read: it has more than {largest >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{where} cannot be read: it is no text in UTF-8 (byte {problem.start})") from None


def parse_json(text: str | bytes, where: str, error: type[LrcsimError] = TraceError) -> Any:
    """Parse JSON.

    Args:
        text: the document.
        where: what messages begin with: the file, or a place in it.
        error: kind of error to raise.

    Raises:
        LrcsimError: of the kind ``error``: it is no JSON, nested too deep, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise error(f"{where} is nested too deep") from None
    except (ValueError, MemoryError) as problem:  # of bytes that are no text too
        raise error(f"{where} is no JSON: {_short(problem)}") from None


def parse_toml(text: str, where: str, error: type[LrcsimError] = TraceError) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: the document.
        where: what messages begin with: the file, or a place in it.
        error: kind of error to raise.

    Raises:
        LrcsimError: of the kind ``error``: it is no TOML, nested too deep, or has a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise error(f"{where} is nested too deep") from None
    except (ValueError, MemoryError) as problem:  # a whole number with thousands of digits too
        raise error(f"{where} is no TOML: {_short(problem)}") from None


def _short(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
