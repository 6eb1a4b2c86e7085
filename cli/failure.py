"""An error as one line for people: what was given, what is allowed, how to fix it; or that it is lrcsim's own fault."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

import click

from lrcsim.base.errors import LrcsimError, brief


def one_line(error: BaseException) -> str:
    """Return what to tell of an error that ended a command."""
    if isinstance(error, LrcsimError):
        text = str(error)
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError):
        text = _of_system(error)
    elif isinstance(error, MemoryError):
        text = (
            "this takes more memory than there is: use a smaller trace or fewer sizes, or a machine with more"
            + _unsure()
        )
    elif isinstance(error, RecursionError):
        text = "something is nested too deeply" + _unsure()
    else:
        text = f"{_brief(error)}{_place(error)}" + _unsure()
    return " ".join(text.split())


def _unsure() -> str:
    return "; this is a bug in lrcsim if what was given is good: run again with --debug and report it"


def _of_system(error: OSError) -> str:
    """Return an error of the operating system with the file it is about."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    about = ", ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes))
    hint = {
        errno.ENOSPC: ": make room, or write somewhere else",
        errno.EDQUOT: ": make room, or write somewhere else",
        errno.EIO: ": the device, or the connection to it, does not work",
    }.get(error.errno or 0, "")
    return (f"{about}: " if about else "") + error.strerror + hint


def _brief(error: BaseException) -> str:
    try:
        text = brief(error)
    except Exception:  # its own text fails
        text = type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _place(error: BaseException) -> str:
    """Return where it happened: in the last frame that is lrcsim's or a user's, not a library's."""
    ours = str(Path(__file__).parent.parent)
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(ours) or frame.f_globals.get("__name__", "").startswith("lrcsim_user_")
    ]
    if not places:
        return ""
    file, line = places[-1]
    return f" ({Path(file).name}:{line})"
