"""mkdocs hook: the hardware profiles with the source of each number, and the models, from the data files."""

from __future__ import annotations

from typing import Any

PROFILES = """# Hardware profiles

Machines as data: effective rates, each with its source. Options, units and how to write your own:
[machines and models](hardware.md). A part of a profile can be replaced by a [component](#components):
`rtx-4090+pcie3-x8+ddr4-3200-2ch`. Here are those that stand for their kinds; each [GPU](#gpus) is a machine too.
"""
MODELS = """# Models

The geometries that are built in, each a name for `--model`. Bytes are for the format in which the model was released;
for another one: `lrcsim models NAME --dtype q4_k_m`. Any `config.json` of the known families works too:
[machines and models](hardware.md#model-geometries).
"""


def _numbers(profile: Any, part: str = "") -> list[str]:
    from lrcsim.hardware.document import numbers

    rows = ["| | | source |", "|---|---|---|"]
    rows += [f"| `{key}` | {value} | {source} |" for key, value, source in numbers(profile) if key.startswith(part)]
    return [*rows, ""]


def _keys() -> list[str]:
    """Return what a profile's document may say, from the fields of its parts."""
    from lrcsim.hardware.document import SCHEMA

    rows = ["| key | unit | |", "|---|---|---|"]
    for path, key in SCHEMA.items():
        bounds = ["above 0"] * key.positive + ["may be left out"] * key.optional
        rows.append(f"| `{path}` | {key.kind} | {'; '.join([key.meaning, *bounds])} |")
    return [*rows, ""]


def _gpus() -> list[str]:
    """Return a row for each GPU, effective numbers; the sources of one are what `lrcsim hardware NAME` shows."""
    from lrcsim.hardware import load_profile
    from lrcsim.hardware.gpus import GIB, gpus

    rows = ["| GPU | GiB | GB/s | TFLOP/s | |", "|---|---:|---:|---:|---|"]
    for name in gpus():
        profile = load_profile(name)
        assert profile.gpu is not None
        speed = f"{profile.gpu.bandwidth / 1e9:,.0f} | {profile.gpu.compute / 1e12:,.1f}"
        rows.append(f"| `{name}` | {profile.gpu.memory / GIB:,.1f} | {speed} | {profile.description} |")
    return [*rows, ""]


def profiles() -> str:
    """Return the page of hardware profiles."""
    from lrcsim.hardware import component_names, load_profile, profile_names
    from lrcsim.hardware.document import PARTS

    parts = [PROFILES]
    for name in profile_names():
        profile = load_profile(name)
        shared = " GPU and CPU share the DRAM." if profile.unified else ""
        parts += [f"## {name}\n", f"{profile.description}.{shared}\n", *_numbers(profile)]
    parts += ["## Keys\n", *_keys(), "## Components\n"]
    parts += ["### GPUs\n", *_gpus()]
    for part in PARTS:
        for name in component_names(part) if part != "gpu" else ():
            parts += [f"### {name}\n", *_numbers(load_profile(f"rtx-4090+{name}"), f"{part}.")]
    return "\n".join(parts)


def _billions(count: int) -> str:
    return f"{count / 1e9:,.2f}"


def models() -> str:
    """Return the page of model geometries."""
    from lrcsim.base.text import human_bytes
    from lrcsim.models import expert_bytes, load_geometry, model_names

    heads = ("model", "layers", "MoE", "experts", "k", "shared", "parameters (10^9)", "active", "one expert", "dtype")
    parts = [MODELS, "| " + " | ".join(heads) + " |", "|---|" + "---:|" * 8 + "---|"]
    sources = []
    for name in model_names():
        model = load_geometry(name)
        counts = (model.layers, len(model.moe_layers), model.experts, model.top_k, model.shared_experts)
        size = human_bytes(expert_bytes(model, model.dtype).mean()).replace(" ", "\u00a0")
        cells = (f"`{name}`", *counts, _billions(model.total_params), _billions(model.active_params), size, model.dtype)
        parts.append("| " + " | ".join(map(str, cells)) + " |")
        sources.append(f"- `{name}`: {model.source}")
    parts += ["", "One expert: the mean over layers.", "", "## Sources", "", *sources, ""]
    return "\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "profiles.md", content=profiles()))
    files.append(File.generated(config, "models.md", content=models()))
    return files
