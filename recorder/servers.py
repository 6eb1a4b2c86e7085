"""Record from a running inference server that returns the routed experts: vLLM and SGLang.

The prompts are sent as they are, the answers kept as JSON lines beside the trace to be, and in the end read by the same
importers that read answers saved by others. Only ids are recorded: servers return no weights and no scores.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from lrcsim.errors import ConfigError, TraceError, brief
from lrcsim.recorder.prompts import Prompt
from lrcsim.recorder.session import Progress, Recording, Settings
from lrcsim.recorder.workspace import Workspace
from lrcsim.traces.importers import Options, import_trace, sglang, vllm
from lrcsim.traces.importers.responses import Routed

__all__ = ["SERVERS", "Server", "record_from_server"]

TIMEOUT = 600.0
"""Seconds to wait for one answer."""


@dataclass(frozen=True)
class Server:
    """How to talk to one kind of server.

    Attributes:
        ask: gives path and body of the request for a prompt, its number, the settings and the model's name.
        read: gives the routing in an answer; raises TraceError when there is none.
    """

    ask: Callable[[Prompt, int, Settings, str], tuple[str, dict[str, Any]]]
    read: Callable[[dict[str, Any], Options], list[Routed]]


def _ask_vllm(prompt: Prompt, number: int, settings: Settings, model: str) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed + number,
        "return_token_ids": True,
    }
    messages = _messages(prompt, settings)
    if messages is not None:
        return "/v1/chat/completions", {**body, "messages": messages}
    return "/v1/completions", {**body, "prompt": prompt.text if prompt.token_ids is None else list(prompt.token_ids)}


def _ask_sglang(prompt: Prompt, number: int, settings: Settings, model: str) -> tuple[str, dict[str, Any]]:
    messages = _messages(prompt, settings)
    if messages is not None:
        return "/v1/chat/completions", {
            "model": model,
            "messages": messages,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed + number,
            "return_routed_experts": True,
        }
    given = {"text": prompt.text} if prompt.token_ids is None else {"input_ids": list(prompt.token_ids)}
    sampling = {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "sampling_seed": settings.seed + number,
    }
    return "/generate", {**given, "sampling_params": sampling, "return_routed_experts": True}


def _messages(prompt: Prompt, settings: Settings) -> list[dict[str, Any]] | None:
    if prompt.text is not None and settings.chat:
        return [{"role": "user", "content": prompt.text}]
    return prompt.messages


SERVERS = {
    "vllm": Server(_ask_vllm, lambda answer, _options: vllm.extract(answer)),
    "sglang": Server(_ask_sglang, lambda answer, options: sglang.extract(answer, options)),
}
"""By the name of the importer that reads their answers."""


def record_from_server(
    kind: str,
    url: str,
    prompts: Iterable[Prompt],
    out: str | Path,
    settings: Settings,
    options: Options,
    *,
    source: str = "",
    restart: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Send prompts to a server and write what it routed as a trace; resumable as `lrcsim.recorder.record` is.

    Args:
        kind: one of `SERVERS`.
        url: of the server, without a path: ``http://localhost:8000``.
        prompts: as texts (with ``settings.chat`` as chat messages), messages or token ids.
        out: the trace to write.
        settings: ``batch`` requests are in flight at a time; only what a server knows of may differ from the defaults.
        options: what answers do not say: for SGLang ``num_layers`` and ``top_k``; for both ``num_experts``.
        source: where the prompts are from, for the provenance.
        restart: drop an unfinished recording.
        progress: called after each batch.

    Raises:
        ConfigError: the server does not answer, refuses, or the settings are not for servers.
        TraceError: an answer holds no routing, or the trace cannot be written.
    """
    useless = [name for name in ("teacher_forced", "logits", "predict_next") if getattr(settings, name)]
    if useless:
        option = useless[0].replace("_", "-")
        raise ConfigError(f"--{option}: a server returns the ids of routed experts only; record from a MODEL for that")
    if kind == "sglang" and (options.num_layers is None or options.top_k is None):
        raise ConfigError("an SGLang server does not send the shape of its routing: give --num-layers and --top-k")
    server, url, out = SERVERS[kind], url.rstrip("/"), Path(out)
    model = _model_name(url)
    determined = {"server": kind, "model": model, **asdict(settings), **asdict(options)}
    with Workspace(out, determined, restart=restart) as workspace:
        kept = workspace.folder / "responses.jsonl"
        waiting = islice(enumerate(prompts), settings.limit)
        resumed, tokens = _recover(kept, server, options, waiting)
        done = resumed
        with kept.open("ab") as file, ThreadPoolExecutor(settings.batch) as pool:
            while batch := list(islice(waiting, settings.batch)):
                ask = partial(_answer, server, url, settings, model, options)
                for answer, count in pool.map(ask, batch):
                    file.write(json.dumps(answer).encode() + b"\n")
                    tokens, done = tokens + count, done + 1
                file.flush()
                os.fsync(file.fileno())
                if progress is not None:
                    progress(done, tokens)
        about = {
            "model_id": model,
            "synthetic": False,
            "recorder": f"lrcsim record --from-{kind}",
            "settings": asdict(settings),
            "versions": {"lrcsim": version("lrcsim")},
            "seed": settings.seed,
            "date": workspace.started,
            "prompts": source or None,
        }
        report = import_trace(kept, out, kind, _with_model(options, model), provenance=about)
        workspace.discard()
    return Recording(out, report.requests, report.tokens, resumed, {}, report.notices)


def _with_model(options: Options, model: str) -> Options:
    return options if options.model else replace(options, model=model)


def _recover(kept: Path, server: Server, options: Options, prompts: Iterator[tuple[int, Prompt]]) -> tuple[int, int]:
    """Count the whole answers of an earlier run, and their tokens; cut off one that was being written.

    Raises:
        ConfigError: they are answers to other prompts.
    """
    if not kept.exists():
        return 0, 0
    good = count = tokens = 0
    with kept.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            answer = json.loads(line)
            _, prompt = next(prompts, (0, None))
            if prompt is None or answer["lrcsim"]["prompt"] != _digest(prompt):
                raise ConfigError(f"{kept.parent}: an unfinished recording of other prompts is there; use --restart")
            good, count = good + len(line), count + 1
            tokens += sum(len(routed.experts) for routed in server.read(answer, options))
    os.truncate(kept, good)
    return count, tokens


def _answer(
    server: Server, url: str, settings: Settings, model: str, options: Options, numbered: tuple[int, Prompt]
) -> tuple[dict[str, Any], int]:
    """Ask for one prompt; return the answer, with our notes, and its tokens.

    Raises:
        TraceError: there is no routing in it.
    """
    number, prompt = numbered
    path, body = server.ask(prompt, number, settings, model)
    answer = _post(url + path, body)
    try:
        routed = server.read(answer, options)
    except TraceError as error:
        raise TraceError(
            f"prompt {number + 1}: the answer of {url} {error}; was it run with --enable-return-routed-experts?"
        ) from None
    answer["lrcsim"] = {"domain": prompt.domain, "prompt": _digest(prompt)}
    if "input_ids" in body:
        answer["input_ids"] = body["input_ids"]
    return answer, sum(len(entry.experts) for entry in routed)


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(asdict(prompt), sort_keys=True).encode()).hexdigest()[:16]


def _model_name(url: str) -> str:
    """Ask which model the server has.

    Raises:
        ConfigError: there is no server at the URL, or it serves no model.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no address of a server, write for example http://localhost:8000")
    listed = _fetch(urllib.request.Request(url + "/v1/models"))
    try:
        return str(listed["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise ConfigError(f"{url}/v1/models names no model, is it a vLLM or SGLang server?") from None


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(body).encode()
    return _fetch(urllib.request.Request(url, data, {"Content-Type": "application/json"}))


def _fetch(request: urllib.request.Request) -> dict[str, Any]:
    """Return the JSON object that a server answers with.

    Raises:
        ConfigError: it does not answer, refuses, or answers with something else.
    """
    key = os.environ.get("OPENAI_API_KEY")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            value = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = " ".join(error.read(400).decode(errors="replace").split())
        raise ConfigError(f"{request.full_url} refuses: {error.code} {error.reason} {text}".strip()) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{request.full_url} does not answer as a server should ({brief(error)})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{request.full_url} answers with no JSON object")
    return value
