"""Plug-ins by name, whatever their kind: shown with a kind made up for it, and with the groups of entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from lrcsim.base.configurable import Configurable, Param
from lrcsim.base.errors import ConfigError, LrcsimError, PolicyError
from lrcsim.base.plugins import Given, Registry, make, split_spec
from lrcsim.hardware import load_profile
from lrcsim.policies import make_policy
from lrcsim.policies.registry import POLICIES
from lrcsim.simulator.setup.miss_actions import REGISTRY as MISS_ACTIONS
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.prefetchers import REGISTRY as PREFETCHERS
from lrcsim.simulator.setup.prefetchers import make_prefetcher


class Rule(Configurable):
    """Base of a kind of plug-in: write ``pick``."""

    noun = "rule"
    methods = ("pick",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"pick": ("first", "second"), "rest": ()}
    may_yield = ("rest",)

    def pick(self, first: int, second: int) -> int:
        raise NotImplementedError

    def rest(self) -> object:
        return ()


class Least(Rule):
    """The smaller of two."""

    name = "the-least"
    aliases = ("min",)
    params = (Param("margin", 0.0, "how much smaller", minimum=0), Param("also", "", "text"))

    def pick(self, first: int, second: int) -> int:
        return min(first, second)


class First(Rule):
    """The first of two."""

    name = "first"

    def pick(self, first: int, second: int) -> int:
        return first


RULES: Registry[Rule] = Registry(
    Rule, (Least, First), group="lrcsim.rules_of_test", unknown="no rule {name!r} of {names}{close}", error=ConfigError
)


@pytest.mark.parametrize(
    ("spec", "place", "name", "parameters"),
    [
        (r"C:\dir\mine.py:Cls", r"C:\dir\mine.py", "Cls", ""),
        ("C:/dir/mine.py:Cls:a=1,b=C:/x", "C:/dir/mine.py", "Cls", "a=1,b=C:/x"),
        ("mine.py:Cls:16", "mine.py", "Cls", "16"),
        ("a b/mine.py:Cls", "a b/mine.py", "Cls", ""),
        ("~/mine.py:Cls", "~/mine.py", "Cls", ""),
        ("./a.py/b.py:Cls", "./a.py/b.py", "Cls", ""),
        ("mine.py", "mine.py", "", ""),
        ("pkg.mod:Cls:x=1", "pkg.mod", "Cls", "x=1"),
        ("lfu-decay:half_life=2.5", None, "lfu-decay", "half_life=2.5"),
        ("lru", None, "lru", ""),
    ],
)
def test_how_a_plugin_is_given(spec: str, place: str | None, name: str, parameters: str) -> None:
    assert split_spec(spec) == Given(place, name, parameters)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("the-least", "the-least:margin=0.0,also="),
        (" The_Least : 2 ", "the-least:margin=2.0,also="),
        ("min:also=x", "the-least:margin=0.0,also=x"),
        ("first", "first"),
        (First, "first"),
        (Least(margin=3), "the-least:margin=3.0,also="),
    ],
)
def test_names_parameters_classes_and_objects(spec: str | Rule | type[Rule], label: str) -> None:
    assert RULES.make(spec).label() == label


def test_an_object_stays_itself() -> None:
    made = Least()
    assert RULES.make(made) is made


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("furst", ConfigError, "no rule 'furst' of the-least, first; did you mean 'first'?"),
        ("{names}", ConfigError, "no rule '{names}' of the-least, first"),
        ("first:1", PolicyError, "first has no parameters, given '1'"),
        ("min:-1", PolicyError, "the-least: margin must be at least 0, given -1"),
        ("min:1,margin=2", PolicyError, "the-least: margin is given twice in '1,margin=2'"),
        ("nowhere.py:Mine", PolicyError, "rule file nowhere.py does not exist"),
        ("no.module:Mine", PolicyError, "rule module no.module cannot be loaded: ModuleNotFoundError: No module named"),
        ("os.path", PolicyError, "rule 'os.path' names a module but no class: write os.path:ClassName"),
        ("lrcsim.policies:Policy", PolicyError, "rule 'lrcsim.policies:Policy' is no class derived from Rule"),
        (3, PolicyError, "rule must be a name, a class of Rule or an object of one, given 3"),
        (Rule, PolicyError, "class Rule has no method pick; a Rule needs pick"),
    ],
)
def test_what_cannot_be_made(spec: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as failed:
        RULES.make(spec)
    assert message in str(failed.value)


def test_a_file_of_the_name_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first2.py").touch()
    with pytest.raises(ConfigError, match=r"did you mean first2\.py:Class\?"):
        RULES.make("first2")


def test_which_are_built_in() -> None:
    assert all(map(RULES.is_built_in, ("first", "FIRST", "min:2", "the_least:also=first")))
    assert not any(map(RULES.is_built_in, ("mine.py:First", "os:first", "", "nothing")))


def test_find_leaves_the_parameters_as_text() -> None:
    assert RULES.find("min:0.1,0.2") == (Least, "0.1,0.2")


def test_methods_are_held_to_what_they_are_called_with() -> None:
    """What a kind of plug-in is called with, and which methods may be generators, is declared on its base."""

    def fails(**methods: object) -> str:
        with pytest.raises(PolicyError) as failed:
            make(type("Mine", (First,), methods), "", "Mine")
        return str(failed.value)

    assert fails(pick=lambda self, first: 1).endswith("cannot be called: write def pick(self, first, second)")
    assert fails(rest=lambda self, one: 1).endswith("cannot be called: write def rest(self)")
    assert "Mine.rest is no method: write def rest(self, )" in fails(rest=3)

    def several(self: object, *_: object) -> Iterator[int]:
        yield 1

    assert "Mine.pick is a coroutine or a generator" in fails(pick=several)
    assert isinstance(make(type("Mine", (First,), {"rest": several}), "", "Mine"), First)


def test_a_kind_may_check_its_classes() -> None:
    class Careful(Rule):
        methods = ("pick",)

        @classmethod
        def check_class(cls) -> None:
            if not hasattr(cls, "colour"):
                raise PolicyError(f"class {cls.__name__} has no colour")

        def pick(self, first: int, second: int) -> int:
            return 0

    with pytest.raises(PolicyError, match="class Mine has no colour"):
        make(type("Mine", (Careful,), {"pick": First.pick}), "", "Mine")
    made = make(type("Mine", (Careful,), {"pick": First.pick, "colour": "red"}), "", "Mine")
    assert made.pick(3, 4) == 3


PLUGIN = """
from lrcsim.policies import Param, ScorePolicy
from lrcsim.simulator.setup.miss_actions import MissAction
from lrcsim.simulator.time import Prefetcher

class ThePolicy(ScorePolicy):
    params = (Param("sign", 1, "1 or -1"),)
    def score(self, key):
        return self.sign * key

class ThePrefetcher(Prefetcher):
    params = (Param("sign", 1, "1 or -1"),)
    def propose(self, step, place):
        yield from ()

class TheAction(MissAction):
    params = (Param("sign", 1, "1 or -1"),)
    def decide(self, missed, step, residents):
        yield from ()
"""


@pytest.mark.parametrize(
    ("registry", "maker", "name"),
    [
        (POLICIES, make_policy, "ThePolicy"),
        (PREFETCHERS, make_prefetcher, "ThePrefetcher"),
        (MISS_ACTIONS, partial(make_action, machine=load_profile("rtx-4090")), "TheAction"),
    ],
)
def test_entry_points(
    registry: Registry[Configurable],
    maker: Callable[[str], Configurable],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A distribution that is installed offers plug-ins; nothing of it is run before it is asked for."""
    (tmp_path / "plugin_module_of_test.py").write_text(PLUGIN)
    info = tmp_path / "plugin_of_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.group}]\nMine_Of-Test = plugin_module_of_test:{name}\nabsent = plugin_module_of_test:Absent\n"
        "other = plugin_module_of_test:Param\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    noun = registry.base.noun
    assert set(registry.plugins()) >= {"mine-of-test", "absent", "other"}
    assert not registry.is_built_in("mine-of-test")
    assert "plugin_module_of_test" not in sys.modules
    assert vars(maker("mine-of-test:sign=-1"))["sign"] == -1
    assert maker("mine-of-test:sign=-1").label() == f"{name}:sign=-1"
    assert type(maker("Mine_of_test")).__name__ == name
    with pytest.raises(PolicyError, match=rf"{noun} 'absent' \(plugin_module_of_test:Absent\) cannot be loaded: Attr"):
        maker("absent")
    with pytest.raises(PolicyError, match=f"{noun} 'plugin_module_of_test:Param' is no class derived from"):
        maker("other")
    with pytest.raises(LrcsimError, match=r"; did you mean 'mine-of-test'\?"):
        maker("mine-of-tset")
    sys.modules.pop("plugin_module_of_test", None)
