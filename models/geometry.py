"""The geometry of a Mixture-of-Experts transformer: counts from which parameters, bytes and KV sizes follow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from lrcsim.models.attention import AttentionShape, mla_flops_per_pair, mla_matrices
from lrcsim.models.stored import Stored

BIASES = ("q", "k", "v", "attn_output", "sinks", "router", "ffn", "output")
"""What `Geometry.biases` may name."""


@dataclass(frozen=True)
class Geometry:
    """A model's shape. Parameter counts have biases in them, not norms and scales (below 0.02 % of all models shipped).

    Where the tensors of its file are known (``stored``), they say what parameters there are, to the last one.

    Attributes:
        name: the model's.
        source: where the numbers are from.
        layers: all transformer layers.
        moe_layers: indices of those with routed experts, ascending.
        experts: routed experts per MoE layer.
        top_k: routed experts per token.
        shared_experts: experts of a MoE layer that every token uses.
        hidden: width of the residual stream.
        expert_width: inner width of a routed expert.
        shared_width: inner width of the shared experts in total, 0 if none.
        dense_width: inner width of the feed-forward block of layers without experts, 0 if there are none.
        matrices: weight matrices of an expert: 3 for gated (SwiGLU), 2 else (4: a gate of twice the width).
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head; with MLA of its part without position (``qk_nope_head_dim``).
        kv_rank: MLA: rank of the compressed keys and values; 0 if not MLA.
        rope_dim: MLA: width of the part with position; 0 if not MLA.
        q_rank: MLA: rank of the compressed queries; 0 if they are not compressed.
        value_dim: width of a value head; 0: as ``head_dim``.
        vocab: tokens in the vocabulary.
        tied: the output matrix is the embedding.
        global_attention: what attention is in the layers outside ``window_layers``, where it is another than in these;
            None: it is the same.
        biases: what has biases: ``q``, ``k``, ``v``, ``attn_output`` (those matrices), ``sinks`` (a number per
            head that takes part in the softmax), ``router`` (a number per expert, added to its logit or, by sigmoid
            routers, to its score where experts are chosen), ``ffn`` (all matrices of experts and dense blocks),
            ``output``.
        shared_gate: a gate of ``hidden`` weights scales what the shared experts give.
        norms: norms (and scales) as wide as ``hidden`` in a layer.
        qk_norm: queries and keys are normalised per head (norm weights of ``head_dim`` each).
        attention_layers: layers with softmax attention, that is with a KV cache; None: all.
        window: tokens that the layers of ``window_layers`` look back (sliding or chunked attention); 0: none do.
        window_layers: indices of the layers whose keys and values are kept for ``window`` tokens only.
        attention_extra: parameters of the attention in a layer that the formulas here do not know (output gates,
            cross attention, attention experts).
        attention_idle: those of ``attention_extra`` that one token does not use.
        mixer_params: parameters of what stands in the place of attention in all other layers (Mamba, linear attention).
        counted: where the formulas here do not hold: parameters of each layer without its routed experts and its norms,
            and last those outside the layers besides embedding and output matrix, as counted by whoever has the model's
            modules; (): the formulas hold. What is above them is like ``attention_extra`` or ``mixer_params``.
        mtp_layers: layers that predict further tokens (multi-token prediction). They are in the checkpoint and in none
            of the counts here but ``mtp_params``, for no trace and no time here has them.
        dtype: as the weights were released: what bytes are computed in unless told otherwise.
        unread: why the released format is not known, as the line to show who asks for bytes without a dtype; empty:
            it is ``dtype``.
        attention_shapes: what attention is in each of ``kv_layers``, where it is of more kinds than two, or of two
            that are not divided by the window; empty: the fields above say it.
        index_dim: numbers that a token adds to the cache of each of ``index_layers`` besides: the key of an indexer.
        index_layers: indices of the layers with an indexer that keeps keys.
        stored: the tensors of the model's file; then ``dtype`` is ``"gguf"``. None: it is not read from a file.
    """

    name: str
    source: str
    layers: int
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int
    shared_experts: int
    hidden: int
    expert_width: int
    shared_width: int
    dense_width: int
    matrices: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    kv_rank: int = 0
    rope_dim: int = 0
    q_rank: int = 0
    value_dim: int = 0
    global_attention: AttentionShape | None = None
    biases: tuple[str, ...] = ()
    shared_gate: bool = False
    norms: int = 2
    qk_norm: bool = False
    attention_layers: tuple[int, ...] | None = None
    window: int = 0
    window_layers: tuple[int, ...] = ()
    attention_extra: int = 0
    attention_idle: int = 0
    mixer_params: int = 0
    counted: tuple[int, ...] = ()
    mtp_layers: int = 0
    dtype: str = "bf16"
    unread: str = ""
    attention_shapes: tuple[AttentionShape, ...] = ()
    index_dim: int = 0
    index_layers: tuple[int, ...] = ()
    stored: Stored | None = None

    @property
    def mla(self) -> bool:
        """Whether keys and values are compressed (multi-head latent attention)."""
        return self.kv_rank > 0

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """Indices of the layers without routed experts."""
        moe = set(self.moe_layers)
        return tuple(layer for layer in range(self.layers) if layer not in moe)

    @property
    def expert_params(self) -> int:
        """The matrices of one routed expert: matrices x hidden x expert_width."""
        if self.stored is not None:
            return _weights(self.stored, self.moe_layers[0], routed=True, small=False)
        return self.matrices * self.hidden * self.expert_width

    @property
    def expert_biases(self) -> int:
        """The biases of one routed expert, a number for each row of its matrices; 0: it has none."""
        if self.stored is not None:
            return _weights(self.stored, self.moe_layers[0], routed=True, small=True)
        return self._ffn_biases(self.expert_width)

    @property
    def shared_params(self) -> int:
        """The shared experts of one MoE layer: matrices x hidden x shared_width, and their gate where they have one."""
        return self.matrices * self.hidden * self.shared_width + (self.hidden if self.shared_gate else 0)

    @property
    def dense_ffn_params(self) -> int:
        """The feed-forward block of one layer without experts: matrices x hidden x dense_width."""
        return self.matrices * self.hidden * self.dense_width

    @property
    def router_params(self) -> int:
        """The router of one MoE layer: hidden x experts."""
        return self.hidden * self.experts

    def attention_shape(self, layer: int) -> AttentionShape:
        """Return the heads of a layer's attention (with MLA before keys and values are compressed)."""
        if self.attention_shapes:
            return self.attention_shapes[self.kv_layers.index(layer)]
        own = AttentionShape(self.heads, self.kv_heads, self.head_dim, self.value_dim or self.head_dim)
        if self.global_attention is None or layer in self.window_layers:
            return own
        return self.global_attention

    def attention_matrices(self, layer: int) -> dict[str, tuple[int, int]]:
        """Return the matrices of a layer's attention as (rows, row length), by llama.cpp's names.

        Without ``attention_extra``. Standard: `AttentionShape.matrices`; MLA: `mla_matrices`.
        """
        if self.stored is not None:
            inside = self.stored.of_layer(layer, routed=False)
            return {one.name: (one.rows, one.length) for one in inside if one.rows > 1 and one.name[:5] == "attn_"}
        shape = self.attention_shape(layer)
        if self.mla:
            return mla_matrices(shape, self.hidden, self.kv_rank, self.rope_dim, self.q_rank)
        return shape.matrices(self.hidden)

    def attention_params(self, layer: int) -> int:
        """Return the weights of a layer's attention, ``attention_extra`` included, without biases."""
        return sum(rows * length for rows, length in self.attention_matrices(layer).values()) + self.attention_extra

    def attention_flops_per_pair(self, layer: int, *, absorbed: bool = True) -> int:
        """Return the operations of a layer's attention for each pair of a token and one that it looks at.

        A multiplication and an addition are two. Standard: 2 heads (head_dim + value_dim), scores and weighted values.
        MLA: `mla_flops_per_pair`, which depends on what the engine does.

        Args:
            layer: index among all layers; one of ``kv_layers``.
            absorbed: with MLA, compute on the compressed cache, as engines do in decode and llama.cpp in prefill too.
        """
        shape = self.attention_shape(layer)
        if self.mla:
            return mla_flops_per_pair(shape, self.kv_rank, self.rope_dim, absorbed=absorbed)
        return shape.flops_per_pair

    @property
    def kv_layers(self) -> tuple[int, ...]:
        """Indices of the layers that keep keys and values."""
        return tuple(range(self.layers)) if self.attention_layers is None else self.attention_layers

    def kv_values_of(self, layer: int) -> int:
        """Return how many numbers a token adds to the cache of a layer of ``kv_layers``.

        kv_heads (head_dim + value_dim). With MLA kv_rank + rope_dim: keys in their compressed form, of which the values
        are a part (llama.cpp since PR 19067 of January 2026; before, it kept kv_rank more). With an indexer its key.
        """
        own = self.kv_rank + self.rope_dim if self.mla else self.attention_shape(layer).kv_values
        return own + (self.index_dim if layer in self.index_layers else 0)

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that a token adds to the KV cache, all layers together, as long as it is in every window."""
        return sum(self.kv_values_of(layer) for layer in self.kv_layers)

    def kv_values(self, tokens: int, *, chunk: int = 0, pad: int = 1) -> int:
        """Return how many numbers the KV cache of one request of this many tokens holds, all layers together.

        Layers with a window keep ``window + chunk`` tokens at most (for chunked attention an upper bound). Layers
        without attention keep a state of fixed size, which is not counted. llama.cpp allocates as with ``chunk=512,
        pad=256`` (its default ``--ubatch-size``; src/llama-kv-cache-iswa.cpp) for one sequence.

        Args:
            tokens: length of the request.
            chunk: tokens that are written to the cache before the oldest leave the window.
            pad: tokens kept in a layer are rounded up to a multiple of it.
        """
        short = set(self.window_layers)
        kept = {layer: min(tokens, self.window + chunk) if layer in short else tokens for layer in self.kv_layers}
        return sum(-(-count // pad) * pad * self.kv_values_of(layer) for layer, count in kept.items())

    def layer_biases(self, layer: int) -> int:
        """Return the biases of a layer, those of its routed experts excepted."""
        count = 0
        if layer in self.kv_layers:
            rows = {name: rows for name, (rows, _) in self.attention_matrices(layer).items()}
            named = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "attn_output": "attn_output"}
            count += sum(rows.get(matrix, 0) for bias, matrix in named.items() if bias in self.biases)
            count += self.attention_shape(layer).heads if "sinks" in self.biases else 0
        if layer not in self.moe_layers:
            return count + self._ffn_biases(self.dense_width)
        return count + (self.experts if "router" in self.biases else 0)

    def _ffn_biases(self, width: int) -> int:
        return (self.matrices - 1) * width + self.hidden if "ffn" in self.biases else 0

    @property
    def embedding_params(self) -> int:
        """The embedding, and the output matrix where it is another: vocab x hidden each; its biases."""
        if self.stored is not None:
            return _weights(self.stored, -1, routed=False)
        biases = self.vocab if "output" in self.biases else 0
        return self.vocab * self.hidden * (1 if self.tied else 2) + biases

    def layer_params(self, layer: int) -> int:
        """Return the weights of a layer that every token is multiplied with, those of routed experts excepted."""
        if self.stored is not None:
            return _weights(self.stored, layer, routed=False, small=False)
        return self.counted[layer] - self.layer_biases(layer) if self.counted else self._by_formulas(layer)

    def _by_formulas(self, layer: int) -> int:
        mixer = self.attention_params(layer) if layer in self.kv_layers else self.mixer_params
        if layer in self.moe_layers:
            return mixer + self.router_params + self.shared_params
        return mixer + self.dense_ffn_params

    def uncounted_params(self, layer: int) -> int:
        """Return by how much a layer's ``counted`` is above what the formulas give; negative where it is below."""
        return self.layer_params(layer) - self._by_formulas(layer)

    @property
    def dense_params(self) -> int:
        """All that is no routed expert: attention, routers, shared experts, dense blocks, embeddings, their biases."""
        if self.stored is not None:
            return sum(_weights(self.stored, layer, routed=False) for layer in self.stored.layers)
        layers = sum(self.layer_params(layer) + self.layer_biases(layer) for layer in range(self.layers))
        return layers + sum(self.counted[self.layers :]) + self.embedding_params

    @property
    def mtp_params(self) -> int:
        """Parameters of the layers that predict further tokens, as DeepSeek-V3 builds them (arXiv 2412.19437, 2.2).

        Each is a layer like the last, and a matrix that joins two states: 2 hidden x hidden. Embedding and output
        matrix are the model's. Families differ (some have a dense block in it): an estimate.
        """
        last = self.layers - 1
        routed = self.experts * (self.expert_params + self.expert_biases) if last in self.moe_layers else 0
        rest = self.layer_params(last) + self.layer_biases(last)
        return self.mtp_layers * (rest + routed + 2 * self.hidden**2)

    @property
    def total_params(self) -> int:
        """All parameters, as counted here: without norms and scales."""
        return self.dense_params + len(self.moe_layers) * self.experts * (self.expert_params + self.expert_biases)

    @property
    def active_params(self) -> int:
        """Parameters that one token uses: top_k of the routed experts, the embedding matrices counted in full.

        Publishers differ: some leave the embeddings out.
        """
        idle = len(self.kv_layers) * self.attention_idle
        used = len(self.moe_layers) * self.top_k * (self.expert_params + self.expert_biases)
        return self.dense_params - idle + used

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, as `lrcsim.models.read_geometry` takes them."""
        values = asdict(replace(self, stored=None))
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return values if self.stored is None else {**values, "stored": self.stored.to_dict()}


def _weights(stored: Stored, layer: int, *, routed: bool, small: bool | None = None) -> int:
    """Return how many numbers are in a layer's tensors: in all, or in those of one row (small), or in matrices."""
    inside = stored.of_layer(layer, routed=routed)
    return sum(one.rows * one.length for one in inside if small is None or (one.rows == 1) == small)
