"""`lrcsim record`: run a model on prompts and write what it routed as a trace."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import percent
from lrcsim.cli.output import answer, console, json_option, server_options
from lrcsim.cli.screen import echo

if TYPE_CHECKING:
    from lrcsim.recorder import Recording, Settings


@click.command()
@click.argument("model", required=False)
@click.option(
    "--prompts",
    required=True,
    metavar="FILE|-",
    help="Text, a prompt per line; or JSON lines with prompt, messages or token_ids, and domain. - is standard input.",
)
@click.option("-o", "--output", required=True, metavar="OUT.h5", help="Trace to write; replaced when complete.")
@click.option("--domain", metavar="NAME", help="Label of the prompts that have none.")
@click.option("--max-new-tokens", type=int, default=256, show_default=True, metavar="N", help="Tokens to generate.")
@click.option(
    "--teacher-forced", is_flag=True, help="Pack the texts into samples and run each in one pass; generate nothing."
)
@click.option("--sample-tokens", type=int, default=512, show_default=True, metavar="N", help="Length of such samples.")
@click.option("--temperature", type=float, default=0.8, show_default=True, metavar="T", help="0: greedy.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of sampling.")
@click.option("--batch", type=int, default=1, show_default=True, metavar="N", help="Requests at a time.")
@click.option("--limit", type=int, metavar="N", help="Requests (or samples) to record at most.")
@click.option("--device", default="auto", show_default=True, metavar="cuda|cpu|auto", help="Where the model runs.")
@click.option(
    "--dtype", default="auto", show_default=True, metavar="bf16|fp16|fp32|auto", help="auto: as the model's files say."
)
@click.option("--chat/--no-chat", default=None, help="Use the chat template.  [default: when there is one]")
@click.option("--logits", is_flag=True, help="Also record the router's scores of all experts (fp16, large).")
@click.option("--router-inputs", is_flag=True, help="Also record what each router is given (fp16, very large).")
@click.option("--predict-next", is_flag=True, help="Also record what the gates of the next 3 layers would choose.")
@click.option(
    "--layers",
    metavar="WHICH",
    help="MoE layers to record, with commas: ffn or attention (experts of feed-forward networks, inside attention), "
    "numbers from 0 (0-11), patterns of module names ('*.mlp.*').  [default: all]",
)
@click.option("--restart", is_flag=True, help="Drop an unfinished recording instead of resuming it.")
@click.option("--from-vllm", metavar="URL", help="Ask a vLLM server run with --enable-return-routed-experts.")
@click.option("--from-sglang", metavar="URL", help="Ask an SGLang server run with --enable-return-routed-experts.")
@click.option("--num-layers", type=int, metavar="L", help="With a server: blocks of the model, if MODEL is not given.")
@click.option("--top-k", type=int, metavar="K", help="With a server: experts per token, if MODEL is not given.")
@click.option("--num-experts", type=int, metavar="E", help="With a server: experts per layer, if MODEL is not given.")
@server_options
@click.option(
    "--api-key-env", metavar="NAME", help="Environment variable with the server's key.  [default: LRCSIM_SERVER_KEY]"
)
@json_option
def record(
    model: str | None,
    prompts: str,
    output: str,
    domain: str | None,
    device: str,
    dtype: str,
    restart: bool,
    from_vllm: str | None,
    from_sglang: str | None,
    num_layers: int | None,
    top_k: int | None,
    num_experts: int | None,
    cached_prefix: str | None,
    stop_on_error: bool,
    api_key_env: str | None,
    json_path: str | None,
    **given: Any,
) -> None:
    """Record which experts MODEL routes every token to, as a trace.

    MODEL is a local folder or a hub id of a Mixture-of-Experts model in transformers, or a GGUF file, which llama.cpp
    runs. Stopped at any point, the same command goes on where it was. See docs/recorder.md.
    """
    from lrcsim.recorder import Settings, read_prompts
    from lrcsim.recorder import record as record_trace

    settings = Settings(**given)
    server = _server(from_vllm, from_sglang)
    if model is None and server is None:
        raise ConfigError("name the MODEL to record: a local folder or a hub id; or a server with --from-vllm URL")
    shape = {"num_layers": num_layers, "top_k": top_k, "num_experts": num_experts}
    reading = {"cached_prefix": cached_prefix, "stop_on_error": stop_on_error}
    if server is None:
        if cached_prefix is not None or stop_on_error or api_key_env is not None:
            raise ConfigError("--cached-prefix, --stop-on-error and --api-key-env are for servers (--from-vllm URL)")
        if any(value is not None for value in shape.values()):
            raise ConfigError("--num-layers, --top-k and --num-experts are for servers; a MODEL says them itself")
        if _gguf(model) is None:
            from lrcsim.recorder.model import load, require_torch

            require_torch()
    with opened_prompts(prompts) as (lines, path), _progress(path, settings) as progress:
        asked = read_prompts(lines, where=prompts, domain=domain, whole=settings.teacher_forced)
        about: dict[str, Any] = {"source": Path(prompts).name, "restart": restart, "progress": progress}
        if server is not None:
            from lrcsim.recorder.servers import record_from_server

            options = replace(_shape(server[0], model, shape), **reading)
            result = record_from_server(*server, asked, output, settings, options, api_key_env=api_key_env, **about)
        elif (file := _gguf(model)) is not None:
            from lrcsim.recorder.llama_cpp.runner import record_gguf

            exact = _exact(device, dtype)
            result = record_gguf(file, asked, output, settings, exact=exact, **about)
        else:
            result = record_trace(load(str(model), device=device, dtype=dtype), asked, output, settings, **about)
    _show(result, json_path)


def _gguf(model: str | None) -> Path | None:
    """Return the GGUF file that a model names, or the only one in its folder; None: it is of transformers."""
    from lrcsim.models.gguf_names import find_gguf

    return None if model is None else find_gguf(Path(model))


def _exact(device: str, dtype: str) -> bool:
    """Return whether llama.cpp is to compute as exactly as it can.

    Raises:
        ConfigError: a device or a dtype that is not for GGUF files.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device!r}: GGUF files are run on the CPU; use cpu or auto")
    if dtype not in ("auto", "fp32"):
        raise ConfigError(
            f"--dtype {dtype!r}: a GGUF file's weights stay as they are; use auto, or fp32 for keys and values in "
            "float32 without flash attention"
        )
    return dtype == "fp32"


def _server(from_vllm: str | None, from_sglang: str | None) -> tuple[str, str] | None:
    if from_vllm is not None and from_sglang is not None:
        raise ConfigError("--from-vllm and --from-sglang: give one of them")
    if from_vllm is not None:
        return "vllm", from_vllm
    return None if from_sglang is None else ("sglang", from_sglang)


def _shape(kind: str, model: str | None, given: dict[str, int | None]) -> Any:
    """Return what a server's answers do not say, from the options, else from the model's config."""
    from lrcsim.models import load_geometry
    from lrcsim.traces.importers import FORMATS, Options

    known: dict[str, int | None] = {}
    if model is not None:
        geometry = load_geometry(model)
        known = {"num_layers": geometry.layers, "top_k": geometry.top_k, "num_experts": geometry.experts}
    merged: dict[str, Any] = {
        name: known.get(name) if value is None else value
        for name, value in given.items()
        if name in FORMATS[kind].options
    }
    return Options(**merged)


def _show(result: Recording, json_path: str | None) -> None:
    for notice in result.notices:
        echo(f"Note: {notice}", err=True)
    facts = {
        "trace": str(result.path),
        "requests": result.requests,
        "tokens": result.tokens,
        "resumed": result.resumed,
        "recall": {str(distance): rate for distance, rate in result.recall.items()},
        "notices": result.notices,
    }
    if answer(json_path, facts, "record"):
        again = f" ({result.resumed:,} of them by an earlier run)" if result.resumed else ""
        echo(f"{result.path}: {result.tokens:,} tokens in {result.requests:,} requests{again}")
        rates = [f"{percent(rate)} {d} ahead" for d, rate in result.recall.items() if rate is not None]
        if rates:
            echo("experts that the next-gate predictor foresaw: " + ", ".join(rates))


@contextmanager
def opened_prompts(prompts: str) -> Iterator[tuple[IO[str], Path | None]]:
    """Open the prompts.

    Raises:
        ConfigError: there is no such file, or it is no text.
    """
    if prompts == "-":
        yield sys.stdin, None
        return
    path = Path(prompts)
    try:
        with path.open(encoding="utf-8") as lines:
            yield lines, path
    except (FileNotFoundError, IsADirectoryError) as error:
        if error.filename != prompts:
            raise
        raise ConfigError(f"--prompts {prompts}: {error.strerror}; name a text or JSON lines file, or -") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompts {prompts}: is no UTF-8 text ({error.reason} at byte {error.start})") from None


def _total(path: Path | None, whole: bool, limit: int | None) -> int | None:
    """Return the number of requests to come, where that is known before they are read."""
    if path is None or whole:
        return limit
    from lrcsim.recorder.prompts import count_prompts

    count = count_prompts(path, whole)
    return count if limit is None or count is None else min(count, limit)


@contextmanager
def _progress(path: Path | None, settings: Settings) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function to call with requests and tokens done; a bar with the rate is drawn on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("recording"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("requests, {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    total = _total(path, settings.teacher_forced, settings.limit)
    started: list[tuple[float, int]] = []
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rate="starting")

        def advance(requests: int, tokens: int) -> None:
            now = time.monotonic()
            if not started:  # the first batch warms up, and a resumed recording begins with tokens of an earlier run
                started.append((now, tokens))
            seconds, before = now - started[0][0], started[0][1]
            rate = f", {(tokens - before) / seconds:,.0f} tokens/s" if seconds > 0 else ""
            bar.update(task, completed=requests, rate=f"{tokens:,} tokens{rate}")

        yield advance
