"""One recording from beginning to end: prompts in, a trace out, resumable at any point."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError
from lrcsim.recorder import families
from lrcsim.recorder.prompts import Prompt
from lrcsim.recorder.requests import Request, batches, encoded, packed
from lrcsim.recorder.store import Store
from lrcsim.recorder.workspace import Workspace
from lrcsim.traces.choose_layers import ATTENTION

if TYPE_CHECKING:
    from lrcsim.recorder.capture import Capture
    from lrcsim.recorder.model import Loaded

AHEAD = 3
"""Layers ahead that ``predict_next`` asks for."""

OUTPUT_BYTES = 2**31
"""Of the outputs of a teacher-forced pass (tokens x vocabulary, 4 bytes each): batches are no larger than fits this."""

Progress = Callable[[int, int], None]
"""Called after each batch with the requests and the tokens recorded so far."""


@dataclass(frozen=True)
class Settings:
    """What determines a recording, apart from the model and the prompts.

    Attributes:
        teacher_forced: pack documents into samples and run each in one pass; else generate.
        max_new_tokens: tokens sampled per request, at most.
        temperature: of sampling from the whole distribution; 0: greedy.
        seed: of sampling.
        batch: requests run at once.
        sample_tokens: length of teacher-forced samples.
        chat: put texts into the chat template; None: when generating with a model that has one.
        logits: also record the router's scores of all experts.
        predict_next: also record what the gates of the next three layers say.
        layers: which MoE layers to record (``"ffn"``, ``"0-11"``, ``"*.mlp.*"``, see `choose_layers`); None: all.
        limit: requests (or samples) recorded at most; None: all.
    """

    teacher_forced: bool = False
    max_new_tokens: int = 256
    temperature: float = 0.8
    seed: int = 0
    batch: int = 1
    sample_tokens: int = 512
    chat: bool | None = None
    logits: bool = False
    predict_next: bool = False
    layers: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch", "sample_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, given {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit must be at least 1, given {self.limit}")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"--temperature must be 0 (greedy) or above, given {self.temperature}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be at least 0, given {self.seed}")


@dataclass(frozen=True)
class Recording:
    """What a recording came to.

    Attributes:
        path: the trace.
        requests: requests in it.
        tokens: tokens in it.
        resumed: how many of the requests an earlier, stopped run had recorded.
        recall: share of executed experts that were predicted, by layers ahead; empty without predictions.
        notices: what the user should know of the model.
    """

    path: Path
    requests: int
    tokens: int
    resumed: int
    recall: dict[int, float | None]
    notices: list[str]


def record(
    loaded: Loaded,
    prompts: Iterable[Prompt],
    out: str | Path,
    settings: Settings | None = None,
    *,
    source: str = "",
    restart: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Run a model on prompts and write what it routed as a trace.

    A recording that was stopped, in whatever way, goes on where it was when it is called again with the same arguments,
    and ends with the trace that it would have ended with.

    Args:
        loaded: model and tokenizer, from `lrcsim.recorder.model.load`.
        prompts: read only as far as needed; when resuming they must be the same again.
        out: the trace to write; an existing file is replaced when the recording is complete.
        settings: how to run.
        source: where the prompts are from, for the provenance.
        restart: drop an unfinished recording.
        progress: called after each batch.

    Raises:
        ConfigError: model, prompts and settings do not go together; the message says how.
        TraceError: the trace cannot be written.
    """
    from lrcsim.recorder.capture import Capture

    settings, out = settings or Settings(), Path(out)
    model = loaded.model
    ahead = AHEAD if settings.predict_next else 0
    capture = Capture(model, logits=settings.logits, ahead=ahead, layers=settings.layers)
    if not settings.teacher_forced and not capture.predicts:
        raise ConfigError(f"{type(model).__name__} cannot generate text; use --teacher-forced")
    notices, size = _notices(model, settings)
    notices = [*loaded.notices, *notices, *_of_attention(capture)]
    determined = {"model": loaded.name, "config": _config_digest(model), "dtype": _dtype(model), **asdict(settings)}
    with Workspace(out, determined, restart=restart) as workspace, Store(workspace) as store:
        digest, number = b"", -1
        with capture.on():
            for batch in batches(_requests(loaded, prompts, settings), size, equal=settings.teacher_forced):
                for request in batch:
                    digest = request.digest(digest)
                number = batch[-1].number
                if number < store.resumed:
                    if number == store.resumed - 1 and digest.hex() != store.digest:
                        raise ConfigError(f"{out}: an unfinished recording of other prompts is there; use --restart")
                    continue
                found = _run(capture, batch, settings)
                pairs = [(request.domain, columns) for request, columns in zip(batch, found, strict=True)]
                store.add(pairs, capture.layers(), capture.layer_names(), digest.hex())
                if progress is not None:
                    progress(store.requests, store.tokens)
        if number + 1 < store.resumed:
            raise ConfigError(f"{out}: an unfinished recording of more prompts is there; use --restart")
        about = _provenance(loaded, capture, settings, source, store, workspace.started, notices)
        requests, tokens = store.requests, store.tokens
        recall = store.finish(loaded.name, about)
        workspace.discard()
    return Recording(out, requests, tokens, store.resumed, recall.by_distance(), notices)


def _requests(loaded: Loaded, prompts: Iterable[Prompt], settings: Settings) -> Iterator[Request]:
    """Yield the requests, checked against what the model can take."""
    from itertools import islice

    from lrcsim.recorder.runs import generation_limit, special_ids

    model = loaded.model
    positions = generation_limit(model)
    if settings.teacher_forced:
        ends = special_ids(model)[1]
        length = min(settings.sample_tokens, positions or settings.sample_tokens)
        requests = packed(prompts, loaded.tokenizer, length, ends[0] if ends else None)
    else:
        requests = encoded(prompts, loaded.tokenizer, settings.chat)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    for request in islice(requests, settings.limit):
        if max(request.ids) >= vocabulary:
            raise ConfigError(
                f"request {request.number} has token id {max(request.ids)}, the model's vocabulary has {vocabulary}"
            )
        given = len(request.ids)
        if not settings.teacher_forced and not model.config.is_encoder_decoder:
            given += settings.max_new_tokens
        if positions is not None and given > positions:
            raise ConfigError(
                f"request {request.number} has {len(request.ids)} tokens, with --max-new-tokens "
                f"{settings.max_new_tokens} that is more than the {positions} positions of the model; shorten it"
            )
        yield request


def _run(capture: Any, batch: list[Request], settings: Settings) -> list[Any]:
    from lrcsim.recorder import runs

    if settings.teacher_forced:
        return runs.teacher_forced(capture, batch)
    return runs.generate(
        capture,
        batch,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    )


def _notices(model: Any, settings: Settings) -> tuple[list[str], int]:
    """Return what to tell the user of this model, and the batch size it allows."""
    from lrcsim.recorder.outputs import predicts_tokens

    kinds = {model.config.model_type, model.config.get_text_config().model_type}
    notices = [families.NOTICES[kind] for kind in sorted(kinds & families.NOTICES.keys())]
    size = settings.batch
    for kind in sorted(kinds & families.ALONE.keys()):
        if size > 1:
            notices.append(f"recorded one request at a time, for in this model {families.ALONE[kind]}")
        size = 1
    if settings.teacher_forced and predicts_tokens(model):
        row = 4 * settings.sample_tokens * int(model.get_input_embeddings().weight.shape[0])
        most = max(OUTPUT_BYTES // row, 1)
        if size > most:
            notices.append(f"recorded {most} requests at a time: the outputs of one take {row / 2**20:,.0f} MiB")
            size = most
    return notices, size


def _of_attention(capture: Capture) -> list[str]:
    """Say that experts of attention are among the recorded ones, and how to leave them out."""
    inside = sum(bool(ATTENTION.search(site.name)) for site in capture.sites)
    if not inside:
        return []
    return [
        f"{inside} of the {len(capture.sites)} MoE layers are experts inside attention (in a block, attention comes "
        "first); --layers ffn records those of the feed-forward networks only"
    ]


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _config(model: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(model.config.to_dict(), default=str))
    values.pop("_name_or_path", None)  # where the files are on this machine; the model's name stands beside
    return {name: value for name, value in values.items() if value is not None}


def _config_digest(model: Any) -> str:
    return hashlib.sha256(json.dumps(_config(model), sort_keys=True).encode()).hexdigest()[:16]


def _provenance(
    loaded: Loaded, capture: Capture, settings: Settings, source: str, store: Store, started: str, notices: list[str]
) -> dict[str, Any]:
    import torch
    import transformers

    model = loaded.model
    how = (
        f"teacher-forced: documents of a domain joined and cut into samples of {settings.sample_tokens} tokens, "
        "one pass each, nothing sampled"
        if settings.teacher_forced
        else f"generated with a KV cache, {settings.max_new_tokens} tokens at most, "
        + (f"sampled at temperature {settings.temperature:g}" if settings.temperature else "greedily")
        + "; the last token is not routed"
    )
    about: dict[str, Any] = {
        "model_id": loaded.name,
        "revision": getattr(model.config, "_commit_hash", None),
        "synthetic": False,
        "recorder": "lrcsim record",
        "tokens": how,
        "settings": asdict(settings),
        "versions": {
            "lrcsim": version("lrcsim"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": _device(model),
        "dtype": _dtype(model),
        "seed": settings.seed,
        "date": started,
        "prompts": source or None,
        "layers": store.layer_names,
        "weights": "as the experts' outputs are multiplied with",
        "notices": notices or None,
        "config": _config(model),
    }
    if capture.predicts:
        about["predicted_ids"] = "argmax of the model's output at the position" + (
            "" if settings.teacher_forced else "; -1 where generation computes none, as inside prompts"
        )
    if settings.logits:
        about["logits"] = store.logits_kind()
    if settings.predict_next:
        about["predictions"] = (
            "the gate of the layer, given the state that entered the gate of the layer 1, 2, 3 before"
        )
    return {name: value for name, value in about.items() if value is not None}


def _device(model: Any) -> str:
    import torch

    device = str(model.device)
    return f"{device} ({torch.cuda.get_device_name(model.device)})" if device.startswith("cuda") else device
