"""Record the traces of a trained variant, with the project's own recorder, and say in them where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrcsim.experiments.model_family.corpus import Corpus
from lrcsim.experiments.model_family.variants import Scale
from lrcsim.recorder import Settings, record
from lrcsim.recorder.model import load
from lrcsim.recorder.prompts import Prompt
from lrcsim.traces import RoutingTrace

ABOUT = (
    "a small Mixture-of-Experts model trained from scratch on free text, weights rounded to bf16; "
    "see experiments/model_family in lrcsim's repository"
)


@dataclass(frozen=True)
class RecordPlan:
    """How much of a variant is recorded, and what of it is kept.

    Attributes:
        samples: teacher-forced samples of each domain.
        requests: generated requests of each domain.
        new_tokens: tokens generated per request.
        columns: kept besides the experts, the phase, the token ids and the predicted ones.
        predict_next: record what the gates of the next layers say.
    """

    samples: int
    requests: int
    new_tokens: int
    columns: tuple[str, ...] = ()
    predict_next: bool = False


SHIPPED = RecordPlan(samples=8, requests=4, new_tokens=192)
"""Of every variant, in experiments/model_family/traces."""

BUNDLED = RecordPlan(
    samples=4,
    requests=7,
    new_tokens=192,
    columns=("weights", "predictions/1", "predictions/2", "predictions/3"),
    predict_next=True,
)
"""Of the baseline, in the package."""

SERIES = RecordPlan(samples=3, requests=0, new_tokens=1)
"""Of each snapshot of a training and of its end, in experiments/model_family/series; teacher-forced alone."""


def trace_name(variant: str, seed: int, kind: str, percent: int | None = None) -> str:
    """Name a trace: ``baseline.generated.h5``; with a seed other than 0 ``baseline.seed1.generated.h5``.

    Of a series with the percent trained, ``baseline.at10.teacher_forced.h5``.
    """
    at = "" if percent is None else f"at{percent}."
    return f"{variant}.{f'seed{seed}.' if seed else ''}{at}{kind}.h5"


def record_variant(
    run: Path,
    corpus: Corpus,
    scale: Scale,
    plan: RecordPlan,
    out: Path,
    names: dict[str, str],
    device: str,
    batch: int = 1,
) -> list[Path]:
    """Record the traces of a trained variant that are named; one that is there already is kept.

    Args:
        run: folder that `train` wrote, or that of a snapshot.
        corpus: the text; only what was held out is used.
        scale: of the model; it is run in ``scale.dtype``.
        plan: how much.
        out: folder of the traces.
        names: file names by kind, ``generated`` and ``teacher_forced``.
        device: cpu or cuda.
        batch: requests run at once.

    Returns:
        The traces.
    """
    training = json.loads((run / "training.json").read_text(encoding="utf-8"))
    sources = json.loads((run / "sources.json").read_text(encoding="utf-8"))
    name = "lrcsim-toy-" + training["variant"]["name"]
    samples = corpus.samples(plan.samples, scale.sequence)
    new_tokens = min(plan.new_tokens, scale.sequence // 2)
    prompts = corpus.prompts(plan.requests, scale.sequence - new_tokens)
    asked: dict[str, tuple[Iterable[tuple[str, list[int]]], Settings]] = {
        "teacher_forced": (
            samples,
            Settings(teacher_forced=True, batch=batch, sample_tokens=scale.sequence, predict_next=plan.predict_next),
        ),
        "generated": (prompts, Settings(max_new_tokens=new_tokens, batch=batch, predict_next=plan.predict_next)),
    }
    out.mkdir(parents=True, exist_ok=True)
    loaded = None
    written = []
    for kind, (ids, settings) in asked.items():
        if kind not in names:
            continue
        path = out / names[kind]
        written.append(path)
        if path.exists():
            continue
        if loaded is None:
            loaded = replace(load(str(run / "model"), device=device, dtype=scale.dtype), name=name)
        raw = path.with_name(path.name + ".tmp")
        listed = [Prompt(token_ids=tuple(row), domain=domain) for domain, row in ids]
        record(loaded, listed, raw, settings, source="held-out text, as token ids")
        _finish(raw, path, plan, {"about": ABOUT, "training": training, "text": sources})
        raw.unlink()
    return written


def _finish(raw: Path, path: Path, plan: RecordPlan, provenance: dict[str, Any]) -> None:
    """Keep the columns that are asked for, and add the provenance."""
    with RoutingTrace.open(raw) as trace:
        kept = {"experts", "phase", "token_ids", "predicted_ids", *plan.columns} & trace.columns.keys()
        slim = RoutingTrace(
            trace.layers,
            {name: trace.columns[name] for name in kept},
            trace.offsets,
            domains=trace.domains,
            model=trace.model,
            provenance={**trace.provenance, **provenance},
        )
        slim.save(path)
