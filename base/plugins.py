"""Plug-ins by name: those built in, those of installed packages, and classes in users' files and modules.

One way for every kind: policies, prefetchers and what else derives from `Configurable` have a `Registry` each.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from os.path import expanduser, isfile  # of impossible names they say no, where Path raises
from typing import Any, Generic, NamedTuple, TypeVar

from lrcsim.base.configurable import Configurable
from lrcsim.base.errors import LrcsimError, PolicyError, did_you_mean
from lrcsim.base.plugin_checks import check_arguments, check_label, check_methods, own_arguments
from lrcsim.base.user_code import is_users, said, telling
from lrcsim.base.user_modules import load_module, where_failed

Kind = TypeVar("Kind", bound=Configurable)


class Registry(Generic[Kind]):
    """All plug-ins of one kind.

    Attributes:
        base: the class that all are derived from.
        built_in: lrcsim's own, by name.
        group: entry-point group in which installed packages offer theirs.
    """

    def __init__(
        self,
        base: type[Kind],
        classes: Iterable[type[Kind]],
        group: str,
        unknown: str,
        error: type[LrcsimError] = PolicyError,
    ) -> None:
        """Take the built-in classes.

        Args:
            base: the class that all are derived from.
            classes: lrcsim's own.
            group: entry-point group.
            unknown: what is said of a name that nobody has: a format of ``name``, of ``names``, all there are, and of
                ``close``, a suggestion that begins with a semicolon.
            error: kind of that error.
        """
        self.base = base
        self.built_in = {kind.name: kind for kind in classes}
        self.group = group
        self._aliases = {alias: kind.name for kind in self.built_in.values() for alias in kind.aliases}
        self._unknown, self._error = unknown, error

    def plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Return what installed packages offer, by name."""
        return {_plain(point.name): point for point in importlib.metadata.entry_points(group=self.group)}

    def is_built_in(self, spec: str) -> bool:
        """Return whether it is one of lrcsim's own by name, so that making it runs nobody else's code."""
        given = split_spec(spec)
        return given.place is None and self._name(given.name) in self.built_in

    def make(self, spec: str | Kind | type[Kind]) -> Kind:
        """Make one object.

        Args:
            spec: a name, a class in a file (``"my.py:Mine"``) or module (``"pkg.mod:Mine"``), each also with
                parameters (``"name:16"``, ``"my.py:Mine:a=1,b=2"``); a class, or an object, which is returned.

        Raises:
            PolicyError: there is none, its file or module cannot be loaded, it lacks a method, or a parameter is wrong.
        """
        if isinstance(spec, self.base):
            check_methods(type(spec))
            check_label(spec)
            return spec
        if isinstance(spec, type) and issubclass(spec, self.base):
            return make(spec, "", spec.__name__)
        if not isinstance(spec, str):
            noun, base = self.base.noun, self.base.__name__
            raise PolicyError(f"{noun} must be a name, a class of {base} or an object of one, given {spec!r}")
        kind, text = self.find(spec)
        return make(kind, text, spec)

    def find(self, spec: str) -> tuple[type[Kind], str]:
        """Return the class that a text names, and the text of its parameters.

        Raises:
            PolicyError: there is none (or the registry's own error), or its file or module cannot be loaded.
        """
        given = split_spec(spec)
        if given.place is None:
            return self._named(given.name), given.parameters
        return class_in(spec, given.place, given.name, self.base), given.parameters

    def _name(self, name: str) -> str:
        return self._aliases.get(_plain(name), _plain(name))

    def _named(self, name: str) -> type[Kind]:
        wanted = self._name(name)
        if wanted in self.built_in:
            return self.built_in[wanted]
        offered = self.plugins()
        if wanted not in offered:
            raise self._error(self._no_such(name, offered))
        point = offered[wanted]
        try:
            loaded = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PolicyError(
                f"{self.base.noun} {name!r} ({point.value}) cannot be loaded: {said(error)}{where_failed(error)}"
            ) from error
        return _checked(point.value, loaded, self.base)

    def _no_such(self, name: str, offered: Iterable[str]) -> str:
        names = [*self.built_in, *offered]
        file = f"{name.strip()}.py"
        close = f"; did you mean {file}:Class?" if isfile(file) else did_you_mean(name, [*names, *self._aliases])
        told = self._unknown.format(name=name, names=", ".join(names), close=close)
        return told.replace(f"{close};", close) if close else told  # no semicolon behind its question mark


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


class Given(NamedTuple):
    """What a plug-in was given as.

    Attributes:
        place: path of a file ending in ``.py``, or a module's full name; None for a plain name.
        name: of the class in it, or the plain name.
        parameters: what follows.
    """

    place: str | None
    name: str
    parameters: str


def split_spec(spec: str) -> Given:
    r"""Take ``name:PARAMS``, ``file.py:Class:PARAMS`` or ``pkg.mod:Class:PARAMS`` apart.

    A path may have colons (``C:\dir\mine.py``), blanks and a ``~``: it ends with a ``.py`` that a colon, or
    nothing, follows.
    """
    ends = [found.end() for found in re.finditer(r"\.py(?=:|$)", spec)]
    head, _, rest = spec.partition(":")
    file = next((end for end in ends if isfile(expanduser(spec[:end]))), None)
    drive = len(head) == 1 and rest[:1] in ("\\", "/")
    if file is None and ends and (drive or re.search(r"\.py$|[/\\ ~]", head)):
        file = ends[0]
    if file is not None:
        head, rest = spec[:file], spec[file + 1 :]
    elif not re.search(r"[./\\]", head):
        return Given(None, head, rest)
    name, _, parameters_given = rest.partition(":")
    return Given(head, name.strip(), parameters_given)


def make(chosen: type[Kind], text: str, spec: str) -> Kind:
    """Make an object of a class with the parameters of a text.

    Args:
        chosen: the class.
        text: its parameters, ``"16"`` or ``"a=1,b=2"``.
        spec: what the user gave, for errors.

    Raises:
        PolicyError: it lacks a method, a parameter is wrong or missing, or its ``__init__`` fails.
    """
    kind: Any = chosen
    if not is_users(kind):
        made: Kind = kind(**parameters(kind, text))
        return made
    check_methods(kind)
    head = spec[: len(spec) - len(text) - 1] if text else spec
    given: dict[str, Any] = dict(parameters(kind, text))
    own = own_arguments(kind)
    for name in given:
        if name in own:  # no Param says of what type it is
            given[name] = _value(given[name])
    check_arguments(kind, given, head)
    with telling(kind, f"{kind.__name__} cannot be made", "__init__"):
        made = kind(**given)
    if not isinstance(made, chosen):  # its __new__ makes something else
        raise PolicyError(f"{kind.__name__} makes {type(made).__name__}, which is no {kind.__name__}")
    check_label(made)
    return made


def _value(text: str) -> int | float | str:
    """Read a number, or leave the text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def class_in(spec: str, place: str, class_name: str, base: type[Kind]) -> type[Kind]:
    """Return a class derived from ``base`` out of a file or module.

    Args:
        spec: what the user gave, for errors.
        place: path of a file ending in ``.py``, or a module's full name.
        class_name: the class in it.
        base: what it must derive from.

    Raises:
        PolicyError: there is no such file, module or class, or it is of another kind.
    """
    module = load_module(place, base.noun)
    if not class_name:
        raise PolicyError(f"{base.noun} {spec!r} names a module but no class: write {spec.rstrip(':')}:ClassName")
    if not hasattr(module, class_name):
        there = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)]
        mine = [kind.__name__ for kind in there if kind.__module__ == module.__name__]
        offered = mine or [kind.__name__ for kind in there]
        close = did_you_mean(class_name, [name.lower() for name in offered])
        hint = next((f"; did you mean {name!r}?" for name in offered if repr(name.lower()) in close), "")
        raise PolicyError(
            f"{base.noun} {spec!r}: there is no class {class_name!r} there"
            + (f"; there are {', '.join(offered)}" if len(offered) > bool(hint) else "")
            + (hint if offered else f", and none derived from {base.__name__}")
        )
    return _checked(spec, getattr(module, class_name), base)


def _checked(spec: str, value: object, base: type[Kind]) -> type[Kind]:
    if not (isinstance(value, type) and issubclass(value, base)):
        raise PolicyError(f"{base.noun} {spec!r} is no class derived from {base.__name__}")
    if not is_users(value) and "methods" in vars(value):
        raise PolicyError(f"{spec} is a base to derive a class of your own from, and can do nothing itself")
    return value


def parameters(kind: type[Configurable], text: str) -> dict[str, str]:
    """Read ``"16"`` (the main parameter) or ``"a=1,b=2"``.

    Raises:
        PolicyError: there are no parameters, or one is given twice.
    """
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            names = [param.name for param in kind.params] or (own_arguments(kind) if is_users(kind) else [])
            if not names:
                raise PolicyError(f"{kind.name} has no parameters, given {text!r}")
            name, value = names[0], part
        if name.strip() in given:
            raise PolicyError(f"{kind.name}: {name.strip()} is given twice in {text!r}")
        given[name.strip()] = value.strip()
    return given
