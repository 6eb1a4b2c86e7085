"""The paths of numbers that a fit may change."""

from __future__ import annotations

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.from_run.numbers import FITTABLE_OF_RUNTIMES, Setting, number, shown, with_numbers
from lrcsim.hardware import load_profile
from lrcsim.runtimes import load_runtime

BASE = load_profile("phone")
SETTING = Setting(BASE, load_runtime("bigmoeonedge").on(BASE))


def test_a_path_leads_into_the_machine_or_into_its_runtime() -> None:
    changed = with_numbers(SETTING, {"nvme.bandwidth": 1e9, "layer_overhead": 1e-6, "runtime.loads.byte": 1e-9})
    assert number(changed, "nvme.bandwidth") == 1e9
    assert changed.profile.layer_overhead == 1e-6
    assert changed.runtime.loads.byte == 1e-9
    assert changed.runtime.loads.lanes == SETTING.runtime.loads.lanes  # the others stay
    assert number(SETTING, "runtime.loads.byte") == pytest.approx(0.122e-9)  # and so does where it came from
    assert with_numbers(BASE, {"nvme.bandwidth": 1e9}).part("nvme").bandwidth == 1e9  # type: ignore[union-attr]


def test_what_can_be_fitted_of_runtimes() -> None:
    assert {"runtime.device.layer", "runtime.cpu.share", "runtime.loads.lane_bandwidth"} < set(FITTABLE_OF_RUNTIMES)
    assert not {"runtime.loads.overlap", "runtime.loads.lanes", "runtime.loads.beside"} & set(FITTABLE_OF_RUNTIMES)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("runtime.loads.bite", "did you mean 'runtime.loads.byte'"),
        ("runtime.loads.lanes", "cannot be fitted"),
        ("runtime.cpu.expert", "runtime bigmoeonedge leaves it to the machine: give a start in a file"),
        ("gpu.bandwidth", "hardware phone has no gpu"),
    ],
)
def test_a_path_that_cannot_be_is_refused_in_one_line(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        number(SETTING, path)
    assert "\n" not in str(caught.value)


def test_a_machine_alone_has_no_runtime() -> None:
    with pytest.raises(ConfigError, match=r"'runtime\.loads\.byte' cannot be fitted"):
        number(BASE, "runtime.loads.byte")


def test_numbers_as_people_read_them() -> None:
    assert shown("runtime.loads.byte", 0.122e-9) == "0.122 ms/MB"
    assert shown("runtime.cpu.share", 0.748) == "74.8 %"
    assert shown("nvme.bandwidth", 2.58e9) == "2.58 GB/s"
