"""Run a model on a batch of requests and give back, for each, what was routed: only positions that belong to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from lrcsim.base.errors import ConfigError, LrcsimError, brief
from lrcsim.recorder.capture import Capture
from lrcsim.recorder.model import accepts
from lrcsim.recorder.passes import Columns, Frames
from lrcsim.recorder.requests import Request

ENCODER, DECODER = 0, 1


def teacher_forced(capture: Capture, batch: Sequence[Request]) -> list[Columns]:
    """Run samples of equal length in one pass; a plain token stream, without phases.

    An encoder-decoder model gets the same tokens twice, in the decoder shifted by its start token. The output of all
    positions is computed, for the tokens it predicts.
    """
    model = capture.model
    ids = torch.tensor([request.ids for request in batch], device=model.device)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    both = bool(model.config.is_encoder_decoder) and accepts(model, "decoder_input_ids")  # else an encoder alone
    if both:
        start = torch.full_like(ids[:, :1], _start(model))
        given["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], dim=1)
    if accepts(model, "use_cache"):
        given["use_cache"] = False
    if accepts(model, "logits_to_keep") and not capture.predicts:
        given["logits_to_keep"] = 1
    with torch.inference_mode(), one_line(model):
        model(**given)
    taken = capture.take()
    found: list[Columns] = []
    for row in range(len(batch)):
        parts = [(taken[stack], stack, _numpy(given[name][row])) for stack, name in _streams(both) if stack in taken]
        found.append(_joined(capture, [_pick(frames, row, len(batch), ids, stack) for frames, stack, ids in parts]))
    return found


def generate(
    capture: Capture, batch: Sequence[Request], *, max_new_tokens: int, temperature: float, seed: int
) -> list[Columns]:
    """Let the model continue prompts with its KV cache: the prompts' tokens are prefill, the sampled ones decode.

    A request ends before its end-of-text token, and before the last token sampled, which no model ever runs. What it
    samples depends on its number and the seed, not on its batch. Of a prompt only the last position has an output, and
    so a predicted token: computing the others would take memory, and change the last bits of what is sampled from.
    (Some models compute them all the same, and then they are recorded.)
    """
    model = capture.model
    both = bool(model.config.is_encoder_decoder)
    pad, ends = special_ids(model)
    width = max(len(request.ids) for request in batch)
    ids = np.full((len(batch), width), pad, np.int64)
    mask = np.zeros((len(batch), width), np.int64)
    for row, request in enumerate(batch):
        place = slice(0, len(request.ids)) if both else slice(width - len(request.ids), width)
        ids[row, place], mask[row, place] = request.ids, 1
    sampler = [] if temperature == 0 else [_Sampler(temperature, seed, batch)]
    settings = _generation_config(model, max_new_tokens, pad, ends)
    with torch.inference_mode(), one_line(model), _only(model, settings):
        output = model.generate(
            input_ids=torch.from_numpy(ids).to(model.device),
            attention_mask=torch.from_numpy(mask).to(model.device),
            generation_config=settings,
            logits_processor=sampler,
        )
    sequences = _numpy(output)
    taken = capture.take()
    found: list[Columns] = []
    for row, request in enumerate(batch):
        prompt = 1 if both else width  # columns of the sequence that were given
        made = sequences[row, prompt:]
        ended = np.flatnonzero(np.isin(made, ends))
        stop = prompt + (int(ended[0]) if len(ended) else len(made) - 1)
        first = 0 if both else width - len(request.ids)
        streams = [(ENCODER, np.asarray(request.ids), 0)] if both else []
        streams.append((DECODER if both else 0, sequences[row, :stop], first))
        parts = [
            _pick(taken[stack], row, len(batch), given, stack, begin)
            for stack, given, begin in streams
            if stack in taken  # of the other no layer was chosen
        ]
        columns = _joined(capture, parts)
        columns["phase"] = np.zeros(len(columns["experts"]), np.uint8)
        if streams[-1][0] in taken:
            columns["phase"][len(columns["experts"]) - (stop - prompt) :] = 1
        found.append(columns)
    return found


@contextmanager
def _only(model: Any, settings: Any) -> Iterator[None]:
    """Let the model generate by these settings alone: it would fill in what its generation_config.json says besides.

    Beams, n-grams that may not come again, several sequences: other tokens than were asked for, or other rows.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def one_line(model: Any) -> Iterator[None]:
    """Say in one line what a model's own code could not do: too little memory, other inputs than token ids.

    Raises:
        ConfigError: with the reason.
    """
    try:
        yield
    except LrcsimError:
        raise
    except Exception as error:  # whatever the code of some hundred models raises
        raise ConfigError(f"{type(model).__name__} cannot be run on the prompt ({brief(error)})") from error


class _Sampler:
    """Adds Gumbel noise to the scores, so that the greedy choice is a sample of softmax(scores / temperature).

    Each request has a random generator of its own.
    """

    def __init__(self, temperature: float, seed: int, batch: Sequence[Request]) -> None:
        self.temperature = temperature
        self.seeds = [
            int.from_bytes(hashlib.sha256(f"{seed} {request.number}".encode()).digest()[:7], "big") for request in batch
        ]
        self.generators: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if not self.generators:
            self.generators = [torch.Generator(device=scores.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / self.temperature - noise.log()


def special_ids(model: Any) -> tuple[int, list[int]]:
    """Return the padding id and the end-of-text ids of a model; what is padded is masked, so any id serves."""
    # A model that cannot generate has no settings for it.
    config = getattr(model, "generation_config", None) or model.config.get_text_config()
    end = config.eos_token_id
    ends = [] if end is None else [int(end)] if isinstance(end, int) else [int(i) for i in end]
    pad = config.pad_token_id
    return int(pad) if pad is not None else (ends[0] if ends else 0), ends


def generation_limit(model: Any) -> int | None:
    """Return the positions that a model has, or None when its config does not say."""
    value = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return value if isinstance(value, int) and value > 0 else None


def _generation_config(model: Any, max_new_tokens: int, pad: int, ends: list[int]) -> Any:
    config: Any = transformers.GenerationConfig
    own = model.generation_config
    return config(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        disable_compile=True,
        pad_token_id=pad,
        eos_token_id=ends or None,
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
        forced_bos_token_id=own.forced_bos_token_id,
        repetition_penalty=1.0,
    )


def _start(model: Any) -> int:
    # In the order in which generate() looks; a model without a head has no settings for it.
    config = getattr(model, "generation_config", None) or model.config.get_text_config()
    own, first = (getattr(config, key, None) for key in ("decoder_start_token_id", "bos_token_id"))
    start = first if own is None else own
    if start is None:
        raise ConfigError("the model's decoder has no start token (decoder_start_token_id)")
    return int(start)


def _streams(both: bool) -> list[tuple[int, str]]:
    return [(ENCODER, "input_ids"), (DECODER, "decoder_input_ids")] if both else [(0, "input_ids")]


def _pick(
    frames: Frames, row: int, batch: int, ids: npt.NDArray[Any], stack: int, first: int = 0
) -> tuple[Columns, int]:
    """Take positions ``first`` to ``len(ids)`` of one row of the batch."""
    places = frames.of(row, batch)[first : len(ids)]
    if len(places) != len(ids) - first:
        raise ConfigError(f"{len(places)} of {len(ids) - first} tokens were routed: the model cannot be recorded")
    columns = {name: data[places] for name, data in frames.columns.items()}
    numbers = np.isfinite(columns["weights"]).all(
        axis=(0, 2)
    )  # of padding, which is not among these, anything may come
    if not numbers.all():
        raise ConfigError(
            f"a router gave weights that are no numbers (layer {int(np.argmin(numbers))} of those with experts): the "
            "checkpoint is damaged, or its numbers are too large for the dtype: try --dtype fp32"
        )
    columns["token_ids"] = ids[first:].astype(np.int32)
    return columns, stack


def _joined(capture: Capture, parts: list[tuple[Columns, int]]) -> Columns:
    """Put the stacks of one request behind each other, and give the columns the types of a trace."""
    layers = capture.layers()
    if len(layers.stack_names) > 1:
        widened = [(_widened(columns, layers.stack == stack), stack) for columns, stack in parts]
        columns = {name: np.concatenate([part[name] for part, _ in widened]) for name in widened[0][0]}
        columns["stack"] = np.concatenate([np.full(len(p["experts"]), s, np.uint8) for p, s in widened])
    else:
        columns = parts[0][0]
    columns["weights"] = columns["weights"].astype(np.float16)
    return columns


def _widened(columns: Columns, own: npt.NDArray[np.bool_]) -> Columns:
    """Add the layers of the other stack: ids -1, numbers 0."""
    wide: Columns = {}
    for name, data in columns.items():
        if data.ndim < 3:
            wide[name] = data
            continue
        fill = -1 if name == "experts" or name.startswith("predictions/") else 0
        wide[name] = np.full((len(data), len(own), data.shape[2]), fill, data.dtype)
        wide[name][:, own] = data
    return wide


def _numpy(tensor: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.cpu().numpy()
    return array
