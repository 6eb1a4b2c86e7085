"""Start vLLM itself, record from it, save its answers, import them, and compare all with transformers.

    python tests/real_servers/run.py [--write]

With ``--write`` what it answered becomes the fixtures of the fast tests (``tests/recorder/answers``).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "recorder"))

import cases
import replaying
from agreement import Agreement, Ids, Reference, compare
from checkpoint import EXPERTS, save_checkpoint
from checkpoint import NAME as MODEL
from environment import ROOT, add_triton_backend, vllm_python
from server import running_vllm

from lrcsim.cli.main import main as lrcsim_main

ANSWERS = ROOT / "tests/recorder/answers/vllm-0.32.0"
ROUTED = "--enable-return-routed-experts"
MANY = 120
WIDE = 300
"""Experts whose ids need two bytes."""


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


class Run:
    """One server on one checkpoint, what was asked of it, and how far it agrees with transformers."""

    def __init__(self, work: Path, url: str, answers: Path | None) -> None:
        self.work, self.url, self.answers = work, url, answers
        self.reference = Reference(work / MODEL)
        self.truth: dict[str, Ids] = {}
        self.worst = 1.0

    def record(self, name: str, prompts: list[cases.Json], options: list[str]) -> None:
        """Record prompts with `lrcsim record` and compare the trace."""
        given, out = self.work / f"{name}.jsonl", self.work / f"{name}.h5"
        given.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")
        with replaying.taping(self.url) as (url, said):
            began = time.monotonic()
            code, told = lrcsim("record", "--from-vllm", url, "--prompts", given, "-o", out, *options)
            took = time.monotonic() - began
        assert code == 0, told
        in_order = sorted((one for one in said if one["body"] is not None), key=lambda one: one["body"]["seed"])
        good = [one for one in in_order if one["status"] == 200]
        expected = [part for one in good for part in cases.sequences(one["path"], one["body"], one["answer"])]
        self._tell(name, *compare(out, expected, self.reference), told, took)
        self._keep(f"{name}.tape.jsonl", "".join(json.dumps(one) + "\n" for one in said))

    def save(self, name: str, path: str, body: cases.Json, options: tuple[str, ...] = ()) -> None:
        """Ask as another client does, save the answer, import it and compare the trace."""
        answer = replaying.send(self.url, "POST", path, body)
        assert answer["status"] == 200, answer
        stream = answer["answer"].startswith("data:")
        kept = self.work / f"{name}{'.txt' if stream else '.json'}"
        kept.write_text(answer["answer"], encoding="utf-8")
        out = self.work / f"{name}.h5"
        code, told = lrcsim("trace", "import", kept, "-o", out, *options)
        self._keep(kept.name, answer["answer"])
        if name in cases.WITHOUT_ROUTING:
            assert (code, "holds no routed experts" in told) == (1, True), told
            print(f"{name}: no routing, as known")
            return
        assert code == 0, told
        if not body.get("return_token_ids", True):
            twin = replaying.send(self.url, "POST", path, {**body, "return_token_ids": True})
            answer["answer"] = twin["answer"]
        expected = cases.sequences(path, body, answer["answer"])
        self._tell(name, *compare(out, expected, self.reference), told)

    def refuses(self, name: str) -> None:
        """Record from a server that returns no routing: one line that says what it was to be started with."""
        given = self.work / f"{name}.jsonl"
        given.write_text(json.dumps({"prompt": cases.SHORT}) + "\n", encoding="utf-8")
        with replaying.taping(self.url) as (url, said):
            code, told = lrcsim(
                "record", "--from-vllm", url, "--prompts", given, "-o", self.work / "out.h5", "--max-new-tokens", 4
            )
        assert (code, f"was it run with {ROUTED}?" in told, told.count("\n")) == (1, True, 1), told
        print(f"{name}: {told.strip()}")
        self._keep(f"{name}.tape.jsonl", "".join(json.dumps(one) + "\n" for one in said))

    def _tell(self, name: str, found: Agreement, truth: list[Ids], told: str, took: float | None = None) -> None:
        share = found.equal / found.compared
        self.worst = min(self.worst, share)
        seconds = "" if took is None else f", {took:.1f} s"
        print(
            f"{name}: {found.requests} requests, {found.tokens} tokens ({found.idle} not run or not sent), "
            f"{found.equal:,} of {found.compared:,} layer-tokens equal{seconds}"
        )
        for line in told.splitlines():
            print("   ", line.replace(str(self.work), "."))
        self.truth |= {f"{name}.{at}": rows for at, rows in enumerate(truth)}

    def _keep(self, name: str, text: str) -> None:
        if self.answers is not None:
            (self.answers / name).write_text(text, encoding="utf-8")


@contextmanager
def server(name: str, experts: int, *options: str, answers: Path | None) -> Iterator[Run]:
    """Start a server on a checkpoint of so many experts a layer."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_checkpoint(work / MODEL, experts)
        (work / "backend").mkdir()
        backend = add_triton_backend(work / "backend")
        began = time.monotonic()
        with running_vllm(vllm_python(), work, backend, *options) as url:
            print(f"== {name}: {' '.join(options)}; up after {time.monotonic() - began:.0f} s")
            run = Run(work, url, answers)
            yield run
        if answers is not None and run.truth:
            rows = np.concatenate(list(run.truth.values())).astype(np.uint8 if experts <= 256 else np.uint16)
            sizes = [len(value) for value in run.truth.values()]
            np.savez_compressed(answers / f"transformers-{experts}.npz", names=list(run.truth), sizes=sizes, rows=rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make the answers the fixtures of the fast tests")
    answers = ANSWERS if parser.parse_args().write else None
    if answers is not None:
        answers.mkdir(parents=True, exist_ok=True)
    worst = []
    with server(
        "all answers", EXPERTS, ROUTED, "--enable-prompt-tokens-details", "--enable-scale-out", answers=answers
    ) as run:
        for name, (prompts, options) in cases.PROMPTS.items():
            run.record(name, prompts, [*options, "--num-experts", str(EXPERTS)])
        for name, (path, body) in cases.SAVED.items():
            run.save(name, path, body)
        worst.append(run.worst)
        run.answers = None
        run.record("record-many", cases.many(MANY), ["--max-new-tokens", "24", "--batch", "8"])
        worst.append(run.worst)
        run.truth = {name: rows for name, rows in run.truth.items() if not name.startswith("record-many")}
    with server(f"{WIDE} experts, no cached_tokens", WIDE, ROUTED, answers=answers) as run:
        run.save("wide-completion", cases.COMPLETIONS, {**cases.ASKED, "prompt": cases.SHORT})
        worst.append(run.worst)
    with server("without routing", EXPERTS, answers=answers) as run:
        run.refuses("record-without-routing")
    print(f"least agreement of a case: {min(worst):.4%}")
    return 0 if min(worst) == 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
