"""What llama.cpp routes, taken out of its graph while it is computed.

The library calls back for every node of a graph: first to ask whether its result is wanted, then with the result. Names
of nodes are those of ``llm_graph_context::build_moe_ffn`` (ggml-org/llama.cpp, ``src/llama-graph.cpp``, build 11549):
``ffn_moe_topk-LAYER`` holds the chosen experts in rank order, the last of ``ffn_moe_weights-LAYER``, ``_norm``,
``_softmax`` and ``_scaled`` what their outputs are multiplied with, ``ffn_moe_logits-LAYER`` or ``_biased`` the
router's scores. Where the softmax is over the chosen alone (``_softmax``, as in gpt-oss), the scores with their bias
are called ``ffn_moe_probs-LAYER``.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.recorder.llama_cpp.library import Library
from lrcsim.recorder.passes import Columns, sorted_by_weight, stacked

NODE = re.compile(r"ffn_moe_(topk|probs|logits(?:_biased)?|weights(?:_norm|_softmax|_scaled)?)-([0-9]+)")
TYPES: dict[int, Any] = {0: np.float32, 26: np.int32}
"""ggml's numbers of the two types that these nodes have, 4 bytes each."""


class Routing:
    """Collects what is routed while a context computes; nothing that goes wrong in it reaches the library.

    Attributes:
        callback: for ``context_params.eval``.
        layers: blocks that routed at the last `take`, ascending.
        top_k: experts of a token, for each of these layers.
    """

    def __init__(self, library: Library, *, logits: bool = False) -> None:
        self.library, self._logits = library, logits
        self._kinds = {"topk", "weights"} | ({"logits", "probs"} if logits else set())
        self._found: dict[int, dict[str, list[npt.NDArray[Any]]]] = {}
        self._error: BaseException | None = None
        self._chosen_alone = False
        self.layers: list[int] = []
        self.top_k: list[int] = []
        self.callback: Any = library.ffi.callback("bool(struct tensor *, bool, void *)", self._called, error=True)

    def take(self, tokens: int) -> Columns:
        """Return what was routed since the last call.

        Args:
            tokens: that were run since.

        Returns:
            ``experts`` int32 [tokens, L, K] and ``weights`` float32 [tokens, L, K] in rank order, and where asked for
            ``logits`` float16 [tokens, L, E]; layers ascending.

        Raises:
            ConfigError: the graph has no such nodes, or not for every token.
        """
        found, self._found = self._found, {}
        error, self._error = self._error, None
        if error is not None:
            raise ConfigError(f"llama.cpp's graph cannot be read: {error}") from error
        if not found:
            raise ConfigError("llama.cpp routes nothing in this model: it has no node ffn_moe_topk-N, is it a MoE?")
        layers = [self._layer(number, found[number], tokens) for number in sorted(found)]
        self.layers, self.top_k = sorted(found), [layer["experts"].shape[1] for layer in layers]
        joined = stacked(layers)
        sorted_by_weight(joined["experts"], joined["weights"])
        return joined

    def _layer(self, number: int, found: dict[str, list[npt.NDArray[Any]]], tokens: int) -> Columns:
        """Return a layer's columns: its nodes joined, the scores from where this graph has them."""
        nodes = {kind: np.concatenate(parts) for kind, parts in found.items()}
        scores = nodes.pop("logits", None)
        if (other := nodes.pop("probs", None)) is not None and self._chosen_alone:
            scores = other  # a softmax over the chosen alone: what is called probabilities there are the scores
        if self._logits and scores is not None:
            nodes["logits"] = scores.astype(np.float16)
        rows = {kind: len(node) for kind, node in nodes.items()}
        wanted = {"topk", "weights"} | ({"logits"} if self._logits else set())
        if set(rows) != wanted or set(rows.values()) != {tokens}:
            raise ConfigError(f"llama.cpp gave {rows or 'nothing'} of layer {number} for {tokens} tokens")
        return {"experts": nodes.pop("topk"), **nodes}

    def _called(self, tensor: Any, ask: bool, _: Any) -> bool:
        try:
            name: bytes = self.library.ffi.string(self.library.c.ggml_get_name(tensor))
            if not name.startswith(b"ffn_moe_"):  # most nodes: 40 a layer
                return not ask
            match = NODE.fullmatch(name.decode("utf-8", "replace"))
            if match is None or match[1].partition("_")[0] not in self._kinds:
                return not ask
            if not ask:
                self._keep(match[1], int(match[2]), tensor)
        except Exception as error:  # nothing may be raised into the library; `take` says it
            self._error = self._error or error
        return True

    def _keep(self, kind: str, layer: int, tensor: Any) -> None:
        rows = self._rows(tensor)
        if not rows.size:
            return
        parts = self._found.setdefault(layer, {})
        what, _, later = kind.partition("_")
        if what == "weights":  # they stand as [1, k, tokens] or [k, tokens] there
            rows = rows.reshape(parts["topk"][-1].shape)
        self._chosen_alone |= later == "softmax"
        if later:  # what became of them, of the same tokens
            parts[what][-1] = rows
        else:
            parts.setdefault(what, []).append(rows)

    def _rows(self, tensor: Any) -> npt.NDArray[Any]:
        """Copy a node's result, [tokens, width] for a matrix; the chosen experts are a view of all in their order."""
        shape, steps = [int(tensor.ne[i]) for i in (3, 2, 1, 0)], [int(tensor.nb[i]) for i in (3, 2, 1, 0)]
        if 0 in shape:
            return np.zeros((0, shape[-1]), np.int32)
        size = int(self.library.c.ggml_nbytes(tensor))
        span = 4 + sum((count - 1) * step for count, step in zip(shape, steps, strict=True))
        if int(tensor.type) not in TYPES or size != span:
            raise ValueError(f"a node of type {tensor.type}, shape {shape}, steps {steps} has {size} bytes, not {span}")
        raw = np.zeros(size, np.uint8)
        self.library.c.ggml_backend_tensor_get(tensor, self.library.ffi.from_buffer(raw), 0, size)
        whole = np.ndarray(shape, TYPES[int(tensor.type)], raw.data, strides=steps)
        return whole.reshape(-1, shape[-1]).copy()
