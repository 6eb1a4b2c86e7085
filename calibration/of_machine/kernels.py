"""What the processor runs to be measured: an expert by rows on several threads, and a sum over memory."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@numba.njit(cache=True, nogil=True, fastmath=True)
def dot(a: Floats, b: Floats) -> np.float32:
    """Return the sum of products of two float32 vectors; fastmath, so that the sum runs in vector registers."""
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@numba.njit(cache=True, nogil=True, fastmath=True)
def read(memory: Floats) -> np.float32:
    """Return the sum of float32 numbers: reads them all and writes nothing."""
    total = np.float32(0)
    for i in range(len(memory)):
        total += memory[i]
    return total


@numba.njit(cache=True, parallel=True, fastmath=True)
def run_expert(gate_up: Floats, down: Floats, x: Floats, inside: Floats, y: Floats) -> None:
    """Set y to down @ (silu(gate @ x) * (up @ x)) for one token, rows divided over the threads that numba was given.

    The threads wait for each other twice, as in an engine: before ``down`` and at the end.

    Args:
        gate_up: float32 [2 * ffn, hidden], gate above up.
        down: float32 [hidden, ffn].
        x: float32 [hidden].
        inside: float32 [ffn], overwritten.
        y: float32 [hidden], the result.
    """
    ffn = len(inside)
    for row in numba.prange(ffn):
        gate = dot(gate_up[row], x)
        inside[row] = gate / (np.float32(1) + np.exp(-gate)) * dot(gate_up[ffn + row], x)
    for row in numba.prange(len(y)):
        y[row] = dot(down[row], inside)
