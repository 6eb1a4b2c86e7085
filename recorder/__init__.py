"""Record routing traces: from models in transformers, by hooks, from GGUF files in llama.cpp, and from servers.

Nothing here imports torch before it is needed: ``pip install '.[record]'`` brings it, ``'.[llamacpp]'`` brings
llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lrcsim.recorder.prompts import Prompt, read_prompts
from lrcsim.recorder.session import Progress, Recording, Settings

if TYPE_CHECKING:
    from lrcsim.recorder.model import Loaded

__all__ = ["Progress", "Prompt", "Recording", "Settings", "read_prompts", "record"]


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
    from lrcsim.recorder.session import record_with
    from lrcsim.recorder.with_transformers import TransformersRunner

    settings = settings or Settings()
    runner = TransformersRunner(loaded, settings)
    return record_with(runner, prompts, out, settings, source=source, restart=restart, progress=progress)
