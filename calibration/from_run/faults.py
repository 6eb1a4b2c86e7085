"""Major page faults: tokens that waited for pages which memory was too small to keep.

How many there are depends on everything else that the machine holds in memory, so no routing foretells them. Tokens
that they slowed are recognised by a column that counts them, left out of the fit, and said.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FAULT = 30e-6
"""Seconds that a token loses to one major fault, about: reading a page takes a flash some 0.12 ms, and four threads
wait each for its own. In the shared phone run every fourth token has 51 to 88, and computes 1 to 2 ms longer than its
neighbours."""

COUNTS = 0.05
"""Share of a token's time from which on page faults count: fewer are within what tokens differ by anyhow."""


def faulting_steps(measured: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
    """Return which steps lost more than `COUNTS` of the median step's time to page faults.

    Args:
        measured: float64 [steps] by role: ``wall`` in seconds, and ``faults`` where they were counted.

    Returns:
        bool [steps]; none where they were not.
    """
    wall, faults = measured["wall"], measured.get("faults")
    if faults is None:
        return np.zeros(len(wall), bool)
    slowed: npt.NDArray[np.bool_] = faults * FAULT > COUNTS * float(np.median(wall))
    return slowed


def fault_note(
    measured: Mapping[str, npt.NDArray[np.float64]],
    predicted: npt.NDArray[np.float64],
    faulting: npt.NDArray[np.bool_],
) -> list[str]:
    """Return what to say of the steps that page faults slowed, with the time that they took over the predicted."""
    if not faulting.any():
        return []
    count, wall, faults = int(faulting.sum()), measured["wall"][faulting], measured["faults"][faulting]
    over = float((wall - predicted[faulting]).sum())
    which = ", ".join(str(step + 1) for step in np.flatnonzero(faulting)[:8]) + (", ..." if count > 8 else "")
    return [
        f"{count} token{'s' * (count > 1)} with page faults {'are' if count > 1 else 'is'} left out: memory is too "
        f"small for what the run keeps (tokens {which}; {np.median(faults):,.0f} faults each in the median; they took "
        f"{wall.sum():.2f} s, {over:+.2f} s against the prediction)"
    ]
