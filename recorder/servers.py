"""Record from a running inference server that returns the routed experts: vLLM and SGLang.

The prompts are sent as they are, the answers kept as JSON lines beside the trace to be, and in the end read by the same
importers that read answers saved by others. Only ids are recorded: servers return no weights and no scores.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.recorder.connection import Connection, RefusedError
from lrcsim.recorder.prompts import Prompt
from lrcsim.recorder.session import Progress, Recording, Settings
from lrcsim.recorder.workspace import Workspace
from lrcsim.traces.importers import Options, import_trace
from lrcsim.traces.importers.answers import read_answer
from lrcsim.traces.what_ran import settle

Ask = Callable[[Prompt, int, Settings, str], tuple[str, dict[str, Any]]]
"""Gives path and body of the request for a prompt, its number, the settings and the model's name."""


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
            "return_input_ids_in_sglext": True,
            "return_output_ids_in_sglext": True,
        }
    given = {"text": prompt.text} if prompt.token_ids is None else {"input_ids": list(prompt.token_ids)}
    sampling = {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "sampling_seed": settings.seed + number,
    }
    asked = {"return_routed_experts": True, "return_prompt_token_ids": True}
    return "/generate", {**given, "sampling_params": sampling, **asked}


def _messages(prompt: Prompt, settings: Settings) -> list[dict[str, Any]] | None:
    if prompt.text is not None and settings.chat:
        return [{"role": "user", "content": prompt.text}]
    return prompt.messages


SERVERS: dict[str, Ask] = {"vllm": _ask_vllm, "sglang": _ask_sglang}
"""By the name of the importer that reads their answers."""


def record_from_server(
    kind: str,
    url: str,
    prompts: Iterable[Prompt],
    out: str | Path,
    settings: Settings,
    options: Options,
    *,
    api_key_env: str | None = None,
    source: str = "",
    restart: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Send prompts to a server and write what it routed as a trace; resumable as `lrcsim.recorder.record` is.

    A prompt that the server refuses, or does not finish, is skipped and named in the notices.

    Args:
        kind: one of `SERVERS`.
        url: of the server, without a path: ``http://localhost:8000``.
        prompts: as texts (with ``settings.chat`` as chat messages), messages or token ids.
        out: the trace to write.
        settings: ``batch`` requests are in flight at a time; only what a server knows of may differ from the defaults.
        options: what answers do not say: for SGLang ``num_layers`` and ``top_k``; for both ``num_experts``; how cached
            prefixes count; with ``stop_on_error`` a prompt without routing ends the recording.
        api_key_env: environment variable with the server's key; None: ``LRCSIM_SERVER_KEY``, if it is set.
        source: where the prompts are from, for the provenance.
        restart: drop an unfinished recording.
        progress: called after each batch.

    Raises:
        ConfigError: the server does not answer, refuses, or the settings are not for servers.
        TraceError: no answer holds routing, or they are no trace; then they are kept.
    """
    useless = [
        name for name in ("teacher_forced", "logits", "router_inputs", "predict_next") if getattr(settings, name)
    ]
    if useless:
        option = useless[0].replace("_", "-")
        raise ConfigError(f"--{option}: a server returns the ids of routed experts only; record from a MODEL for that")
    if settings.layers is not None:
        raise ConfigError(
            "--layers: a server returns the routing of all layers; record them, then take some out of the trace with "
            "lrcsim trace select --layers"
        )
    if kind == "sglang" and (options.num_layers is None or options.top_k is None):
        raise ConfigError("an SGLang server does not send the shape of its routing: give --num-layers and --top-k")
    connection, out = Connection.to(url, api_key_env), Path(out)
    model = _model_name(connection)
    read_later = {"cached_prefix", "stop_on_error"}  # they change how answers are read, not what is asked
    known = {name: value for name, value in asdict(options).items() if name not in read_later}
    determined = {"server": kind, "model": model, **asdict(settings), **known}
    with Workspace(out, determined, restart=restart) as workspace:
        kept = workspace.folder / "responses.jsonl"
        waiting = islice(enumerate(prompts), settings.limit)
        so_far = _recover(kept, options, waiting)
        resumed = so_far.recorded
        ask = partial(_answer, SERVERS[kind], connection, settings, model)
        with kept.open("ab") as file, ThreadPoolExecutor(settings.batch) as pool:
            while batch := list(islice(waiting, settings.batch)):
                for answer in pool.map(ask, batch):
                    so_far.add(answer, options, connection.url)
                    file.write(json.dumps(answer).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                if progress is not None:
                    progress(so_far.asked, so_far.tokens)
        if so_far.skipped and not so_far.recorded:
            raise ConfigError(
                f"{out}: not written, all {so_far.skipped:,} prompts were skipped; {so_far.first_skipped}"
            )
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
        if so_far.skipped:
            about["skipped_prompts"] = so_far.skipped
        try:
            report = import_trace(kept, out, kind, _with_model(options, model), provenance=about)
        except TraceError as error:
            raise TraceError(f"{error}; the answers are kept, see lrcsim trace import {kept} -o {out}") from None
        workspace.discard()
    return Recording(out, report.requests, report.tokens, resumed, {}, [*so_far.notices(), *report.notices])


@dataclass
class _Progress:
    """What the answers so far came to.

    Attributes:
        asked: prompts answered or refused.
        recorded: answers with routing.
        tokens: tokens in them.
        skipped: prompts without routing.
        first_skipped: which was the first, and why.
    """

    asked: int = 0
    recorded: int = 0
    tokens: int = 0
    skipped: int = 0
    first_skipped: str = ""

    def add(self, answer: dict[str, Any], options: Options, url: str) -> None:
        """Count an answer; one without routing is marked as skipped.

        Raises:
            TraceError: nothing yet had routing and this has none, or it is malformed.
            ConfigError: a prompt is skipped, and the user wants to stop then.
        """
        self.asked += 1
        noted = answer["lrcsim"]
        if noted.get("skipped") is None:
            try:
                read = read_answer(answer, options)
                self.tokens += sum(settle(routed.sent).tokens for routed in read.routed)
            except TraceError as error:
                raise TraceError(f"prompt {self.asked}: the answer of {url} {error}") from None
            if read.routed:
                self.recorded += 1
                return
            why = read.without[0] if read.without else "no routing"
            if not self.recorded and "finish_reason" not in why and not why.startswith("error"):
                raise TraceError(
                    f"prompt {self.asked}: the answer of {url}: {why}; was it run with --enable-return-routed-experts?"
                )
            noted["skipped"] = f"the answer of {url}: {why}"
        self.skipped += 1
        self.first_skipped = self.first_skipped or f"prompt {self.asked}: {noted['skipped']}"
        if options.stop_on_error:
            raise ConfigError(f"prompt {self.asked}: {noted['skipped']} (--stop-on-error)")

    def notices(self) -> list[str]:
        """Say which prompts were skipped."""
        if not self.skipped:
            return []
        return [
            f"{self.skipped:,} of {self.asked:,} prompts skipped, the first: {self.first_skipped}; "
            "--stop-on-error ends a recording there"
        ]


def _with_model(options: Options, model: str) -> Options:
    return options if options.model else replace(options, model=model)


def _recover(kept: Path, options: Options, prompts: Iterator[tuple[int, Prompt]]) -> _Progress:
    """Count the whole answers of an earlier run; cut off one that was being written.

    Raises:
        ConfigError: they are answers to other prompts.
    """
    so_far = _Progress()
    if not kept.exists():
        return so_far
    good = 0
    with kept.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            answer = json.loads(line)
            _, prompt = next(prompts, (0, None))
            if prompt is None or answer["lrcsim"]["prompt"] != _digest(prompt):
                raise ConfigError(f"{kept.parent}: an unfinished recording of other prompts is there; use --restart")
            good += len(line)
            so_far.add(answer, options, "the server")
    os.truncate(kept, good)
    return so_far


def _answer(
    ask: Ask, connection: Connection, settings: Settings, model: str, numbered: tuple[int, Prompt]
) -> dict[str, Any]:
    """Ask for one prompt; return the answer, or why there is none, with our notes under ``lrcsim``.

    Raises:
        ConfigError: the server does not answer, or refuses more than this prompt.
    """
    number, prompt = numbered
    path, body = ask(prompt, number, settings, model)
    noted: dict[str, Any] = {"domain": prompt.domain, "prompt": _digest(prompt)}
    try:
        answer = connection.post(path, body)
    except RefusedError as error:
        return {"lrcsim": {**noted, "skipped": str(error)}}
    except ConfigError as error:
        raise ConfigError(f"prompt {number + 1}: {error}; the same command goes on from there") from None
    answer["lrcsim"] = noted
    if "input_ids" in body:
        answer["input_ids"] = body["input_ids"]
    return answer


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(asdict(prompt), sort_keys=True).encode()).hexdigest()[:16]


def _model_name(connection: Connection) -> str:
    """Ask which model the server has.

    Raises:
        ConfigError: there is no server at the URL, or it serves no model.
    """
    listed = connection.get("/v1/models")
    try:
        return str(listed["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise ConfigError(f"{connection.url}/v1/models names no model, is it a vLLM or SGLang server?") from None
