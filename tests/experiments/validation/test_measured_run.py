"""The table of the measured run, from a calibration made by hand; the run itself is not part of the project."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lrcsim.experiments.validation.measured_run.__main__ import table


def test_the_table_by_hand() -> None:
    numbers = {"nvme.bandwidth": SimpleNamespace(value=4.552e9)}
    best = SimpleNamespace(overlap=False, fit=SimpleNamespace(numbers=numbers))
    agreement = {
        "held_out": SimpleNamespace(total_error=-0.2284, mean_error=0.2291),
        "mean": SimpleNamespace(total_error=-0.147, mean_error=0.324),
        "linear": SimpleNamespace(total_error=0.05, mean_error=0.1),
    }
    found: Any = SimpleNamespace(best=best, agreement=agreement)
    assert table([("wall time alone", found)]).lines()[1:] == [
        "|---|---|---|---:|---:|---:|---:|---:|",
        "| wall time alone | off | nvme.bandwidth 4.55 GB/s | -22.8 / 22.9 |  |  |  |  |",
        "| mean of the fitted tokens |  |  | -14.7 / 32.4 |  |  |  |  |",
        "| line in the misses, same tokens |  |  | +5.0 / 10.0 |  |  |  |  |",
    ]
