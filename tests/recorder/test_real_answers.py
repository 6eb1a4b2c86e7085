"""What vLLM and SGLang answered themselves, imported: the right tokens, and the experts that transformers routes.

The answers, and how they were made, are described in ``answers/README.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replaying

from lrcsim.base.errors import TraceError
from lrcsim.traces import RoutingTrace, check_file
from lrcsim.traces.importers import ImportReport, Options, import_trace

FOLDER = {"vllm": "vllm-0.32.0", "sglang": "sglang-0.5.23"}
OPTIONS = {"vllm": Options(), "sglang": Options(num_layers=4, top_k=4)}

# The prompt "A cache holds what was used last." has 33 tokens, "hello" 5, the conversation 56, the code 14; of what is
# generated all but the last token is run. So 6 tokens to the first prompt give 33 + 5 positions. vLLM's cache has
# blocks of 128 tokens, of prompts that begin with the 132 of "The experts were many ...".
# case: [positions, of the prompt, not run or not sent] of each request
VLLM: dict[str, list[tuple[int, int, int]]] = {
    "completion": [(38, 33, 0)],
    "completion-without-ids": [(38, 33, 0)],
    "completion-n2": [(38, 33, 0)] * 2,
    "completion-two-prompts": [(38, 33, 0), (10, 5, 0)],
    "completion-two-prompts-n2": [(35, 33, 0)] * 2 + [(7, 5, 0)] * 2,
    "completion-two-prompts-cached": [(6, 5, 0), (137, 136, 0)],  # 128 of one of them, it is not said of which
    "completion-one-token": [(33, 33, 0)],
    "completion-echo": [(38, 33, 0)],
    "completion-start": [(38, 33, 5)],
    "completion-n2-cached": [(136, 135, 128)] * 2,
    "completion-cached-start": [(138, 137, 130)],
    "chat": [(61, 56, 0)],
    "chat-n2": [(61, 56, 0)] * 2,
    "chat-start": [(61, 56, 9)],
    "generate": [(19, 14, 0)],
    "generate-n2": [(19, 14, 0)] * 2,
    "generate-stream": [(19, 14, 0)],
    "generate-start": [(19, 14, 5)],
    "wide-completion": [(38, 33, 0)],
}

# The prompts begin with a word of their own, so that SGLang's cache, which has single tokens, holds little of them:
# "st" of "stream " after "start ", and so on; of the code, which was recorded before, all but the last token.
SGLANG: dict[str, list[tuple[int, int, int]]] = {
    "generate": [(19, 14, 13)],
    "generate-start": [(44, 39, 5)],
    "generate-list": [(40, 35, 0), (12, 7, 0)],
    "generate-stream": [(45, 40, 2)],
    "generate-cached": [(141, 136, 132)],
    "completion": [(49, 44, 0)],
    "completion-n2": [(44, 39, 0)],
    "completion-stream": [(40, 35, 1)],
    "chat": [(61, 56, 1)],
    "chat-n2": [(29, 24, 0)],
    "chat-stream": [(30, 25, 6)],
}
RIGHT = [("vllm", case, right) for case, right in VLLM.items()]
RIGHT += [("sglang", case, right) for case, right in SGLANG.items()]


def imported(folder: Path, kind: str, case: str) -> ImportReport:
    """Save the answer of a case as a client would, and import it as ``out.h5``."""
    (exchange,) = replaying.cases(FOLDER[kind])[case]
    (folder / "answer").write_text(exchange["answer"], encoding="utf-8")
    return import_trace(folder / "answer", folder / "out.h5", options=OPTIONS[kind])


@pytest.mark.parametrize(("kind", "case", "right"), RIGHT, ids=[f"{kind}-{case}" for kind, case, _ in RIGHT])
def test_answer(tmp_path: Path, kind: str, case: str, right: list[tuple[int, int, int]]) -> None:
    report = imported(tmp_path, kind, case)
    assert report.format == kind
    assert check_file(tmp_path / "out.h5") == []
    truth = replaying.routed_by_transformers(FOLDER[kind])
    with RoutingTrace.open(tmp_path / "out.h5") as trace:
        assert trace.phase is not None
        assert trace.num_requests == len(right)
        assert trace.layers.block.tolist() == [1, 2, 3]
        for at, (positions, prompt, idle) in enumerate(right):
            low, high = trace.offsets[at], trace.offsets[at + 1]
            experts = np.sort(trace.experts[low:high], axis=2)
            assert trace.phase[low:high].tolist() == [0] * prompt + [1] * (positions - prompt)
            assert (experts[:idle] == -1).all()
            assert (experts[idle:] == truth[f"{case}.{at}"][idle:]).all()


def test_every_case_is_tested() -> None:
    for kind, right in (("vllm", VLLM), ("sglang", SGLANG)):
        cases = {case for case in replaying.cases(FOLDER[kind]) if not case.startswith("record-")}
        others = {"completion-stop", "completion-stream", "chat-stream", "chat-batch"} if kind == "vllm" else set()
        assert cases == set(right) | others


def test_a_stop_string(tmp_path: Path) -> None:
    """The text ends before the stop string, the tokens with it: all but the last were run."""
    (exchange,) = replaying.cases(FOLDER["vllm"])["completion-stop"]
    imported(tmp_path, "vllm", "completion-stop")
    with RoutingTrace.open(tmp_path / "out.h5") as trace:
        assert b'"finish_reason":"stop"' in exchange["answer"].encode()
        right = replaying.routed_by_transformers(FOLDER["vllm"])["completion-stop.0"]
        assert (np.sort(trace.experts, axis=2) == right).all()


@pytest.mark.parametrize("case", ["completion-stream", "chat-stream", "chat-batch"])
def test_vllm_answers_some_without_routing(tmp_path: Path, case: str) -> None:
    with pytest.raises(TraceError, match="holds no routed experts"):
        imported(tmp_path, "vllm", case)


# --- what is said of them -------------------------------------------------------------------------------------------

SAID: list[tuple[str, str, str]] = [
    ("vllm", "completion-start", "5 tokens before the first row of their request were not sent"),
    ("vllm", "completion-cached-start", "128 of 137 prompt tokens came out of the prefix cache"),
    ("vllm", "completion-cached-start", "2 tokens before the first row of their request were not sent"),
    ("vllm", "completion-n2-cached", "1 response gives one cached_tokens for several choices (n > 1)"),
    ("vllm", "completion-two-prompts-cached", "1 response gives cached_tokens of several prompts in one sum"),
    ("sglang", "completion-n2", "1 further choice (n > 1) without routing"),
    ("sglang", "chat-n2", "1 response has several choices (n > 1) of a prompt that SGLang ran once before them"),
    ("sglang", "generate-cached", "132 of 136 prompt tokens came out of the prefix cache"),
]


@pytest.mark.parametrize(("kind", "case", "said"), SAID)
def test_notice(tmp_path: Path, kind: str, case: str, said: str) -> None:
    assert any(said in notice for notice in imported(tmp_path, kind, case).notices)


def test_answers_of_one_server_as_lines_of_one_file(tmp_path: Path) -> None:
    cases = ["completion", "chat-n2", "generate-stream"]
    exchanges = replaying.cases(FOLDER["vllm"])
    text = "".join(exchanges[case][0]["answer"].strip() + "\n" for case in cases)
    (tmp_path / "all.jsonl").write_text(text, encoding="utf-8")
    report = import_trace(tmp_path / "all.jsonl", tmp_path / "out.h5")
    assert (report.requests, report.tokens) == (4, 38 + 61 + 61 + 19)


def test_the_wide_model_needs_two_bytes() -> None:
    experts: Any = replaying.routed_by_transformers(FOLDER["vllm"])["wide-completion.0"]
    assert 255 < experts.max() < 300
