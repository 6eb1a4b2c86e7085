"""What exporters share: the choices that a format leaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What to write.

    Attributes:
        prefill: for accesses, how prompt tokens make steps: ``"step"``, ``"chunk:N"`` or ``"token"``.
        layer: for accesses, the one MoE layer to write (counted from 0); None: all, in the order they run.
    """

    prefill: str | None = None
    layer: int | None = None

    def given(self) -> set[str]:
        """Names of the options that the user set."""
        return {name for name in ("prefill", "layer") if getattr(self, name) is not None}
