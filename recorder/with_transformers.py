"""Recording from a model in transformers, by hooks."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from typing import Any

import torch
import transformers

from lrcsim.base.errors import ConfigError
from lrcsim.recorder import families, runs
from lrcsim.recorder.capture import Capture
from lrcsim.recorder.model import Loaded
from lrcsim.recorder.outputs import predicts_tokens
from lrcsim.recorder.passes import Columns
from lrcsim.recorder.requests import Request
from lrcsim.recorder.session import Settings
from lrcsim.traces import LayerTable
from lrcsim.traces.choose_layers import ATTENTION

AHEAD = 3
"""Layers ahead that ``predict_next`` asks for."""

OUTPUT_BYTES = 2**31
"""Of the outputs of a teacher-forced pass (tokens x vocabulary, 4 bytes each): batches are no larger than fits this."""


class TransformersRunner:
    """Runs requests in transformers, with hooks that note the routing; see `session.Runner`.

    Raises:
        ConfigError: the model cannot do what the settings ask for.
    """

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self.name, self.tokenizer, self.settings = loaded.name, loaded.tokenizer, settings
        self.model = model = loaded.model
        ahead = AHEAD if settings.predict_next else 0
        self.capture = Capture(
            model, logits=settings.logits, inputs=settings.router_inputs, ahead=ahead, layers=settings.layers
        )
        if not settings.teacher_forced and not self.capture.predicts:
            raise ConfigError(f"{type(model).__name__} cannot generate text; use --teacher-forced")
        notices, self.batch = _notices(model, settings)
        self.notices = [*loaded.notices, *notices, *_of_attention(self.capture)]
        self.positions = runs.generation_limit(model)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        ends = runs.special_ids(model)[1]
        self.separator = ends[0] if ends else None
        self.both = bool(model.config.is_encoder_decoder)

    def determined(self) -> dict[str, Any]:
        """Return the model's name, a digest of its config, and its dtype."""
        digest = hashlib.sha256(json.dumps(_config(self.model), sort_keys=True).encode()).hexdigest()[:16]
        return {"model": self.name, "config": digest, "dtype": _dtype(self.model)}

    def on(self) -> AbstractContextManager[Any]:
        """Hang the hooks on the model."""
        return self.capture.on()

    def run(self, batch: list[Request]) -> list[Columns]:
        """Run requests and return the columns of each."""
        settings = self.settings
        if settings.teacher_forced:
            return runs.teacher_forced(self.capture, batch)
        return runs.generate(
            self.capture,
            batch,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
        )

    def layers(self) -> LayerTable:
        """Describe the layers that ran."""
        return self.capture.layers()

    def layer_names(self) -> list[str]:
        """Name the module behind each."""
        return self.capture.layer_names()

    def about(self) -> dict[str, Any]:
        """Return what provenance says of the model."""
        model, settings = self.model, self.settings
        about: dict[str, Any] = {
            "revision": getattr(model.config, "_commit_hash", None),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "device": _device(model),
            "dtype": _dtype(model),
            "config": _config(model),
        }
        if self.capture.predicts:
            about["predicted_ids"] = "argmax of the model's output at the position" + (
                "" if settings.teacher_forced else "; -1 where generation computes none, as inside prompts"
            )
        if settings.predict_next:
            about["predictions"] = (
                "the gate of the layer, given the state that entered the gate of the layer 1, 2, 3 before"
            )
        return about


def _notices(model: Any, settings: Settings) -> tuple[list[str], int]:
    """Return what to tell the user of this model, and the batch size it allows."""
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


def _device(model: Any) -> str:
    device = str(model.device)
    return f"{device} ({torch.cuda.get_device_name(model.device)})" if device.startswith("cuda") else device
