"""The host that launches what the device computes, where a runtime launches ahead (`DeviceUse.ahead`).

One thread asks for a layer's transfers, launches its experts one after the other, then the dense part of the next
layer, and does not wait for any of them to be computed or even to arrive: it waits only for the routing. Transfers
begin when the first was asked for; what is brought ahead is asked for as dearly as what is missing. So launches cost
time where the device would otherwise be at work, and none where it waits for experts anyway. A computation begins when
it is launched, the device is free and, of an expert, when it is there. Experts on the CPU are computed by the same
thread, once the layer's others are launched; meanwhile it launches nothing.
"""

from __future__ import annotations

from lrcsim.runtimes import Runtime


class Host:
    """When the host is through with what it has launched.

    Args:
        runtime: what runs the model; unless it launches ahead, launches are in the device's own times and cost nothing.
        miss: seconds per expert loaded (``expert_overhead`` of the machine as the runtime uses it).

    Attributes:
        ahead: whether it launches ahead.
        layer: seconds to launch what comes before a routing.
        kernel: seconds to launch an expert, or the output.
        miss: seconds to ask for a transfer that is missing.
        prefetch: seconds to ask for one ahead; 0 unless it launches ahead.
        free: when it is through, in seconds.
    """

    def __init__(self, runtime: Runtime, miss: float) -> None:
        self.ahead = runtime.device.ahead
        self.layer, self.kernel = launches(runtime)
        self.miss = miss
        self.prefetch = miss if self.ahead else 0.0
        self.free = 0.0

    def asks(self, loaded: int) -> tuple[float, float]:
        """Return the seconds until transfers of so many experts begin, and how much longer it asks for the others."""
        if not self.ahead or not loaded:
            return self.miss * loaded, 0.0
        return self.miss, self.miss * (loaded - 1)

    def delay(self, ready: float, takes: float) -> float:
        """Launch something in ``takes`` seconds; return how long the device, ready by itself, waits for that."""
        if not self.ahead:
            return 0.0
        self.free += takes
        return max(self.free - ready, 0.0)


def launches(runtime: Runtime) -> tuple[float, float]:
    """Return the seconds in which a host that launches ahead launches a layer's dense part, and an expert.

    What comes before a routing counts as one dense part, with a ``layer`` and a ``kernel``. Without launching ahead
    both are 0.
    """
    device = runtime.device
    if not device.ahead:
        return 0.0, 0.0
    kernel = device.kernel or 0.0
    return (device.layer or 0.0) + kernel, kernel
