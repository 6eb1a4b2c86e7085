"""The rules that are done, in a file beside the output, for a run that is stopped and begun again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.frontier.rules import NONE, Compared

Row = dict[str, Any]

SAME_LOSS = 1e-6
"""Nats by which the loss of a model may differ from what an earlier, stopped run found: those of two processes."""


class Unfinished:
    """``.OUT.rules.jsonl`` beside ``OUT``: a line that says what is run, then one for every rule that is done.

    Args:
        out: the output; None: nothing is kept.
        determined: what determines the rows, as JSON values; rows are only taken over if it is the same.
        restart: drop what an earlier run left.

    Attributes:
        rows: by label, what an earlier run has done.

    Raises:
        ConfigError: an earlier run with other models, prompts or options was not finished.
        TraceError: the file cannot be read or written.
    """

    def __init__(self, out: str | Path | None, determined: Mapping[str, Any], *, restart: bool = False) -> None:
        self.out = out
        self.path = None if out is None else Path(out).with_name(f".{Path(out).name}.rules.jsonl")
        self.rows: dict[str, Row] = {}
        head = json.loads(json.dumps(determined))
        if self.path is None:
            return
        try:
            lines = [] if restart or not self.path.exists() else _whole_lines(self.path.read_bytes())
            if lines and lines[0] != head:
                differ = sorted(name for name in head.keys() | lines[0].keys() if head.get(name) != lines[0].get(name))
                raise ConfigError(
                    f"{out}: an unfinished run with other {', '.join(differ)} is there; give the same again, or "
                    "--restart"
                )
            self.rows = {row["rule"]: row for row in lines[1:]}
            text = "".join(json.dumps(line) + "\n" for line in (head, *self.rows.values()))
            self.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def add(self, row: Row) -> None:
        """Keep a rule that is done.

        Raises:
            TraceError: the file cannot be written.
        """
        self.rows[row["rule"]] = row
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def has(self, rule: Compared) -> bool:
        """Return whether an earlier run did a rule; a user's only if its file is still the same."""
        row = self.rows.get(rule.label)
        return row is not None and row.get("source_sha256") == rule.source

    def begin(self, row: Row) -> None:
        """Keep the row of ``none``, or refuse rows of an earlier run on other weights.

        Raises:
            ConfigError: the model had another loss then.
            TraceError: the file cannot be written.
        """
        before = self.rows.get(NONE)
        if before is None:
            self.add(row)
        elif abs(before["loss"] - row["loss"]) > SAME_LOSS:
            raise ConfigError(
                f"{self.out}: an unfinished run is there in which the model had a loss of {before['loss']:.6f} nats, "
                f"now it is {row['loss']:.6f}: other weights; use --restart"
            )

    def discard(self) -> None:
        """Remove the file: what it held is in the output now."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _whole_lines(data: bytes) -> list[Any]:
    """Return the lines that were written to their end; a stop in the middle leaves half of the last."""
    found = []
    for line in data.split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
