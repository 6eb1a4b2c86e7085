"""Recording from servers: what is asked, and a stub that fails in all ways (real ones: `test_real_recordings`)."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS, TOP_K = 4, 16, 2  # layer 0 is dense: servers send zeros for it


def routing(prompt: list[int], made: int) -> npt.NDArray[np.int32]:
    """What the stub's model routes: [prompt + made - 1, LAYERS, TOP_K]."""
    random = np.random.default_rng([*prompt, made])
    ids = random.random((len(prompt) + made - 1, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K].astype(np.int32)
    ids[:, 0] = 0
    return ids


class Stub(BaseHTTPRequestHandler):
    """Answers with what a recording needs, and fails on demand; tokens are the characters' codes.

    A prompt of more than ``longest`` tokens is refused, one that begins with token 120 ("x") is aborted.
    """

    asked: list[tuple[str, dict[str, Any]]]
    keys: list[str | None]
    fail_after = 10**6
    longest = 10**6
    hole = False
    elsewhere = ""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.keys.append(self.headers["Authorization"])
        if self.elsewhere:
            self.send_response(302)
            self.send_header("Location", self.elsewhere)
            self.end_headers()
            return
        self.reply({"data": [{"id": "stub-moe"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if len(self.asked) >= self.fail_after:
            self.send_error(503, "overloaded")
            return
        self.asked.append((self.path, body))
        self.keys.append(self.headers["Authorization"])
        given = body.get("prompt") or body.get("text") or body.get("input_ids") or ""
        if len(given) > self.longest:
            message = f"This model's maximum context length is {self.longest}\x1b[31m tokens.\nShorten it."
            self.reply({"error": {"message": message, "code": 400}}, 400)
            return
        self.reply(getattr(self, self.path.strip("/").replace("/", "_").replace("v1_", ""))(body))

    def reply(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
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
        choice: dict[str, Any] = {"index": 0, "text": "x" * made, "finish_reason": "length"}
        extras: dict[str, Any] = {}
        if prompt[0] == ord("x"):
            made, choice["finish_reason"], choice["routed_experts"] = 0, "abort", None
        elif "return_routed_experts" in body:  # SGLang
            extras = {"sglext": {"routed_experts": base64.b64encode(routing(prompt, made).tobytes()).decode()}}
        else:
            file = io.BytesIO()
            rows = routing(prompt, made).astype(np.uint8)
            if self.hole:
                rows[2] = 0
            np.save(file, rows)
            choice["routed_experts"] = base64.b64encode(file.getvalue()).decode()
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": prompt, "token_ids": list(range(made))}
        usage: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": made}
        return {"model": body["model"], "choices": [choice], "usage": usage, **extras}

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body.get("input_ids") or [ord(c) for c in body["text"]]
        made = body["sampling_params"]["max_new_tokens"]
        meta: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": made}
        if prompt[0] == ord("x"):
            meta["finish_reason"] = {"type": "abort", "message": "the client left"}
        elif body.get("return_routed_experts"):
            meta["routed_experts"] = base64.b64encode(routing(prompt, made).tobytes()).decode()
        return {"text": "x" * made, "output_ids": list(range(made)), "meta_info": meta}


@pytest.fixture
def stub() -> Iterator[tuple[str, type[Stub]]]:
    handler = type("Handler", (Stub,), {"asked": [], "keys": []})
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


SGLANG = ("--num-layers", LAYERS, "--top-k", TOP_K)


def test_what_is_asked_for(lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path) -> None:
    url, handler = stub
    common = ("--prompts", prompts, "--max-new-tokens", 3, "--seed", 7, "--temperature", 0.5)
    lrcsim("record", "--from-vllm", url, "-o", tmp_path / "a.h5", *common)
    lrcsim("record", "--from-sglang", url, "-o", tmp_path / "b.h5", *common, *SGLANG)
    assert [path for path, _ in handler.asked] == [
        "/v1/completions", "/v1/completions", "/v1/chat/completions", "/generate", "/generate", "/v1/chat/completions"
    ]  # fmt: skip
    of_vllm, of_sglang, of_chat = (handler.asked[number][1] for number in (0, 4, 5))
    assert of_vllm == {
        "model": "stub-moe", "prompt": "hello", "max_tokens": 3, "temperature": 0.5, "seed": 7, "return_token_ids": True
    }  # fmt: skip
    assert of_sglang == {
        "input_ids": [5, 6, 7, 8],
        "sampling_params": {"max_new_tokens": 3, "temperature": 0.5, "sampling_seed": 8},
        "return_routed_experts": True,
        "return_prompt_token_ids": True,
    }
    assert of_chat == {
        "model": "stub-moe", "messages": [{"role": "user", "content": "why?"}], "max_tokens": 3, "temperature": 0.5,
        "seed": 9, "return_routed_experts": True, "return_input_ids_in_sglext": True,
        "return_output_ids_in_sglext": True,
    }  # fmt: skip


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
        (
            ("--from-vllm", "URL", "--layers", "ffn"),
            "--layers: a server returns the routing of all layers; record them",
        ),
        (("--from-vllm", "URL", "--logits"), "--logits: a server returns the ids of routed experts only"),
        (("--from-vllm", "URL", "--router-inputs"), "--router-inputs: a server returns"),
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


# --- prompts that a server does not take ----------------------------------------------------------------------------


@pytest.fixture
def with_bad_prompts(tmp_path: Path) -> str:
    """Good, too long, good, aborted, good."""
    path = tmp_path / "five.txt"
    path.write_text("hello\n" + "a" * 90 + "\nthere\nx-ray\nworld\n")
    return str(path)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_bad_prompt_is_skipped_and_named(
    lrcsim: Callable[..., Any], stub: Any, with_bad_prompts: str, tmp_path: Path, kind: str, batch: int
) -> None:
    url, handler = stub
    handler.longest = 50
    shape = SGLANG if kind == "sglang" else ()
    out = tmp_path / "out.h5"
    command = (
        "record", f"--from-{kind}", url, "--prompts", with_bad_prompts, "-o", out,
        "--max-new-tokens", 4, "--batch", batch, *shape,
    )  # fmt: skip
    code, said, err = lrcsim(*command)
    assert (code, said) == (0, f"{out}: 24 tokens in 3 requests\n"), err
    assert "2 of 5 prompts skipped, the first: prompt 2: " in err
    assert "refuses: 400 Bad Request" in err
    assert "maximum context length is 50 [31m tokens. Shorten it." in err
    assert "\x1b" not in err
    assert "without routing skipped" not in err  # said once
    with RoutingTrace.open(out) as trace:
        assert trace.provenance["skipped_prompts"] == 2
        assert (trace.experts[:8] == routing([ord(c) for c in "hello"], 4)[:, 1:]).all()
        assert (trace.experts[8:16] == routing([ord(c) for c in "there"], 4)[:, 1:]).all()

    code, _, err = lrcsim(*command, "--stop-on-error", "--restart")
    assert code == 1
    assert "prompt 2: " in err
    assert "--stop-on-error" in err
    assert err.count("\n") == 1


def test_a_skipped_prompt_stays_skipped(
    lrcsim: Callable[..., Any], stub: Any, with_bad_prompts: str, tmp_path: Path
) -> None:
    url, handler = stub
    handler.longest, handler.fail_after = 50, 4
    out = tmp_path / "out.h5"
    command = ("record", "--from-vllm", url, "--prompts", with_bad_prompts, "-o", out, "--max-new-tokens", 4)
    code, _, err = lrcsim(*command)
    assert code == 1
    assert "prompt 5: " in err
    assert "the same command goes on from there" in err
    handler.fail_after = 10**6
    handler.asked.clear()
    code, said, err = lrcsim(*command)
    assert (code, said) == (0, f"{out}: 24 tokens in 3 requests (2 of them by an earlier run)\n"), err
    assert "2 of 5 prompts skipped, the first: prompt 2: " in err
    assert len(handler.asked) == 1


def test_all_prompts_skipped(lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path) -> None:
    stub[1].longest = 1
    code, _, err = lrcsim(
        "record", "--from-vllm", stub[0], "--prompts", prompts, "--limit", 2, "-o", tmp_path / "out.h5"
    )
    assert code == 1
    assert "not written, all 2 prompts were skipped; prompt 1: " in err
    assert not (tmp_path / "out.h5").exists()


def test_answers_that_are_no_trace_are_kept(
    lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path
) -> None:
    stub[1].hole = True
    out = tmp_path / "out.h5"
    code, _, err = lrcsim("record", "--from-vllm", stub[0], "--prompts", prompts, "-o", out, "--max-new-tokens", 4)
    assert (code, err.count("\n"), out.exists()) == (1, 1, False)
    assert "response 1: row 2 (token 2) has expert 0 at every rank" in err
    kept = re.search(r"the answers are kept, see lrcsim trace import (\S+) -o (\S+)", err)
    assert kept is not None
    code, said, err = lrcsim("trace", "import", kept[1], "-o", kept[2], "--drop-zero-rows")
    assert (code, "23 tokens in 3 requests" in said) == (0, True), err


# --- the key --------------------------------------------------------------------------------------------------------


def test_the_key_is_one_of_its_own(
    lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = stub
    for name in ("OPENAI_API_KEY", "LRCSIM_SERVER_KEY", "MINE"):
        monkeypatch.delenv(name, raising=False)
    command = ("record", "--from-vllm", url, "--prompts", prompts, "-o", tmp_path / "out.h5", "--max-new-tokens", 2)
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-server")
    assert lrcsim(*command)[0] == 0
    assert set(handler.keys) == {None}
    handler.keys.clear()
    monkeypatch.setenv("LRCSIM_SERVER_KEY", "secret")
    assert lrcsim(*command)[0] == 0
    assert set(handler.keys) == {"Bearer secret"}
    handler.keys.clear()
    monkeypatch.setenv("MINE", "other")
    assert lrcsim(*command, "--api-key-env", "MINE")[0] == 0
    assert set(handler.keys) == {"Bearer other"}
    code, _, err = lrcsim(*command, "--api-key-env", "NONE_SUCH")
    assert (code, "there is no such environment variable" in err) == (1, True)
    monkeypatch.setenv("LRCSIM_SERVER_KEY", "sec\nret")
    code, _, err = lrcsim(*command)
    assert (code, "characters that cannot be sent" in err, "ret" in err.replace("characters", "")) == (1, True, False)


def test_a_redirect_is_not_followed(
    lrcsim: Callable[..., Any], stub: Any, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = stub
    monkeypatch.setenv("LRCSIM_SERVER_KEY", "secret")
    handler.elsewhere = url.replace("127.0.0.1", "localhost") + "/v1/models"
    code, _, err = lrcsim("record", "--from-vllm", url, "--prompts", prompts, "-o", tmp_path / "out.h5")
    assert code == 1
    assert "redirects to http://localhost" in err
    assert len(handler.keys) == 1


def test_options_of_servers_need_one(lrcsim: Callable[..., Any], prompts: str, tmp_path: Path) -> None:
    for option in (("--stop-on-error",), ("--cached-prefix", "drop"), ("--api-key-env", "X")):
        code, _, err = lrcsim("record", "some-model", "--prompts", prompts, "-o", tmp_path / "out.h5", *option)
        assert (code, "are for servers" in err) == (1, True)
    code, _, err = lrcsim(
        "record", "--from-vllm", "http://127.0.0.1:9", "--prompts", prompts, "-o", tmp_path / "o.h5",
        "--cached-prefix", "perhaps",
    )  # fmt: skip
    assert (code, "use 'drop' or 'keep'" in err) == (1, True)
