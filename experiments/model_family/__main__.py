"""Train the family, record its traces and write the table: ``python -m lrcsim.experiments.model_family``.

What is done is skipped, and a stopped training goes on from its last checkpoint: the same command resumes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from lrcsim.base.errors import ConfigError, LrcsimError, did_you_mean
from lrcsim.cli.output import progress_bar
from lrcsim.experiments.model_family.variants import BASELINE, SCALES, VARIANTS, resolve

ALL = ",".join(f"{name}:0" for name in VARIANTS) + f",{BASELINE}:1"


def parse_runs(text: str) -> list[tuple[str, int]]:
    """Read ``"baseline:0,baseline:1,share1"``: variants with seeds, 0 where none is given.

    Raises:
        ConfigError: a variant is not known, or a seed is no number.
    """
    runs = []
    for item in text.split(","):
        name, _, seed = item.strip().partition(":")
        if name not in VARIANTS:
            raise ConfigError(f"variant {name!r} is not known, use {', '.join(VARIANTS)}{did_you_mean(name, VARIANTS)}")
        if not (seed or "0").isdecimal():
            raise ConfigError(f"seed {seed!r} of {name} is no whole number, write for example {name}:1")
        runs.append((name, int(seed or "0")))
    return runs


def parse_snapshots(text: str) -> list[int]:
    """Read ``"10,30"``: percent of the steps, 1 to 99; nothing in an empty text.

    Raises:
        ConfigError: one is no such number.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    for part in parts:
        if not (part.isascii() and part.isdecimal() and 1 <= int(part) <= 99):
            raise ConfigError(f"snapshot {part!r} is not allowed: give percent of the steps, 1 to 99, as 10,30")
    return [int(part) for part in parts]


@click.command(help=__doc__)
@click.option("--work", type=Path, required=True, help="Folder for text, checkpoints and models.")
@click.option(
    "--out", type=Path, required=True, help="Folder for traces, the bundled traces, the checkpoint, the table."
)
@click.option("--scale", default="cpu", show_default=True, help=f"One of {', '.join(SCALES)}.")
@click.option("--runs", default=ALL, help="Variants and seeds, as baseline:0,baseline:1,share1.  [default: all]")
@click.option("--steps", type=int, help="Optimiser steps, in place of the scale's.")
@click.option("--device", default="auto", show_default=True, help="auto, cuda or cpu.")
@click.option("--threads", type=int, help="CPU threads.  [default: torch's choice]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Requests recorded at once.")
@click.option(
    "--snapshots", default="", help="Percent of the steps after which the model is kept and recorded too, as 10,30."
)
@click.option("--only", type=click.Choice(["train", "record", "table"]), help="One part instead of all.")
def main(
    work: Path,
    out: Path,
    scale: str,
    runs: str,
    steps: int | None,
    device: str,
    threads: int | None,
    batch: int,
    snapshots: str,
    only: str | None,
) -> None:
    try:
        wanted, sizes, kept = parse_runs(runs), resolve(scale, steps), parse_snapshots(snapshots)
        if only != "table":
            from lrcsim.recorder.model import require_torch, resolve_device

            require_torch()
            import torch

            if threads:
                torch.set_num_threads(threads)
            _make(wanted, sizes, work, out, resolve_device(device), batch, kept, only)
        if only in (None, "table"):
            from lrcsim.experiments.model_family.table import write_table

            with progress_bar("measuring") as bar:
                write_table(out / "traces", out, work / "measured", progress=bar)
    except LrcsimError as error:
        raise click.ClickException(str(error)) from None


def _make(
    runs: list[tuple[str, int]],
    scale: Any,
    work: Path,
    out: Path,
    device: str,
    batch: int,
    snapshots: list[int],
    only: str | None,
) -> None:
    from lrcsim.experiments.model_family.corpus import Corpus
    from lrcsim.experiments.model_family.train import train

    corpus = Corpus.open(work / "text", scale.vocabulary)
    for name, seed in runs:
        run = work / f"{name}.{seed}"
        if only != "record":
            with click.progressbar(length=scale.steps, label=f"{name}, seed {seed}") as bar:

                def advance(line: dict[str, float], bar: Any = bar) -> None:
                    bar.label = f"{name}, seed {seed}: loss {line['loss']:.3f}"  # noqa: B023  # used within the loop only
                    bar.update(int(line["step"]) - bar.pos)

                train(VARIANTS[name], scale, seed, corpus, run, device, advance, snapshots)
        if only != "train":
            _record(name, seed, run, corpus, scale, work, out, device, batch, snapshots)
        training = json.loads((run / "training.json").read_text(encoding="utf-8"))
        losses = training["validation_loss"].values()
        click.echo(f"{name}, seed {seed}: validation loss {sum(losses) / len(losses):.3f} nats")


def _record(
    name: str,
    seed: int,
    run: Path,
    corpus: Any,
    scale: Any,
    work: Path,
    out: Path,
    device: str,
    batch: int,
    snapshots: list[int],
) -> None:
    """Record what a training left: the end, the snapshots beside it, and of the baseline what is in the package."""
    from lrcsim.experiments.model_family.record import BUNDLED, SERIES, SHIPPED, record_variant, trace_name
    from lrcsim.experiments.model_family.train import snapshot_folder

    series = {percent: snapshot_folder(run, percent) for percent in snapshots}
    for folder in (run, *series.values()):
        if not (folder / "training.json").exists():
            raise ConfigError(f"{folder} holds no finished training of {name}; train it first")
        shutil.copyfile(work / "text" / "sources.json", folder / "sources.json")
    names = {kind: trace_name(name, seed, kind) for kind in ("generated", "teacher_forced")}
    record_variant(run, corpus, scale, SHIPPED, out / "traces", names, device, batch)
    for percent, folder in (series | {100: run}).items() if series else ():
        at = {"teacher_forced": trace_name(name, seed, "teacher_forced", percent)}
        record_variant(folder, corpus, scale, SERIES, out / "series", at, device, batch)
    if (name, seed) == (BASELINE, 0):
        bundled = {kind: f"{kind}.h5" for kind in names}
        record_variant(run, corpus, scale, BUNDLED, out / "bundled", bundled, device, batch)
        shutil.copytree(run / "model", out / "checkpoint", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
