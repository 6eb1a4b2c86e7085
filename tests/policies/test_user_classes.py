"""Classes as users write them: whatever is wrong is one line with the file, the line and what went wrong there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import PolicyError
from lrcsim.policies import CompiledScore, Policy, ScorePolicy, make_policy
from lrcsim.policies.registry import POLICIES
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.simulator.time import Prefetcher
from lrcsim.traces import RoutingTrace

TRACE = RoutingTrace.from_arrays(
    np.arange(60).reshape(20, 3, 1) % 7, num_experts=7, weights=np.ones((20, 3, 1), np.float32)
)

HEAD = "from lrcsim.policies import *\nX = [0]\n"
"""Two lines, so that the class begins in line 3."""


def told(tmp_path: Path, body: str, spec: str = "Mine", run: Any = simulate, **options: Any) -> str:
    """Write ``body`` after `HEAD` to mine.py, run ``mine.py:spec``; return the error with the folder left out."""
    file = tmp_path / "mine.py"
    file.write_text(HEAD + body)
    with pytest.raises(PolicyError) as failed:
        run(TRACE, f"{file}:{spec}", **{"cache": "2"} | options)
    text = str(failed.value)
    assert "\n" not in text
    return text.replace(f"{tmp_path}/", "")


def methods(**changed: str) -> str:
    """Return a policy that evicts the least key, some of its methods written otherwise, one a line from line 4 on."""
    plain = {
        "reset": "def reset(self): self.held = set()",
        "access": "def access(self, batch, missed): self.held |= set(batch)",
        "victim": "def victim(self, protected): return min(self.held - set(protected))",
        "evicted": "def evicted(self, key): self.held.discard(key)",
    }
    return "class Mine(Policy):\n" + "".join(f"    {line}\n" for line in (plain | changed).values() if line)


RAISED = {
    "KeyError: 3": "{}[3]",
    "ZeroDivisionError: division by zero": "1 / 0",
    "IndexError: list index out of range": "X[5]",
    "NameError: name 'nothing' is not defined": "nothing",
    "RecursionError: maximum recursion depth exceeded": "(lambda f: f(f))(lambda f: f(f))",
    "SystemExit: 3": "exit(3)",
    "StopIteration": "next(iter(()))",
    "AssertionError": "(_ for _ in ()).throw(AssertionError)",
    "ValueError: two lines": "(_ for _ in ()).throw(ValueError('two\\nlines'))",
    "PanicException: bad index": "(_ for _ in ()).throw(type('PanicException', (BaseException,), {})('bad index'))",
    "GeneratorExit": "(_ for _ in ()).throw(GeneratorExit)",
}

LINES = {"reset": 4, "access": 5, "victim": 6, "evicted": 7}


@given(method=st.sampled_from(sorted(LINES)), says=st.sampled_from(sorted(RAISED)))
def test_whatever_a_method_raises_is_placed(method: str, says: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    arguments = {"reset": "self", "access": "self, batch, missed", "victim": "self, protected", "evicted": "self, key"}
    text = told(
        tmp_path_factory.mktemp("user"),
        methods(**{method: f"def {method}({arguments[method]}): return {RAISED[says]}"}),
    )
    assert f": {says}" in text
    assert f"(mine.py:{LINES[method]} in Mine." in text
    assert text.startswith("policy Mine failed ")


def test_an_error_in_a_function_that_is_called_is_placed_there(tmp_path: Path) -> None:
    # HEAD has 2 lines, `helper` fails in line 4, and is called by `victim` in line 9
    body = "def helper():\n    return X['a']\n" + methods(victim="def victim(self, protected): return helper()")
    assert "(mine.py:4 in helper)" in told(tmp_path, body)


def test_ctrl_c_in_a_policy_is_no_failure_of_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + methods(victim="def victim(self, protected): raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        simulate(TRACE, f"{file}:Mine", 2)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ({"victim"}, "class Mine has no method victim; a Policy needs reset, access, victim, evicted"),
        ({"victim", "evicted"}, "class Mine has no method victim, evicted; a Policy needs"),
        ({"reset"}, "class Mine has no method reset; a Policy needs"),
    ],
)
def test_a_method_that_is_left_out_is_named(tmp_path: Path, left_out: set[str], said: str) -> None:
    text = told(tmp_path, methods(**dict.fromkeys(left_out, "")), cache="100%")  # before it would be called
    assert said in text
    assert text.startswith("mine.py:")


def test_what_the_bases_for_scores_need(tmp_path: Path) -> None:
    assert "class Mine has no method score; a ScorePolicy needs score" in told(
        tmp_path, "class Mine(ScorePolicy):\n    x = 1\n"
    )
    assert "has no method rank; a RankedPolicy needs rank" in told(tmp_path, "class Mine(RankedPolicy): pass\n")
    assert "has no method score; a CompiledScore needs score" in told(tmp_path, "class Mine(CompiledScore): pass\n")


def test_what_a_compiled_score_would_never_call(tmp_path: Path) -> None:
    """A class derived from a built-in one that evicts the smallest score writes ``score`` as that one does."""
    rank = "from lrcsim.policies.frequency import Lfu\nclass Mine(Lfu):\n    def rank(self, key, place, missed): pass\n"
    assert "mine.py:5: Mine.rank would never be called" in told(tmp_path, rank)
    score = "from lrcsim.policies.frequency import Lfru\nclass Mine(Lfru):\n    def score(self, key): return 1\n"
    assert "mine.py:5: Mine.score must be a plain static method" in told(tmp_path, score)
    with_self = "class Mine(CompiledScore):\n    def score(self, expert, now): return expert.uses\n"
    said = told(tmp_path, with_self)
    assert "Mine.score must be a plain static method: write @staticmethod and def score(expert, now)" in said


@pytest.mark.parametrize("name", ["score", "worth"])
def test_the_two_names_of_a_compiled_score(tmp_path: Path, name: str) -> None:
    """Errors say what the class says."""
    body = f"class Mine(CompiledScore):\n    @staticmethod\n    def {name}(expert, now): return "
    assert f"{name}() returned None" in told(tmp_path, body + "None\n")
    assert f"{name}() or update() cannot be compiled" in told(tmp_path, body + "X[expert]\n", run=curve)
    assert f"mine.py:4: Mine.{name} looks at expert.weight" in told(tmp_path, body + "expert.weight\n")
    file = tmp_path / "good.py"
    file.write_text(HEAD + body + "expert.uses\n")
    assert simulate(TRACE, f"{file}:Mine", 2).hit_rate == simulate(TRACE, "lfu", 2).hit_rate


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "def victim(self): return 1",
            "mine.py:6: Mine.victim(self) cannot be called: write def victim(self, protected)",
        ),
        ("victim = 3", "Mine.victim is no method: write def victim(self, protected)"),
        ("async def victim(self, protected): return 1", "Mine.victim is a coroutine or a generator"),
        ("def victim(self, protected): yield 1", "Mine.victim is a coroutine or a generator"),
    ],
)
def test_methods_that_cannot_be_called(tmp_path: Path, line: str, said: str) -> None:
    assert said in told(tmp_path, methods(victim=line))


SCORE = "class Mine(ScorePolicy):\n    def score(self, key): return {}\n"


@pytest.mark.parametrize("value", ["float('nan')", "None", "'3'", "1j", "b'1'", "(1, 2)", "[1]", "X.append"])
def test_scores_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    text = told(tmp_path, SCORE.format(value))
    assert "score() returned " in text
    assert "which is not a number for key " in text
    assert text.endswith("(layer 0, expert 0): return a float (mine.py:4 in Mine.score)")


@pytest.mark.parametrize(
    ("value", "hits"),
    [("float(key)", 5), ("key", 5), ("__import__('numpy').float32(key)", 5), ("10**30 - key", 6), ("True", 0)],
)
def test_scores_that_are_numbers(tmp_path: Path, value: str, hits: int) -> None:
    """Layers see 0 3 6 2 5 1 4 ..., 1 4 0 3 6 2 5 ... and 2 5 1 4 0 3 6 ..., 20 tokens, through two slots.

    Evicting the least, 6 stays from its first use on: it comes back 2 + 2 + 1 times. Evicting the greatest, 0 stays:
    2 + 2 + 2. Of equal scores the least recent goes, which never hits in a round.
    """
    (tmp_path / "mine.py").write_text(HEAD + SCORE.format(value))
    assert simulate(TRACE, f"{tmp_path / 'mine.py'}:Mine", 2).hit_rate == hits / 60


def test_ranks_and_worths_that_are_no_numbers(tmp_path: Path) -> None:
    ranked = "class Mine(RankedPolicy):\n    def rank(self, key, place, missed): return {}\n"
    for value in ("None", "(1, float('nan'))", "'a'"):
        assert "(mine.py:4 in Mine.rank)" in told(tmp_path, ranked.format(value))
    worth = "class Mine(CompiledScore):\n    @staticmethod\n    def worth(expert, now): return {}\n"
    for value in ("'3'", "None", "1j", "float('nan')"):
        assert "mine.py:" in told(tmp_path, worth.format(value))
        assert "mine.py:" in told(tmp_path, worth.format(value), run=curve)


def curve(trace: RoutingTrace, policy: str, cache: str) -> Any:
    return hit_rate_curve(trace, policy, capacities=[int(cache)])


def test_a_misspelled_field_is_answered_with_the_fields(tmp_path: Path) -> None:
    body = (
        "class Mine(CompiledScore):\n    @staticmethod\n    def score(expert, now):\n        return expert.last_stpe\n"
    )
    text = told(tmp_path, body, run=curve)
    assert "cannot be compiled (mine.py:6: Expert has no 'last_stpe'); it has layer, first_step, last_step, " in text
    assert text.endswith("; did you mean 'last_step'?")


def test_what_cannot_be_compiled_is_placed(tmp_path: Path) -> None:
    body = "class Mine(CompiledScore):\n    @staticmethod\n    def worth(expert, now):\n        return X[expert]\n"
    text = told(tmp_path, body, run=curve)
    assert "worth() or update() cannot be compiled (mine.py:6: " in text
    assert "\x1b" not in text
    for code, why in {
        "return 'a'": "mine.py:4: what it returns is not a number",
        "return expert.uses + 'a'": "mine.py:6: cannot compile add(int64, Literal[str](a))",
        "import os": "mine.py:6: Use of unsupported opcode",
    }.items():
        assert why in told(tmp_path, body.replace("return X[expert]", code), run=curve)
    failing = body.replace("return X[expert]", "return 1 / (expert.uses - expert.uses)")
    assert "(mine.py:4 in Mine.worth)" in told(tmp_path, failing, run=curve)


@pytest.mark.parametrize(
    ("field", "use"),
    [
        ("weights", "self.view.weights[0]"),
        ("weights", "[w for w in self.view.weights]"),
        ("weights", "sum(self.view.weights)"),
        ("weights", "self.view.weights[:1]"),
        ("weights", "dict(zip((key,), self.view.weights))"),
        ("weights", "__import__('numpy').asarray(self.view.weights)"),
        ("layer_weights", "max(self.view.layer_weights)"),
        ("next_use", "self.view.next_use[0]"),
        ("upcoming", "self.view.upcoming.uses(0)"),
        ("profile", "self.view.profile[key]"),
    ],
)
def test_a_field_that_was_not_asked_for(tmp_path: Path, field: str, use: str) -> None:
    need = {"next_use": "future", "upcoming": "future", "profile": "profile"}.get(field, "weights")
    text = told(tmp_path, SCORE.format(use))
    assert f'view.{field} is empty, it is filled in only for who asks: write needs = {{"{need}"}} in class Mine' in text
    assert "(mine.py:4 in Mine.score)" in text


def test_asking_for_a_field(tmp_path: Path) -> None:
    body = 'class Mine(ScorePolicy):\n    needs = {"weights"}\n    def score(self, key): return self.view.weights[0]\n'
    (tmp_path / "mine.py").write_text(HEAD + body)
    assert simulate(TRACE, f"{tmp_path / 'mine.py'}:Mine", 2).hit_rate == 0
    empty = SCORE.format("1.0 if self.view.weights else 2.0")  # to ask whether it is there is no use of it
    (tmp_path / "other.py").write_text(HEAD + empty)
    assert simulate(TRACE, f"{tmp_path / 'other.py'}:Mine", 2).hit_rate == 0


@pytest.mark.parametrize(
    ("what", "need"),
    [("expert.weight", "weights"), ("expert.weight_mean", "weights"), ("expert.next_use", "future")],
)
def test_a_field_of_an_expert_that_was_not_asked_for(tmp_path: Path, what: str, need: str) -> None:
    """It would be the same for all, and the policy LRU, without a word."""
    body = f"class Mine(CompiledScore):\n    @staticmethod\n    def worth(expert, now): return {what}\n"
    text = told(tmp_path, body)
    assert text == (
        f"mine.py:4: Mine.worth looks at {what}, which is filled in only for who asks: "
        f'write needs = {{"{need}"}} in the class'
    )
    body = body.replace("    @static", f'    wants = {{"{need}"}}\n    @static')
    (tmp_path / "asks.py").write_text(HEAD + body)
    make_policy(f"{tmp_path / 'asks.py'}:Mine")


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ('"weights"', 'must be a set of names: write needs = {"weights"} in class Mine'),
        ('{"wieghts"}', "did you mean 'weights'"),
        ("{3}", "must be a set of names"),
        ("None", "must be a set of names"),
    ],
)
def test_needs_that_are_none(tmp_path: Path, needs: str, said: str) -> None:
    text = told(tmp_path, f"class Mine(ScorePolicy):\n    needs = {needs}\n    def score(self, key): return 1\n")
    assert said in text
    assert "(mine.py:3)" in text


def test_needs_may_be_a_list() -> None:
    class Listed(ScorePolicy):
        needs = ["weights"]  # type: ignore[assignment]  # noqa: RUF012

        def score(self, key: int) -> float:
            return 0.0

    assert Listed.needs == {"weights"}


ARGUMENTS = (
    "class Mine(ScorePolicy):\n    def __init__(self, half_life, sign=1):\n"
    "        super().__init__()\n        self.half_life, self.sign = half_life, sign\n"
    "    def score(self, key): return self.sign * self.half_life * key\n"
)


def test_an_argument_without_default(tmp_path: Path) -> None:
    text = told(tmp_path, ARGUMENTS)
    assert text == (
        "mine.py:4: class Mine needs the argument 'half_life', which has no default: give it as "
        "mine.py:Mine:half_life=VALUE (in Python an object, Mine(half_life=...)), or give it a default"
    )
    assert "has no argument 'sgn', it has half_life, sign; did you mean 'sign'?" in told(
        tmp_path, ARGUMENTS, "Mine:half_life=1,sgn=2"
    )
    file = tmp_path / "mine.py"
    assert vars(make_policy(f"{file}:Mine:2"))["half_life"] == 2
    given = vars(make_policy(f"{file}:Mine:half_life=2.5,sign=-1"))
    assert (given["half_life"], given["sign"]) == (2.5, -1)


def test_a_constructor_that_fails(tmp_path: Path) -> None:
    body = SCORE.format("1") + "    def __init__(self): self.size = self.view.capacity\n"
    assert told(tmp_path, body) == (
        "Mine cannot be made: AttributeError: 'Mine' object has no attribute 'view', view is set before reset(), not "
        "yet in __init__ (mine.py:5 in Mine.__init__)"
    )


@pytest.mark.parametrize("change", ["missed.clear()", "batch.sort()", "batch.append(1)"])
def test_what_a_policy_is_shown_cannot_be_changed(tmp_path: Path, change: str) -> None:
    text = told(tmp_path, methods(access=f"def access(self, batch, missed): {change}"))
    assert "AttributeError: 'tuple' object has no attribute" in text
    assert "(mine.py:5 in Mine.access)" in text


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "returned None, which is not resident"),
        ("'a'", "returned 'a', which is not resident"),
        ("[1]", "returned [1], which is not resident"),
        ("2.5", "returned 2.5, which is not resident"),
        ("-1", "returned expert -1 (layer -1), which is not resident"),
        ("next(iter(protected))", "which belongs to the current batch"),
    ],
)
def test_victims_that_cannot_be(tmp_path: Path, returned: str, said: str) -> None:
    text = told(tmp_path, methods(victim=f"def victim(self, protected): return {returned}"))
    assert said in text
    assert "(mine.py:6 in Mine.victim)" in text


def test_victims_of_numpy_are_keys(tmp_path: Path) -> None:
    for kind in ("int64", "float64"):
        body = methods(
            victim=f"def victim(self, protected): return __import__('numpy').{kind}(min(self.held - set(protected)))"
        )
        (tmp_path / "mine.py").write_text(HEAD + body)
        assert simulate(TRACE, f"{tmp_path / 'mine.py'}:Mine", 2).hit_rate == 5 / 60  # as above


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def (", "SyntaxError: invalid syntax"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise GeneratorExit", "GeneratorExit (mine.py:3)"),
        ("raise type('PanicException', (BaseException,), {})('no')", "PanicException: no"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.setrecursionlimit", "there is no class 'Mine' there"),
        ("class Mien(ScorePolicy):\n    def score(self, key): return 1", "did you mean 'Mien'?"),
        ("class Mine: pass", "is no class derived from Policy"),
        ("def Mine(): pass", "is no class derived from Policy"),
        ("class Mine(ScorePolicy):\n    params = 3", "params are a tuple"),
        ("class Mine(ScorePolicy):\n    params = ('a',)", "params must hold Param objects"),
    ],
)
def test_files_that_do_not_load(tmp_path: Path, body: str, said: str) -> None:
    text = told(tmp_path, f"{body}\n")
    assert said in text
    if "cannot be loaded" in text:
        assert text.endswith("(mine.py:3)")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("./mine:Mine", "./mine is neither a file that ends in .py nor the name of a module, as package.module"),
        ("/:Mine", "/ is neither a file"),
        ("..:Mine", ".. is neither a file"),
        (f"{'mine' * 2000}.py:Mine", "does not exist"),
        ("mine" * 2000, "there is no policy"),
        ("lrcsim.policies:ScorePolicy", "lrcsim.policies:ScorePolicy is a base to derive a class of your own from"),
        ("lrcsim.policies:Policy", "is a base to derive"),
    ],
)
def test_what_is_no_file_and_no_module(spec: str, said: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(said)):
        make_policy(spec)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("def label(self): return 3", "Mine.label() returned 3: return text (mine.py:5 in Mine.label)"),
        ("def label(self): return X[5]", "label() of Mine failed: IndexError: list index out of range (mine.py:5 in"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, line: str, said: str) -> None:
    body = SCORE.format("1") + f"    {line}\n"
    assert said in told(tmp_path, body)


def test_parameters_that_a_constructor_keeps_to_itself(tmp_path: Path) -> None:
    body = SCORE.format("1") + "    params = (Param('half', 3, 'x'),)\n    def __init__(self, half=3): self.h = half\n"
    assert "'half', __init__ must pass parameters on: super().__init__(half=...)" in told(tmp_path, body)


def test_a_dataclass_is_placed_in_its_file(tmp_path: Path) -> None:
    body = f"from dataclasses import dataclass\n@dataclass\n{SCORE.format('1')}    size: int\n"
    assert told(tmp_path, body).startswith("mine.py:6: class Mine needs the argument 'size'")


def test_a_file_is_run_once_until_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + SCORE.format("key") + f"with open({str(tmp_path / 'ran')!r}, 'a') as ran: ran.write('x')\n")
    make_policy(f"{file}:Mine")
    simulate(TRACE, f"{file}:Mine", 2)
    assert (tmp_path / "ran").read_text() == "x"
    file.write_text(HEAD + SCORE.format("key * 100"))
    assert "mine.py" in str(sys.modules[type(make_policy(f"{file}:Mine")).__module__].__file__)
    assert type(make_policy(f"{file}:Mine")).score(None, 1) == 100  # type: ignore[attr-defined]


def test_paths_that_are_there_may_have_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "we ird").mkdir()
    (tmp_path / "we ird" / "m:y.py").write_text(HEAD + SCORE.format("key"))
    assert make_policy("we ird/m:y.py:Mine").name == "Mine"
    monkeypatch.setenv("HOME", str(tmp_path / "we ird"))
    assert make_policy("~/m:y.py:Mine").name == "Mine"


def test_which_are_built_in() -> None:
    assert all(map(POLICIES.is_built_in, ("lru", "LFU", "sch-lookahead:16", "min", "s3_fifo:share=0.2")))
    assert not any(
        map(POLICIES.is_built_in, ("mine.py:Mine", "os:system", "lrcsim.policies:Policy", "a/b:C", "", "nothing"))
    )


def test_prefetchers(tmp_path: Path) -> None:
    class Nothing(Prefetcher):
        pass

    with pytest.raises(PolicyError, match="class Nothing has no method propose; a Prefetcher needs propose"):
        make_prefetcher(Nothing)
    file = tmp_path / "mine.py"
    cases = {
        "return [None]": "propose() returned None",
        "return [10**6]": "propose() returned 1000000, which is no expert",
        "return None": "TypeError: 'NoneType' object is not iterable",
        "yield {}['k']": "KeyError: 'k'",
        "step.layers[place].keys.clear(); return ()": "changed the keys of the step it was shown",
        "exit(3)": "SystemExit: 3",
    }
    with RoutingTrace.open() as trace:
        end = int(trace.offsets[1])
        small = RoutingTrace.from_arrays(
            trace.read("experts", 0, end), num_experts=trace.num_experts, expert_bytes=100, model=trace.model
        )
    for line, said in cases.items():
        body = f"class Mine(Prefetcher):\n    def propose(self, step, place): {line}\n"
        file.write_text(f"from lrcsim.simulator.time import Prefetcher\n{body}")
        with pytest.raises(PolicyError) as failed:
            simulate(small, "lru", hardware="rtx-3090", prefetch=f"{file}:Mine", bounds=False)
        assert said in str(failed.value)
        assert "mine.py:3 in Mine.propose)" in str(failed.value)


def test_classes_of_lrcsim_are_not_checked_call_by_call() -> None:
    from lrcsim.policies.guard import guarded

    lru = make_policy("lru")
    assert guarded(lru) is lru
    assert not type(lru)._users
    assert isinstance(make_policy("lfu"), Policy)
    assert issubclass(CompiledScore, ScorePolicy)


def test_a_class_called_lru_is_not_the_reference() -> None:
    """Experts of unequal size: the references are replayed, and once the run of a class called lru was taken for one.

    Two experts of layer 0 take turns, 4 bytes each of 4: LRU never hits; a class that keeps what it has would.
    """

    class Mine(ScorePolicy):
        name = "lru"
        bypass = True

        def victim(self, protected: Any) -> int:
            return max(key for key in self.last_use if key not in protected)

        def score(self, key: int) -> float:
            return 0.0

    def trace() -> RoutingTrace:
        ids = np.stack([np.arange(12) % 3, np.arange(12) % 2], axis=1)[:, :, None]
        return RoutingTrace.from_arrays(ids, num_experts=3, expert_bytes=[4, 8])

    given: dict[str, Any] = {"cache": "12B", "scope": "model"}
    told_of, alone = simulate(trace(), Mine(), **given).lru, simulate(trace(), "lru", **given)
    assert told_of is not None
    assert told_of.hit_rate == alone.hit_rate
