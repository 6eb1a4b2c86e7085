"""The instructions of `lru_registers`: batches of an LRU stack that lies in AVX-512 registers, as LLVM IR.

One instruction finds the places of a batch's members (``vpshufbitqmb``: is this byte's bit set in this word?), one
moves the others together (``vpcompressb``), and the members take the top.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils as numba_cgutils
from numba.core import config as numba_config
from numba.core.registry import cpu_target
from numba.extending import intrinsic

NEEDED = ("+avx512bw", "+avx512vbmi", "+avx512vbmi2", "+avx512bitalg")
cgutils: Any = numba_cgutils  # numba has no types for these
config: Any = numba_config
numba_types: Any = numba.types
I8, I64, BITS = ir.IntType(8), ir.IntType(64), ir.VectorType(ir.IntType(1), 64)
BYTES, QUADS = ir.VectorType(I8, 64), ir.VectorType(I64, 8)


@cache
def available() -> bool:
    """Say whether numba compiles, and for a CPU that has these instructions."""
    if config.DISABLE_JIT:
        return False
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return all(name in features for name in NEEDED)


def _vector(element: Any, values: list[int]) -> Any:
    return ir.Constant(ir.VectorType(element, len(values)), values)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _spread(builder: Any, word: Any) -> Any:
    """Return bytes that hold the word eight times."""
    one = builder.insert_element(ir.Constant(QUADS, ir.Undefined), word, ir.Constant(ir.IntType(32), 0))
    return builder.bitcast(builder.shuffle_vector(one, one, _vector(ir.IntType(32), [0] * 8)), BYTES)


def _set_of(builder: Any, ids: Any, k: int, words: int) -> list[Any]:
    """Return the ids as a set of bits, ``words`` words."""
    wide = builder.zext(ids, ir.VectorType(I64, k))
    bits = builder.shl(_vector(I64, [1] * k), builder.and_(wide, _vector(I64, [63] * k)))
    found = []
    for word in range(words):
        here = builder.icmp_unsigned("==", builder.lshr(wide, _vector(I64, [6] * k)), _vector(I64, [word] * k))
        mine = bits if words == 1 else builder.select(here, bits, _vector(I64, [0] * k))
        found.append(_call(builder, f"llvm.vector.reduce.or.v{k}i64", I64, mine))
    return found


def _others(builder: Any, members: list[Any], stack: Any) -> Any:
    """Return 64 truth values, one for each byte of ``stack``: is it none of the members?

    This way round, as what the batch waits for is to move the others together: the instruction takes the mask as it is.
    """
    name = "llvm.x86.avx512.vpshufbitqmb.512"
    found = [_call(builder, name, BITS, _spread(builder, builder.not_(word)), stack) for word in members]
    if len(found) == 1:
        return found[0]
    upper = builder.icmp_unsigned("!=", builder.and_(stack, _vector(I8, [64] * 64)), _vector(I8, [0] * 64))
    return builder.select(upper, found[1], found[0])


def _pack(builder: Any, name: str, stack: Any, filling: Any, mask: Any) -> Any:
    return _call(builder, f"llvm.x86.avx512.mask.{name}.v64i8", BYTES, stack, filling, mask)


def _insert(builder: Any, ids: Any, k: int, stacks: list[Any], others: list[Any]) -> list[Any]:
    """Return the stacks with the members on top, the last the first, and the rest behind them."""
    none = ir.Constant(BYTES, None)
    top = builder.trunc(ids, ir.VectorType(I8, k))
    top = builder.shuffle_vector(top, top, _vector(ir.IntType(32), [k - 1 - i if i < k else 0 for i in range(64)]))
    rest = _pack(builder, "compress", stacks[0], none, others[0])
    order = [i if i < k else 64 + i - k for i in range(64)]
    new = [builder.shuffle_vector(top, rest, _vector(ir.IntType(32), order))]
    if len(stacks) == 2:  # what the first has no room for stands before what the second keeps
        over = builder.shuffle_vector(
            rest, none, _vector(ir.IntType(32), [64 - k + i if i < k else 64 for i in range(64)])
        )
        gone = _call(builder, "llvm.ctpop.i64", I64, builder.not_(builder.bitcast(others[0], I64)))
        room = builder.shl(ir.Constant(I64, -1), builder.sub(ir.Constant(I64, k), gone))
        kept = _pack(builder, "compress", stacks[1], none, others[1])
        new.append(_pack(builder, "expand", kept, over, builder.bitcast(room, BITS)))
    return new


def _parts(builder: Any, wide: Any, words: int) -> list[Any]:
    """Return a number of ``words`` times 64 bits as i64, the lowest first."""
    shifted = [builder.lshr(wide, ir.Constant(wide.type, 64 * word)) for word in range(words)]
    return [builder.trunc(part, I64) for part in shifted]


def _whole(builder: Any, parts: list[Any]) -> Any:
    """Undo `_parts`."""
    kind = ir.IntType(64 * len(parts))
    whole = ir.Constant(kind, 0)
    for word, part in enumerate(parts):
        whole = builder.or_(whole, builder.shl(builder.zext(part, kind), ir.Constant(kind, 64 * word)))
    return whole


def _batch(builder: Any, ids: Any, k: int, held: list[Any], counts: list[Any], known: Any, wrong: Any) -> None:
    """Do one batch; ``held``, ``counts``, ``known`` and ``wrong`` are variables, which LLVM keeps in registers."""
    words = len(held)
    members = _set_of(builder, ids, k, words)
    missing = ir.Constant(I64, k)
    for word in members:
        missing = builder.sub(missing, _call(builder, "llvm.ctpop.i64", I64, word))
    builder.store(builder.or_(builder.load(wrong), missing), wrong)
    now = [builder.load(slot) for slot in held]
    others = [_others(builder, members, stack) for stack in now]
    for slot, value in zip(held, _insert(builder, ids, k, now, others), strict=True):
        builder.store(value, slot)
    seen = builder.load(known)
    places = _whole(builder, [builder.not_(builder.bitcast(mask, I64)) for mask in others])
    hits = builder.and_(places, seen)
    new = builder.sub(ir.Constant(hits.type, k), _call(builder, f"llvm.ctpop.i{64 * words}", hits.type, hits))
    fresh = builder.not_(builder.shl(ir.Constant(hits.type, -1), new))
    builder.store(builder.or_(builder.shl(seen, new), fresh), known)
    for slot, part in zip(counts, _parts(builder, hits, words), strict=True):
        builder.store(builder.add(builder.load(slot), builder.zext(builder.bitcast(part, BITS), BYTES)), slot)


def _turn(builder: Any, k: int, shape: list[int], ids: Any, numbers: list[Any], arrays: list[Any]) -> Any:
    """Do what `lru_turn` says, with pointers for arrays; return what it returns."""
    (streams, words), (firsts, stride, number), (stacks, used, found) = shape, numbers, arrays
    variable = cgutils.alloca_once_value
    wrong = variable(builder, ir.Constant(I64, 0))
    pieces = []
    for stream in range(streams):
        at = [ir.Constant(I64, stream * words + word) for word in range(words)]
        held, counts = ([variable(builder, _load(builder, base, place)) for place in at] for base in (stacks, found))
        known = variable(builder, _whole(builder, [builder.load(builder.gep(used, [place])) for place in at]))
        begin = builder.load(builder.gep(firsts, [ir.Constant(I64, stream)]))
        pieces.append((at, held, counts, known, begin))
    with cgutils.for_range(builder, number) as loop:
        moved = builder.mul(loop.index, stride)
        for _, held, counts, known, begin in pieces:
            address = builder.gep(ids, [builder.add(begin, moved)])
            batch = builder.load(builder.bitcast(address, ir.VectorType(ir.IntType(16), k).as_pointer()))
            batch.align = 2
            _batch(builder, batch, k, held, counts, known, wrong)
    for at, held, counts, known, _ in pieces:
        parts = _parts(builder, builder.load(known), words)
        for place, part, stack, count in zip(at, parts, held, counts, strict=True):
            for slot, base in ((stack, stacks), (count, found)):
                builder.store(builder.load(slot), builder.gep(base, [place])).align = 1
            builder.store(part, builder.gep(used, [place]))
    return builder.load(wrong)


def _load(builder: Any, base: Any, place: Any) -> Any:
    value = builder.load(builder.gep(base, [place]))
    value.align = 1
    return value


@intrinsic
def lru_turn(typing_context, members, streams, words, ids, firsts, stride, number, stacks, used, found):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Look up and insert batches of LRU stacks, few enough for bytes to count them; the stacks take turns.

    A stack's batches wait for each other; those of others fill the time.

    Args:
        typing_context: numba's; callers do not give it.
        members: a tuple of as many entries as a batch has members.
        streams: a tuple of as many entries as there are stacks.
        words: a tuple of as many entries as a stack has words of 64 places, 1 or 2.
        ids: int16 [n], contiguous.
        firsts: int64 [streams], where the first batch of each begins.
        stride: uint64, from one batch of a stream to its next.
        number: uint64, batches of each, at most 255.
        stacks: uint8 [streams, 64 * words], the expert at each place, changed in place.
        used: uint64 [streams, words], a bit for each place whose expert was used, changed in place.
        found: uint8 [streams, 64 * words], counts up at the places of members that were used.

    Returns:
        uint64, 0 if no batch had an expert twice.
    """
    signature = numba_types.uint64(members, streams, words, ids, firsts, stride, number, stacks, used, found)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(place: int, kind: Any) -> Any:
            data = context.make_array(signature.args[place])(context, builder, arguments[place]).data
            return builder.bitcast(data, kind.as_pointer())

        numbers = [pointer(4, I64), arguments[5], arguments[6]]
        arrays = [pointer(7, BYTES), pointer(8, I64), pointer(9, BYTES)]
        shape = [len(streams), len(words)]
        return _turn(builder, len(members), shape, pointer(3, ir.IntType(16)), numbers, arrays)

    return signature, generate
