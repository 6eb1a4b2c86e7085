"""The account of memory, worked out by hand, and its edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned import GPU, geometry, machine

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import load_profile, profile_names
from lrcsim.models import load_geometry, model_names
from lrcsim.planner.engines import compute_buffers
from lrcsim.planner.memory import KV_DTYPES, RESERVE, SPARE, kv_bytes, memory_of, slots_of, with_memory
from lrcsim.planner.what_would_fit import remedies

# The toy model in bf16, 2 bytes a parameter:
#   attention of a layer   q 16 x 8, k and v 16 x 4 each, output 8 x 16: 384 parameters; 4 layers      1,536
#   norms                  2 x 16 per layer                                                              128
#   routers                16 x 8 in each of 3 MoE layers                                                384
#   dense block            3 x 16 x 20 in the one layer without experts                                  960
#   output                 100 x 16                                                                    1,600
#   together 4,608 parameters = 9,216 bytes; the embedding 1,600 = 3,200 bytes
#   an expert 480 parameters = 960 bytes; 8 in each of 3 layers = 23,040 bytes
#   KV cache: 2 x 1 x 4 numbers per token and layer, 4 layers, 2 bytes: 64 bytes per token
DENSE, EMBEDDING, EXPERT, EXPERTS = 9_216, 3_200, 960, 23_040


def test_every_part_by_hand() -> None:
    found = memory_of(geometry(), machine(vram=30_000), "bf16", 100, reserve=1_000)
    assert (found.dense, found.embedding, found.kv, found.reserve) == (DENSE, EMBEDDING, 6_400, 1_000)
    assert (found.experts, found.slot, found.layer_experts) == (EXPERTS, (EXPERT,) * 3, (8 * EXPERT,) * 3)
    assert found.device == "GPU memory"
    assert found.fixed == 16_616  # the embedding is in main memory
    assert found.budget == 30_000 - 16_616
    assert found.fit == "memory"


@pytest.mark.parametrize(
    ("vram", "fit"),
    [(16_615, "no"), (16_616, "memory"), (16_616 + EXPERTS - 1, "memory"), (16_616 + EXPERTS, "gpu")],
)
def test_edges_of_the_device(vram: int, fit: str) -> None:
    assert memory_of(geometry(), machine(vram=vram), "bf16", 100, reserve=1_000).fit == fit


# A GPU of 20,000 bytes has 3,384 left for experts. Nine tenths of main memory hold the other 19,656 and the embedding,
# 22,856 bytes, from 25,396 bytes on (22,856.4). A copy of all takes 26,240 bytes, from 29,156 on (26,240.4).
@pytest.mark.parametrize(
    ("ram", "flash", "fit", "below"),
    [
        (25_396, True, "memory", 0),
        (25_395, True, "flash", 1),
        (25_395, False, "no", 1),
        (10_000, True, "flash", 13_856),
    ],
)
def test_edges_of_main_memory(ram: int, flash: bool, fit: str, below: int) -> None:
    hardware = machine(vram=20_000, ram=ram)
    found = memory_of(
        geometry(), hardware if flash else replace(hardware, links=hardware.links[1:]), "bf16", 100, reserve=1_000
    )
    assert (found.fit, found.on_flash, found.copies_all) == (fit, below, False)
    for size, copies in ((29_156, True), (29_155, False)):
        assert memory_of(geometry(), machine(vram=20_000, ram=size), "bf16", 100).copies_all is copies


def test_main_memory_does_not_matter_where_all_fits_the_gpu() -> None:
    assert memory_of(geometry(), machine(vram=50_000, ram=100), "bf16", 100, reserve=1_000).fit == "gpu"


def test_one_memory_holds_the_embedding_too() -> None:
    shared = replace(machine(vram=30_000), unified=True, links=machine().links[:1])
    found = memory_of(geometry(), shared, "bf16", 100, reserve=1_000)
    assert (found.device, found.ram, found.fixed) == ("main memory", 0, 16_616 + EMBEDDING)
    tied = memory_of(geometry(tied=True), shared, "bf16", 100, reserve=1_000)
    assert (tied.embedding, tied.fixed) == (0, 16_616)  # it is the output matrix
    alone = memory_of(geometry(), replace(machine(ram=40_000), gpu=None, links=machine().links[:1]), "bf16", 100)
    assert (alone.total, alone.reserve) == (40_000, 4_000)  # a tenth
    assert alone.fixed == DENSE + EMBEDDING + 6_400 + 4_000


def test_a_tied_embedding_beside_a_gpu_lies_in_main_memory_a_second_time() -> None:
    # The card holds it as the output matrix, main memory the rows that tokens read. Nine tenths of 20,000 bytes, less
    # 3,200, are 14,800 for experts.
    found = memory_of(geometry(tied=True), machine(vram=20_000, ram=20_000), "bf16", 100, reserve=1_000)
    assert (found.dense, found.embedding, found.fixed) == (DENSE, EMBEDDING, 16_616)
    assert found.ram_for_experts == 14_800
    assert found.on_flash == EXPERTS - (20_000 - 16_616) - 14_800


def test_what_released_engines_need_besides() -> None:
    # Buffers for the largest layer's experts, and what of a card cannot be used, where --vram does not leave it anyway.
    model = load_geometry("olmoe-1b-7b")
    experts = memory_of(model, machine(), "q4_k_m", 100).layer_experts
    assert min(experts) < max(experts)
    needed = compute_buffers(model, max(experts), 100) + SPARE
    for unused, spare in ((0, needed), (1_000, needed - 1_000), (needed + 1, 0)):
        assert memory_of(model, machine(), "q4_k_m", 100, unused=unused).spare == spare
    assert memory_of(model, machine(), "q4_k_m", 100, reserve=1_000).spare == 0


def test_what_released_engines_place_on_the_device_by_hand() -> None:
    # 5,000 bytes of buffers. Where all experts fit nothing of them is asked for; one byte less and they are.
    whole = replace(memory_of(geometry(), machine(vram=16_616 + EXPERTS), "bf16", 100, reserve=1_000), spare=5_000)
    assert (whole.placed_budget, whole.placed_in_memory) == (EXPERTS, True)
    short = replace(whole, total=whole.total - 1)
    assert short.placed_budget == EXPERTS - 1 - 5_000
    assert replace(short, total=16_616 + 4_999).placed_budget == 0  # never less
    # Main memory must hold the 5,001 bytes left and the embedding: nine tenths of 9,113 bytes are 8,201.
    assert replace(short, ram=9_113).placed_in_memory
    assert not replace(short, ram=9_112).placed_in_memory


@pytest.mark.parametrize(
    ("vram", "left", "tight"),
    [
        (16_615, -1, False),  # it does not fit at all
        (18_462, 1_846, True),  # before any expert; a tenth is 1,846.2
        (18_463, 1_847, False),  # 1,846.3
        (16_616 + EXPERTS + 4_406, 4_406, True),  # beside all experts; a tenth of 44,062 bytes is 4,406.2
        (16_616 + EXPERTS + 4_407, 4_407, False),
    ],
)
def test_what_is_left_and_whether_that_is_tight(vram: int, left: int, tight: bool) -> None:
    found = memory_of(geometry(), machine(vram=vram), "bf16", 100, reserve=1_000)
    assert (found.left, found.tight) == (left, tight)


def test_reserve_defaults_to_a_gibibyte_on_a_gpu() -> None:
    assert memory_of(geometry(), machine(), "bf16", 100).reserve == RESERVE == 2**30


def test_kv_cache_by_dtype() -> None:
    # 400 numbers; q8_0 has 34 bytes for 32 numbers: 12.5 x 34 = 425
    assert [kv_bytes(geometry(), 10, name) for name in ("f16", "fp8", "q8_0", "q4_0")] == [640, 320, 340, 180]
    assert geometry().kv_values(10) == 320
    with pytest.raises(ConfigError, match=r"--kv-dtype 'q8' is no format of a KV cache.*did you mean 'q8_0'"):
        kv_bytes(geometry(), 10, "q8")


def test_equal_shares_are_those_of_a_cache_in_bytes() -> None:
    from lrcsim.simulator import resolve_capacity
    from lrcsim.traces.layers import LayerTable

    for budget in (0, 959, 3 * 960, 10_000, 23_040):
        table = LayerTable.build(3, 8, 2, expert_bytes=[960, 480, 1_000])
        wanted = [min(pool.capacity, 8) for pool in resolve_capacity(f"{budget}B", table, "layer")]
        assert slots_of(budget, (960, 480, 1_000), 8) == wanted
    assert slots_of(-5, (960,), 8) == [0]


def test_other_memory() -> None:
    found = with_memory(replace(machine(), kv_shared=True), 5_000, 6_000)
    assert (found.gpu, found.dram.memory, found.kv_shared) == (replace(GPU, memory=5_000), 6_000, False)
    one = with_memory(replace(machine(), unified=True, kv_shared=True), 5_000, 6_000)
    assert one.gpu is not None
    assert (one.gpu.memory, one.dram.memory, one.kv_shared) == (5_000, 6_000, False)
    with pytest.raises(ConfigError, match="round has no GPU"):
        with_memory(replace(machine(), gpu=None), 5_000, None)


def test_remedies_by_hand() -> None:
    # 16,616 bytes must be there at 100 tokens; of 8 bits a parameter only the matrices shrink, so that at 15,000 bytes
    # fp8 fits. Contexts are tried in steps of 1,024 tokens, here each too long.
    found = remedies(geometry(), machine(vram=15_000), "bf16", 100, "f16", 1_000)
    assert (found.context, found.dtype, found.device_bytes, found.main_memory_bytes) == (None, "fp8", 16_616, None)
    longer = remedies(geometry(), machine(vram=9_216 + 1_000 + 2 * 65_536), "bf16", 10 * 1_024, "f16", 1_000)
    assert longer.context == 2_048
    short = remedies(geometry(), machine(vram=20_000, ram=10_000), "bf16", 100, "f16", 1_000)
    assert (short.device_bytes, short.main_memory_bytes) == (None, 25_396)


@pytest.mark.parametrize("model", model_names())
def test_every_model_on_every_machine_adds_up(model: str) -> None:
    shape = load_geometry(model)
    for name in profile_names():
        found = memory_of(shape, load_profile(name), "q4_k_m", 4_096)
        assert found.budget <= found.experts
        assert found.budget == found.experts or found.fixed + found.budget == found.total
        assert 0 <= found.on_flash <= found.experts
        assert (found.fit == "gpu") == (found.budget == found.experts)


def test_all_kv_dtypes_are_known() -> None:
    assert all(kv_bytes(geometry(), 32, name) > 0 for name in KV_DTYPES)
