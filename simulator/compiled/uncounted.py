"""Compiled functions that count no references to arrays: what they are given belongs to whoever calls them."""

from __future__ import annotations

from typing import Any

import numba

_compiler: Any = numba.njit  # numba's types do not know all its options

uncounted_njit = _compiler(cache=True, nogil=True, _nrt=False)
"""Compiles a function that makes no arrays."""

inlined_njit = _compiler(cache=True, nogil=True, _nrt=False, forceinline=True)
"""The same, put into each function that calls it."""

loop_njit = _compiler(cache=True, nogil=True, _nrt=False, error_model="numpy")
"""The same, without asking before each division whether it is one by zero: for the event loop."""
