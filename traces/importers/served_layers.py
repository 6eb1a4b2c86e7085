"""What all answers of servers together say of the layers: which are recorded, which hold only placeholders.

Layers whose recorded ids are all 0, at every rank, are the servers' placeholders for dense layers: they are left out,
and the others keep their index as `LayerTable.block`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.placing import Routed
from lrcsim.traces.importers.source import Options


@dataclass
class ServedLayers:
    """What all requests together say of the layers."""

    path: Path
    shape: tuple[int, ...] | None = None
    used: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    zeros: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    largest: int = -1
    with_ids: bool = True
    model: str | None = None
    zero_row: str | None = None

    def add(self, where: str, routed: Routed, start: int, model: str | None) -> None:
        """Take in one request, which stands at ``where`` and whose first row is position ``start``.

        Raises:
            TraceError: its layers are not those of the requests before.
        """
        experts = routed.experts
        if self.shape is None:
            self.shape = experts.shape[1:]
            self.used, self.zeros = np.zeros(self.shape[0], bool), np.ones(self.shape[0], bool)
        elif experts.shape[1:] != self.shape:
            raise TraceError(
                f"{where} has [layers, k] = {list(experts.shape[1:])}, "
                f"earlier ones {list(self.shape)}; import models one by one"
            )
        self.used |= (experts >= 0).any(axis=(0, 2))
        self.zeros &= (experts <= 0).all(axis=(0, 2))
        self.largest = max(self.largest, int(experts.max(initial=-1)))
        self.with_ids &= routed.prompt_ids is not None and routed.made_ids is not None
        self.model = self.model or model
        if self.zero_row is None and self.shape[1] > 1 and len(rows := zero_rows(routed)):
            row = int(rows[0])
            self.zero_row = f"{where}: row {row} (token {row + start}) has expert 0 at every rank of every layer"

    def settle(
        self, options: Options, notices: list[str], skipped: str
    ) -> tuple[tuple[int, ...], npt.NDArray[np.intp]]:
        """Return [layers, k] and the layers to import; ``skipped``: the first request without routing, if any.

        Raises:
            TraceError: there is no routing.
        """
        if self.shape is None or self.largest < 0:
            why = f"; {skipped}" if skipped else ""
            raise TraceError(
                f"{self.path}: holds no routed experts; was the server run with --enable-return-routed-experts, and "
                f"did the requests ask for them?{why}"
            )
        keep_zeros = options.keep_zero_layers and self.shape[1] == 1  # with more ranks no router can choose 0 at each
        blocks = np.flatnonzero(self.used if keep_zeros else self.used & ~self.zeros)
        if len(blocks) == 0:
            raise TraceError(f"{self.path}: every recorded expert id is 0, that is no routing")
        if self.zero_row is not None:
            raise TraceError(
                f"{self.zero_row}: the server did not fill it; --drop-zero-rows takes such rows as not recorded"
            )
        left = sorted(set(range(self.shape[0])) - set(blocks.tolist()))
        if left:
            listed = ", ".join(map(str, left[:12])) + (", ..." if len(left) > 12 else "")
            stuck = "; if a router is stuck at expert 0, --keep-zero-layers keeps them" if self.shape[1] == 1 else ""
            notices.append(
                f"{len(left)} of {self.shape[0]} layers hold only zeros (dense layers), left out: {listed}{stuck}"
            )
        return self.shape, blocks


def zero_rows(routed: Routed) -> npt.NDArray[np.intp]:
    """Return the rows that hold expert 0 at every rank of every layer."""
    return np.flatnonzero((routed.experts == 0).all(axis=(1, 2)))
