"""Named tuples that compiled functions hand to each other by reference.

A named tuple of arrays is copied with every call, and the references to all of its arrays are counted up and down: with
forty arrays that costs 0.3 us a call, more than most functions of the event loop take. By reference it is one address,
and its arrays are lent: they belong to whoever called the loop, and nobody counts. What the tuple holds never changes
while it is lent, and LLVM is told so: it need not read addresses again after every write to some array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils as numba_cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    overload,
    register_model,
)

Kept = TypeVar("Kept")

cgutils: Any = numba_cgutils  # numba says little of types
kinds: Any = numba.types
ADDRESS = ir.IntType(8).as_pointer()


class ByReference(kinds.Type):  # type: ignore[misc]
    """The type of such a tuple in compiled code; fields are read as those of the tuple."""

    def __init__(self, values: Any) -> None:
        self.values = values
        super().__init__(name=f"ByReference({values})")

    def type_of(self, name: str) -> Any:
        """Return the type of a field, None where there is none of this name."""
        if name not in self.values.fields:
            return None
        found = self.values.types[self.values.fields.index(name)]
        return ByReference(found) if isinstance(found, kinds.BaseNamedTuple) else found


@register_model(ByReference)
class _Address(models.PrimitiveModel):
    """In LLVM it is an address."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ADDRESS)  # type: ignore[no-untyped-call]


@infer_getattr
class _Fields(AttributeTemplate):
    key = ByReference

    def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]
        """Return the type of a field."""
        return kind.type_of(name)


def _read(builder: Any, pointer: Any) -> Any:
    """Read what never changes."""
    found = builder.load(pointer)
    found.set_metadata("invariant.load", builder.module.add_metadata([]))
    return found


@lower_getattr_generic(ByReference)  # type: ignore[no-untyped-call, untyped-decorator]
def _field(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    whole = context.get_value_type(kind.values).as_pointer()
    pointer = cgutils.gep_inbounds(builder, builder.bitcast(value, whole), 0, kind.values.fields.index(name))
    found = kind.type_of(name)
    if isinstance(found, ByReference):
        return builder.bitcast(pointer, ADDRESS)
    if not isinstance(found, kinds.Array):
        return _read(builder, pointer)
    lent = cgutils.create_struct_proxy(found)(context, builder)
    fields = context.data_model_manager[found]._fields
    for place, part in enumerate(fields):
        if part not in ("meminfo", "parent"):
            setattr(lent, part, _read(builder, cgutils.gep_inbounds(builder, pointer, 0, place)))
    lent.meminfo = cgutils.get_null_value(lent.meminfo.type)
    lent.parent = cgutils.get_null_value(lent.parent.type)
    return lent._getvalue()


@intrinsic
def _address_of(_: Any, values: Any) -> Any:
    """Return the address of a tuple in the calling function's frame."""
    kind = ByReference(values)

    def place(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        frame = cgutils.alloca_once(builder, context.get_value_type(values))
        builder.store(arguments[0], frame)
        hidden = ir.FunctionType(ADDRESS, [ADDRESS])  # so that no read moves before the tuple is there
        return builder.asm(hidden, "", "=r,0,~{memory}", [builder.bitcast(frame, ADDRESS)], True)

    return kind(values), place


_placed: Any = _address_of


def by_reference(values: Kept) -> Kept:
    """Return a named tuple to be handed on by reference, in compiled code; None, and without the compiler, as it is.

    It stands in the frame of the function that calls this, and its arrays are not kept alive: it may be handed to what
    this function calls, and not returned.
    """
    return values


@overload(by_reference, strict=False, inline="always")  # not strict: else the annotations would have to be the same
def _by_reference(values: Any) -> Callable[[Any], Any] | None:
    if isinstance(values, kinds.NoneType):
        return lambda values: None  # noqa: ARG005  # named as that of `by_reference`
    if not isinstance(values, kinds.BaseNamedTuple):
        return None

    def address(values: Any) -> Any:
        return _placed(values)

    return address
