"""The stub refuses what a GPU would do wrongly; its graphs repeat what was captured, not what Python says by then."""

from __future__ import annotations

from typing import Any

import pytest

from lrcsim.experiments.validation.offload.engine.clocks import MisuseError

torch = pytest.importorskip("torch", reason="torch is not installed")

from lrcsim.experiments.validation.offload.engine.stub import StubDevice  # noqa: E402


@pytest.fixture
def device() -> StubDevice:
    return StubDevice()


def test_copies_need_page_locked_memory(device: StubDevice) -> None:
    stream = device.stream(urgent=True)
    there, locked = device.empty(4, dtype=torch.float32), device.host(4, dtype=torch.float32)
    device.copy(there, locked.fill_(3.0), stream)
    assert there.tolist() == [3.0] * 4
    with pytest.raises(MisuseError, match="not page-locked"):
        device.copy(there, torch.zeros(4), stream)
    with pytest.raises(MisuseError, match="within host memory"):
        device.copy(locked, device.host(4, dtype=torch.float32), stream)
    with pytest.raises(MisuseError, match=r"a copy of torch\.Size"):
        device.copy(there[:2], locked, stream)
    with pytest.raises(MisuseError, match="lie together"):
        device.copy(there[::2], locked[::2], stream)


def test_events_are_recorded_before_they_are_waited_for(device: StubDevice) -> None:
    stream, event = device.stream(urgent=True), device.event(timed=True)
    for wait in (event.synchronize, event.done, event.done, lambda: stream.wait(event)):
        if wait == event.done and event._asked == 0:
            assert event.done() is False
            continue
        with pytest.raises(MisuseError, match="never recorded"):
            wait()
    stream.record(event)
    with pytest.raises(MisuseError, match="before it is past"):
        event.seconds_to(event)
    event.synchronize()
    assert event.seconds_to(event) == 0.0


def test_only_captured_graphs_of_this_device_are_replayed(device: StubDevice) -> None:
    x = device.empty(1, dtype=torch.float32).zero_()
    graph = StubDevice().capture(lambda: x.add_(1))
    for other in (graph, object()):
        with pytest.raises(MisuseError, match="was not captured"):
            device.replay(other, device.stream(urgent=True))


def test_a_graph_repeats_what_was_recorded(device: StubDevice) -> None:
    # y = 2 x + step: the tensors count as they are at the replay, the number `step` as it was at the capture
    x, y, stream = (
        device.empty(2, dtype=torch.float32),
        device.empty(2, dtype=torch.float32),
        device.stream(urgent=True),
    )
    step = 10

    def work() -> None:
        y.copy_(x * 2 + step)

    graph = device.capture(work)
    step = 20
    x.fill_(1.0)
    device.replay(graph, stream)
    assert y.tolist() == [12.0, 12.0]
    x.fill_(2.0)
    device.replay(graph, stream)
    assert y.tolist() == [14.0, 14.0]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda x, host: torch.zeros(2), "out of nothing"),
        (lambda x, host: x.add_(torch.tensor(2.0)), "out of nothing"),
        (lambda x, host: x[int(x[0].item())], "asks the device for a value"),
        (lambda x, host: x[x > 0], "asks the device for a value"),
        (lambda x, host: x.copy_(host), "reads host memory"),
    ],
)
def test_work_that_no_gpu_captures_is_refused(device: StubDevice, work: Any, said: str) -> None:
    x, host = device.empty(2, dtype=torch.float32).zero_(), device.host(2, dtype=torch.float32)
    with pytest.raises(MisuseError, match=said):
        device.capture(lambda: work(x, host))
