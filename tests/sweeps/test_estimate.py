"""The dry run's estimate: what is alike, what is paid once, what is multiplied."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lrcsim.sweeps import divide, estimate, read_spec, tasks
from lrcsim.sweeps.estimate import Estimate
from lrcsim.sweeps.tasks import Task

GRID = {
    "hardware": ["rtx-4090"],
    "policy": ["lru", "slru"],
    "cache": ["1x", "2x", "3x", "4x"],
    "pcie.bandwidth": ["12GB/s", "25GB/s"],
}


def planned(grid: dict[str, list[str]], folder: Path) -> list[Task]:
    return divide(read_spec({"grid": grid}, folder)).tasks()


class World:
    """A clock that only tasks move: 1 s for lru, 3 s for slru, 10 s more for the first of each policy."""

    def __init__(self) -> None:
        self.now, self.seen, self.done = 100.0, set[str](), 0

    def monotonic(self) -> float:
        return self.now

    process_time = monotonic

    def run(self, task: Task) -> None:
        policy = str(task.runs[0].values.get("policy", "lru"))
        self.now += {"lru": 1.0, "slru": 3.0}[policy] + (0 if policy in self.seen else 10.0)
        self.seen.add(policy)
        self.done += 1


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=found.monotonic, process_time=found.process_time))
    monkeypatch.setattr(estimate, "run_task", found.run)
    return found


def test_by_hand(world: World, tmp_path: Path) -> None:
    # 8 tasks of 1 s and 8 of 3 s: 32 s; 10 s once for each policy. With two processes both pay the 20 s, and start
    # after the command itself: 2 x 2 + 20 + 16.
    told: list[tuple[int, int]] = []
    found = estimate.estimate(
        planned(GRID, tmp_path), budget=1e9, least=1e9, started=2.0, progress=lambda done, of: told.append((done, of))
    )
    assert (found.start, found.once, found.seconds, found.tasks) == (2.0, 20.0, 32.0, 16)
    assert (found.wall(1), found.wall(2)) == (54.0, 40.0)
    assert found.measured == 6  # three of each sort, the first twice
    assert world.done == 8
    assert found.took == 20 + 4 * 1 + 4 * 3
    assert told == [(0, 2), (1, 2)]


def test_when_time_is_up_the_others_are_as_long_as_their_family(world: World, tmp_path: Path) -> None:
    # lru is done first and takes 11 s, more than a third of the budget: not again, and nothing else after 5 s
    found = estimate.estimate(planned(GRID, tmp_path), budget=5.0)
    assert (found.measured, found.seconds) == (1, 16 * 11.0)
    assert world.done == 1


def test_it_measures_no_longer_than_a_share_of_what_it_says(world: World, tmp_path: Path) -> None:
    # lru is done twice in 12 s, and 16 tasks of 1 s are 16 s by what is known: a tenth of that is over, as are the 3 s
    found = estimate.estimate(planned(GRID, tmp_path), budget=1e9)
    assert (found.measured, found.seconds, found.took) == (1, 16.0, 12.0)
    # 200 sizes of it are 200 s: up to 20 s the second and third of the sort are done too
    sizes = [f"{n}" for n in range(1, 101)]
    found = estimate.estimate(planned(GRID | {"policy": ["lru"], "cache": sizes}, tmp_path), budget=1e9)
    assert (found.measured, found.seconds, found.took) == (3, 200.0, 4.0)


def test_of_nothing_and_of_fewer_tasks_than_processes(world: World) -> None:
    assert estimate.estimate([]).wall(2) == 0.0
    assert Estimate(1.0, 0.0, 6.0, 3, 3, 0.0).wall(100) == 2 * 1.0 + 2.0


def test_processes_that_get_in_each_others_way(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Alone one counts to 300, two together to 400, 200 each: all but the command's own start takes 1.5 times as long.
    counted = {1: 300.0, 2: 400.0, 16: 9_600.0}
    monkeypatch.setattr(estimate, "_counted", counted.__getitem__)
    found = estimate.estimate(planned(GRID, tmp_path), budget=1e9, least=1e9, started=2.0, processes=2)
    assert (found.slower, found.wall(2)) == (1.5, 2 + 1.5 * (2 + 20 + 16))
    assert found.wall(1) == 54.0
    assert estimate.slowdown(16) == 1.0  # by luck more each than one alone
    alone = estimate.estimate(planned(GRID, tmp_path), budget=1e9, least=1e9, started=2.0)
    assert alone.slower == 1.0


def test_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "COUNTING", 0.05)
    assert estimate._counted(2) >= 2


def test_the_event_loop_is_compiled_at_once_where_much_follows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(task.many for task in planned(GRID, tmp_path))
    monkeypatch.setattr(tasks, "FEW", 10**9)
    assert not any(task.many for task in planned(GRID, tmp_path))
    hits = {"policy": ["mrs"], "cache": ["1x", "2x"]}
    monkeypatch.setattr(tasks, "FEW", 0)
    assert not any(task.many for task in planned(hits, tmp_path))
