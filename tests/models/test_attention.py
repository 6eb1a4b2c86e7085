"""The arithmetic of attention, against attention itself, run number by number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.models.attention import AttentionShape, mla_flops_per_pair, mla_matrices

Floats = npt.NDArray[np.float64]


@dataclass
class Count:
    """Multiplications and additions that were made with keys and values."""

    done: int = 0

    def score(self, query: Floats, key: Floats) -> float:
        self.done += 2 * len(query)
        return float(query @ key)

    def add(self, weight: float, value: Floats, to: Floats) -> None:
        self.done += 2 * len(value)
        to += weight * value


def attend(count: Count, query: Floats, keys: Floats, values: Floats) -> Floats:
    """One head of one token looks at all others: softmax of the scores, weighted sum of the values."""
    scores = np.array([count.score(query, key) for key in keys])
    weights = np.exp(scores - scores.max())
    result = np.zeros(values.shape[1])
    for weight, value in zip(weights / weights.sum(), values, strict=True):
        count.add(float(weight), value, result)
    return result


def test_shapes_by_hand() -> None:
    # 4 query heads on 2, keys 3 wide, values 5
    shape = AttentionShape(heads=4, kv_heads=2, head_dim=3, value_dim=5)
    assert shape.matrices(8) == {"attn_q": (12, 8), "attn_k": (6, 8), "attn_v": (10, 8), "attn_output": (8, 20)}
    assert shape.kv_values == 6 + 10
    assert shape.flops_per_pair == 4 * (2 * 3 + 2 * 5)
    # MLA of rank 7, 2 numbers of position: queries 4 x (3 + 2), down to 7 + 2, up to 4 x (3 + 5)
    assert mla_matrices(shape, 8, 7, 2, 0) == {
        "attn_q": (20, 8), "attn_kv_a_mqa": (9, 8), "attn_kv_b": (32, 7), "attn_output": (8, 20),
    }  # fmt: skip
    assert mla_matrices(shape, 8, 7, 2, 6).keys() - mla_matrices(shape, 8, 7, 2, 0).keys() == {"attn_q_a", "attn_q_b"}
    # keys of 7 + 2 and values of 7; or of 3 + 2 and 5
    assert mla_flops_per_pair(shape, 7, 2, absorbed=True) == 4 * 2 * (9 + 7)
    assert mla_flops_per_pair(shape, 7, 2, absorbed=False) == 4 * 2 * (5 + 5)


small = st.integers(1, 5)


@given(small, small, small, small, st.integers(1, 6))
def test_a_pair_takes_as_many_operations_as_are_made(
    groups: int, kv_heads: int, head_dim: int, value_dim: int, tokens: int
) -> None:
    shape = AttentionShape(groups * kv_heads, kv_heads, head_dim, value_dim)
    rng, count = np.random.default_rng(0), Count()
    for _ in range(shape.heads):
        attend(count, rng.normal(size=head_dim), rng.normal(size=(tokens, head_dim)),
               rng.normal(size=(tokens, value_dim)))  # fmt: skip
    assert count.done == tokens * shape.flops_per_pair


@given(small, small, small, small, small, st.integers(1, 6))
def test_mla_absorbed_is_the_same_attention_with_other_operations(
    heads: int, head_dim: int, value_dim: int, rank: int, rope: int, tokens: int
) -> None:
    # arXiv 2405.04434, equations 9 to 19: k = up_k c, v = up_v c; q.k = (up_k^T q).c, and sum w v = up_v (sum w c)
    shape = AttentionShape(heads, heads, head_dim, value_dim)
    rng = np.random.default_rng(1)
    compressed, position = rng.normal(size=(tokens, rank)), rng.normal(size=(tokens, rope))
    plain, absorbed = Count(), Count()
    for _ in range(heads):
        query, turned = rng.normal(size=head_dim), rng.normal(size=rope)
        up_keys, up_values = rng.normal(size=(head_dim, rank)), rng.normal(size=(value_dim, rank))
        keys = np.hstack([compressed @ up_keys.T, position])
        wide = attend(plain, np.append(query, turned), keys, compressed @ up_values.T)
        cached = np.hstack([compressed, position])
        narrow = attend(absorbed, np.append(up_keys.T @ query, turned), cached, compressed)
        np.testing.assert_allclose(up_values @ narrow, wide, rtol=1e-9, atol=1e-12)
    assert plain.done == tokens * mla_flops_per_pair(shape, rank, rope, absorbed=False)
    assert absorbed.done == tokens * mla_flops_per_pair(shape, rank, rope, absorbed=True)
