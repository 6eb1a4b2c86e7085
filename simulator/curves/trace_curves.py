"""The curves of several policies on one trace, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrcsim.simulator.curves.allocate import Allocation
from lrcsim.simulator.curves.curve import Curve


@dataclass(frozen=True)
class TraceCurves:
    """What was found of one trace.

    Attributes:
        label: name of the trace.
        curves: a curve for each policy.
        allocations: how each policy divides a budget among the layers, where that was asked for.
    """

    label: str
    curves: Sequence[Curve]
    allocations: Sequence[Allocation]

    def to_dict(self) -> dict[str, Any]:
        """Return capacities and the rates by policy as JSON values; None where a policy was not run at a capacity."""
        curves = self.curves
        relative = {int(c): float(r) for curve in curves for c, r in zip(curve.capacities, curve.relative, strict=True)}
        capacities = sorted(relative)
        data: dict[str, Any] = {
            "trace": self.label,
            "capacities": capacities,
            "relative": [relative[c] for c in capacities],
            "knee": {curve.policy: int(curve.capacities[curve.knee]) for curve in curves},
            "engine": {curve.policy: curve.engine for curve in curves},
            "proven": {curve.policy: curve.proven for curve in curves},
            "unit": curves[0].unit,
        }
        for name in ("hit_rate", "prefill_hit_rate", "decode_hit_rate"):
            data[name] = {}
            for curve in curves:
                rates = getattr(curve, name)
                if rates is not None:
                    known = dict(zip(curve.capacities.tolist(), rates.tolist(), strict=True))
                    data[name][curve.policy] = [known.get(c) for c in capacities]
        if self.allocations:
            data["allocation"] = {allocation.policy: allocation.to_dict() for allocation in self.allocations}
        return data
