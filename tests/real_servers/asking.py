"""Ask a real server, keep what it answers, import it, and compare the trace with transformers."""

from __future__ import annotations

import gzip
import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "recorder"))

import replaying
from agreement import Agreement, Ids, Reference, Sequence, compare
from checkpoint import NAME

from lrcsim.cli.main import main as lrcsim_main

Json = dict[str, Any]

ROUTED = "--enable-return-routed-experts"


def lrcsim(*arguments: object) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and what it said."""
    said = io.StringIO()
    code = 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            lrcsim_main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, said.getvalue()


@dataclass(frozen=True)
class Kind:
    """What is particular to vLLM or to SGLang.

    Attributes:
        name: of the importer, and of the option of `lrcsim record`.
        sequences: reads the requests in an answer, given path and body of what was asked, by hand.
        shape: options that say what answers do not.
        without: cases that the server answers without routing.
    """

    name: str
    sequences: Callable[[str, Json, str], list[Sequence]]
    shape: tuple[str, ...]
    without: tuple[str, ...] = ()


@dataclass
class Kept:
    """What becomes the fixtures of the fast tests.

    Attributes:
        exchanges: what was asked and answered, with the name of the case.
        truth: what transformers routes, for each request of a case.
        total: how far both agree, over all cases.
    """

    exchanges: list[replaying.Exchange] = field(default_factory=list)
    truth: dict[str, Ids] = field(default_factory=dict)
    total: Agreement = field(default_factory=Agreement)

    def keep(self, name: str, said: list[replaying.Exchange], truth: list[Ids]) -> None:
        self.exchanges += [{"case": name, **one} for one in said]
        self.truth |= {f"{name}.{at}": rows for at, rows in enumerate(truth)}

    def write(self, folder: Path) -> None:
        """Write the files that `replaying` reads, the same bytes for the same contents."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(one) + "\n" for one in self.exchanges)
        (folder / replaying.EXCHANGES).write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
        rows = np.concatenate(list(self.truth.values())).astype(np.uint16)
        sizes = [len(value) for value in self.truth.values()]
        np.savez_compressed(folder / replaying.TRUTH, names=list(self.truth), sizes=sizes, rows=rows)


class Run:
    """One server on one checkpoint, and what is asked of it."""

    def __init__(self, kind: Kind, work: Path, url: str, kept: Kept) -> None:
        self.kind, self.work, self.url, self.kept = kind, work, url, kept
        self.reference = Reference(work / NAME)

    def record(self, name: str, prompts: list[Json], *options: str, keep: bool = True) -> None:
        """Record prompts with `lrcsim record` and compare the trace."""
        given, out = self.work / f"{name}.jsonl", self.work / f"{name}.h5"
        given.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")
        server = f"--from-{self.kind.name}"
        with replaying.taping(self.url) as (url, said):
            began = time.monotonic()
            code, told = lrcsim("record", server, url, "--prompts", given, "-o", out, *options, *self.kind.shape)
            took = time.monotonic() - began
        assert code == 0, told
        good = sorted((one for one in said if one["body"] is not None and one["status"] == 200), key=_seed)
        expected = [part for one in good for part in self.kind.sequences(one["path"], one["body"], one["answer"])]
        truth = self._compared(name, out, expected, told, f", {took:.1f} s")
        if keep:
            self.kept.keep(name, said, truth)

    def save(self, name: str, path: str, body: Json) -> None:
        """Ask as another client does, save the answer, import it and compare the trace."""
        answer = replaying.send(self.url, "POST", path, body)
        assert answer["status"] == 200, answer
        file, out = self.work / f"{name}.json", self.work / f"{name}.h5"
        file.write_text(answer["answer"], encoding="utf-8")
        code, told = lrcsim("trace", "import", file, "-o", out, *self.kind.shape)
        if name in self.kind.without:
            assert (code, "holds no routed experts" in told) == (1, True), told
            print(f"{name}: no routing, as known")
            self.kept.keep(name, [answer], [])
            return
        assert code == 0, told
        with_ids = answer
        if not body.get("return_token_ids", True):
            with_ids = replaying.send(self.url, "POST", path, {**body, "return_token_ids": True})
        expected = self.kind.sequences(path, body, with_ids["answer"])
        self.kept.keep(name, [answer], self._compared(name, out, expected, told))

    def refuses(self, name: str, prompt: str) -> None:
        """Record from a server that returns no routing: one line that says what it was to be started with."""
        given = self.work / f"{name}.jsonl"
        given.write_text(json.dumps({"prompt": prompt}) + "\n", encoding="utf-8")
        with replaying.taping(self.url) as (url, said):
            code, told = lrcsim(
                "record", f"--from-{self.kind.name}", url, "--prompts", given, "-o", self.work / "out.h5",
                "--max-new-tokens", 4, *self.kind.shape,
            )  # fmt: skip
        assert (code, f"was it run with {ROUTED}?" in told, told.count("\n")) == (1, True, 1), told
        print(f"{name}: {told.strip()}")
        self.kept.keep(name, said, [])

    def _compared(self, name: str, out: Path, expected: list[Sequence], told: str, more: str = "") -> list[Ids]:
        """Compare a trace, say how far it agrees and what was said of it; return what transformers routes."""
        found, truth = compare(out, expected, self.reference)
        self.kept.total += found
        print(
            f"{name}: {found.requests} requests, {found.tokens:,} tokens ({found.idle} not run or not sent), "
            f"{found.equal:,} of {found.compared:,} layer-tokens equal{more}"
        )
        for line in told.splitlines():
            print("   ", line.replace(str(self.work), "."))
        return truth


def _seed(asked: replaying.Exchange) -> int:
    """Return the seed of a request, which grows with the prompt's number."""
    body = asked["body"]
    return int(body["seed"] if "seed" in body else body["sampling_params"]["sampling_seed"])
