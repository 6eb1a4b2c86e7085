"""Short names of models in figures, and the traces of a run by model: seeds and kinds of tokens put together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrcsim.experiments.paper.inputs import Input
from lrcsim.experiments.paper.measure import MeasuredTrace

# The paper's own names and their letters: toy_msrpls.pdf, 33_srp_plot.ipynb; slim variants: toy_model of its code, not
# in its figures. In the order of the toy study, which is that of figures.
TOYS = {
    "baseline": ("Baseline", "BL"),
    "32expert": ("FewerExp", "FE"),
    "top16": ("ActMore", "AM"),
    "top2": ("ActFewer", "AF"),
    "share1": ("1ShrExp", "SH1"),
    "share2": ("2ShrExp", "SH2"),
    "skip1": ("DenseFst", "DF"),
    "skip1slim": ("DenseFst slim", "DFS"),
    "sparse2": ("DenseHlf", "DH"),
    "sparse2slim": ("DenseHlf slim", "DHS"),
    "nolb": ("NoLB", "NB"),
    "overlb": ("OverLB", "OB"),
}
# 35_srp_spec.ipynb, msrpsc.pdf; encoders and decoders have letters of their own there.
REAL = {
    "llamamoe2": ("LLaMA-MoE-v2", "LL2"),
    "yuan": ("Yuan2.0", "Y2"),
    "powermoe": ("PowerMoE", "PW"),
    "qwen3": ("Qwen3", "QW3"),
    "phi": ("Phi-3.5-MoE", "PH"),
    "olmoe": ("OLMoE", "OL"),
    "grin": ("GRIN-MoE", "GR"),
    "mixtral": ("Mixtral-8x7B", "MX"),
    "minicpm": ("MiniCPM-MoE", "MC"),
    "jetmoe": ("JetMoE", "JT"),
    "llamamoe": ("LLaMA-MoE-v1", "LL1"),
    "xverse": ("XVERSE-MoE", "XV"),
    "jamba": ("Jamba-Mini", "JB"),
    "deepseek2": ("DeepSeek-V2-Lite", "DS2"),
    "deepseek": ("DeepSeekMoE", "DS1"),
    "qwen2": ("Qwen2", "QW2"),
    "nllb": ("NLLB-MoE", "NLd"),
    "nllb-encoder": ("NLLB-MoE, encoder", "NLe"),
    "qwen": ("Qwen1.5-MoE", "QW1"),
    "openmoe": ("OpenMoE", "OP"),
    "switch": ("SwitchTransformers", "STd"),
    "switch-encoder": ("SwitchTransformers, encoder", "STe"),
}


@dataclass(frozen=True)
class Model:
    """A model of a figure, with its traces.

    Attributes:
        name: as titles and legends have it, ``"Baseline (2)"`` for the second seed; unique among the models.
        letters: as points have it, ``"BL (2)"``.
        place: of its variant among those of the run: which colour and marker it has; seeds share them.
        seed: 0 for the first.
        traces: of teacher-forced tokens, then of generated ones; one or two.
    """

    name: str
    letters: str
    place: int
    seed: int
    traces: tuple[MeasuredTrace, ...]

    @property
    def first(self) -> MeasuredTrace:
        """The trace that stands for it where one is drawn: teacher-forced, if there is one."""
        return self.traces[0]


def generated(one: MeasuredTrace) -> bool:
    """Say whether the tokens of a trace were generated."""
    return one.source.kind == "generated"


def short_name(source: Input, *, kind: bool = True) -> str:
    """Return the paper's name of a trace's model, or its variant, with the seed's number; ``kind``: and ", generated".

    >>> short_name(Input("share1.seed1.generated", "share1.seed1", "generated", None, "toy.share1"))
    '1ShrExp (2), generated'
    """
    stem, seed = _stem_and_seed(source.variant)
    name, _ = _known(stem) or (stem, "")
    return name + (f" ({seed + 1})" if seed else "") + (", generated" if kind and source.kind == "generated" else "")


def models_in(found: Sequence[MeasuredTrace]) -> list[Model]:
    """Put the traces of each model together: the toy study's variants in its order, then others as they were given."""
    stems = {_stem_and_seed(one.source.variant)[0].lower(): one for one in found}
    order = sorted(stems, key=lambda stem: _rank(stem, list(stems)))
    models: dict[tuple[int, str], Model] = {}
    for one in sorted(found, key=generated):
        stem, seed = _stem_and_seed(one.source.variant)
        key = order.index(stem.lower()), one.source.variant.lower()
        before = models.get(key)
        if before is not None and all(generated(other) != generated(one) for other in before.traces):
            models[key] = replace(before, traces=(*before.traces, one))
            continue
        name, letters = short_name(one.source, kind=False), (_known(stem) or (stem, stem[:8]))[1]
        if before is not None:  # a second trace of its kind
            name = letters = one.label
            key = key[0], one.label
        models[key] = Model(name, letters + (f" ({seed + 1})" if seed else ""), key[0], seed, (one,))
    return _with_own_names(sorted(models.values(), key=lambda model: (model.place, model.seed)))


def _with_own_names(models: Sequence[Model]) -> list[Model]:
    """Call models of one name after their labels."""
    names = [model.name for model in models]
    return [replace(model, name=model.first.label) if names.count(model.name) > 1 else model for model in models]


def _stem_and_seed(variant: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.+?)[-_.]?(?:seed|s)[-_]?([0-9]+)", variant, flags=re.IGNORECASE)
    return (match[1], int(match[2])) if match else (variant, 0)


def _known(stem: str) -> tuple[str, str] | None:
    name = stem.lower().rpartition("toy-")[2]
    return TOYS.get(name) or REAL.get(name)


def _rank(stem: str, given: list[str]) -> tuple[int, int]:
    toys = list(TOYS)
    name = stem.rpartition("toy-")[2]
    return (toys.index(name), 0) if name in toys else (len(toys), given.index(stem))
