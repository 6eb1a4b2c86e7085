"""Every error a user can cause, as one small tree.

    LrcsimError              the message is one line: what was given, what is allowed, how to fix it
    +-- TraceError           a trace, or a file to import, is not what it should be
    +-- ConfigError          an option has a value that is not allowed, or options exclude each other
    +-- PolicyError          a policy is unknown, cannot be loaded, or misbehaves during a run

The command line prints the message on standard error and exits with 1; in Python they are ``ValueError`` s too.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

LONGEST = 400
"""Letters of an error of somebody else's code that a message has."""


class LrcsimError(ValueError):
    """Base of the errors that are about the input, not about lrcsim."""


class TraceError(LrcsimError):
    """A routing trace, or a file to import as one, is malformed."""


class ConfigError(LrcsimError):
    """An option's value is not allowed."""


class PolicyError(LrcsimError):
    """A policy is unknown, cannot serve the trace, or broke its contract."""


def brief(error: BaseException) -> str:
    """Return an error that somebody else's code raised as one line: its kind, and the first line of its text.

    The second line too where the first ends with a colon; what is longer than `LONGEST` letters is cut.
    """
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def check_choice(what: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value that is none of a few words, with the closest of them.

    Raises:
        ConfigError: it is none.
    """
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise ConfigError(f"{what} {value!r} is not known, use {', '.join(allowed)}{hint}")


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string when none is close.

    Args:
        given: what the user wrote.
        allowed: the names there are.
    """
    if len(given) < 2:  # as close to a30 as anything
        return ""
    close = difflib.get_close_matches(given.lower(), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
