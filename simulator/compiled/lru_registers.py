"""LRU of up to 128 experts with the stack itself in one or two AVX-512 registers, a byte for each place.

Why instructions that not every CPU has: a whole curve comes 1.7 times as fast as from `lru_bits` at 64 experts and 2.2
times at 128 (benchmarks/NOTES.md). Other CPUs keep to `lru_bits`.

One instruction finds the places of a batch's members (``vpshufbitqmb``: is this byte's bit set in this word?), one
moves the others together (``vpcompressb``), and the members take the top. All experts are in the stack from the start,
the unused ones at the bottom: what is found there is a first use.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from lrcsim.simulator.compiled.lru_bits import ALL_BITS, NOTHING, ONE, ones

NEEDED = ("+avx512bw", "+avx512vbmi", "+avx512vbmi2", "+avx512bitalg")
MOST = 16
"""Members of a batch up to which it is used; each number is compiled apart."""

TURN = 255
"""Batches after which the counters, bytes, are added to the hits."""

I8, I64, BITS = ir.IntType(8), ir.IntType(64), ir.VectorType(ir.IntType(1), 64)
BYTES, QUADS = ir.VectorType(I8, 64), ir.VectorType(I64, 8)


@cache
def available() -> bool:
    """Say whether numba compiles, and for a CPU that has these instructions."""
    if numba.config.DISABLE_JIT:
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


@intrinsic
def _turn(typing_context, members, ids, first, number, stack, used, found):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Do up to `TURN` batches.

    Args:
        typing_context: numba's.
        members: a tuple of as many entries as a batch has members.
        ids: int16 [n], contiguous.
        first: uint64, where the first batch begins.
        number: uint64, batches.
        stack: uint8 [64 or 128], changed in place; its length is that of ``used`` times 64.
        used: a tuple of uint64, a bit for each place of the stack whose expert was used.
        found: uint8 [like stack], counts up at the places of members.

    Returns:
        The new ``used``, and behind it uint64, 0 if no batch had an expert twice.
    """
    k, words = len(members), len(used)
    result = numba.types.UniTuple(numba.types.uint64, words + 1)
    signature = result(members, ids, numba.types.uint64, numba.types.uint64, stack, used, found)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def pointer(i, kind):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[i])(context, builder, arguments[i]).data
            return builder.bitcast(data, kind.as_pointer())

        def load(address):  # type: ignore[no-untyped-def]
            value = builder.load(address)
            value.align = 1
            return value

        wide = ir.IntType(64 * words)
        at = [ir.Constant(I64, word) for word in range(words)]
        stacks, counts = pointer(4, BYTES), pointer(6, BYTES)
        held = [cgutils.alloca_once_value(builder, load(builder.gep(stacks, [i]))) for i in at]
        count = [cgutils.alloca_once_value(builder, load(builder.gep(counts, [i]))) for i in at]
        known = ir.Constant(wide, 0)
        for word, value in enumerate(cgutils.unpack_tuple(builder, arguments[5])):
            known = builder.or_(known, builder.shl(builder.zext(value, wide), ir.Constant(wide, 64 * word)))
        known = cgutils.alloca_once_value(builder, known)
        wrong = cgutils.alloca_once_value(builder, ir.Constant(I64, 0))
        with cgutils.for_range(builder, arguments[3]) as loop:
            begin = builder.add(arguments[2], builder.mul(loop.index, ir.Constant(I64, k)))
            address = builder.gep(pointer(1, ir.IntType(16)), [begin])
            batch = builder.load(builder.bitcast(address, ir.VectorType(ir.IntType(16), k).as_pointer()))
            batch.align = 2
            bits = _set_of(builder, batch, k, words)
            different = ir.Constant(I64, k)
            for word in bits:
                different = builder.sub(different, _call(builder, "llvm.ctpop.i64", I64, word))
            builder.store(builder.or_(builder.load(wrong), different), wrong)
            now = [builder.load(slot) for slot in held]
            others = [_others(builder, bits, stack) for stack in now]
            for slot, value in zip(held, _insert(builder, batch, k, now, others), strict=True):
                builder.store(value, slot)
            seen, hits = builder.load(known), ir.Constant(wide, 0)
            for word, mask in enumerate(others):
                place = builder.not_(builder.bitcast(mask, I64))
                hits = builder.or_(hits, builder.shl(builder.zext(place, wide), ir.Constant(wide, 64 * word)))
            hits = builder.and_(hits, seen)
            new = builder.sub(ir.Constant(wide, k), _call(builder, f"llvm.ctpop.i{64 * words}", wide, hits))
            fresh = builder.not_(builder.shl(ir.Constant(wide, -1), new))
            builder.store(builder.or_(builder.shl(seen, new), fresh), known)
            for word, slot in enumerate(count):
                part = builder.trunc(builder.lshr(hits, ir.Constant(wide, 64 * word)), I64)
                builder.store(builder.add(builder.load(slot), builder.zext(builder.bitcast(part, BITS), BYTES)), slot)
        for i, mine, counted in zip(at, held, count, strict=True):
            for base, slot in ((stacks, mine), (counts, counted)):
                builder.store(builder.load(slot), builder.gep(base, [i])).align = 1
        values = [builder.load(known)]
        parts = [builder.trunc(builder.lshr(values[0], ir.Constant(wide, 64 * word)), I64) for word in range(words)]
        return context.make_tuple(builder, result, [*parts, builder.load(wrong)])

    return signature, generate


@numba.njit(cache=True, nogil=True)
def _stack_of(words, newer, stack):  # type: ignore[no-untyped-def]
    """Fill in the stack from the sets of `lru_bits`; return the experts used."""
    unused, depth = 64 * len(words), 0
    for key in range(len(newer)):
        place = ones(newer[key]) if len(words) == 1 else ones(newer[key, 0]) + ones(newer[key, 1])
        if place < unused:
            stack[place] = key
            depth += 1
    at = depth
    for key in range(unused):  # bytes that are no expert stand for none
        known = False
        if key < len(newer):
            known = (newer[key] if len(words) == 1 else newer[key, 0] & newer[key, 1]) != ALL_BITS
        if not known:
            stack[at] = key
            at += 1
    return depth


@numba.njit(cache=True, nogil=True)
def _sets_of(words, stack, depth, newer):  # type: ignore[no-untyped-def]
    """Undo `_stack_of`."""
    low, high = NOTHING, NOTHING
    for place in range(depth):
        key = np.uint64(stack[place])
        if len(words) == 1:
            newer[key] = low
        else:
            newer[key, 0] = low
            newer[key, 1] = high
        bit = ONE << (key & np.uint64(63))
        low |= bit if key < np.uint64(64) else NOTHING
        high |= NOTHING if key < np.uint64(64) else bit


@numba.njit(cache=True, nogil=True)
def _filled(depth, word):  # type: ignore[no-untyped-def]
    """Return the bits of the places of a word that are above ``depth``."""
    here = min(max(depth - 64 * word, 0), 64)
    return ALL_BITS >> np.uint64(64 - here) if here else NOTHING


@numba.njit(cache=True, nogil=True)
def insert_in_registers(words, members, keys, first, number, newer, found_at):  # type: ignore[no-untyped-def]
    """Do what `lru_bits.insert_batches` does, for one word or two, where `available`.

    Args:
        words: as there.
        members: a tuple with as many entries as each batch has members, at most `MOST`.
        keys: int16 [n], contiguous; those looked at are at least 0 and below ``len(newer)``.
        first: as there, like ``number``, ``newer`` and ``found_at``.
        number: batches.
        newer: the sets, changed in place.
        found_at: int64 [64 * words + 1], counts up.

    Returns:
        Whether no batch has a key twice; else the rest is meaningless.
    """
    places = 64 * len(words)
    stack, found = np.empty(places, np.uint8), np.zeros(places, np.uint8)
    depth = _stack_of(words, newer, stack)
    used = (_filled(depth, 0),) if len(words) == 1 else (_filled(depth, 0), _filled(depth, 1))
    wrong, at, hits = NOTHING, np.uint64(first), 0
    for done in range(0, number, TURN):
        turn = np.uint64(min(TURN, number - done))
        told = _turn(members, keys, at, turn, stack, used, found)
        used = told[:-1]
        wrong |= told[-1]
        at += turn * np.uint64(len(members))
        for place in range(places):
            found_at[place] += found[place]
            hits += found[place]
        found[:] = 0
    found_at[places] += number * len(members) - hits
    depth = 0
    for word in used:
        depth += ones(word)
    _sets_of(words, stack, depth, newer)
    return wrong == NOTHING
