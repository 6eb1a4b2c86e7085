"""Which arrays of a NumPy archive hold what, by their names and shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.importers.names import ALIASES, families, is_count, plain
from lrcsim.traces.importers.npz_contents import Contents
from lrcsim.traces.importers.source import Options

PER_TOKEN = {
    "experts": "iuf",
    "weights": "f",
    "logits": "f",
    "residency": "iu",
    "phase": "iubU",
    "token_ids": "iu",
    "predicted_ids": "iu",
    "stack": "iu",
}
"""Per-token arrays and the kinds of their items."""

NAMES = {
    "experts": ("experts", *ALIASES["expert"]),
    "weights": ("weights", *ALIASES["weight"]),
    "logits": ALIASES["logits"],
    "phase": ("phase", "phases", *(name for name in ALIASES["phase"] if name.startswith("is_"))),
    "token_ids": ("token_ids", "input_ids", "token_id"),
}
"""For some arrays the names they go by, in lower case."""

LAYER_STEM = re.compile(r"(.*_)?(layers?|l|blk|blocks?)(_.*)?")

REQUEST_STEMS = ("arr", "request", "req", "sample", "seq", "sequence", "prompt", "routed_experts", "experts", "trace")

NOT_A_TRACE = "not a trace: it does not say which token used which expert when; record the routing of every token"


@dataclass
class Arrays:
    """Which arrays hold what.

    Attributes:
        names: for each of our columns the file's array.
        pieces: the arrays that make up the experts: one; or several, with the axis along which they follow.
        axis: ``"token"`` (one per request), ``"layer"`` (one per layer), or None for one array.
        tokens: in all.
        num_layers: L.
        top_k: k.
        offsets: int [requests + 1].
        num_experts: E, where there are logits.
        chosen: k to be taken of the logits; None: the experts are given.
        block: index of each layer, where arrays per layer say it.
        layer_first: whether the axes are [layers, tokens, k].
    """

    names: dict[str, str]
    pieces: list[str]
    axis: str | None
    tokens: int
    num_layers: int
    top_k: int
    offsets: npt.NDArray[np.int64]
    num_experts: int | None = None
    chosen: int | None = None
    block: list[int] | None = None
    layer_first: bool = False

    @property
    def used(self) -> list[str]:
        """Names of all arrays that are read."""
        return [*self.names.values(), *self.pieces]


def find_arrays(contents: Contents, options: Options) -> Arrays:
    """Find the arrays of a trace by their names and shapes."""
    known = contents.names
    by_plain: dict[str, str] = {}
    for name in known:
        by_plain.setdefault(plain(name), name)
    names: dict[str, str] = {}
    for ours in PER_TOKEN:
        found = next((by_plain[name] for name in NAMES.get(ours, (ours,)) if name in by_plain), None)
        if found is not None:
            names[ours] = found
    names |= {name: name for name in known if re.fullmatch(r"predictions_\d+", name)}
    pieces, axis, block = ([names["experts"]] if "experts" in names else []), None, None
    if not pieces and "logits" not in names:
        pieces, axis, block = _several(contents)
    if not pieces and len(known) == 1 and not is_count(known[0]):
        shape, dtype, _ = contents.header(known[0])
        pieces = [known[0]] if dtype.kind in "iu" and len(shape) > 2 else []
    if not pieces and "logits" not in names:
        if not known:
            raise TraceError(f"{contents.other()}")
        counts = [name for name in known if is_count(name) or "count" in plain(name)]
        if counts:
            raise TraceError(f"holds counts (array {counts[0]!r}), {NOT_A_TRACE}")
        raise TraceError(
            f"has no array 'experts' [tokens, layers, k] (or {', '.join(ALIASES['expert'][4:14])} ...; or "
            f"'router_logits' with --top-k), it has {', '.join(known)[:200]}"
        )
    names.pop("experts", None)
    if not pieces:
        return _of_logits(contents, names, options)
    if options.top_k is not None:
        raise ConfigError(f"has no use for top-k: it holds the experts themselves ({pieces[0]!r})")
    arrays = _shaped(contents, names, pieces, axis, block, bool(options.layer_first))
    if "logits" in names:
        arrays.num_experts = contents.header(names["logits"])[0][-1]
    _same_shapes(contents, arrays)
    return arrays


def _several(contents: Contents) -> tuple[list[str], str | None, list[int] | None]:
    """Find arrays that come once per layer or once per request."""
    groups = families(contents.names)
    for stem, members in groups.items():
        headers = [contents.header(name) for name in members]
        integers = all(dtype.kind in "iu" for _, dtype, _ in headers)
        if (
            integers
            and LAYER_STEM.fullmatch(stem)
            and not is_count(stem)
            and all(len(shape) == 2 for shape, _, _ in headers)
        ):
            return members, "layer", [int(re.findall(r"\d+", name)[-1]) for name in members]
        if integers and stem in REQUEST_STEMS and all(len(shape) == 3 for shape, _, _ in headers):
            return members, "token", None
    return [], None, None


def _of_logits(contents: Contents, names: dict[str, str], options: Options) -> Arrays:
    """Describe a file of router logits."""
    name = names["logits"]
    shape, dtype, _ = contents.header(name)
    if len(shape) != 3 or dtype.kind not in "f" or 0 in shape:
        raise TraceError(f"{name} must be floats [tokens, layers, experts], is {dtype} {list(shape)}")
    if options.top_k is None:
        raise TraceError(f"{name} holds router logits of {shape[2]} experts, not experts: give --top-k")
    if options.top_k > shape[2]:
        raise TraceError(f"{name} holds the logits of {shape[2]} experts, --top-k says {options.top_k}")
    if options.layer_first:
        shape = (shape[1], shape[0], shape[2])
    arrays = Arrays(
        names, [], None, shape[0], shape[1], options.top_k, np.array([0, shape[0]]), shape[2], options.top_k,
        layer_first=bool(options.layer_first),
    )  # fmt: skip
    for ours in ("weights", "residency"):
        names.pop(ours, None)
    _same_shapes(contents, arrays)
    return arrays


def _shaped(
    contents: Contents, names: dict[str, str], pieces: list[str], axis: str | None,
    block: list[int] | None, layer_first: bool,
) -> Arrays:  # fmt: skip
    """Describe arrays of experts by their shapes."""
    shapes = []
    for name in pieces:
        shape, dtype, _ = contents.header(name)
        dimensions = (2,) if axis == "layer" else (3, 4) if axis is None else (3,)
        if dtype.kind not in "iuf" or len(shape) not in dimensions:
            if len(shape) == 2 and axis is None:
                raise TraceError(
                    f"{name} must be integers in 3 dimensions [tokens, layers, k], is {dtype} {list(shape)}; "
                    "one expert per token and layer is [tokens, layers, 1], one layer alone [tokens, 1, k]; "
                    f"if these are counts [layers, experts], they are {NOT_A_TRACE}"
                )
            raise TraceError(f"{name} must be integers in 3 dimensions, is {dtype} {list(shape)}")
        if 0 in shape:
            raise TraceError(f"{name} has {shape[0]} tokens, shape {list(shape)}: it holds nothing")
        if layer_first and axis is None and len(shape) == 3:
            shape = (shape[1], shape[0], shape[2])
        shapes.append(shape)
    if axis == "layer":
        if len(set(shapes)) > 1:
            raise TraceError(f"the arrays per layer differ in shape: {sorted(set(shapes))[:2]}")
        tokens, k = shapes[0]
        return Arrays(names, pieces, axis, tokens, len(pieces), k, np.array([0, tokens]), block=block)
    if axis == "token":
        if len({shape[1:] for shape in shapes}) > 1:
            raise TraceError(f"the arrays per request differ in layers or k: {sorted({s[1:] for s in shapes})}")
        ends = np.cumsum([0, *(shape[0] for shape in shapes)])
        return Arrays(names, pieces, axis, int(ends[-1]), shapes[0][1], shapes[0][2], ends)
    shape = shapes[0]
    if len(shape) == 4:
        requests, each = shape[0], shape[1]
        offsets = np.arange(requests + 1) * each
        return Arrays(names, pieces, None, requests * each, shape[2], shape[3], offsets)
    tokens, num_layers, k = shape
    return Arrays(names, pieces, None, tokens, num_layers, k, np.array([0, tokens]), layer_first=layer_first)


def _same_shapes(contents: Contents, arrays: Arrays) -> None:
    """Refuse per-token arrays that do not fit the experts."""
    whole = (arrays.tokens, arrays.num_layers, arrays.top_k)
    for ours, name in arrays.names.items():
        shape, dtype, _ = contents.header(name)
        if arrays.layer_first and len(shape) == 3:
            shape = (shape[1], shape[0], shape[2])
        flat = ours in ("phase", "token_ids", "predicted_ids", "stack")
        if len(shape) == (2 if flat else 4) and shape[0] * shape[1] == arrays.tokens:
            shape = (arrays.tokens, *shape[2:])  # [requests, tokens, ...]
        wanted = PER_TOKEN.get(ours, "iu")
        if dtype.kind not in wanted or len(shape) != (1 if flat else 3):
            kind = "floats" if wanted == "f" else "integers"
            raise TraceError(f"{name} must be {kind} in {1 if flat else 3} dimensions, is {dtype} {list(shape)}")
        if shape[0] != arrays.tokens or 0 in shape:
            raise TraceError(f"{name} has {shape[0]} tokens, shape {list(shape)}; experts has {arrays.tokens}")
        must = whole if ours in ("weights", "residency") else whole[:2] if not flat else whole[:1]
        if shape[: len(must)] != must:
            raise TraceError(f"{name} has shape {list(shape)}, the experts {list(whole)}")
