"""Ridge regression in closed form of the experts that a layer uses on what is known before.

With y the experts used (0 or 1 each), p their mean over the tokens fitted on, x dense features less their mean, and t
the number of a token's class, the fit minimises over W and V

    sum over tokens |y - p - x W - V[t]|^2 + ridge (|W|^2 + |V|^2)

(Hoerl, Kennard: Ridge regression, Technometrics 12, 1970). Scores are p + x W + V[t]: as ridge grows they become the
experts' popularity. V is eliminated first, as each token is of one class, so that what is solved has the size of x
alone (a Schur complement); with classes alone V[t] is the sum of y - p over the class's tokens by their number + ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Linear:
    """A fitted predictor of one layer.

    Attributes:
        mean: float64 [E], p.
        dense: float64 [F, E], W.
        classes: float64 [C, E], V.
    """

    mean: Floats
    dense: Floats
    classes: Floats

    def scores(self, dense: Floats, classes: Ints) -> Floats:
        """Return float64 [n, E], the greater the likelier.

        Args:
            dense: float64 [n, F], centred as when it was fitted.
            classes: int64 [n]; -1, or one not seen when it was fitted, adds nothing.
        """
        found = self.mean + dense @ self.dense
        known = (classes >= 0) & (classes < len(self.classes))
        found[known] += self.classes[classes[known]]
        return found


class Sums:
    """The sums over tokens that a fit needs, for any ridge.

    Args:
        dense: float64 [n, F], centred; F may be 0.
        classes: int64 [n], from 0; -1: of no class.
        used: float64 [n, E], 1 for each expert used.
    """

    def __init__(self, dense: Floats, classes: Ints, used: Floats) -> None:
        self.mean = used.mean(axis=0)
        apart = used - self.mean
        known = classes >= 0
        number = int(classes.max(initial=-1)) + 1
        self.sizes = np.bincount(classes[known], minlength=number).astype(np.float64)
        self.by_class = np.zeros((number, used.shape[1]))
        self.between = np.zeros((number, dense.shape[1]))  # features summed by class
        order = np.argsort(classes[known], kind="stable")
        if len(order):
            starts = np.flatnonzero(np.diff(classes[known][order], prepend=-1))
            present = classes[known][order][starts]
            self.by_class[present] = np.add.reduceat(apart[known][order], starts)
            if dense.shape[1]:
                self.between[present] = np.add.reduceat(dense[known][order], starts)
        self.gram = dense.T @ dense
        self.by_dense = dense.T @ apart

    def solve(self, ridge: float) -> Linear:
        """Return the predictor for a ridge above 0."""
        weight = 1.0 / (self.sizes + ridge)
        shrunk = self.between * weight[:, None]
        dense = np.zeros((len(self.gram), len(self.mean)))
        if len(dense):
            left = self.gram - self.between.T @ shrunk + ridge * np.eye(len(dense))
            dense = np.linalg.solve(left, self.by_dense - shrunk.T @ self.by_class)
        classes = (self.by_class - self.between @ dense) * weight[:, None]
        return Linear(self.mean, dense, classes)
