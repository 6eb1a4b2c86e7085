"""One recording from beginning to end: prompts in, a trace out, resumable at any point."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lrcsim.base.errors import ConfigError
from lrcsim.recorder.passes import Columns
from lrcsim.recorder.prompts import Prompt
from lrcsim.recorder.requests import Request, batches, encoded, packed
from lrcsim.recorder.store import Store
from lrcsim.recorder.workspace import Workspace
from lrcsim.traces import LayerTable

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
        router_inputs: also record what each layer's router is given.
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
    router_inputs: bool = False
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


class Runner(Protocol):
    """A model that runs requests and tells what it routed: in transformers, or in llama.cpp.

    Attributes:
        name: what to call the model.
        tokenizer: as transformers' are called: ``tokenizer(text)["input_ids"]``, ``chat_template`` and
            ``apply_chat_template``; None: it has none.
        notices: what the user should know of the model.
        batch: requests run at once, at most what was asked for.
        positions: tokens of the longest request; None: not known.
        vocabulary: token ids that it has.
        separator: token id that ends a document; None: it has none.
        both: whether a prompt goes to an encoder, so that what is generated takes no positions of it.
    """

    name: str
    tokenizer: Any
    notices: list[str]
    batch: int
    positions: int | None
    vocabulary: int
    separator: int | None
    both: bool

    def determined(self) -> dict[str, Any]:
        """Return what of the model determines a recording, besides the settings, as JSON values."""
        ...

    def on(self) -> AbstractContextManager[Any]:
        """Return what is to hold while requests are run."""
        ...

    def run(self, batch: list[Request]) -> list[Columns]:
        """Run requests and return the columns of each."""
        ...

    def layers(self) -> LayerTable:
        """Describe the recorded layers; after the first requests."""
        ...

    def layer_names(self) -> list[str]:
        """Name what is behind each of them."""
        ...

    def about(self) -> dict[str, Any]:
        """Return what provenance says of the model and of what runs it; ``versions`` without lrcsim's and Python's."""
        ...


def record_with(
    runner: Runner,
    prompts: Iterable[Prompt],
    out: str | Path,
    settings: Settings,
    *,
    source: str = "",
    restart: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Run a model on prompts and write what it routed as a trace; resumable.

    A recording that was stopped, in whatever way, goes on where it was when it is called again with the same arguments,
    and ends with the trace that it would have ended with.

    Args:
        runner: runs the model.
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
    out = Path(out)
    determined = {**runner.determined(), **asdict(settings)}
    with Workspace(out, determined, restart=restart) as workspace, Store(workspace) as store:
        digest, number = b"", -1
        with runner.on():
            for batch in batches(requests_of(runner, prompts, settings), runner.batch, equal=settings.teacher_forced):
                for request in batch:
                    digest = request.digest(digest)
                number = batch[-1].number
                if number < store.resumed:
                    if number == store.resumed - 1 and digest.hex() != store.digest:
                        raise ConfigError(f"{out}: an unfinished recording of other prompts is there; use --restart")
                    continue
                pairs = [(request.domain, columns) for request, columns in zip(batch, runner.run(batch), strict=True)]
                store.add(pairs, runner.layers(), runner.layer_names(), digest.hex())
                if progress is not None:
                    progress(store.requests, store.tokens)
        if number + 1 < store.resumed:
            raise ConfigError(f"{out}: an unfinished recording of more prompts is there; use --restart")
        about = _provenance(runner, settings, source, store, workspace.started)
        requests, tokens = store.requests, store.tokens
        recall = store.finish(runner.name, about)
        workspace.discard()
    return Recording(out, requests, tokens, store.resumed, recall.by_distance(), runner.notices)


def requests_of(runner: Runner, prompts: Iterable[Prompt], settings: Settings) -> Iterator[Request]:
    """Yield the requests, checked against what the model can take.

    Raises:
        ConfigError: a prompt cannot be run on this model.
    """
    positions = runner.positions
    if settings.teacher_forced:
        length = min(settings.sample_tokens, positions or settings.sample_tokens)
        requests = packed(prompts, runner.tokenizer, length, runner.separator)
    else:
        requests = encoded(prompts, runner.tokenizer, settings.chat)
    for request in islice(requests, settings.limit):
        if max(request.ids) >= runner.vocabulary:
            raise ConfigError(
                f"request {request.number} has token id {max(request.ids)}, the model's vocabulary has "
                f"{runner.vocabulary}"
            )
        given = len(request.ids)
        if not settings.teacher_forced and not runner.both:
            given += settings.max_new_tokens
        if positions is not None and given > positions:
            raise ConfigError(
                f"request {request.number} has {len(request.ids)} tokens, with --max-new-tokens "
                f"{settings.max_new_tokens} that is more than the {positions} positions of the model; shorten it"
            )
        yield request


def _provenance(runner: Runner, settings: Settings, source: str, store: Store, started: str) -> dict[str, Any]:
    how = (
        f"teacher-forced: documents of a domain joined and cut into samples of {settings.sample_tokens} tokens, "
        "one pass each, nothing sampled"
        if settings.teacher_forced
        else f"generated with a KV cache, {settings.max_new_tokens} tokens at most, "
        + (f"sampled at temperature {settings.temperature:g}" if settings.temperature else "greedily")
        + "; the last token is not routed"
    )
    of_runner = runner.about()
    about: dict[str, Any] = {
        "model_id": runner.name,
        "revision": of_runner.pop("revision", None),
        "synthetic": False,
        "recorder": "lrcsim record",
        "tokens": how,
        "settings": asdict(settings),
        "versions": {
            "lrcsim": version("lrcsim"), "python": platform.python_version(), **of_runner.pop("versions")
        },
        "device": of_runner.pop("device"),
        "dtype": of_runner.pop("dtype"),
        "seed": settings.seed,
        "date": started,
        "prompts": source or None,
        "layers": store.layer_names,
        "weights": "as the experts' outputs are multiplied with",
        "notices": runner.notices or None,
        **of_runner,
    }  # fmt: skip
    if settings.logits:
        about["logits"] = store.logits_kind()
    return {name: value for name, value in about.items() if value is not None}
