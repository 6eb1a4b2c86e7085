"""What `lrcsim models FILE.gguf` shows besides: the kinds of layers in the file, and its bytes in all."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from lrcsim.base.text import human_bytes, quoted
from lrcsim.cli.output import console
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrcsim.models import Geometry
    from lrcsim.models.stored import Tensor


MOST_LAYERS_TEXT = 24
"""Characters of a list of layers that is shown in full."""


def file_of(geometry: Geometry) -> dict[str, Any] | None:
    """Return JSON values of a model's file; None: it is read from none.

    ``bytes``: of all tensors; ``idle``: of those that do not run; ``missing``: of those that the file does not hold;
    ``kinds``: for each kind of layer its ``layers`` as ``"0-3,7"`` and their ``count``, the bytes of one expert and of
    the rest (``expert``: None in a layer without), and by the tensor's name the format of each.
    """
    from lrcsim.models.stored import ranges

    stored = geometry.stored
    if stored is None:
        return None
    kinds: dict[tuple[tuple[str, str, int], ...], list[int]] = {}
    for layer in range(geometry.layers):
        inside = sorted((one.name, one.format, one.stored_bytes) for one in stored.layers[layer])
        kinds.setdefault(tuple(inside), []).append(layer)
    rows = []
    for layers in kinds.values():
        sides = [stored.of_layer(layers[0], routed=routed) for routed in (True, False)]
        one, rest = (sum(tensor.stored_bytes for tensor in side) for side in sides)
        formats = [{tensor.name: tensor.format for tensor in side} for side in sides]
        rows.append(
            {
                "layers": ranges(layers),
                "count": len(layers),
                "expert": one if sides[0] else None,
                "rest": rest,
                "experts_stored": formats[0],
                "rest_stored": formats[1],
                "stored": [_formats(side) for side in sides],
            }
        )
    return {
        "path": stored.file,
        "mix": stored.mix,
        "bytes": stored.bytes,
        "idle": stored.idle,
        "missing": stored.missing,
        "kinds": rows,
    }


def _formats(tensors: Iterable[Tensor]) -> str:
    """Say in which formats matrices are, that of most weights first; norms and biases are left out."""
    from lrcsim.models.tensors import is_small

    weights: Counter[str] = Counter()
    for tensor in tensors:
        if not is_small(tensor):
            weights[tensor.format] += tensor.rows * tensor.length
    return ", ".join(name for name, _ in weights.most_common())


def show_file(row: dict[str, Any]) -> None:
    """Print what `file_of` gave, and the KV cache of a token."""
    found, out = row["file"], console()
    lines = []
    for kind in found["kinds"]:
        expert = "–" if kind["expert"] is None else human_bytes(kind["expert"])
        experts, rest = kind["stored"]
        layers = kind["layers"]
        if len(layers) > MOST_LAYERS_TEXT:
            layers = f"{kind['count']} of {layers.split(',')[0].split('-')[0]}-{layers.split(',')[-1].split('-')[-1]}"
        lines.append((layers, expert, experts or "–", human_bytes(kind["rest"]), rest))
    print_rows(("layers", "an expert", "stored as", "the rest", "stored as"), lines, left=(0, 2, 4))
    idle = f", {human_bytes(found['idle'])} of them in layers that predict further tokens" if found["idle"] else ""
    named = f" ({quoted(found['mix'])})" if found["mix"] else ""
    out.print(
        f"file: {quoted(found['path'])}{named}, {found['bytes']:,} bytes of tensors{idle}; KV cache in f16: "
        f"{human_bytes(2 * row['kv_values_per_token'])} per token"
        + (f", {len(row['window_layers'])} layers keep the last {row['window']:,} tokens" if row["window"] else ""),
        soft_wrap=True,
    )
