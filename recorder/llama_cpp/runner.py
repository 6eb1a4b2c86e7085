"""Recording from a GGUF file in llama.cpp: tokens in, routing out, one request at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.cores import usable_cores
from lrcsim.base.errors import ConfigError
from lrcsim.models.gguf_geometry import geometry_from_header
from lrcsim.models.gguf_header import GgufHeader, read_header
from lrcsim.recorder.llama_cpp.blocks import routing_blocks, table
from lrcsim.recorder.llama_cpp.declarations import VERSION
from lrcsim.recorder.llama_cpp.library import Context, Library, Model
from lrcsim.recorder.llama_cpp.routing import Routing
from lrcsim.recorder.passes import Columns
from lrcsim.recorder.prompts import Prompt
from lrcsim.recorder.requests import Request
from lrcsim.recorder.session import Progress, Recording, Settings, record_with
from lrcsim.traces import LayerTable
from lrcsim.traces.choose_layers import choose_layers

STEP = 128
"""Tokens of a prompt run at once: the outputs of all are computed, 75 MB with a vocabulary of 150,000."""

EXACT = "keys and values in float32, no flash attention"


class Tokenizer:
    """A model's own tokenizer and chat template, called as those of transformers are."""

    def __init__(self, model: Model) -> None:
        self.model, self.chat_template = model, model.chat_template

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return the token ids of a text under ``input_ids``."""
        return {"input_ids": self.model.tokenise(text, special=add_special_tokens)}

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """Write a conversation as text; ``tokenize`` must be False."""
        assert not tokenize
        return self.model.templated(messages, answer=add_generation_prompt)


class LlamaCppRunner:
    """Runs requests in llama.cpp on the CPU; see `session.Runner`.

    Args:
        model: loaded.
        header: of its file.
        settings: how to run.
        exact: keys and values in float32, no flash attention.

    Raises:
        ConfigError: the file has no experts, or such as cannot be recorded, or the settings are not for llama.cpp.
    """

    both = False
    batch = 1

    def __init__(self, model: Model, header: GgufHeader, settings: Settings, *, exact: bool) -> None:
        if settings.predict_next:
            raise ConfigError("--predict-next: gates in llama.cpp are not asked about other layers; leave it out")
        if settings.router_inputs:
            raise ConfigError("--router-inputs: what llama.cpp gives its routers is not recorded; leave it out")
        self.model, self.header, self.settings, self.exact = model, header, settings, exact
        self.name = header.path.name
        self.tokenizer = Tokenizer(model) if model.has_tokenizer else None
        self.positions: int | None = model.positions
        self.vocabulary = model.vocab
        named = header.values.get("tokenizer.ggml.eos_token_id")
        self.separator = named if isinstance(named, int) else None
        self._blocks = blocks = routing_blocks(header, model)
        self._chosen = list(range(len(blocks)))
        if settings.layers is not None:
            self._chosen = choose_layers(settings.layers, len(blocks), [_name(block) for block in blocks])
        self.notices = []
        if settings.batch > 1:
            self.notices.append("recorded one request at a time, as llama.cpp's context holds one here")
        if header.architecture == "gemma4":
            self.notices.append("weights are those before the scale of each expert (ffn_down_exps.scale)")
        self._routing = Routing(model.library, logits=settings.logits)
        self._context: Context | None = None

    def determined(self) -> dict[str, Any]:
        """Return the file's digests, the library's version, and what else changes numbers."""
        return {"model": self.name, "sha256": self._digests(), "xllamacpp": VERSION, "exact": self.exact}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Free the context at the end."""
        try:
            yield
        finally:
            if self._context is not None:
                self._context.close()
                self._context = None

    def run(self, batch: list[Request]) -> list[Columns]:
        """Run requests one after the other."""
        return [self._run(request) for request in batch]

    def layers(self) -> LayerTable:
        """Describe the recorded layers, bytes as they are in the file."""
        return table(self.header, self._recorded(), [self._routing.top_k[at] for at in self._chosen])

    def layer_names(self) -> list[str]:
        """Name the layers as their tensors begin: ``blk.3.ffn``."""
        return [_name(block) for block in self._recorded()]

    def about(self) -> dict[str, Any]:
        """Return what provenance says: the file, the library, the quantisation."""
        values = self.header.values
        kinds = sorted({tensor.type for tensor in self.header.tensors.values() if "_exps." in tensor.name})
        return {
            "versions": {"xllamacpp": VERSION},
            "device": f"cpu ({self.model.library.instructions})",
            "dtype": ", ".join(kinds),
            "file": {"sha256": self._digests(), "size": sum(part.stat().st_size for part in self.header.parts)},
            "engine": f"llama.cpp, {EXACT if self.exact else 'its defaults'}",
            "gguf": {
                name: value
                for name, value in values.items()
                if isinstance(value, int | float | str) and not name.startswith("tokenizer.") and len(str(value)) < 200
            },
            "predicted_ids": "argmax of the model's output at the position",
            **self._geometry(),
        }

    def _geometry(self) -> dict[str, Any]:
        """Return the model's geometry with all tensors, by which a trace has times; nothing where it cannot be read."""
        try:
            found = geometry_from_header(self.header)
        except ConfigError:
            return {}
        values = found.to_dict()
        values["stored"]["file"] = self.header.path.name  # not where it lay
        return {"geometry": values}

    def _run(self, request: Request) -> Columns:
        settings, ids = self.settings, request.ids
        more = 0 if settings.teacher_forced else settings.max_new_tokens
        context = self._room_for(len(ids) + more)
        parts, favoured = [], []
        for low in range(0, len(ids), STEP):
            piece = ids[low : low + STEP]
            parts.append(self._step(context, piece))
            favoured.append(context.favoured(len(piece)))
        made: list[int] = []
        if more:
            random = np.random.default_rng((settings.seed, request.number))
            token = _sample(context.logits(), settings.temperature, random)
            while len(made) + 1 < more and not self._ends(token):
                parts.append(self._step(context, [token]))
                made.append(token)
                favoured.append(context.favoured(1))
                token = _sample(context.logits(), settings.temperature, random)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        columns = {name: data[:, self._chosen] for name, data in columns.items()}
        columns["weights"] = columns["weights"].astype(np.float16)
        columns["token_ids"] = np.array([*ids, *made], np.int32)
        columns["predicted_ids"] = np.concatenate(favoured)
        if more:
            columns["phase"] = np.repeat(np.array([0, 1], np.uint8), [len(ids), len(made)])
        return columns

    def _step(self, context: Context, tokens: list[int]) -> Columns:
        """Run tokens and return their routing.

        Raises:
            ConfigError: llama.cpp refuses, or ran other layers than have experts in the file.
        """
        try:
            context.run(tokens, every=True)
        except RuntimeError as error:
            raise ConfigError(f"{self.header.path}: {error}") from None
        columns = self._routing.take(len(tokens))
        if self._routing.layers != self._blocks:
            ran, there = (", ".join(map(str, layers)) for layers in (self._routing.layers, self._blocks))
            raise ConfigError(f"{self.header.path}: llama.cpp routed in layers {ran}, experts are in {there}")
        return columns

    def _ends(self, token: int) -> bool:
        """Whether a token ends a text; where the file names none, the one that the library takes for it is a guess."""
        return self.model.ends(token) and (self.separator is not None or token != self.model.end)

    def _room_for(self, tokens: int) -> Context:
        """Return an empty context for so many tokens: the one that is there, if it is large enough."""
        if self._context is not None and self._context.tokens >= tokens:
            self._context.clear()
            return self._context
        if self._context is not None:
            self._context.close()
        size = min(1 << max(tokens - 1, STEP).bit_length(), max(self.model.positions, tokens))
        self._context = self.model.context(
            size, usable_cores(), step=STEP, exact=self.exact, watch=self._routing.callback
        )
        return self._context

    def _recorded(self) -> list[int]:
        return [self._blocks[at] for at in self._chosen]

    def _digests(self) -> list[str]:
        if not hasattr(self, "_known_digests"):
            self._known_digests = [_digest(part) for part in self.header.parts]
        return self._known_digests


def record_gguf(
    path: str | Path,
    prompts: Iterable[Prompt],
    out: str | Path,
    settings: Settings,
    *,
    exact: bool = False,
    source: str = "",
    restart: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Run a GGUF file in llama.cpp on prompts and write what it routed as a trace; resumable as `record` is.

    Args:
        path: the file; of a split model any part.
        prompts: as texts, messages (by the templates that llama.cpp itself knows) or token ids.
        out: the trace to write.
        settings: how to run.
        exact: keys and values in float32, no flash attention; else llama.cpp's defaults.
        source: where the prompts are from, for the provenance.
        restart: drop an unfinished recording.
        progress: called after each request.

    Raises:
        ConfigError: a package is not installed, the file is none, is not all there or has no experts, or the settings
            are not for it.
        TraceError: the trace cannot be written.
    """
    header = read_header(path)
    if header.missing:
        raise ConfigError(
            f"{header.path}: {header.missing:,} bytes of its weights are not there, and recording runs the model: "
            "download the whole file"
        )
    with Library().model(header.path) as model:
        runner = LlamaCppRunner(model, header, settings, exact=exact)
        return record_with(runner, prompts, out, settings, source=source, restart=restart, progress=progress)


def _name(block: int) -> str:
    return f"blk.{block}.ffn"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample(logits: npt.NDArray[np.float32], temperature: float, random: np.random.Generator) -> int:
    """Choose the next token: the greatest score, or one by softmax(scores / temperature), with Gumbel noise."""
    if temperature == 0:
        return int(logits.argmax())
    return int((logits.astype(np.float64) / temperature + random.gumbel(size=len(logits))).argmax())
