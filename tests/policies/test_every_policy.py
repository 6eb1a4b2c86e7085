"""What every built-in policy must have; a new one fails here until it has all of it."""

from __future__ import annotations

import re
from pathlib import Path

import naive
import naive_queues
import naive_scores
import pytest

from lrcsim.policies import BUILT_IN, FAMILIES, CompiledScore
from lrcsim.policies.kernels import Queue, Stack
from lrcsim.simulator.compiled.engine_for import engine_for, kernel_of

every = pytest.mark.parametrize("name", BUILT_IN)
HAND_SOLVED = Path(__file__).with_name("test_hand_solved.py").read_text()


@every
def test_a_case_is_solved_by_hand(name: str) -> None:
    assert re.search(rf'"{name}[":]', HAND_SOLVED), f"add a case of {name} to tests/policies/test_hand_solved.py"


@every
def test_its_law_is_written_down(name: str) -> None:
    laws = [*naive_scores.SCORE, *naive_queues.QUEUES, *naive.LOADED_AHEAD, *naive.ADMISSION]
    assert laws.count(name) == 1, (
        f"say what {name} evicts in tests/: naive_scores.SCORE, naive_queues.QUEUES, naive.LOADED_AHEAD or ADMISSION"
    )


@every
def test_it_says_where_it_comes_from(name: str) -> None:
    assert BUILT_IN[name].source, f"{name} has no source: name its paper or project"


@every
def test_it_runs_compiled(name: str) -> None:
    """At every capacity in slots at least; those that look ahead are stacks and no more."""
    policy = BUILT_IN[name]()
    assert engine_for(policy, hits_only=True) != "python", f"{name} names no kernel and is no CompiledScore"
    if name not in ("sch-lookahead", "sch-static"):
        assert engine_for(policy) == "compiled"


@every
def test_one_loop_runs_it_at_one_capacity(name: str) -> None:
    policy = BUILT_IN[name]
    kernels = vars(policy).get("kernels", ())
    assert all(sum(isinstance(kernel, kind) for kernel in kernels) <= 1 for kind in (Queue, Stack))
    assert not (issubclass(policy, CompiledScore) and kernel_of(policy, Queue) is not None)


def test_every_kernel_is_some_policys() -> None:
    named = [kernel for policy in BUILT_IN.values() for kernel in vars(policy).get("kernels", ())]
    assert [kernel for kind in (Queue, Stack) for kernel in kind if not any(kernel is one for one in named)] == []


def test_a_policy_stands_in_the_module_of_its_family() -> None:
    for family, policies in FAMILIES.items():
        assert {policy.__module__ for policy in policies} == {f"lrcsim.policies.{family}"}


def test_a_derived_class_has_no_kernel() -> None:
    for policy in BUILT_IN.values():
        derived = type("Mine", (policy,), {})
        assert kernel_of(derived, Queue) is None
        assert kernel_of(derived, Stack) is None
