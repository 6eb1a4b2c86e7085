"""Measuring the machine at hand: memory, storage, the processor with real experts, a GPU where torch sees one."""

from lrcsim.calibration.of_machine.gpu import GpuPlan
from lrcsim.calibration.of_machine.machine import Machine, MeasurePlan, measure_machine
from lrcsim.calibration.of_machine.timing import Line, Timing, fit_line, repeat
from lrcsim.calibration.of_machine.write import profile_of, toml_of

__all__ = [
    "GpuPlan",
    "Line",
    "Machine",
    "MeasurePlan",
    "Timing",
    "fit_line",
    "measure_machine",
    "profile_of",
    "repeat",
    "toml_of",
]
