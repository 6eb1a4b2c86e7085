"""Standard output and error as they may be: closed, of a small character set, read by somebody who leaves."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from lrcsim.cli.screen import DEGRADE


def prepare_streams() -> None:
    """Make both streams such that writing text to them does not fail for its characters, or because they are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as we live
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=DEGRADE)


def left_by_reader(error: BaseException) -> bool:
    """Return whether an error is that standard output cannot take any more; if so, or if it is full, drop the rest.

    Python would try again to write it when it ends, and complain.
    """
    try:
        sys.stdout.flush()
    except OSError as failed:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return isinstance(failed, BrokenPipeError) and isinstance(error, BrokenPipeError)
    except ValueError:  # closed
        return False
    return False
