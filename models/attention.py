"""Shapes of attention: its matrices, what it keeps of a token, and the arithmetic for each pair of tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionShape:
    """Grouped-query attention (arXiv 2305.13245), multi-head and multi-query as its ends.

    Attributes:
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a query and of a key head.
        value_dim: width of a value head.
        keys_are_values: one matrix gives keys and values. Both are kept, for they are normalised and rotated each in
            its own way (gemma-4: ``attention_k_eq_v``).
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    keys_are_values: bool = False

    def matrices(self, hidden: int) -> dict[str, tuple[int, int]]:
        """Return its matrices as (rows, row length), by llama.cpp's names.

        Queries hidden x heads head_dim, keys hidden x kv_heads head_dim, values hidden x kv_heads value_dim, output
        heads value_dim x hidden.
        """
        found = {
            "attn_q": (self.heads * self.head_dim, hidden),
            "attn_k": (self.kv_heads * self.head_dim, hidden),
            "attn_v": (self.kv_heads * self.value_dim, hidden),
            "attn_output": (hidden, self.heads * self.value_dim),
        }
        if self.keys_are_values:
            del found["attn_v"]
        return found

    @property
    def kv_values(self) -> int:
        """Numbers that it keeps of a token: kv_heads (head_dim + value_dim)."""
        return self.kv_heads * (self.head_dim + self.value_dim)

    @property
    def flops_per_pair(self) -> int:
        """Operations for a pair of tokens: 2 heads (head_dim + value_dim), for the score and the weighted value."""
        return 2 * self.heads * (self.head_dim + self.value_dim)


def mla_matrices(
    shape: AttentionShape, hidden: int, kv_rank: int, rope_dim: int, q_rank: int
) -> dict[str, tuple[int, int]]:
    """Return the matrices of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Queries go through ``q_rank`` where it is not 0, keys and values through ``kv_rank``; beside it ``rope_dim`` further
    numbers of a key per token carry the position.
    """
    query = shape.heads * (shape.head_dim + rope_dim)
    queries = {"attn_q_a": (q_rank, hidden), "attn_q_b": (query, q_rank)} if q_rank else {"attn_q": (query, hidden)}
    return queries | {
        "attn_kv_a_mqa": (kv_rank + rope_dim, hidden),
        "attn_kv_b": (shape.heads * (shape.head_dim + shape.value_dim), kv_rank),
        "attn_output": (hidden, shape.heads * shape.value_dim),
    }


def mla_flops_per_pair(shape: AttentionShape, kv_rank: int, rope_dim: int, *, absorbed: bool) -> int:
    """Return the operations of multi-head latent attention for a pair of tokens.

    ``absorbed``: the matrix that widens keys and values is applied to the query and to the result instead, so that the
    cache is read as it is (arXiv 2405.04434, section 2.1.2). Every head then has a key of kv_rank + rope_dim numbers
    and a value of kv_rank: 2 heads (2 kv_rank + rope_dim), for DeepSeek-R1 2 x 128 x (2 x 512 + 64) = 278,528. Engines
    decode so; llama.cpp runs prompts so too (its PR 12801 of April 2025).

    Else keys and values are widened first, as vLLM does for prompts: 2 heads (head_dim + rope_dim + value_dim), for
    DeepSeek-R1 81,920; and 2 heads kv_rank (head_dim + value_dim) once for each token of the *context*, which are not
    counted here.
    """
    if absorbed:
        return 2 * shape.heads * (2 * kv_rank + rope_dim)
    return 2 * shape.heads * (shape.head_dim + rope_dim + shape.value_dim)
