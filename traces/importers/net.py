"""The net under all importers: whatever a library says of a damaged file becomes one line with the file's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from lrcsim.base.documents import check_regular
from lrcsim.base.errors import LrcsimError, TraceError, brief

__all__ = ["foreign", "reads_foreign_file"]

Given = ParamSpec("Given")
Result = TypeVar("Result")


@contextmanager
def foreign(path: str | Path) -> Iterator[None]:
    """Turn what libraries raise on a damaged or hostile file into one `TraceError`; ``--debug`` shows where from.

    Raises:
        TraceError: something other than an `LrcsimError` was raised.
    """
    try:
        yield
    except LrcsimError as error:
        if len(str(error).splitlines()) > 1:  # what a library said was passed on
            raise type(error)(" ".join(str(error).split())) from None
        raise
    except RecursionError as error:
        raise TraceError(f"{path}: is nested too deep") from error
    except MemoryError as error:
        raise TraceError(f"{path}: claims more than fits this machine's memory") from error
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror or _line(error)})") from error
    except Exception as error:
        raise TraceError(f"{path}: is damaged, or not what its name says ({_line(error)})") from error


def reads_foreign_file(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate what reads the file, folder or pattern given first: no devices, pipes or dangling links, and the net."""
    signature = inspect.signature(function)

    @wraps(function)
    def guarded(*given: Given.args, **named: Given.kwargs) -> Result:
        path = Path(next(iter(signature.bind(*given, **named).arguments.values())))  # a wrong call is no damaged file
        with foreign(path):
            if not path.is_dir() and (path.exists() or path.is_symlink()):
                check_regular(path)
            return function(*given, **named)

    return guarded


def _line(error: BaseException) -> str:
    return " ".join(brief(error).split())[:300]
