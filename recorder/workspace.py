"""The folder that a recording works in while it is unfinished: its settings, and a lock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.base.files import replacing
from lrcsim.base.locks import lock


class Workspace:
    """``.OUT.h5.recording`` beside ``OUT.h5``, for one process at a time.

    Args:
        out: the trace to be written in the end.
        settings: what determines the trace, as JSON values; a recording is only resumed with the same.
        restart: drop what an earlier, unfinished recording left.

    Attributes:
        folder: the folder.
        started: when the recording was begun (ISO 8601), by this run or an earlier one.

    Raises:
        TraceError: the folder cannot be written, or another process is recording there.
        ConfigError: an unfinished recording with other settings is there.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.out = out
        if not out.absolute().parent.is_dir():
            raise TraceError(f"{out}: the folder {out.parent} does not exist")
        if out.is_dir():
            raise TraceError(f"{out}: is a folder, name a file")
        self.folder = out.with_name(f".{out.name}.recording")
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = _locked(self.folder / "lock")
        except OSError as error:
            raise TraceError(f"{self.folder}: cannot be written ({error.strerror or error})") from None
        try:
            self.started = self._begin(json.loads(json.dumps(settings)), restart)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, wanted: dict[str, Any], restart: bool) -> str:
        about = self.folder / "settings.json"
        if restart:
            for path in self.folder.iterdir():
                if path.name != "lock":
                    path.unlink()
        if about.exists():
            kept = json.loads(about.read_text(encoding="utf-8"))
            self._compare(kept["settings"], wanted)
            return str(kept["started"])
        started = datetime.now(UTC).isoformat(timespec="seconds")
        with replacing(about) as partial:
            partial.write_text(json.dumps({"settings": wanted, "started": started}), encoding="utf-8")
        return started

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        """Let others have the folder; one in which nothing was kept is removed."""
        self._lock.close()
        if self.folder.exists() and {path.name for path in self.folder.iterdir()} <= {"lock", "settings.json"}:
            shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder."""
        self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _compare(self, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        changed = [key for key in {**kept, **wanted} if kept.get(key) != wanted.get(key)]
        if changed:
            what = ", ".join(f"{key} {kept.get(key)!r}, now {wanted.get(key)!r}" for key in changed)
            raise ConfigError(
                f"{self.out}: an unfinished recording is there, begun with other settings ({what[:300]}); "
                "finish it with those, or drop it with --restart"
            )


def _locked(path: Path) -> IO[str]:
    """Open a file that one process at a time can hold; the system lets go of it when the process ends, however.

    Raises:
        TraceError: another process holds it.
    """
    handle = path.open("w", encoding="utf-8")
    try:
        lock(handle.fileno())
    except OSError:
        handle.close()
        raise TraceError(f"{path.parent}: another process is recording to the same file") from None
    return handle
