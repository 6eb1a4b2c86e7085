"""`lrcsim models`: the model geometries that are built in, or that of a GGUF file or config.json."""

from __future__ import annotations

from typing import Any

import click

from lrcsim.base.text import human_bytes, quoted, short_dtype
from lrcsim.cli.output import answer, console, json_option
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows


@click.command()
@click.argument("name", required=False)
@click.option("--dtype", metavar="DTYPE", help="Bytes in this format or mix, as q4_k_m; default: as released.")
@click.option("--toml", "toml_path", metavar="FILE", help="Write the model as TOML, to start your own from.")
@json_option
def models(name: str | None, dtype: str | None, toml_path: str | None, json_path: str | None) -> None:
    """List the model geometries, or show one: its shape, parameters and bytes.

    NAME is a built-in model (its id on the Hugging Face hub works too), or the path of a GGUF file, of a config.json,
    of a folder with one of these, or of a TOML of your own. DTYPE may override layers and tensors:
    q4_k_m,0-3=q8_0,ffn_down_exps=q6_k.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.base.files import write_text
    from lrcsim.models import load_geometry, model_names
    from lrcsim.models.table import toml_of

    if toml_path is not None:
        if name is None:
            raise ConfigError("--toml writes one model: name it, as in lrcsim models qwen3-30b-a3b --toml mine.toml")
        write_text(toml_path, toml_of(load_geometry(name)))
    chosen = model_names() if name is None else [name]
    rows = [_row(load_geometry(model), dtype) for model in chosen]
    if not answer(json_path, rows if name is None else rows[0], "models"):
        return
    if name is None:
        _list(rows)
    else:
        _describe(rows[0])


def _row(geometry: Any, dtype: str | None) -> dict[str, Any]:
    from lrcsim.cli.models_file import file_of
    from lrcsim.models import (
        dense_bytes,
        embedding_bytes,
        expert_bytes,
        output_bytes,
        said_dtype,
        storage,
        stored_dtype,
    )

    used = stored_dtype(geometry, dtype)
    sizes = expert_bytes(geometry, used).tolist()
    return {
        **geometry.to_dict(),
        "file": file_of(geometry),
        "num_experts": geometry.experts,
        "expert_bytes": sizes[0] if len(set(sizes)) == 1 else sizes,
        "total_params": geometry.total_params,
        "active_params": geometry.active_params,
        "expert_params": geometry.expert_params,
        "mtp_params": geometry.mtp_params,
        "kv_values_per_token": geometry.kv_values_per_token,
        "bytes": {
            "dtype": used,
            "said": said_dtype(geometry, used),
            "stored": storage(geometry, used),
            "expert": sizes,
            "dense": dense_bytes(geometry, used).tolist(),
            "output": output_bytes(geometry, used),
            "embedding": 0 if geometry.tied else embedding_bytes(geometry, used),
        },
    }


def _span(sizes: list[int]) -> str:
    low, high = min(sizes), max(sizes)
    return human_bytes(low) if low == high else f"{human_bytes(low)} to {human_bytes(high)}"


def _billions(count: int) -> str:
    return f"{count / 1e9:,.2f}" if count < 100e9 else f"{count / 1e9:,.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    moe, layers = len(row["moe_layers"]), row["layers"]
    used = row["bytes"]["dtype"]
    shared = f"+{row['shared_experts']}" if row["shared_experts"] else ""
    return [
        f"[bold]{row['name']}[/bold]",
        f"{layers}" if moe == layers else f"{moe}/{layers}",
        f"{row['top_k']}/{row['experts']}{shared}",
        _billions(row["total_params"]),
        _billions(row["active_params"]),
        human_bytes(sum(row["bytes"]["expert"]) / len(row["bytes"]["expert"])),
        used if "," not in used else row["bytes"]["stored"]["experts"].partition(",")[0],
    ]


def _list(rows: list[dict[str, Any]]) -> None:
    headings = ("model", "layers", "experts", "params", "active", "expert", "as")
    print_rows(headings, map(_cells, rows), left=(0, 6), whole=(0, 6), gap=1)
    echo("")
    echo("layers: 58/61 have experts; experts: 8/256+1 are used, and one shared; parameters in 10^9;")
    echo("the mean over layers of one expert's bytes, and its format.")
    echo("One in full: lrcsim models NAME, or a GGUF file, a config.json or a TOML.")


def _describe(row: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{quoted(row['name'])}[/bold], from {quoted(row['source'])}", soft_wrap=True)
    shared = f", {row['shared_experts']} shared of width {row['shared_width']} in all" if row["shared_experts"] else ""
    out.print(
        f"layers: {row['layers']}, {len(row['moe_layers'])} of them MoE with {row['experts']} experts, "
        f"{row['top_k']} per token{shared}"
    )
    dense = f", dense width {row['dense_width']}" if row["dense_width"] else ""
    out.print(f"hidden: {row['hidden']}, expert width {row['expert_width']} x {row['matrices']} matrices{dense}")
    heads = f"{row['heads']} heads"
    if row["kv_rank"]:
        heads += f", compressed keys and values of {row['kv_rank']} + {row['rope_dim']}"
    else:
        heads += f", {row['kv_heads']} for keys and values, {row['head_dim']} wide"
    if other := row["global_attention"]:
        heads += (
            f" (without a window {other['heads']}, {other['kv_heads']} for keys and values, {other['head_dim']} wide)"
        )
    out.print(f"attention: {heads}; {row['kv_values_per_token']:,} KV values per token over all layers")
    out.print(
        f"parameters: {row['total_params']:,}, {row['active_params']:,} active, {row['expert_params']:,} an expert"
    )
    if row["mtp_layers"]:
        out.print(
            f"multi-token prediction: {row['mtp_layers']} more layers in the checkpoint, of about "
            f"{row['mtp_params']:,} parameters; they are in no other number here"
        )
    size = row["bytes"]
    every = row["experts"] * sum(size["expert"])
    out.print(
        f"stored as {quoted(short_dtype(size['said']))}: "
        + "; ".join(f"{kind} {how}" for kind, how in size["stored"].items()),
        soft_wrap=True,
    )
    out.print(
        f"bytes: expert {_span(size['expert'])}, all experts {human_bytes(every)}, "
        f"the rest of a layer {_span(size['dense'])}, output {human_bytes(size['output'])}"
    )
    if row["file"] is not None and size["dtype"] == row["dtype"]:
        from lrcsim.cli.models_file import show_file

        show_file(row)
