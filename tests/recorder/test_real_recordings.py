"""Recording from vLLM and SGLang: what real ones answered is replayed.

The answers are those of ``answers/``, described in the README there; what is right for them are the experts that
transformers routes for the same token ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import replaying

from lrcsim.traces import RoutingTrace, check_file

REAL = {"vllm": "vllm-0.32.0", "sglang": "sglang-0.5.23"}
REAL_SHAPE: dict[str, tuple[object, ...]] = {"vllm": (), "sglang": ("--num-layers", 4, "--top-k", 4)}

Replay = Callable[..., tuple[str, list[replaying.Exchange]]]


@pytest.fixture
def replay() -> Iterator[Replay]:
    """Give a function that starts a server which has the answers of a case; several stop in the end."""
    with ExitStack() as servers:

        def start(kind: str, case: str) -> tuple[str, list[replaying.Exchange]]:
            return servers.enter_context(replaying.replaying(replaying.cases(REAL[kind])[case]))

        yield start


def routed(kind: str, case: str) -> list[npt.NDArray[np.int64]]:
    """What transformers routes for the requests of a case, by rising id."""
    found = replaying.routed_by_transformers(REAL[kind])
    return [rows for name, rows in found.items() if name.split(".")[0] == case]


def assert_routed(path: Path, right: list[npt.NDArray[np.int64]], idle: list[int] | None = None) -> None:
    """Compare the sets of experts; of each request, ``idle`` positions at the beginning did not run."""
    assert check_file(path) == []
    with RoutingTrace.open(path) as trace:
        assert np.diff(trace.offsets).tolist() == [len(rows) for rows in right]
        for low, rows, without in zip(trace.offsets, right, idle or [0] * len(right), strict=False):
            experts = np.sort(trace.experts[low : low + len(rows)], axis=2)
            assert (experts[:without] == -1).all()
            assert (experts[without:] == rows[without:]).all()


# The first prompt has 33 characters, which are its tokens; the code has 14; the template of the chat writes
# "<user>Why is the sky blue?\n<assistant>", 38. Of 6 generated tokens 5 are run: 38 + 19 + 43 = 100.
PROSE, CODE = b"A cache holds what was used last.", b"for i in range"
TALK = b"<user>Why is the sky blue?\n<assistant>"


def three_kinds(folder: Path) -> Path:
    path = folder / "three.jsonl"
    lines = [
        {"prompt": PROSE.decode(), "domain": "prose"},
        {"token_ids": list(CODE), "domain": "code"},
        {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "domain": "prose"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_trace_holds_what_the_server_sent(
    lrcsim: Callable[..., Any], replay: Replay, tmp_path: Path, kind: str
) -> None:
    url, asked = replay(kind, "record-three-kinds")
    out = tmp_path / "out.h5"
    code, said, err = lrcsim(
        "record", f"--from-{kind}", url, "--prompts", three_kinds(tmp_path), "-o", out, "--max-new-tokens", 6,
        "--batch", 2, "--num-experts", 16, *REAL_SHAPE[kind],
    )  # fmt: skip
    assert (code, said) == (0, f"{out}: 100 tokens in 3 requests\n"), err
    assert "1 of 4 layers hold only zeros (dense layers), left out" in err
    assert len(asked) == 3
    assert_routed(out, routed(kind, "record-three-kinds"))
    with RoutingTrace.open(out) as trace:
        assert trace.model == "tiny-ernie"
        assert trace.domains == ["prose", "code", "prose"]
        assert trace.num_experts == 16
        assert trace.layers.block.tolist() == [1, 2, 3]
        assert trace.phase is not None
        assert trace.token_ids is not None
        for low, prompt in zip(trace.offsets, (PROSE, CODE, TALK), strict=False):
            assert bytes(trace.token_ids[low : low + len(prompt)].tolist()) == prompt
            assert trace.phase[low : low + len(prompt) + 5].tolist() == [0] * len(prompt) + [1] * 5
        assert trace.provenance["recorder"] == f"lrcsim record --from-{kind}"
    assert [path.name for path in tmp_path.iterdir() if "recording" in path.name] == []


# SGLang had "<user>" in its cache, of the conversation before; vLLM no whole block.
@pytest.mark.parametrize(("kind", "cached"), [("vllm", 0), ("sglang", 6)])
def test_chat_sends_every_prompt_as_a_message(
    lrcsim: Callable[..., Any], replay: Replay, tmp_path: Path, kind: str, cached: int
) -> None:
    url, asked = replay(kind, "record-chat")
    given, out = tmp_path / "two.txt", tmp_path / "out.h5"
    given.write_text(PROSE.decode() + "\nwhy?\n")
    code, _, err = lrcsim(
        "record", f"--from-{kind}", url, "--prompts", given, "-o", out, "--max-new-tokens", 4, "--chat",
        "--temperature", 0, *REAL_SHAPE[kind],
    )  # fmt: skip
    assert code == 0, err
    assert [one["path"] for one in asked] == ["/v1/chat/completions"] * 2
    assert_routed(out, routed(kind, "record-chat"), [cached, cached])


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_real_refusal_is_skipped_and_named(
    lrcsim: Callable[..., Any], replay: Replay, tmp_path: Path, kind: str
) -> None:
    url, _ = replay(kind, "record-refused")
    given, out = tmp_path / "three.txt", tmp_path / "out.h5"
    given.write_text("hello\n" + "x" * 600 + "\nthere\n")
    code, said, err = lrcsim(
        "record", f"--from-{kind}", url, "--prompts", given, "-o", out, "--max-new-tokens", 4, "--batch", 3,
        *REAL_SHAPE[kind],
    )  # fmt: skip
    assert (code, said) == (0, f"{out}: 16 tokens in 2 requests\n"), err  # (5 + 3) twice
    assert "1 of 3 prompts skipped, the first: prompt 2: " in err
    why = {
        "vllm": "This model's maximum context length is 512 tokens.",
        "sglang": "The input (600 tokens) is longer than",
    }
    assert f"refuses: 400 Bad Request {why[kind]}" in err
    assert_routed(out, routed(kind, "record-refused"))


# 132 and 141 tokens; the second begins with the first. vLLM's prefix cache has blocks of 128 tokens on a CPU, SGLang's
# single tokens.
@pytest.mark.parametrize(("kind", "cached"), [("vllm", 128), ("sglang", 132)])
def test_a_real_prefix_cache(
    lrcsim: Callable[..., Any], replay: Replay, tmp_path: Path, kind: str, cached: int
) -> None:
    given = tmp_path / "two.jsonl"
    first = "The experts were many and the memory small. " * 3
    given.write_text(json.dumps({"prompt": first}) + "\n" + json.dumps({"prompt": first + "And then?"}) + "\n")
    right = routed(kind, "record-cached")
    for rule, idle in (((), [0, cached]), (("--cached-prefix", "keep"), [0, 0])):
        url, _ = replay(kind, "record-cached")
        out = tmp_path / f"{len(rule)}.h5"
        code, _, err = lrcsim(
            "record", f"--from-{kind}", url, "--prompts", given, "-o", out, "--max-new-tokens", 4, *rule,
            *REAL_SHAPE[kind],
        )  # fmt: skip
        assert code == 0, err
        assert f"{cached} " in err
        assert_routed(out, right, idle)


def test_a_real_server_without_the_option(lrcsim: Callable[..., Any], replay: Replay, tmp_path: Path) -> None:
    url, _ = replay("vllm", "record-without-routing")
    given = tmp_path / "one.txt"
    given.write_text(PROSE.decode() + "\n")
    code, _, err = lrcsim(
        "record", "--from-vllm", url, "--prompts", given, "-o", tmp_path / "out.h5", "--max-new-tokens", 4
    )
    assert (code, err.count("\n")) == (1, 1)
    assert "was it run with --enable-return-routed-experts?" in err
