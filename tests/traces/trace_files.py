"""Random traces, and comparisons, for the trace tests."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from lrcsim.traces import LayerTable, RoutingTrace
from lrcsim.traces.importers import ImportReport, Options, import_trace


def random_experts(rng: np.random.Generator, tokens: int, layers: int, experts: int, top_k: int) -> np.ndarray:
    """Distinct ids per token and layer, int64 [tokens, layers, top_k]."""
    return rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, :top_k]


def make_trace(
    seed: int,
    tokens: int = 12,
    layers: int = 3,
    experts: int = 8,
    top_k: int = 2,
    *,
    requests: int = 3,
    missing: float = 0.0,
    phase: bool = True,
    weights: bool = True,
    residency: bool = False,
    token_ids: bool = False,
    domains: bool = True,
    expert_bytes: bool = True,
    ragged: bool = False,
    logits: bool = False,
    predictions: bool = False,
    stacks: bool = False,
    predicted_ids: bool = False,
) -> RoutingTrace:
    """Make a valid trace with the columns asked for; ``ragged``: dense layers in between, E and k differ by layer."""
    rng = np.random.default_rng(seed)
    per_layer_experts = rng.integers(top_k, experts + 1, layers) if ragged else np.full(layers, experts)
    per_layer_top_k = rng.integers(1, top_k + 1, layers) if ragged else np.full(layers, top_k)
    per_layer_top_k[0] = top_k
    ids = np.full((tokens, layers, top_k), -1, np.int64)
    for layer in range(layers):
        k = per_layer_top_k[layer]
        ids[:, layer, :k] = rng.random((tokens, per_layer_experts[layer])).argsort(axis=1)[:, :k]
    ids[rng.random(ids.shape) < missing] = -1
    ids[0, :, 0] = np.maximum(ids[0, :, 0], -1)
    split = layers // 2
    stack = rng.integers(0, 2, tokens) if stacks else None
    if stack is not None:
        ids[stack == 1, :split] = -1
        ids[stack == 0, split:] = -1
    table = LayerTable.build(
        layers,
        per_layer_experts,
        per_layer_top_k,
        expert_bytes=rng.integers(1, 10**9, layers) if expert_bytes else None,
        block=np.cumsum(rng.integers(1, 3, layers)) if ragged and not stacks else None,
        stack=[int(at >= split) for at in range(layers)] if stacks else None,
        num_shared=int(rng.integers(0, 3)),
        stack_names=("encoder", "decoder") if stacks else ("decoder",),
    )
    inner = np.sort(rng.choice(np.arange(1, tokens), min(requests, tokens) - 1, replace=False))
    offsets = np.concatenate([[0], inner, [tokens]])
    width = int(per_layer_experts.max())
    return RoutingTrace.from_arrays(
        ids,
        num_experts=0,
        layers=table,
        offsets=offsets,
        phase=np.concatenate([np.arange(n) >= n // 2 for n in np.diff(offsets)]).astype(np.uint8) if phase else None,
        weights=rng.random(ids.shape).astype(np.float32) if weights else None,
        residency=np.where(ids >= 0, rng.integers(0, 3, ids.shape), 255) if residency else None,
        token_ids=rng.integers(0, 50_000, tokens) if token_ids else None,
        domains=[["code", "a b, c", "maths"][i % 3] for i in range(len(offsets) - 1)] if domains else None,
        logits=rng.normal(size=(tokens, layers, width)).astype(np.float16) if logits else None,
        predictions={1: random_experts(rng, tokens, layers, int(per_layer_experts.min()), 2)} if predictions else None,
        stack=stack,
        predicted_ids=rng.integers(-1, 50_000, tokens) if predicted_ids else None,
        model="made-up",
        provenance={"synthetic": True, "seed": seed},
    )


@st.composite
def traces(draw: st.DrawFn, *, for_csv: bool = False) -> RoutingTrace:
    """Traces of all shapes; ``for_csv``: only what a CSV can hold."""
    layers = draw(st.integers(1, 4))
    experts = draw(st.integers(2, 9))
    flags = {
        name: draw(st.booleans())
        for name in ("phase", "weights", "residency", "token_ids", "domains", "expert_bytes", "ragged")
    }
    if not for_csv:
        flags |= {name: draw(st.booleans()) for name in ("logits", "predictions", "predicted_ids")}
        flags["stacks"] = layers > 1 and draw(st.booleans())
    return make_trace(
        draw(st.integers(0, 2**32)),
        tokens=draw(st.integers(1, 30)),
        layers=layers,
        experts=experts,
        top_k=draw(st.integers(1, min(experts, 4))) if not flags.get("predictions") else 2,
        requests=draw(st.integers(1, 4)),
        missing=draw(st.sampled_from([0.0, 0.3])),
        **flags,
    )


def assert_same(given: RoutingTrace, wanted: RoutingTrace, but: tuple[str, ...] = ()) -> None:
    """Compare two traces, column by column and layer by layer."""
    assert set(given.columns) == set(wanted.columns) - set(but)
    for name in given.columns:
        left, right = given.column(name), wanted.column(name)
        if name in ("weights", "residency"):  # they mean nothing where no expert is recorded
            left, right = (np.where(wanted.experts >= 0, values, 0) for values in (left, right))
        np.testing.assert_array_equal(left, right, err_msg=name)
    np.testing.assert_array_equal(given.offsets, wanted.offsets)
    assert given.domains == wanted.domains
    assert given.model == wanted.model
    for name in ("num_experts", "top_k", "expert_bytes", "block", "stack", "num_shared", "stack_names"):
        if name not in but:
            np.testing.assert_array_equal(getattr(given.layers, name), getattr(wanted.layers, name), err_msg=name)


def imported(
    source: Path | str, folder: Path, format: str | None = None, **options: object
) -> tuple[RoutingTrace, ImportReport]:
    """Import a file and load the trace."""
    report = import_trace(source, folder / "imported.h5", format, Options(**options))  # type: ignore[arg-type]
    return RoutingTrace.open(folder / "imported.h5"), report
