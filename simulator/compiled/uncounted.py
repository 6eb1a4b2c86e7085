"""How kernels are compiled: without counts of references to arrays, which belong to whoever calls; from templates."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba

_compiler: Any = numba.njit  # numba's types do not know all its options
_kept: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False, "no_cfunc_wrapper": True}
_inner: dict[str, Any] = {"no_cpython_wrapper": True}

uncounted_njit = _compiler(**_kept)
"""Compiles a function that makes no arrays."""

inner_njit = _compiler(**_kept, **_inner)
"""The same for what only compiled functions call: without what Python would call it by, a small one takes half as long.

Called from Python the process ends with a segmentation fault; tests call it through a compiled function of theirs.
"""

inlined_njit = _compiler(nogil=True, _nrt=False, forceinline=True, no_cfunc_wrapper=True, **_inner)
"""The same, put into each function that calls it, and on disk only there."""

loop_njit = _compiler(**_kept, error_model="numpy")
"""As `uncounted_njit`, without asking before each division whether it is one by zero: for the event loop."""

inner_loop_njit = _compiler(**_kept, **_inner, error_model="numpy")
"""The same for what only compiled functions call."""


def filled(template: Callable[..., Any], name: str, **names: Any) -> Callable[..., Any]:
    """Return a template with other things under some of its names.

    A closure would do the same, but numba finds a function on disk again only if what it closes over is known by value,
    which compiled functions are not; nor are they as arguments. It looks for it under the function's own name; and as
    it tells functions of one name apart by a number that each process counts for itself, what is kept needs a name that
    nothing else has.
    """
    function = FunctionType(template.__code__, {**template.__globals__, **names}, name)
    function.__qualname__ = name
    return function
