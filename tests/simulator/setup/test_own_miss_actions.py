"""Miss actions as users write them: a file's class, worked out by hand, and what is said where one is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import link, machine, run, trace

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import ACTIONS, Load, MissAction, Split, loaded_share, make_action
from lrcsim.simulator.setup.outcomes import LOSSY, NOT_LOADED, OTHER_MODEL, Outcome, decision
from lrcsim.simulator.time.compiled import unsupported
from lrcsim.traces import RoutingTrace

SECOND = '''
from lrcsim.policies import Param
from lrcsim.simulator.time import MissAction, Outcome


class Second(MissAction):
    """Run an expert on the CPU until it has missed ``after`` times, then load it."""

    params = (Param("after", 2, "misses until it is loaded", minimum=1),)

    def reset(self):
        self.missed = {}

    def decide(self, missed, step, residents):
        for key in missed:
            self.missed[key] = self.missed.get(key, 0) + 1
            yield Outcome.LOADED if self.missed[key] >= self.after else Outcome.ON_CPU
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Return the path of a file with `SECOND` in it."""
    (tmp_path / "own.py").write_text(SECOND)
    return str(tmp_path / "own.py")


def test_a_users_file_hand_solved(own: str) -> None:
    # An expert takes a second on the link, on the CPU, on the GPU. Step 0: 0 and 1 miss for the first time, and the CPU
    # runs one after the other. Step 1: 0 misses again and is loaded, the CPU runs 2 meanwhile. Step 2: 0 is there, 1
    # misses again and is loaded.
    found = run(trace("01", "02", "01"), 4, action=f"{own}:Second")
    assert found.events == [
        "0-1 cpu expert 0.0",
        "1-2 cpu expert 0.1",
        "2-3 cpu expert 0.2",
        "2-3 pcie load 0.0",
        "3-4 gpu expert 0.0",
        "4-5 gpu expert 0.0",
        "4-5 pcie load 0.1",
        "5-6 gpu expert 0.1",
    ]
    assert found.tally.outcomes == [[0, 2], [0, 3], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert found.counts.misses.sum() == 5


def test_parameters_classes_and_objects(own: str) -> None:
    always = run(trace("01", "02", "01"), 4, action=f"{own}:Second:1")
    assert always.events == run(trace("01", "02", "01"), 4, action="load").events
    made = make_action(f"{own}:Second:after=3", machine())
    assert made.label() == "Second:after=3"
    assert make_action(made, machine()) is made
    assert isinstance(make_action(type(made), machine()), type(made))
    assert make_action(Load, machine()).label() == "load"


class ByNumber(MissAction):
    """Expert 0 comes to the first outcome, expert 1 to the second, and so on."""

    needs = frozenset({"weights"})

    def decide(self, missed: Any, step: Any, residents: Any) -> list[Outcome]:
        return [list(Outcome)[key] for key in missed]


def test_every_outcome_in_one_layer_step() -> None:
    # Loaded: 0, on the link first, computed at 1. On the CPU: 1. Left out: 2. Replaced: 3, computed at once. In low
    # precision: 4, a quarter of the bytes behind 0, computed when the GPU is free. The host takes 0.5 s for each of the
    # two that move. Only 0 enters the cache: in the second step all others miss again.
    weights = [[[0.5, 0.25, 0.125, 0.0625, 0.0625]]] * 2
    found = run(trace("01234", "01234", weights=weights), 6, machine(expert_overhead=0.5), action=ByNumber())
    assert found.events == [
        "0-1 host overhead 0",
        "1-2 cpu expert 0.1",
        "1-2 gpu expert 0.3",
        "1-2 pcie load 0.0",
        "2-2.25 pcie load low 0.4",
        "2-3 gpu expert 0.0",
        "3-4 gpu expert 0.4",
        "4-4.5 host overhead 0",
        "4.5-4.75 pcie load low 0.4",
        "4.5-5.5 cpu expert 0.1",
        "4.5-5.5 gpu expert 0.0",
        "5.5-6.5 gpu expert 0.3",
        "6.5-7.5 gpu expert 0.4",
    ]
    assert found.tally.outcomes == [[0, 1], [0, 2], [0, 2], [0, 2], [0, 2], [0, 0]]
    assert found.tally.given_up.shares == [[0, 0], [0, 0], [0, 0.25], [0, 0.125], [0, 0.125], [0, 0]]
    assert found.tally.links["pcie"].bytes == 150
    assert found.tally.to_dict()["missed"] == {
        "on_cpu": 2, "skipped": 2, "substituted": 2, "low_precision": 2, "admitted": 0,
        "skipped_weight": 0.125, "substituted_weight": 0.0625, "low_precision_weight": 0.0625,
        "prefill": {"skipped_weight": 0.0, "substituted_weight": 0.0, "low_precision_weight": 0.0},
        "decode": {"skipped_weight": 0.125, "substituted_weight": 0.0625, "low_precision_weight": 0.0625},
    }  # fmt: skip


def test_dram_is_asked_for_whole_experts_and_keeps_no_copies() -> None:
    # Storage 50 bytes/s. 0 and 1 are read whole, for the GPU and for the CPU, and are in DRAM from then on; of 4 the
    # copy is read each time; 2 and 3 are read by nobody.
    weights = [[[0.5, 0.25, 0.125, 0.0625, 0.0625]]] * 2
    routing = trace("01234", "01234", weights=weights)
    found = run(routing, 0, machine(nvme=link(50)), action=ByNumber(), dram=6)
    assert [event.split(" ", 1)[1] for event in found.events if "nvme" in event] == [
        "nvme load 0.0", "nvme read 0.1", "nvme load low 0.4", "nvme load low 0.4",
    ]  # fmt: skip
    assert {name: use.bytes for name, use in found.tally.links.items()} == {"pcie": 250, "nvme": 250}


def test_what_is_known_of_outcomes() -> None:
    assert [outcome.label for outcome in Outcome] == [
        "loaded",
        "on_cpu",
        "skipped",
        "substituted",
        "low_precision",
        "admitted",
    ]
    assert [int(outcome) for outcome in Outcome] == [0, 1, 2, 3, 4, 5]
    assert [outcome.label for outcome in Outcome if outcome.behind] == ["admitted"]
    assert [outcome.label for outcome in Outcome if outcome.moves] == ["loaded", "low_precision"]
    assert NOT_LOADED == (Outcome.ON_CPU, Outcome.SKIPPED, Outcome.SUBSTITUTED, Outcome.LOW_PRECISION, Outcome.ADMITTED)
    assert LOSSY == (Outcome.SKIPPED, Outcome.SUBSTITUTED, Outcome.LOW_PRECISION)
    assert OTHER_MODEL == (Outcome.SKIPPED, Outcome.SUBSTITUTED)


def test_decisions_are_in_the_order_of_outcomes_then_of_the_batch() -> None:
    low, cpu, loaded = Outcome.LOW_PRECISION, Outcome.ON_CPU, Outcome.LOADED
    found = decision([5, 3, 9, 1], [low, cpu, low, loaded])
    assert list(found.items()) == [(loaded, [1]), (cpu, [3]), (low, [5, 9])]
    assert decision([], []) == {}


def test_a_class_derived_from_load_is_not_load() -> None:
    class Mine(Load):
        def decide(self, missed: Any, step: Any, residents: Any) -> list[Outcome]:
            return [Outcome.ON_CPU for _ in missed]

    class Half(Split):
        pass

    assert (loaded_share(Load()), loaded_share(Mine()), loaded_share(Half(share=0.5))) == (1.0, None, None)
    routing = trace("01", "02", expert_bytes=100)
    found = run(routing, 4, action=Mine())
    assert found.tally.misses(Outcome.ON_CPU) == 4
    job = found.engine.residency
    assert job.action.name == "Mine"


def test_users_actions_run_in_the_engine_of_events_and_are_named(own: str) -> None:
    with RoutingTrace.open() as bundled:
        end = int(bundled.offsets[1])
        small = RoutingTrace.from_arrays(
            bundled.read("experts", 0, end), num_experts=bundled.num_experts, expert_bytes=100, model=bundled.model
        )
    found = simulate(small, "lru", hardware="rtx-3090", miss=f"{own}:Second:3", bounds=False)
    assert found.timed is not None
    assert found.timed.engine == "events"
    assert found.config["miss"] == "Second:after=3"
    assert found.to_dict()["missed"]["on_cpu"] > 0
    action = make_action(f"{own}:Second", machine())
    why = unsupported(found.timed.run, FixedCosts(), machine(), action)
    assert why == "miss action Second:after=2 is not load, cpu or split"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("return [None] * len(missed)", "decide() returned None, which is no outcome: return one of Outcome.LOADED, "),
        ("return [True] * len(missed)", "decide() returned True, which is no outcome"),
        ("return [9] * len(missed)", "decide() returned 9, which is no outcome"),
        ("return missed[:0]", "decide() returned 0 outcomes for 2 misses: return one for each, in order"),
        ("return None", "TypeError: 'NoneType' object is not iterable"),
        ("yield {}['k']", "KeyError: 'k'"),
        ("step.keys.clear(); return [0, 0]", "decide() changed the keys of the layer-step it was shown"),
        ("step.keys.reverse(); return [0, 0]", "decide() changed the keys of the layer-step it was shown"),
        ("exit(3)", "SystemExit: 3"),
    ],
)
def test_what_goes_wrong_is_told_with_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    body = f"class Mine(MissAction):\n    def decide(self, missed, step, residents): {line}\n"
    (tmp_path / "mine.py").write_text(f"from lrcsim.simulator.time import MissAction\n{body}")
    with pytest.raises(PolicyError) as failed:
        run(trace("01"), 4, action=f"{tmp_path}/mine.py:Mine")
    text = str(failed.value)
    assert text.startswith("miss action Mine failed at step 0, layer 0: ")
    assert said in text
    assert "mine.py:3 in Mine.decide)" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("body", "spec", "said"),
    [
        ("class Mine(MissAction): pass", "Mine", "class Mine has no method decide; a MissAction needs decide"),
        (
            "class Mine(MissAction):\n    def decide(self, missed): pass",
            "Mine",
            "Mine.decide(self, missed) cannot be called: write def decide(self, missed, step, residents)",
        ),
        ("class Mine: pass", "Mine", "mine.py:Mine' is no class derived from MissAction"),
        ("class Mine(MissAction): pass", "Other", "there is no class 'Other' there; there are Mine"),
        ("1 / 0", "Mine", "miss action module"),
        ("class Mine(MissAction):\n    needs = {'future'}", "Mine", "can only need 'weights'"),
    ],
)
def test_what_cannot_be_made_is_told_before_it_runs(tmp_path: Path, body: str, spec: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(f"from lrcsim.simulator.time import MissAction\n{body}\n")
    with pytest.raises(PolicyError) as failed:
        make_action(f"{tmp_path}/mine.py:{spec}", machine())
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)


def test_reset_files_and_parameters_that_fail(own: str, tmp_path: Path) -> None:
    class Mine(MissAction):
        def reset(self) -> None:
            raise KeyError("x")

        def decide(self, missed: Any, step: Any, residents: Any) -> list[Outcome]:
            return []

    with pytest.raises(PolicyError, match=r"action Mine failed in reset\(\): KeyError: 'x' \(.*test_own_miss_actions"):
        run(trace("01"), 4, action=Mine())
    with pytest.raises(PolicyError, match=r"miss action file .*gone\.py does not exist"):
        make_action(f"{tmp_path}/gone.py:Mine", machine())
    with pytest.raises(PolicyError, match=r"^Second: after must be at least 1, given 0"):
        make_action(f"{own}:Second:0", machine())
    with pytest.raises(
        ConfigError, match=r"use load, cpu, .*; did you mean 'low'\? your own are given as file.py:Class or"
    ):
        make_action("own", machine())
    with pytest.raises(ConfigError, match="miss must be text, given 3"):
        make_action(3, machine())  # type: ignore[arg-type]


def test_parameters_by_name_mean_the_same() -> None:
    for long, short in (
        ("split:share=0.25", "split:0.25"), ("skip:threshold=0.2,keep=2", "skip:0.2,keep=2"),
        ("low:0.2,fraction=0.5", "low:0.2,0.5"), ("low:fraction=0.5,threshold=0.2", "low:0.2,0.5"),
    ):  # fmt: skip
        assert make_action(long, machine()).label() == make_action(short, machine()).label() == short
    with pytest.raises(ConfigError, match="says threshold twice"):
        make_action("skip:0.1,threshold=0.2", machine())


@pytest.mark.parametrize("name", ACTIONS)
def test_every_rule_says_what_it_does(name: str) -> None:
    kind = ACTIONS[name]
    assert kind.name == name
    assert kind.summary.endswith(".")
    assert all(param.help for param in kind.params)
