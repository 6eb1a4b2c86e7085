"""Recording from vLLM and SGLang, against a stub server that speaks their wire formats."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.traces import RoutingTrace, check_file

LAYERS, EXPERTS, TOP_K = 4, 16, 2  # layer 0 is dense: servers send zeros for it


def routing(prompt: list[int], made: int) -> npt.NDArray[np.int32]:
    """What the stub's model routes: [prompt + made - 1, LAYERS, TOP_K]."""
    random = np.random.default_rng([*prompt, made])
    ids = random.random((len(prompt) + made - 1, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K].astype(np.int32)
    ids[:, 0] = 0
    return ids


class Stub(BaseHTTPRequestHandler):
    """Answers as vLLM 0.22 and SGLang 0.5 do; tokens are the characters' codes."""

    asked: list[tuple[str, dict[str, Any]]]
    with_routing = True
    fail_after = 10**6

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "stub-moe"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if len(self.asked) >= self.fail_after:
            self.send_error(503, "overloaded")
            return
        self.asked.append((self.path, body))
        self.reply(getattr(self, self.path.strip("/").replace("/", "_").replace("v1_", ""))(body))

    def reply(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"] if isinstance(body["prompt"], list) else [ord(c) for c in body["prompt"]]
        return self.openai(prompt, body)

    def chat_completions(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.openai([1, *(ord(c) for message in body["messages"] for c in message["content"])], body)

    def openai(self, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        made = body["max_tokens"]
        choice: dict[str, Any] = {"index": 0, "text": "x" * made}
        if "return_routed_experts" in body:  # SGLang
            choice["sgl_ext"] = {"routed_experts": base64.b64encode(routing(prompt, made).tobytes()).decode()}
        elif self.with_routing:
            file = io.BytesIO()
            np.save(file, routing(prompt, made).astype(np.uint8))
            choice["routed_experts"] = base64.b64encode(file.getvalue()).decode()
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": prompt, "token_ids": list(range(made))}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": made}
        return {"model": body["model"], "choices": [choice], "usage": usage}

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body.get("input_ids") or [ord(c) for c in body["text"]]
        made = body["sampling_params"]["max_new_tokens"]
        meta = {"prompt_tokens": len(prompt), "completion_tokens": made}
        if body.get("return_routed_experts"):
            meta["routed_experts"] = base64.b64encode(routing(prompt, made).tobytes()).decode()
        return {"text": "x" * made, "output_ids": list(range(made)), "meta_info": meta}


@pytest.fixture
def stub() -> Iterator[tuple[str, type[Stub]]]:
    handler = type("Handler", (Stub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "hello", "domain": "prose"},
        {"token_ids": [5, 6, 7, 8], "domain": "code"},
        {"messages": [{"role": "user", "content": "why?"}], "domain": "prose"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


EXPECTED = [([ord(c) for c in "hello"], "prose"), ([5, 6, 7, 8], "code"), ([1, *(ord(c) for c in "why?")], "prose")]

SGLANG = ("--num-layers", LAYERS, "--top-k", TOP_K)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_trace_holds_what_the_server_sent(
    lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out.h5"
    shape = SGLANG if kind == "sglang" else ()
    code, said, err = lrcsim(
        "record", f"--from-{kind}", stub[0], "--prompts", prompts, "-o", out, "--max-new-tokens", 6, "--batch", 2,
        "--num-experts", EXPERTS, *shape,
    )  # fmt: skip
    assert (code, said) == (0, f"{out}: 29 tokens in 3 requests\n"), err  # (5 + 5) + (4 + 5) + (5 + 5)
    assert "1 of 4 layers hold only zeros (dense layers), left out" in err
    assert check_file(out) == []
    with RoutingTrace.open(out) as trace:
        assert trace.model == "stub-moe"
        assert trace.domains == [domain for _, domain in EXPECTED]
        assert trace.num_experts == EXPERTS
        assert trace.layers.block.tolist() == [1, 2, 3]
        for at, (prompt, _) in enumerate(EXPECTED):
            low, high = trace.offsets[at], trace.offsets[at + 1]
            assert (trace.experts[low:high] == routing(prompt, 6)[:, 1:]).all()
            assert trace.phase is not None
            assert trace.phase[low:high].tolist() == [0] * len(prompt) + [1] * 5
        if kind == "vllm":
            assert trace.token_ids is not None
            assert trace.token_ids[:10].tolist() == [*EXPECTED[0][0], 0, 1, 2, 3, 4]
        assert trace.provenance["recorder"] == f"lrcsim record --from-{kind}"
    assert [path.name for path in tmp_path.iterdir() if "recording" in path.name] == []


def test_what_is_asked_for(lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path) -> None:
    url, handler = stub
    common = ("--prompts", prompts, "--max-new-tokens", 3, "--seed", 7, "--temperature", 0.5)
    lrcsim("record", "--from-vllm", url, "-o", tmp_path / "a.h5", *common)
    lrcsim("record", "--from-sglang", url, "-o", tmp_path / "b.h5", *common, *SGLANG)
    assert [path for path, _ in handler.asked] == [
        "/v1/completions", "/v1/completions", "/v1/chat/completions", "/generate", "/generate", "/v1/chat/completions"
    ]  # fmt: skip
    first, second = handler.asked[0][1], handler.asked[4][1]
    assert first == {
        "model": "stub-moe", "prompt": "hello", "max_tokens": 3, "temperature": 0.5, "seed": 7, "return_token_ids": True
    }  # fmt: skip
    assert second == {
        "input_ids": [5, 6, 7, 8],
        "sampling_params": {"max_new_tokens": 3, "temperature": 0.5, "sampling_seed": 8},
        "return_routed_experts": True,
    }


def test_resumes_after_a_failure(lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path) -> None:
    url, handler = stub
    command = ("record", "--from-vllm", url, "--prompts", prompts, "--max-new-tokens", 4)
    lrcsim(*command, "-o", tmp_path / "whole.h5")
    handler.asked.clear()
    handler.fail_after = 2
    out = tmp_path / "out.h5"
    code, _, err = lrcsim(*command, "-o", out)
    assert code == 1
    assert "503 overloaded" in err
    assert not out.exists()
    kept = tmp_path / ".out.h5.recording/responses.jsonl"
    kept.write_bytes(kept.read_bytes() + b'{"half of an ans')
    handler.fail_after = 10**6
    code, said, _ = lrcsim(*command, "-o", out)
    assert code == 0
    assert "(2 of them by an earlier run)" in said
    assert len(handler.asked) == 3
    with RoutingTrace.open(out) as trace, RoutingTrace.open(tmp_path / "whole.h5") as whole:
        assert (trace.experts == whole.experts).all()
        assert trace.domains == whole.domains


def test_other_prompts_are_not_mixed_in(lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path) -> None:
    url, handler = stub
    handler.fail_after = 2
    lrcsim("record", "--from-vllm", url, "--prompts", prompts, "-o", tmp_path / "out.h5")
    handler.fail_after = 10**6
    other = tmp_path / "other.txt"
    other.write_text("hi\nthere\nyou\n")
    code, _, err = lrcsim("record", "--from-vllm", url, "--prompts", other, "-o", tmp_path / "out.h5")
    assert code == 1
    assert "other prompts" in err
    assert "--restart" in err
    code, _, _ = lrcsim("record", "--from-vllm", url, "--prompts", other, "-o", tmp_path / "out.h5", "--restart")
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from-vllm", "localhost:1"), "is no address of a server, write for example http://localhost:8000"),
        (("--from-vllm", "http://127.0.0.1:9"), "does not answer"),
        (("--from-vllm", "URL", "--logits"), "--logits: a server returns the ids of routed experts only"),
        (("--from-vllm", "URL", "--teacher-forced"), "--teacher-forced: a server returns"),
        (("--from-sglang", "URL"), "give --num-layers and --top-k"),
        (("--from-vllm", "URL", "--from-sglang", "URL"), "give one of them"),
        ((), "name the MODEL to record"),
    ],
)
def test_one_line_of_error(
    lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [stub[0] if argument == "URL" else argument for argument in arguments]
    code, said, err = lrcsim("record", "--prompts", prompts, "-o", tmp_path / "out.h5", *given)
    assert (code, said) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl"]


def test_a_server_without_the_option(lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path) -> None:
    stub[1].with_routing = False
    code, _, err = lrcsim("record", "--from-vllm", stub[0], "--prompts", prompts, "-o", tmp_path / "out.h5")
    assert code == 1
    assert "was it run with --enable-return-routed-experts?" in err


def test_the_shape_can_come_from_a_known_model(
    lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "olmoe",
                "num_hidden_layers": LAYERS,
                "hidden_size": 8,
                "num_attention_heads": 2,
                "num_experts": EXPERTS,
                "num_experts_per_tok": TOP_K,
                "intermediate_size": 8,
                "vocab_size": 9,
            }
        )
    )
    out = tmp_path / "out.h5"
    code, _, err = lrcsim("record", tmp_path, "--from-sglang", stub[0], "--prompts", prompts, "-o", out)
    assert code == 0, err
    with RoutingTrace.open(out) as trace:
        assert (trace.num_experts, trace.top_k, trace.num_layers) == (EXPERTS, TOP_K, LAYERS - 1)
