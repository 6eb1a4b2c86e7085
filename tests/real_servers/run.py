"""Start real servers, record from them, save their answers, import them, and compare all with transformers.

    python tests/real_servers/run.py [vllm|sglang ...] [--write]

With ``--write`` what they answered becomes the fixtures of the fast tests (``tests/recorder/answers``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import sglang_cases
import vllm_cases
from asking import ROUTED, Kept, Kind, Run
from checkpoint import EXPERTS, NAME, save_checkpoint
from environment import ROOT
from prompts import PROMPTS, SHORT, many
from server import sglang, vllm

ANSWERS = ROOT / "tests/recorder/answers"
MANY = 120
WIDE = 300
"""Experts whose ids need two bytes."""

Start = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def running(about: str, kind: Kind, start: Start, experts: int, kept: Kept) -> Iterator[Run]:
    """Start a server on a checkpoint of so many experts a layer."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_checkpoint(work / NAME, experts)
        began = time.monotonic()
        with start(work) as url:
            print(f"== {kind.name}, {about}: up after {time.monotonic() - began:.0f} s")
            yield Run(kind, work, url, kept)


def run_vllm() -> Kept:
    """Ask vLLM with all that makes it tell more, then with 300 experts, then without routing."""
    kept, kind, saved = Kept(), vllm_cases.VLLM, vllm_cases.SAVED
    known = ("--num-experts", str(EXPERTS))
    options = (ROUTED, "--enable-prompt-tokens-details", "--enable-scale-out")
    with running(" ".join(options), kind, lambda work: vllm(work, *options), EXPERTS, kept) as run:
        for name, (prompts, given) in PROMPTS.items():
            run.record(name, prompts, *given, *known)
        for name, (path, body) in saved.items():
            run.save(name, path, body)
        run.record("record-many", many(MANY), "--max-new-tokens", "24", "--batch", "8", *known, keep=False)
    with running(f"{ROUTED}, {WIDE} experts", kind, lambda work: vllm(work, ROUTED), WIDE, kept) as run:
        run.save("wide-completion", *saved["completion"])
    with running("without routing", kind, vllm, EXPERTS, kept) as run:
        run.refuses("record-without-routing", SHORT)
    return kept


def run_sglang() -> Kept:
    """Ask SGLang's front, whose engine is transformers: all must be equal, it is the form that is tested."""
    kept = Kept()
    with running("its own front", sglang_cases.SGLANG, sglang, EXPERTS, kept) as run:
        for name, (prompts, given) in PROMPTS.items():
            run.record(name, prompts, *given, "--num-experts", str(EXPERTS))
        for name, (path, body) in sglang_cases.SAVED.items():
            run.save(name, path, body)
    return kept


SERVERS = {"vllm": (run_vllm, "vllm-0.32.0"), "sglang": (run_sglang, "sglang-0.5.23")}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(SERVERS)}; by default all")
    parser.add_argument("--write", action="store_true", help="make the answers the fixtures of the fast tests")
    given = parser.parse_args()
    if unknown := set(given.servers) - set(SERVERS):
        parser.error(f"{', '.join(sorted(unknown))}: unknown, use {', '.join(SERVERS)}")
    unequal = 0
    for name in given.servers or SERVERS:
        ask, folder = SERVERS[name]
        kept = ask()
        total = kept.total
        print(f"== {name}: {total.requests} requests, {total.equal:,} of {total.compared:,} layer-tokens equal")
        unequal += total.compared - total.equal
        if given.write:
            kept.write(ANSWERS / folder)
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
