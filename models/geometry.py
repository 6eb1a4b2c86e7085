"""The geometry of a Mixture-of-Experts transformer: counts from which parameters, bytes and KV sizes follow."""

from __future__ import annotations

from dataclasses import dataclass

from lrcsim.base.errors import ConfigError
from lrcsim.traces import RoutingTrace


@dataclass(frozen=True)
class Geometry:
    """A model's shape. Parameter counts leave out biases and norms (together below 0.1 % of all models shipped).

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
        value_dim: MLA: width of a value head; 0: as ``head_dim``.
        vocab: tokens in the vocabulary.
        tied: the output matrix is the embedding.
        qk_norm: queries and keys are normalised per head (norm weights of ``head_dim`` each).
        attention_layers: layers with softmax attention, that is with a KV cache; None: all.
        window: tokens that the layers of ``window_layers`` look back (sliding or chunked attention); 0: none do.
        window_layers: indices of the layers whose keys and values are kept for ``window`` tokens only.
        attention_extra: parameters of the attention in a layer that the formulas here do not know (output gates,
            cross attention, attention experts).
        attention_idle: those of ``attention_extra`` that one token does not use.
        mixer_params: parameters of what stands in the place of attention in all other layers (Mamba, linear attention).
        dtype: as the weights were released: what bytes are computed in unless told otherwise.
        unread: why the released format is not known, as the line to show who asks for bytes without a dtype; empty:
            it is ``dtype``.
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
    qk_norm: bool = False
    attention_layers: tuple[int, ...] | None = None
    window: int = 0
    window_layers: tuple[int, ...] = ()
    attention_extra: int = 0
    attention_idle: int = 0
    mixer_params: int = 0
    dtype: str = "bf16"
    unread: str = ""

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
        """One routed expert: matrices x hidden x expert_width."""
        return self.matrices * self.hidden * self.expert_width

    @property
    def shared_params(self) -> int:
        """The shared experts of one MoE layer: matrices x hidden x shared_width."""
        return self.matrices * self.hidden * self.shared_width

    @property
    def dense_ffn_params(self) -> int:
        """The feed-forward block of one layer without experts: matrices x hidden x dense_width."""
        return self.matrices * self.hidden * self.dense_width

    @property
    def router_params(self) -> int:
        """The router of one MoE layer: hidden x experts."""
        return self.hidden * self.experts

    @property
    def attention_matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of attention as (rows, row length), by llama.cpp's names; without ``attention_extra``.

        Standard: q hidden x heads head_dim, k and v hidden x kv_heads head_dim each, output heads head_dim x hidden.
        MLA (DeepSeek-V2, arXiv 2405.04434, section 2.1): queries through q_rank where compressed, keys and values
        through kv_rank, rope_dim further key values per token beside it.
        """
        hidden, heads = self.hidden, self.heads
        if not self.mla:
            return {
                "attn_q": (heads * self.head_dim, hidden),
                "attn_k": (self.kv_heads * self.head_dim, hidden),
                "attn_v": (self.kv_heads * self.head_dim, hidden),
                "attn_output": (hidden, heads * self.head_dim),
            }
        query, value = self.head_dim + self.rope_dim, self.value_dim or self.head_dim
        if self.q_rank:
            queries = {"attn_q_a": (self.q_rank, hidden), "attn_q_b": (heads * query, self.q_rank)}
        else:
            queries = {"attn_q": (heads * query, hidden)}
        return queries | {
            "attn_kv_a_mqa": (self.kv_rank + self.rope_dim, hidden),
            "attn_kv_b": (heads * (self.head_dim + value), self.kv_rank),
            "attn_output": (hidden, heads * value),
        }

    @property
    def attention_params(self) -> int:
        """The attention of one layer that has it, ``attention_extra`` included."""
        return sum(rows * length for rows, length in self.attention_matrices.values()) + self.attention_extra

    @property
    def kv_layers(self) -> tuple[int, ...]:
        """Indices of the layers that keep keys and values."""
        return tuple(range(self.layers)) if self.attention_layers is None else self.attention_layers

    @property
    def kv_values_per_token_per_layer(self) -> int:
        """Numbers that a token adds to the cache of one of ``kv_layers``.

        2 x kv_heads x head_dim, or kv_rank + rope_dim with MLA.
        """
        return self.kv_rank + self.rope_dim if self.mla else 2 * self.kv_heads * self.head_dim

    def kv_values(self, tokens: int) -> int:
        """Numbers that the KV cache of one request of this many tokens holds, all layers together.

        Layers with a window keep that many tokens at most (for chunked attention an upper bound). Layers without
        attention keep a state of fixed size, which is not counted.
        """
        short = len(self.window_layers)
        kept = (len(self.kv_layers) - short) * tokens + short * min(tokens, self.window)
        return kept * self.kv_values_per_token_per_layer

    @property
    def embedding_params(self) -> int:
        """The embedding, and the output matrix where it is another: vocab x hidden each."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def dense_params(self) -> int:
        """All that is no routed expert: attention, routers, shared experts, dense blocks, embeddings."""
        attention = len(self.kv_layers)
        return (
            attention * self.attention_params
            + (self.layers - attention) * self.mixer_params
            + len(self.moe_layers) * (self.router_params + self.shared_params)
            + len(self.dense_layers) * self.dense_ffn_params
            + self.embedding_params
        )

    @property
    def total_params(self) -> int:
        """All parameters, as counted here: without biases and norms."""
        return self.dense_params + len(self.moe_layers) * self.experts * self.expert_params

    @property
    def active_params(self) -> int:
        """Parameters that one token uses: top_k of the routed experts, the embedding matrices counted in full.

        Publishers differ: some leave the embeddings out.
        """
        idle = len(self.kv_layers) * self.attention_idle
        return self.dense_params - idle + len(self.moe_layers) * self.top_k * self.expert_params


def check_trace(geometry: Geometry, trace: RoutingTrace) -> None:
    """Check that a trace can be of this model: as many MoE layers, experts and top-k.

    Args:
        geometry: the model.
        trace: the trace.

    Raises:
        ConfigError: one of them differs.
    """
    layers = trace.layers
    found = [("MoE layers", {len(layers)}, len(geometry.moe_layers))]
    found += [("experts per layer", set(layers.num_experts.tolist()), geometry.experts)]
    found += [("experts per token", set(layers.top_k.tolist()), geometry.top_k)]
    for what, traced, modelled in found:
        if traced == {modelled}:
            continue
        given = " to ".join(str(count) for count in sorted({min(traced), max(traced)}))
        fix = "give the model that was traced (lrcsim models lists them, the path of its config.json will do)"
        if what == "experts per token" and len(traced) == 1:
            fix += f", or {geometry.name}:top_k={given} where the engine used {given} of {modelled}"
        raise ConfigError(f"the trace has {given} {what}, the model {geometry.name} {modelled}: {fix}")
