"""Which numbers are fitted where nobody names them.

Where the runtime is known, the machine is left alone: a profile says what the hardware can do, by measurement or by
data sheet, and what an engine makes of it is the runtime's. Only where nothing is known of the engine (``ideal``) do
numbers of the profile stand in for it.
"""

from __future__ import annotations

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.from_run.fit import MOST
from lrcsim.calibration.from_run.numbers import OF_RUNTIME, Setting, number
from lrcsim.runtimes import IDEAL

Paths = tuple[str, ...]


def choices_of(setting: Setting) -> list[Paths]:
    """Return the sets of numbers to try, each of at most `MOST`.

    * Under ``ideal``: bandwidth of the device and of the link, and as the third ``expert_overhead``, ``layer_overhead``
      or the link's latency.
    * Under a runtime: on a GPU what launches cost, ``device.layer`` and ``device.kernel``; on a processor alone its
      share of the bandwidth, ``cpu.share``. With them the most that a lane carries, and, where there is room and
      launches are not two, the cost per byte, per expert loaded, per eviction or per layer. Two launch costs and one of
      loads are not told apart by the times of one size of cache: what a miss costs then stays as it is.

    Raises:
        ConfigError: the runtime has none of these.
    """
    return _of_machine(setting) if setting.runtime.name == IDEAL.name else _of_runtime(setting)


def _of_machine(setting: Setting) -> list[Paths]:
    profile = setting.profile
    link = profile.links[-1].name if profile.links else "nvme"
    first = (f"{'cpu' if profile.gpu is None else 'gpu'}.bandwidth", f"{link}.bandwidth")
    thirds = ("expert_overhead", "layer_overhead", f"{link}.latency")
    return [(*first, third) for third in thirds if number(setting, third) > 0] or [first]


def _of_runtime(setting: Setting) -> list[Paths]:
    runtime = setting.runtime

    def given(*paths: str) -> list[str]:
        return [OF_RUNTIME + path for path in paths if runtime.at(path)]

    costs = given("loads.byte", "loads.miss", "loads.eviction")
    if setting.profile.gpu is None:
        first = [OF_RUNTIME + "cpu.share"]
        costs += given("device.layer")
    else:
        first = given("device.layer", "device.kernel")
    launches = len(first)
    first += given("loads.lane_bandwidth")
    if not first and not costs:
        raise ConfigError(
            f"runtime {runtime.name} has no cost or share to fit: name numbers with --fit, as runtime.device.experts, "
            "or give it a cost per layer in a file"
        )
    room = launches < 2 and len(first) < MOST
    return [(*first, cost) for cost in costs if room] or [tuple(first)]
