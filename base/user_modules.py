"""Files and modules that users name, run once, with one line for whatever goes wrong in them."""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import re
import sys
import traceback
from os.path import expanduser, isdir, isfile  # of impossible names they say no, where Path raises
from pathlib import Path
from types import ModuleType

from lrcsim.base.errors import PolicyError
from lrcsim.base.user_code import said, show_path

_loaded: dict[str, tuple[tuple[int, int, int], ModuleType]] = {}
"""Modules of users' files by path, with what tells that the file has changed."""


def load_module(place: str, noun: str) -> ModuleType:
    """Return a user's module.

    Args:
        place: path of a file ending in ``.py``, or a module's full name.
        noun: what is looked for in it, for errors.

    Raises:
        PolicyError: it is neither, is not there, or fails.
    """
    if not place.endswith(".py") and not all(map(str.isidentifier, place.split("."))):
        raise PolicyError(f"{place} is neither a file that ends in .py nor the name of a module, as package.module")
    if place.endswith(".py") and not isfile(expanduser(place)):
        raise PolicyError(f"{noun} file {place} does not exist")
    try:
        return _run_file(place) if place.endswith(".py") else importlib.import_module(place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            top = error.name.partition(".")[0]
            if isfile(f"{top}.py") or isdir(top):
                hint = f"; {top} lies in this folder, where Python does not look: set PYTHONPATH=."
        raise PolicyError(
            f"{noun} module {place} cannot be loaded: {said(error)}{where_failed(error)}{hint}"
        ) from error


def _run_file(place: str) -> ModuleType:
    """Run a file as a module, once for as long as it does not change."""
    path = Path(expanduser(place)).resolve()
    status = path.stat()
    now = (status.st_mtime_ns, status.st_size, status.st_ino)
    if str(path) in _loaded and _loaded[str(path)][0] == now:
        return _loaded[str(path)][1]
    name = "lrcsim_user_" + re.sub(r"\W", "_", str(path))
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    linecache.checkcache(str(path))
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[str(path)] = now, module
    return module


def where_failed(error: BaseException) -> str:
    """Return where in somebody else's file an import failed, to end an error with."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({show_path(error.filename)}{f':{error.lineno}' if error.lineno else ''})"
    theirs = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get("__name__", "").startswith(("lrcsim.", "importlib"))
        and not frame.f_code.co_filename.startswith("<frozen")
    ]
    return f" ({show_path(theirs[-1][0])}:{theirs[-1][1]})" if theirs else ""
