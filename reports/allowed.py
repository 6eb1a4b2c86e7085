"""What of all that a result names may be used: it may come from a stranger.

Nothing that only a result names is run, and no file is opened but traces that are the result's own or lie beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.traces.files import sha256_of


class Unavailable(Exception):  # noqa: N818  # a reason, not a mistake
    """Something cannot be worked out; the message says why, in words for the page."""


@dataclass(frozen=True)
class Allowed:
    """What of all that a result names may be used: it may come from a stranger.

    Attributes:
        trace: the trace, where the user has named it; None: the one that the result names, if that may be opened.
        profile: the same of the trace that popularity is taken from.
        code: whether a policy that is not lrcsim's own may be run.
        beside: folders in which (or below which) a result may name a trace that it does not know the SHA-256 of; None:
            anywhere.
    """

    trace: str | None = None
    profile: str | None = None
    code: bool = False
    beside: tuple[Path, ...] | None = None


def trace_to_open(was: dict[str, Any], known: dict[str, Any], allowed: Allowed) -> str:
    """Return the trace to open, as the user says or the result."""
    path = was.get("path") if allowed.trace is None else allowed.trace
    if allowed.trace is None:
        _named_file(path, known.get("trace_sha256"), allowed, "--trace")
    elif not allowed.trace.startswith("bundled:") and not Path(allowed.trace).is_file():
        raise Unavailable(f"its trace {path} is not there (--trace FILE says where it is now)")
    return str(path)


TRACE_ENDINGS = (".h5", ".hdf5")


def _named_file(path: object, sha256: object, allowed: Allowed, option: str) -> None:
    """Refuse to open what a result names unless it is a trace by its name, and the result's own or beside it.

    A stranger's result may name any file of this machine (``/etc/passwd``, a device, a share in the network). A file
    is opened if it ends in .h5 or .hdf5 where its links end, and the result knows its SHA-256, or it lies where the
    result does.

    Raises:
        Unavailable: it is not to be opened; the message says what to give.
    """
    if not isinstance(path, str) or "\0" in path:
        raise Unavailable("the result does not say in which file its trace is (--trace FILE says it)")
    if path.startswith("bundled:"):
        return
    if path.startswith(("//", "\\\\")):
        raise Unavailable(f"{path} is in the network, where a result may not send one: {option} FILE says where it is")
    file = Path(path).resolve()
    if file.suffix.lower() not in TRACE_ENDINGS:
        raise Unavailable(
            f"its trace {path} does not end in {' or '.join(TRACE_ENDINGS)}, and no other file that a result names is "
            f"opened: {option} FILE says where it is"
        )
    if not file.is_file():
        raise Unavailable(f"its trace {path} is not there ({option} FILE says where it is now)")
    if sha256 is None and allowed.beside is not None:
        folders = [folder.resolve() for folder in allowed.beside]
        if not any(file.is_relative_to(folder) for folder in folders):
            raise Unavailable(
                f"the result does not say the SHA-256 of {path}, which is in another folder than the result: "
                f"{option} {path} says that it may be opened"
            )


def profile_to_open(named: object, known: dict[str, Any], allowed: Allowed) -> str | None:
    """Return the trace to take popularity from, as the user says or the result; None: the run takes none."""
    if allowed.profile is not None:
        return allowed.profile
    if named is None or named == "self":
        return named
    before = known.get("profile_sha256")
    _named_file(named, before, allowed, "--profile")
    if before not in (None, sha256_of(str(named))):
        raise Unavailable(f"its profile {named} has changed since the run (--profile FILE says where it is now)")
    return str(named)
